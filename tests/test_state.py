"""What is known of the grammar without asking it is what it would have said."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher

from edgeagent import paths
from edgeagent.engine.answer import AMPLE, Answer
from edgeagent.engine.closing import Closer
from edgeagent.engine.free_text import FreeText, Place, free_keys
from edgeagent.engine.grammar import Grammars, Mode
from edgeagent.engine.narrowing import narrowed
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import HERMES, Wire
from edgeagent.messages import DEFER, Json, Tool, ToolKind
from tests.engine_kit import NAMES, STRING, TOOLS, forced, opened, opened_file, tool
from tests.test_answer import Slow, draw
from tests.test_grammar import ENFORCEABLE, MISTRAL


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return opened(tmp_path_factory.mktemp("state")).context.vocabulary


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    """Whole words, many of them with quotes and commas, as a model's own vocabulary has them."""
    return opened_file(paths.bundled("nano/nano-q8_0.gguf")).context.vocabulary


class Asking(Slow):
    """An answer that asks the grammar at every token, and takes plans over as `Answer` does."""

    def searched(
        self, trial: LLMatcher, run: list[int], room: int, closer: Closer
    ) -> list[int] | None:
        tail = self.plan if len(self.plan) + AMPLE <= room else ()
        return closer.plan(trial, room, self.tokens + run, tail)


def beside(schema: Json) -> tuple[Tool, ...]:
    """Return tools that hold the schema among free strings, also under a name that is free."""
    part = {"type": "object", "properties": {"note": STRING, "odd": schema}, "required": ["note"]}
    kept = {"note": STRING, "odd": schema, "parts": {"type": "array", "items": part}}
    odd = tool("odd", **kept)
    odd = Tool("odd", "", {**odd.parameters, "$defs": {"name": STRING}}, ToolKind.READ)
    return (odd, tool("say", note=STRING, reason=STRING))


def chosen(rng: random.Random, slow: Asking, vocabulary: Vocabulary) -> int:
    """Return a token that the grammar allows; now and then one that guesses would not be."""
    if slow.plan and rng.random() < 0.1:
        return slow.plan[0]
    return draw(rng, slow.matcher, vocabulary)


def assert_same_answer(
    made: Grammars, names: frozenset[str], vocabulary: Vocabulary, rng: random.Random
) -> int:
    """Write an answer in both ways, token by token; return how many tokens it has."""
    state, matcher = made.state(names), made.matcher(names)
    tokens = forced(matcher)
    assert state.force() == tokens
    plan = made.opening(names, tokens)
    assert plan is not None
    budget = max(rng.choice([20, 40, 80, 160]), len(tokens) + len(plan))
    fast = Answer(state, list(tokens), plan, budget, made.closer, vocabulary.ends)
    slow = Asking(matcher, list(tokens), plan, budget)
    while not slow.is_done:
        token = chosen(rng, slow, vocabulary)
        if rng.random() < 0.3:
            mask = np.frombuffer(slow.matcher.compute_bitmask(), dtype=np.uint8)
            bits = np.unpackbits(mask, bitorder="little")[: vocabulary.n_tokens]
            allowed = fast.state.allowed(vocabulary.n_tokens)
            assert allowed.tolist() == np.flatnonzero(bits).tolist()
        likely = [rng.randrange(vocabulary.n_tokens) for _ in range(4)]
        ahead = fast.state.copy()
        for one in (token, *likely):
            assert fast.state.has(one) == (slow.matcher.validate_tokens([one]) == 1)
            # A guess, right or wrong, is followed as drafts are, and changes nothing.
            ahead = ahead if ahead.take(one) and not ahead.is_stopped else fast.state.copy()
            ahead.force()
        slow.take(token, made.closer, vocabulary.ends)
        fast.take(token)
        assert fast.tokens == slow.tokens
        if not slow.is_done:
            assert fast.plan == slow.plan
            assert fast.state.forced() == []
    assert fast.is_done
    assert len(fast.tokens) <= budget
    return len(fast.tokens)


@pytest.mark.parametrize("schema", ENFORCEABLE, ids=lambda s: json.dumps(s)[:50])
def test_answers_are_those_of_a_loop_that_asks_every_time(
    words: Vocabulary, schema: Mapping[str, Any]
) -> None:
    tools = beside(schema)
    made = Grammars(words, HERMES, "one")
    made.check(tools)
    names = frozenset(one.name for one in tools)
    for seed in range(12):
        assert_same_answer(made, names, words, random.Random(seed))


@pytest.mark.parametrize(
    ("wire", "mode"), [(HERMES, "parallel"), (HERMES, "parallel_or_text"), (MISTRAL, "parallel")]
)
def test_several_calls_and_words_are_those_of_that_loop_too(
    vocabulary: Vocabulary, wire: Wire, mode: Mode
) -> None:
    """One tool has an argument that is named as the wire names its own."""
    made = Grammars(vocabulary, wire, mode)
    named = {"properties": {"name": STRING, "arguments": STRING}, "required": ["name"]}
    names = (NAMES | {"call"}) - {DEFER}
    made.check((*TOOLS, Tool("call", "", named, ToolKind.READ)))
    n = [assert_same_answer(made, names, vocabulary, random.Random(seed)) for seed in range(40)]
    assert max(n) > 60


@pytest.mark.parametrize("names", [frozenset({"book"}), frozenset({"book", "search_flights"})])
def test_grammars_of_other_names_share_nothing(words: Vocabulary, names: frozenset[str]) -> None:
    made = Grammars(words, HERMES, "one")
    made.check(TOOLS)
    for seed in range(20):
        assert_same_answer(made, NAMES - {DEFER}, words, random.Random(seed))
        assert_same_answer(made, names, words, random.Random(seed))


