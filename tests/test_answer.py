"""An answer under way: shortcuts to its closing change no token of it."""

from __future__ import annotations

import random

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher

from edgeagent.engine.answer import Allowed, Answer
from edgeagent.engine.closing import Closer
from edgeagent.engine.grammar import LONGEST_CALL, Grammars, Mode
from edgeagent.engine.shape import is_plain
from edgeagent.engine.state import State
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import HERMES, Wire
from edgeagent.messages import DEFER, Json
from tests.engine_kit import NAMES, TOOLS, completes, forced, opened
from tests.test_grammar import ENFORCEABLE, MISTRAL


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return opened(tmp_path_factory.mktemp("answer")).context.vocabulary


class Slow:
    """The same answer with nothing known and nothing taken over: every plan is searched."""

    def __init__(self, matcher: LLMatcher, tokens: list[int], plan: list[int], budget: int) -> None:
        self.matcher, self.tokens, self.plan, self.budget = matcher, tokens, plan, budget
        self.is_done = False

    def take(self, token: int, closer: Closer, ends: tuple[int, ...]) -> None:
        if token in ends:
            self.is_done = True
            return
        trial = self.matcher.deep_copy()
        run = [token, *forced(trial)] if trial.consume_token(token) else [token]
        room = self.budget - len(self.tokens) - len(run)
        plan: list[int] | None = None
        if room >= 0 and not trial.is_error():
            if self.plan[: len(run)] == run:
                plan = self.plan[len(run) :]
            elif len(self.plan) <= room and completes(trial, self.plan):
                plan = self.plan
            else:
                plan = self.searched(trial, run, room, closer)
        if plan is None:
            self.tokens += self.plan
            self.is_done = True
            return
        self.matcher, self.plan, self.is_done = trial, plan, trial.is_stopped()
        self.tokens += run

    def searched(
        self, trial: LLMatcher, run: list[int], room: int, closer: Closer
    ) -> list[int] | None:
        """Return a plan for behind the run."""
        return closer.plan(trial, room)


def draw(rng: random.Random, matcher: LLMatcher, vocabulary: Vocabulary) -> int:
    """Return a token that the grammar allows, often one that ends something."""
    mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")[: vocabulary.n_tokens])
    closing = [int(t) for t in allowed if vocabulary.pieces[t][:1] in (b'"', b"}", b"]", b",")]
    return int(rng.choice(closing if closing and rng.random() < 0.3 else allowed.tolist()))


@pytest.mark.parametrize("mode", ["one", "parallel", "parallel_or_text"])
def test_plans_that_were_not_searched_for_change_no_answer(
    vocabulary: Vocabulary, mode: Mode
) -> None:
    made = Grammars(vocabulary, HERMES, mode)
    made.check(TOOLS)
    bare = Closer(vocabulary)
    n_cut = 0
    for seed in range(60):
        rng = random.Random(seed)
        state, matcher = made.state(NAMES), made.matcher(NAMES)
        tokens = forced(matcher)
        assert state.force() == tokens
        plan = made.opening(NAMES - {DEFER}, tokens)
        assert plan is not None
        budget = max(rng.choice([20, 40, 80, 160, 320]), len(tokens) + len(plan))
        fast = Answer(state, list(tokens), plan, budget, made.closer, vocabulary.ends)
        slow = Slow(matcher, list(tokens), plan, budget)
        while not slow.is_done:
            token = draw(rng, slow.matcher, vocabulary)
            slow.take(token, bare, vocabulary.ends)
            fast.take(token)
            assert fast.tokens == slow.tokens
        assert fast.is_done
        n_cut += len(fast.tokens) > budget - 8
    assert n_cut > 5, "budgets were meant to cut some"


