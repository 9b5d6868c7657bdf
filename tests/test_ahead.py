"""Reading ahead: guesses, forced runs and padding change what an answer costs and nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeagent import manifest, paths
from edgeagent.engine.answer import Answer, is_stuck
from edgeagent.engine.client import Prompt, StepDone, StepRule
from edgeagent.engine.context import Context
from edgeagent.engine.copying import Copying
from edgeagent.engine.costs import MAX_PASS, Costs, Guess, plan
from edgeagent.engine.decode import Decoder
from edgeagent.engine.drafts import Lookup, Odds, guess
from edgeagent.engine.grammar import Grammars
from edgeagent.engine.prefix import PrefixStore
from edgeagent.engine.prompt import PromptWriter
from edgeagent.engine.state import State
from edgeagent.engine.tables import Setting
from edgeagent.engine.template import Template
from edgeagent.engine.wire import HERMES
from edgeagent.evals import tft
from edgeagent.events import Token
from edgeagent.manifest import Dialect
from edgeagent.messages import DEFER, Tool, UserMessage
from edgeagent.scenarios import job
from tests.conftest import SHARED
from tests.engine_kit import NAMES, STRING, TOOLS, opened, opened_file, rule, tool

FREE = Costs((1.0, 1.001, 1.002, 1.003, 1.004, 1.005))
"""A device on which further tokens cost next to nothing: everything is guessed."""
REPACKED = Costs((49.0, 79.0, 108.0, 80.0, 135.0, 184.0), row_ms=6.0)
"""Qwen3-1.7B at Q4_0 on one thread, milliseconds."""
MANY = tuple(
    tool(f"look_up_{noun}", **{f"{noun}_id": STRING, "reason": STRING, "maybe_note": STRING})
    for noun in ("user", "flight", "bag", "seat")
)
DATED = (
    tool(
        "pay",
        card={"type": "string", "pattern": "^card_[0-9]{4}$"},
        on={"type": "string", "format": "date"},
        sums={"type": "array", "minItems": 2, "items": {"type": "integer"}},
    ),
)


def best(row: NDArray[np.float32], mask: bytes) -> int:
    """Return the likeliest token of the mask, the plain way."""
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")[: len(row)]
    return int(np.where(bits == 1, row, -np.inf).argmax())


def copied(mask: bytes, copying: Copying, n_tokens: int) -> bytes | None:
    """Return what of the mask is a copy; None if nothing is."""
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little").copy()
    for token in np.flatnonzero(bits[:n_tokens]).tolist():
        bits[token] = copying.takes(token)
    return np.packbits(bits, bitorder="little").tobytes() if bits[:n_tokens].any() else None


class Pair:
    """One model, read by a decoder that guesses and by the loop that reads one token per pass."""

    def __init__(self, context: Context, tools: Sequence[Tool], costs: Costs = FREE) -> None:
        self.context = context
        self.tools = tuple(tools)
        self.grammars = Grammars(context.vocabulary, HERMES, "one")
        self.grammars.use(self.tools)
        self.is_cancelled = False
        store = PrefixStore(None, Path("none.gguf"), "")
        self.decoder = Decoder(
            context, self.grammars, HERMES, store, lambda: self.is_cancelled, costs
        )

    def prompt(self, text: str) -> list[int]:
        turn = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        return self.context.vocabulary.encode(turn, parse_special=True)

    def step(
        self, asked: list[int], how: StepRule, copying: Copying | None = None
    ) -> tuple[StepDone, str]:
        *said, done = self.decoder.step(asked, 0, self.tools, how, copying)
        assert isinstance(done, StepDone)
        return done, "".join(piece.text for piece in said if isinstance(piece, Token))

    def plain(
        self, asked: list[int], how: StepRule, n_kept: int = 0, copying: Copying | None = None
    ) -> str:
        """Write the answer one token per pass, the forced ones too, and ask the grammar each time.

        The first `n_kept` tokens of the prompt stay as they were read before. What `copying` does
        not take is struck from the mask, unless nothing is left then.
        """
        context, vocabulary = self.context, self.context.vocabulary
        state = State(self.grammars.matcher(how.offered))
        tokens = state.force()
        opening = self.grammars.opening(how.offered, tokens)
        assert opening is not None
        budget = max(how.max_tokens, len(tokens) + len(opening))
        answer = Answer(state, tokens, opening, budget, self.grammars.closer, vocabulary.ends)
        context.keep(n_kept)
        for at in range(n_kept, len(asked), 100):
            assert context.decode(asked[at : at + 100], logits=at + 100 >= len(asked))
        n_read = 0
        while not answer.is_done:
            for token in answer.tokens[n_read:]:
                assert context.decode([token], logits=True)
            n_read = len(answer.tokens)
            mask = answer.state.matcher.compute_bitmask()
            if copying is not None:
                copying.read(answer.tokens)
                mask = copied(mask, copying, len(vocabulary.pieces)) or mask
            answer.take(best(context.logits(), mask))
            if is_stuck(answer.tokens):
                answer.close()
        return b"".join(vocabulary.pieces[token] for token in answer.tokens).decode()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(opened(tmp_path_factory.mktemp("ahead")).context, TOOLS)


NANO = paths.bundled("nano/nano-q8_0.gguf")


@pytest.fixture(scope="module")
def nano() -> Pair:
    return Pair(opened_file(NANO).context, TOOLS)


TEXTS = (
    "a",
    "Look at ABC123 and ABC123 again, ABC123.",
    'reservation_id": "ABC123"}} reservation_id": "ABC123"}} economy basic_economy business',
    "abababab abababab 123 123 123 123 2024-05-20 2024-05-20",
)


@pytest.mark.parametrize("costs", [FREE, REPACKED])
@pytest.mark.parametrize("tools", [TOOLS, MANY, DATED])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_write_what_the_plain_loop_writes(
    tmp_path: Path, seed: int, tools: tuple[Tool, ...], costs: Costs
) -> None:
    made = Pair(opened(tmp_path, seed=seed).context, tools, costs)
    names = frozenset(t.name for t in tools) - {DEFER}
    n_drafted = 0
    for text in TEXTS:
        asked, how = made.prompt(text), rule(90, offered=names)
        plain = made.plain(asked, how)
        done, said = made.step(asked, how)
        assert said == plain
        assert made.context.log == (asked + made.context.log[len(asked) :])
        n_drafted += done.usage.n_drafted
        assert done.usage.n_accepted <= done.usage.n_drafted
    assert n_drafted > 0 or costs is REPACKED


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_has_to_be_copied_is_guessed_as_the_plain_loop_writes_it(
    tmp_path: Path, seed: int
) -> None:
    made = Pair(opened(tmp_path, seed=seed).context, TOOLS)
    dialect = Dialect(copied_ids=("reservation_id", "number"), copied_words=("origin",))
    said = (UserMessage("ABC123, ABD77X or HAT012 from San Diego, and abc123 too"),)
    for names in ({"get_reservation_details"}, {"search_flights"}, {"book"}, NAMES - {DEFER}):
        copying = Copying(said, dialect, HERMES, made.context.vocabulary.pieces)
        asked, how = made.prompt("ABC123 ABD77X HAT012 San Diego"), rule(90, offered=names)
        plain = made.plain(asked, how, copying=copying)
        copying.restart()
        assert made.step(asked, how, copying)[1] == plain
        for number in re.findall(r'(?:reservation_id|"number)": "([^"]*)"', plain):
            assert number in {"ABC123", "abc123", "ABD77X", "HAT012"}


def test_nano_writes_what_the_plain_loop_writes_and_spares_passes() -> None:
    """With rows that do not drift, as in the setting that the tuner takes for it.

    Not in every answer: a choice that is as good as even costs all of it a second reading.
    """
    costs = Costs(FREE.ms, drift=0.0)
    nano = Pair(opened_file(NANO, Setting(k_type="q8_0")).context, TOOLS, costs)
    n_accepted, saved = 0, []
    for text in (
        "I want to see my booking ABC123.",
        "Find flights from Boston to Seattle on 2024-05-20, and again Boston to Seattle.",
        "My user id is mia_li_3668, please book HAT001 HAT002 in economy.",
        "Show me reservation ABC123, the reservation ABC123.",
        "Please cancel reservation QX7KL2, that is reservation QX7KL2.",
    ):
        asked, how = nano.prompt(text), rule(90, offered=NAMES - {DEFER})
        plain = nano.plain(asked, how)
        nano.context.keep(0)
        before = nano.context.n_passes
        done, said = nano.step(asked, how)
        assert said == plain
        n_prefill = -(-len(asked) // 128)
        saved.append(done.usage.n_sampled - (nano.context.n_passes - before - n_prefill))
        n_accepted += done.usage.n_accepted
    assert n_accepted > 0
    assert max(saved) > 1


def test_the_whole_development_file_gets_the_plain_loops_calls() -> None:
    """Every answer of real conversations, as the runtime asks for them."""
    data = SHARED / "tft"
    if not data.is_dir():
        pytest.skip("distil's development file is not on this machine")
    described = job.read(data / "job_description.json")
    loaded = opened_file(NANO)
    nano = Pair(loaded.context, described.tools)
    vocabulary = loaded.context.vocabulary
    template = Template(loaded.template, {"eos_token": vocabulary.text_of(vocabulary.end)})
    dialect = manifest.read(NANO.parents[1] / "nano.toml").dialect
    writer = PromptWriter(template, vocabulary, HERMES, dialect)
    how = rule(200, offered=frozenset(tool.name for tool in described.tools))
    saved = n_done = 0
    for asked in tft.read(data / "dev.jsonl"):
        tokens = writer.tokens(Prompt(described.policy, described.tools, asked.conversation))
        done, said = nano.step(tokens, how)
        # What the prompt left in memory depends on how it was cut, and is no part of the loop.
        assert said == nano.plain(tokens, how, n_kept=len(tokens)), asked.id
        n_done += 1
        saved += done.usage.n_accepted
    assert n_done == 330
    assert saved > 0


@pytest.mark.parametrize("flash_attention", [False, True])
@pytest.mark.parametrize("k_type", ["f16", "q8_0"])
def test_nano_writes_the_same_under_every_setting(flash_attention: bool, k_type: str) -> None:
    setting = Setting(flash_attention=flash_attention, k_type=k_type)
    made = Pair(opened_file(NANO, setting).context, TOOLS)
    for text in ("Book HAT001 for mia_li_3668, HAT001.", "Cancel ABC123", "hello hello hello"):
        asked, how = made.prompt(text), rule(120, offered=NAMES - {DEFER})
        assert made.step(asked, how)[1] == made.plain(asked, how)


def test_choices_that_are_close_are_made_token_by_token(nano: Pair) -> None:
    """With every choice called close the rows are the plain loop's to the bit."""
    asked, how = (
        nano.prompt("Book HAT001 for mia_li_3668, HAT001."),
        rule(90, offered=NAMES - {DEFER}),
    )
    plain = nano.plain(asked, how)
    made = Pair(nano.context, TOOLS)
    before = nano.context.n_passes
    usual, _ = made.step(asked, how)
    n_usual = nano.context.n_passes - before
    made.decoder._ahead.close = 1e9
    before = nano.context.n_passes
    done, said = made.step(asked, how)
    assert said == plain
    assert done.usage.n_decoded == usual.usage.n_decoded
    assert nano.context.n_passes - before > max(n_usual, done.usage.n_decoded - 20)