HEAD = '<tool_call>\n{"name": "odd", "arguments": {"note": "'
TEXTS = [
    "", "a", "It is", "It is \\\"so\\\",", "tab\\t", "naïve, 12 %", " " * 40, 'x", "odd": "x',
    'x", "odd": "x", "parts": [{"note": "HAT',
    'x", "odd": "x", "parts": [{"note": "a"}, {"note": "',
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_behind_text_every_token_is_known_rightly(words: Vocabulary, text: str) -> None:
    made = Grammars(words, HERMES, "one")
    made.check(beside({"type": "string", "maxLength": 3}))
    state, matcher = made.state(frozenset({"odd"})), made.matcher(frozenset({"odd"}))
    for token in words.encode(HEAD + text, parse_special=True):
        assert state.take(token)
        assert matcher.consume_token(token)
        assert state.forced() == matcher.compute_ff_tokens()
        assert state.is_stopped == matcher.is_stopped()
    for token in range(words.n_tokens):
        assert state.has(token) == (matcher.validate_tokens([token]) == 1), token


@pytest.mark.parametrize(
    ("text", "is_free"),
    [
        ("", False),
        ('{"note', False),  # a key
        ('{"note": ', False),
        ('{"note": "', True),
        ('{"note": "a b', True),
        ('{"note": "a b"', False),
        ('{"note": "a \\"b', True),
        ('{"note": "a \\', False),  # what may follow is an escape
        ('{"note": "a \\u00', False),
        ('{"note": "a \\u00e9', False),  # it may be half of a pair
        ('{"other": "note", "note":"', True),
        ('{"note": "x", "other": "', False),
        ('{"note": ["', False),
        ('{"note": "note", "', False),
        ('{"name": "', False),  # it is the wire's
    ],
)
def test_free_text_is_found_by_its_key(vocabulary: Vocabulary, text: str, is_free: bool) -> None:
    schema = narrowed({"properties": {"note": STRING, "name": STRING, "other": {"enum": ["a"]}}})
    free = FreeText([schema], HERMES, vocabulary)
    whole, in_bytes = Place(), Place()
    whole = free.behind(whole, vocabulary.encode(text, parse_special=False))
    for byte in text.encode():
        in_bytes = free.behind(in_bytes, [vocabulary.pieces.index(bytes((byte,)))])
    assert whole.is_free == in_bytes.is_free == is_free


def test_half_a_character_is_no_place_for_text(vocabulary: Vocabulary) -> None:
    free = FreeText([{"properties": {"note": STRING}}], HERMES, vocabulary)
    tokens = [vocabulary.pieces.index(bytes((byte,))) for byte in '{"note": "é'.encode()]
    places = [free.behind(Place(), tokens[:n]) for n in (len(tokens) - 2, len(tokens) - 1)]
    assert [place.is_free for place in places] == [True, False]
    assert free.behind(places[1], tokens[-1:]).is_free


@pytest.mark.parametrize(
    ("properties", "keys"),
    [
        ({"a": STRING, "b": {"type": "string", "description": "any", "title": "B"}}, {"a", "b"}),
        ({"a": {"type": "string", "maxLength": 9}, "b": STRING}, {"b"}),
        ({"a": {"type": "string", "enum": ["x"]}, "b": {"const": "x"}}, set()),
        ({"a": {"type": "string", "pattern": "x"}}, set()),
        ({"a": {"type": "string", "format": "date"}}, set()),
        ({"a": {"type": ["string", "null"]}, "b": {}, "c": {"$ref": "#/$defs/c"}}, set()),
        ({"a": {"type": "array", "items": {"properties": {"b": STRING}}}}, {"b"}),
        ({"a": STRING, "o": {"properties": {"a": {"type": "string", "minLength": 2}}}}, set()),
        ({"a": STRING, "o": {"anyOf": [{"properties": {"a": {"enum": ["x"]}}}]}}, set()),
        # What holds for any name may hold for this one.
        ({"a": STRING, "o": {"type": "object"}}, {"a"}),
        ({"a": STRING, "o": {"additionalProperties": {"enum": ["x"]}}}, set()),
        ({"a": STRING, "o": {"patternProperties": {"a": {"maxLength": 1}}}}, set()),
        ({"a": STRING, "o": {"enum": [{"a": "x"}]}}, set()),
        ({"a": STRING, "o": {"const": {"a": "x"}}}, set()),
        ({"a": STRING, "o": {"not": {"properties": {"a": STRING}}}}, set()),
    ],
)  # fmt: skip
def test_only_strings_that_may_say_anything_are_free(
    properties: dict[str, Json], keys: Sequence[str]
) -> None:
    assert free_keys([narrowed({"properties": properties})]) == {key.encode() for key in keys}
    found = free_keys(
        [narrowed({"properties": {"z": STRING}}), narrowed({"properties": properties})]
    )
    assert found in ({b"z"} | {key.encode() for key in keys}, set())


def test_a_refused_token_leaves_the_state_where_it_was(vocabulary: Vocabulary) -> None:
    made = Grammars(vocabulary, HERMES, "one")
    made.check(TOOLS)
    state = made.state(NAMES)
    state.force()
    quote = vocabulary.pieces.index(b'"')
    for _ in range(2):
        assert not state.take(quote)
        assert state.take(vocabulary.pieces.index(b"b"))
        state = made.state(NAMES)
        state.force()


def test_a_memory_that_is_full_forgets_nothing_and_stays_right(vocabulary: Vocabulary) -> None:
    made = Grammars(vocabulary, HERMES, "one")
    made.check(TOOLS)
    made.state(NAMES)._memory._n_left = 20
    for seed in range(10):
        assert_same_answer(made, NAMES, vocabulary, random.Random(seed))