def test_what_ends_an_answer_is_what_consuming_says(vocabulary: Vocabulary) -> None:
    made = Grammars(vocabulary, HERMES, "one")
    made.check(TOOLS)
    rng = random.Random(3)
    seen = set()
    for _ in range(30):
        matcher = made.matcher(NAMES)
        forced(matcher)
        for _ in range(rng.randint(1, 30)):
            if matcher.is_stopped() or not matcher.consume_token(draw(rng, matcher, vocabulary)):
                break
        if matcher.is_error():
            continue
        plan = made.closer.plan(matcher, LONGEST_CALL)
        assert plan is not None
        tries = [plan, plan[:-1], plan[1:], [], [*plan, *plan[-1:], 5], plan[: len(plan) // 2]]
        for tokens in tries:
            says = made.closer.ends(matcher, tokens)
            assert says == completes(matcher, tokens), vocabulary.decode(tokens)
            seen.add(says)
    assert seen == {True, False}


@pytest.mark.parametrize("mode", ["one", "parallel", "parallel_or_text"])
def test_asking_for_a_token_says_what_the_whole_mask_says(
    vocabulary: Vocabulary, mode: Mode
) -> None:
    made = Grammars(vocabulary, HERMES, mode)
    made.check(TOOLS)
    rng = random.Random(7)
    numbers = np.random.default_rng(7)
    n_ends = 0
    for _ in range(25):
        matcher = made.matcher(NAMES)
        for _ in range(rng.randint(0, 25)):
            token = draw(rng, matcher, vocabulary)
            if token in vocabulary.ends or not matcher.consume_token(token):
                break
            forced(matcher)
        if matcher.is_stopped():
            continue
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(mask, bitorder="little")[: vocabulary.n_tokens].astype(bool)
        allowed = Allowed(State(matcher), vocabulary.n_tokens)
        assert [allowed.has(token) for token in range(vocabulary.n_tokens)] == bits.tolist()
        assert allowed.tokens().tolist() == np.flatnonzero(bits).tolist()
        n_ends += bool(bits[list(vocabulary.ends)].any())
        for distance in (0.0, 0.1, 3.0):
            row = numbers.standard_normal(vocabulary.n_tokens).astype(np.float32)
            legal = np.where(bits, row, -np.inf)
            assert allowed.best(row) == int(legal.argmax())
            n_near = int((legal > legal.max() - distance).sum())
            assert allowed.is_close(row, int(legal.argmax()), distance) == (n_near > 1)
    assert (n_ends > 0) == (mode != "one"), "another call, or words, may end where they are"


@pytest.mark.parametrize(
    ("wire", "mode"), [(HERMES, "one"), (HERMES, "parallel"), (MISTRAL, "one")]
)
def test_the_cheapest_call_is_the_one_that_the_tools_own_grammar_gives(
    vocabulary: Vocabulary, wire: Wire, mode: Mode
) -> None:
    made = Grammars(vocabulary, wire, mode)
    made.check(TOOLS)
    written = forced(made.matcher(NAMES))
    for tool in TOOLS:
        own = Grammars(vocabulary, wire, mode)
        own.use([tool])
        state = own.matcher(NAMES)
        assert state.try_consume_tokens(written) == len(written)
        plan = Closer(vocabulary).plan(state, LONGEST_CALL)
        assert made.opening(frozenset({tool.name}), written) == plan


ODD: list[Json] = [
    "string", 1, None, [], {"type": "text"}, {"type": []}, {"type": ["string", "string"]},
    {"required": "a"}, {"required": ["a", "a"]}, {"required": [1]}, {"properties": []},
    {"properties": {"a": 3}}, {"minLength": -1}, {"minLength": 1.5}, {"minLength": True},
    {"minimum": "1"}, {"anyOf": []}, {"anyOf": {}}, {"items": [True]}, {"enum": 1},
    {"additionalProperties": "no"}, {"description": 1}, {"title": []}, {"uniqueItems": 1},
    {"examples": {}}, {"format": 1}, {"oneOf": [1]}, {"properties": {"a": {"type": 1}}},
]  # fmt: skip
"""What JSON Schema's meta-schema refuses."""


@pytest.mark.parametrize("schema", ODD, ids=repr)
def test_no_broken_schema_is_plain(schema: Json) -> None:
    assert not Draft202012Validator(Draft202012Validator.META_SCHEMA).is_valid(schema)
    assert not is_plain(schema)


def test_nothing_is_plain_that_the_meta_schema_refuses() -> None:
    """Schemas whose values were swapped at random: 2,000 of them, a third broken."""
    judge = Draft202012Validator(Draft202012Validator.META_SCHEMA)
    keys = sorted({key for schema in ENFORCEABLE for key in schema} | {"required", "title"})
    values: list[Json] = [v for s in [*ENFORCEABLE, *filter(_is_object, ODD)] for v in s.values()]
    rng = random.Random(5)
    n_plain = 0
    for _ in range(2000):
        schema = {rng.choice(keys): rng.choice(values) for _ in range(rng.randint(0, 3))}
        if is_plain(schema):
            n_plain += 1
            assert judge.is_valid(schema), schema
    assert 100 < n_plain < 1900


def _is_object(value: Json) -> bool:
    return isinstance(value, dict)