def test_what_was_read_and_not_written_is_removed(pair: Pair) -> None:
    asked = pair.prompt(TEXTS[1])
    done, said = pair.step(asked, rule(90, offered=NAMES - {DEFER}))
    written = pair.context.log[len(asked) :]
    assert done.usage.n_drafted > done.usage.n_accepted
    assert said.startswith(pair.context.vocabulary.decode(written))


def test_padding_makes_a_pass_cheaper_and_leaves_no_trace(tmp_path: Path) -> None:
    made = Pair(opened(tmp_path).context, DATED, REPACKED)
    asked, how = made.prompt("pay"), rule(90, offered={"pay"})
    sizes: list[int] = []
    decode = made.context.decode

    def watched(tokens: Sequence[int], **rest: object) -> bool:
        sizes.append(len(tokens))
        return decode(tokens, **rest)  # type: ignore[arg-type]  # passed on as it came

    made.context.decode = watched  # type: ignore[method-assign]  # the real one, and a count
    _, said = made.step(asked, how)
    made.context.decode = decode  # type: ignore[method-assign]  # as it was
    assert 3 not in sizes[1:]
    assert 4 in sizes
    assert said == made.plain(asked, how)


def test_a_step_cancelled_inside_a_read_batch_leaves_the_context_usable(nano: Pair) -> None:
    """The flag is seen between two rows of one pass, not only between passes."""
    asked, how = nano.prompt("I want to see my booking ABC123."), rule(90, offered=NAMES - {DEFER})
    plain = nano.plain(asked, how)
    n_pieces = 0
    for stop_after in range(1, 12):
        pieces: list[str] = []
        done = None
        for said in nano.decoder.step(asked, 0, nano.tools, how):
            if isinstance(said, Token):
                pieces.append(said.text)
                nano.is_cancelled = len(pieces) == stop_after
            elif isinstance(said, StepDone):
                done = said
        nano.is_cancelled = False
        assert done is not None
        assert plain.startswith("".join(pieces))
        written = nano.context.vocabulary.decode(nano.context.log[len(asked) :])
        assert plain.startswith(written)
        if done.stop == "cancelled":
            assert done.calls == ()
            n_pieces += 1
        assert nano.step(asked, how)[1] == plain
    assert n_pieces > 0


def test_a_step_that_is_left_early_leaves_nothing_guessed(nano: Pair) -> None:
    asked, how = nano.prompt("I want to see my booking ABC123."), rule(90, offered=NAMES - {DEFER})
    plain = nano.plain(asked, how)
    steps = nano.decoder.step(asked, 0, nano.tools, how)
    assert isinstance(next(said for said in steps if isinstance(said, Token)), Token)
    steps.close()
    assert plain.startswith(nano.context.vocabulary.decode(nano.context.log[len(asked) :]))


def test_guesses_end_where_the_context_does(tmp_path: Path) -> None:
    made = Pair(opened(tmp_path, n_ctx=512).context, TOOLS)
    how = rule(64, offered={"book"})
    for n_free in (64, 65, 70):
        asked = made.prompt("ABC123 " * 300)[: 512 - n_free - 3] + made.prompt("")[-3:]
        plain = made.plain(asked, how)
        done, said = made.step(asked, how)
        assert said == plain
        assert len(made.context.log) <= 512
        assert done.calls[0].name == "book"


@pytest.mark.parametrize("threshold", [None, 0.0, 0.5, 1.1])
def test_nothing_is_guessed_before_the_verdict(pair: Pair, threshold: float | None) -> None:
    near = (tool("defer_to_morning", note=STRING), tool("defer_to_larger_model_later", n=STRING))
    tools = (*TOOLS, *near)
    names = frozenset(t.name for t in tools)
    made = [Pair(pair.context, tools, FREE), Pair(pair.context, tools, FREE)]
    made[1].decoder = Decoder(
        pair.context, made[1].grammars, HERMES, PrefixStore(None, Path("none.gguf"), ""),
        lambda: False,
    )  # fmt: skip
    for text in TEXTS:
        for local in (None, names - {DEFER, "book"}):
            how = rule(60, offered=names, threshold=threshold, on_defer=local)
            (one, said), (two, plain) = (each.step(each.prompt(text), how) for each in made)
            assert said == plain
            assert one.verdict is not None
            assert two.verdict is not None
            assert one.verdict.deferred == two.verdict.deferred
            assert one.verdict.probability == pytest.approx(two.verdict.probability, rel=0.01)
            assert two.usage.n_drafted == 0


def test_places_are_found_as_a_scan_finds_them() -> None:
    rng = random.Random(4)
    lookup = Lookup()
    text: list[int] = []
    for _ in range(300):
        if rng.random() < 0.3:
            cut = rng.randint(max(0, len(text) - 20), len(text))
            text = text[:cut] + [rng.randrange(4) for _ in range(rng.randint(0, 12))]
            lookup.follow(text)
        else:
            run = [rng.randrange(4) for _ in range(rng.randint(0, 5))]
            text = text + run
            lookup.extend(run)
        assert lookup.text == text
        assert lookup.find() == scan(text)


def scan(text: list[int]) -> tuple[int, int]:
    places = [p for p in range(2, len(text)) if text[p - 2 : p] == text[-2:]][-16:]

    def agreement(place: int) -> int:
        most = min(place, 8)
        return next((n - 1 for n in range(3, most + 1) if text[place - n] != text[-n]), most)

    return max(((p, agreement(p)) for p in places), key=lambda x: (x[1], x[0]), default=(0, 0))


def test_the_grammar_cuts_a_guess_that_it_forbids(pair: Pair) -> None:
    """The text goes on with letters; where digits are wanted none of them is guessed."""
    encode = pair.context.vocabulary.encode
    grammars = Grammars(pair.context.vocabulary, HERMES, "one")
    grammars.use(DATED)
    state = grammars.state(frozenset({"pay"}))
    head = '<tool_call>\n{"name": "pay", "arguments": {"card": "card_'
    written = encode(head, parse_special=True)
    assert state.take_all(written)
    odds, ends = Odds(), pair.context.vocabulary.ends
    for tail, n_least in (("abcd", 0), ("12", 2), ("1234", 4)):
        lookup = Lookup()
        lookup.follow(encode(f'"card": "card_{tail}", and then ', parse_special=False) + written)
        found = guess(lookup, odds, state, ends, 12)
        tokens = [g.token for g in found]
        assert state.matcher.validate_tokens(tokens) == len(tokens)
        assert sum(g.is_choice for g in found) >= n_least
        assert tail == "abcd" or found
        if tail == "abcd":
            assert found == []


def test_odds_begin_with_the_prior_and_learn() -> None:
    odds = Odds()
    before = odds.of(3)
    for _ in range(20):
        odds.learn(3, was_right=True)
    assert odds.of(3) > 0.7 > before
    assert odds.of(40) == odds.of(8)


CERTAIN = [Guess(1, 1.0, True)] * 20
DOUBTFUL = [Guess(1, 0.3**n, True) for n in range(1, 20)]


@pytest.mark.parametrize(
    ("costs", "n_must", "guesses", "room", "expected"),
    [
        (FREE, 1, CERTAIN, 100, (15, 0)),
        (FREE, 1, [], 100, (0, 0)),
        (FREE, 1, CERTAIN, 4, (4, 0)),
        (FREE, 1, CERTAIN, 0, (0, 0)),
        (FREE, 1, CERTAIN, -5, (0, 0)),
        (FREE, 16, CERTAIN, 100, (0, 0)),
        (FREE, 200, CERTAIN, 100, (0, 0)),
        (REPACKED, 1, [], 100, (0, 0)),
        (REPACKED, 3, [], 100, (0, 1)),  # four cost less than three
        (REPACKED, 3, [], 0, (0, 0)),
        (REPACKED, 7, [], 100, (0, 1)),
        (REPACKED, 1, DOUBTFUL, 100, (0, 0)),
        (REPACKED, 3, DOUBTFUL, 100, (1, 0)),  # the fourth is free
        (Costs((10, 20, 30, 40, 80, 160)), 1, CERTAIN, 100, (0, 0)),
        # What is forced after a guess would have to be read anyway.
        (REPACKED, 1, [Guess(1, 0.75, True), *[Guess(2, 0.75, False)] * 6], 100, (3, 0)),
    ],
)
def test_only_what_pays_is_read_along(
    costs: Costs, n_must: int, guesses: list[Guess], room: int, expected: tuple[int, int]
) -> None:
    made = plan(costs, n_must, guesses, room)
    assert (made.n_guesses, made.n_padding) == expected
    assert n_must + made.n_guesses + made.n_padding <= max(n_must, MAX_PASS)


def test_costs_between_the_measured_sizes() -> None:
    assert REPACKED.of(5) == pytest.approx(80 + 30)
    assert REPACKED.of(12) == pytest.approx((135 + 184) / 2)
    assert REPACKED.of(32) == pytest.approx(184 + 16 * 49 / 8)
    assert REPACKED.padded(6) == 8
    assert REPACKED.padded(1) == 1
    assert FREE.of(6) == pytest.approx(1.0035)
