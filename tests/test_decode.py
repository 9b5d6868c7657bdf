"""One step: valid calls, budgets that always close, and the verdict to defer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeagent import calls
from edgeagent.engine.answer import is_stuck
from edgeagent.engine.branch import DeferralReader
from edgeagent.engine.client import StepDone, StepRule
from edgeagent.engine.context import Context
from edgeagent.engine.decode import Decoder
from edgeagent.engine.grammar import Grammars
from edgeagent.engine.prefix import PrefixStore
from edgeagent.engine.wire import HERMES
from edgeagent.errors import ContextFull, EngineError
from edgeagent.events import Prefilled, Token
from edgeagent.messages import CONTROL_NAMES, DEFER, RESPOND, Tool, ToolKind
from tests.engine_kit import NAMES, STRING, TOOLS, flags, opened, rule, tool


class Bench:
    """A decoder over a tiny model in this process."""

    def __init__(
        self, folder: Path, tools: Sequence[Tool] = TOOLS, mode: str = "one", **settings: int
    ) -> None:
        self.context: Context = opened(folder, **settings).context
        self.tools = tuple(tools)
        self.grammars = Grammars(self.context.vocabulary, HERMES, mode)
        self.grammars.use(self.tools)
        self.is_cancelled = False
        store = PrefixStore(None, folder / "tiny.gguf", "")
        self.decoder = Decoder(
            self.context, self.grammars, HERMES, store, lambda: self.is_cancelled
        )

    def n_shortest(self, offered: frozenset[str]) -> int:
        """Tokens of the shortest call that either verdict leads to."""
        ways = [offered - {DEFER} or offered, offered & {DEFER}]
        openings = [self.grammars.opening(names) for names in ways if names]
        return max(len(opening or []) for opening in openings)

    def prompt(self, text: str) -> list[int]:
        turn = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        return self.context.vocabulary.encode(turn, parse_special=True)

    def said(self, text: str, how: StepRule) -> list[Prefilled | Token | StepDone]:
        return list(self.decoder.step(self.prompt(text), 0, self.tools, how))

    def step(self, text: str, how: StepRule) -> StepDone:
        *_, done = self.said(text, how)
        assert isinstance(done, StepDone)
        return done


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("decode"))


def airline_tools() -> tuple[Tool, ...]:
    path = Path(__file__).parents[1] / "edgeagent/scenarios/airline/job_description.json"
    functions = [t.get("function", t) for t in json.loads(path.read_text())["tools"]]
    return tuple(
        Tool(f["name"], f["description"], f["parameters"], ToolKind.READ) for f in functions
    )


@pytest.mark.slow
def test_a_thousand_random_calls_are_valid_at_any_budget(tmp_path: Path) -> None:
    """Random weights over the 16 airline tools: the grammar alone has to make the calls right."""
    tools = airline_tools()
    assert len(tools) == 16
    names = sorted(t.name for t in tools)
    made = Bench(tmp_path, tools, n_layer=1)
    rng = random.Random(20240515)
    used = set()
    for index in range(1000):
        budget = rng.randint(1, 400)
        offered = frozenset(rng.sample(names, rng.randint(1, len(names))))
        done = made.step(f"{index} {rng.random()}", rule(budget, offered=offered))
        (call,) = done.calls
        assert call.name in offered
        assert calls.validate(call.name, call.arguments, tools) is None
        assert done.usage.n_decoded <= max(budget, made.n_shortest(offered))
        used.add(call.name)
    assert len(used) == 16


@pytest.mark.parametrize("budget", [1, 21, 22, 23, 40, 64, 90, 200])
@pytest.mark.parametrize("mode", ["one", "parallel", "parallel_or_text"])
def test_budgets_are_kept_in_every_mode(tmp_path: Path, mode: str, budget: int) -> None:
    made = Bench(tmp_path, mode=mode, seed=3)
    for text in ("a", "hello", "book me a flight"):
        done = made.step(text, rule(budget))
        assert done.usage.n_decoded <= max(budget, made.n_shortest(NAMES))
        assert bool(done.calls) != bool(done.text)
        for call in done.calls:
            assert calls.validate(call.name, call.arguments, TOOLS) is None


def test_pieces_add_up_to_the_call(bench: Bench) -> None:
    said = bench.said("hello", rule(50))
    raw = "".join(piece.text for piece in said if isinstance(piece, Token))
    done = said[-1]
    assert isinstance(done, StepDone)
    (call,) = done.calls
    written = {"name": call.name, "arguments": call.arguments}
    assert raw == f"<tool_call>\n{json.dumps(written, ensure_ascii=False)}\n</tool_call>"
    assert done.usage.n_sampled < done.usage.n_decoded


def test_same_prompt_gives_the_same_call(bench: Bench) -> None:
    first, second = (bench.step("the same", rule(80)) for _ in range(2))
    assert first.calls[0].arguments == second.calls[0].arguments
    assert first.calls[0].id != second.calls[0].id
    assert second.usage.n_reused > 0


def test_usage_says_what_was_read(bench: Bench) -> None:
    bench.context.keep(0)
    text = "a message that takes some tokens to read"
    done = bench.step(text, rule(40))
    n_prompt = len(bench.prompt(text))
    assert (done.usage.n_prompt, done.usage.n_reused) == (n_prompt, 0)
    again = bench.step(text, rule(40))
    assert again.usage.n_reused == n_prompt
    other = bench.step(text + "!", rule(40))
    shared = bench.context.vocabulary.encode(f"<|im_start|>user\n{text[:-6]}", parse_special=True)
    assert len(shared) <= other.usage.n_reused < n_prompt


def test_a_prompt_that_does_not_fit_is_refused_unread(bench: Bench) -> None:
    before = list(bench.context.log)
    prompt = bench.prompt("x " * 5000)
    with pytest.raises(ContextFull) as caught:
        list(bench.decoder.step(prompt, 0, TOOLS, rule(512)))
    assert (caught.value.n_prompt, caught.value.n_reserve) == (len(prompt), 512)
    assert bench.context.log == before


def test_a_full_context_is_used_to_its_end(bench: Bench) -> None:
    n_free = bench.context.n_ctx - 64
    prompt = bench.prompt("y" * n_free)[: n_free - 3] + bench.prompt("")[-3:]
    *_, done = bench.decoder.step(prompt, 0, TOOLS, rule(64))
    assert isinstance(done, StepDone)
    assert len(done.calls) == 1


def test_cancelled_steps_leave_the_context_as_it_was(bench: Bench) -> None:
    plain = bench.step("cancel me", rule(60))
    bench.is_cancelled = True
    done = bench.step("cancel me, " * 90, rule(60))
    bench.is_cancelled = False
    assert (done.stop, done.calls) == ("cancelled", ())
    assert bench.step("cancel me", rule(60)).calls[0].arguments == plain.calls[0].arguments


def test_an_answer_that_repeats_itself_is_closed(tmp_path: Path) -> None:
    made = Bench(tmp_path, seed=1, n_layer=1)  # these weights write JJJJJ
    done = made.step("c", rule(2000, offered={RESPOND}))
    assert "J" * 30 in str(done.calls[0].arguments["message"])
    assert done.usage.n_decoded < 400


@pytest.mark.parametrize(
    ("tokens", "stuck"),
    [
        ([7] * 64, True),
        ([7] * 63, False),
        ([1, 2, 3] * 30, True),
        ([1, 2, 3] * 30 + [1], True),
        ([1, 2, 3] * 30 + [9], False),
        (list(range(8)) * 9, True),
        (list(range(9)) * 9, False),
        ([], False),
    ],
)
def test_loops_are_told_from_text(tokens: list[int], stuck: bool) -> None:
    assert is_stuck(tokens) is stuck


def test_a_raised_flag_stops_a_pass_and_nothing_is_read(tmp_path: Path) -> None:
    context = Bench(tmp_path).context
    flag = flags[-1]
    flag[0] = 1
    assert not context.decode([1, 2, 3], logits=True)
    flag[0] = 0
    assert context.log == []
    assert context.decode([1, 2, 3], logits=True)
    assert context.log == [1, 2, 3]


def test_tools_nobody_knows_are_an_error(bench: Bench) -> None:
    with pytest.raises(EngineError, match="nothing_such"):
        bench.step("a", rule(60, offered={"nothing_such"}))


def test_defer_is_decoded_at_a_low_threshold(bench: Bench) -> None:
    done = bench.step("hard", rule(60, threshold=0.0))
    assert done.verdict is not None
    assert done.calls[0].name == DEFER
    assert (done.verdict.deferred, done.verdict.reason) == (True, "threshold")


@pytest.mark.parametrize("budget", [1, 18, 30])
def test_verdict_and_call_agree_at_small_budgets(bench: Bench, budget: int) -> None:
    for text in ("a", "b", "c", "d"):
        for threshold in (0.0, 1.1, None):
            done = bench.step(text, rule(budget, threshold=threshold))
            assert done.verdict is not None
            assert done.verdict.deferred == (done.calls[0].name == DEFER)


def test_defer_is_not_decoded_at_a_high_threshold(bench: Bench) -> None:
    for text in ("a", "b", "c", "d", "e", "f"):
        done = bench.step(text, rule(60, threshold=1.1))
        assert done.verdict is not None
        assert done.calls[0].name != DEFER
        assert not done.verdict.deferred


def test_greedy_and_threshold_read_the_same_probability(bench: Bench) -> None:
    greedy, threshold = (bench.step("a", rule(60, threshold=how)).verdict for how in (None, 0.5))
    assert greedy is not None
    assert threshold is not None
    assert greedy.probability == pytest.approx(threshold.probability, abs=1e-9)
    assert 0 < greedy.probability < 1
    assert greedy.reason == "greedy"


def test_not_offered_is_a_verdict(bench: Bench) -> None:
    verdict = bench.step("a", rule(60, offered=NAMES - {DEFER})).verdict
    assert verdict is not None
    assert (verdict.deferred, verdict.reason) == (False, "not offered")


def test_reading_the_row_again_costs_no_pass(bench: Bench) -> None:
    """Offline, a turn that would be deferred must not cost more than any other."""
    local = NAMES - {DEFER, "book"}
    n_passes = []
    for how in (rule(60, offered=local), rule(60, threshold=0.0, on_defer=local)):
        bench.context.keep(0)
        before = bench.context.n_passes
        done = bench.step("again", how)
        n_passes.append((bench.context.n_passes - before, done.usage.n_decoded, done.calls[0].name))
        assert done.calls[0].name in local
    assert n_passes[0] == n_passes[1]
    assert done.verdict is not None
    assert done.verdict.deferred


def test_names_that_share_tokens_with_defer_are_told_apart(tmp_path: Path) -> None:
    near = (tool("defer_to_morning", note=STRING), tool("defer_to_larger_model_later", n=STRING))
    made = Bench(tmp_path, (*TOOLS, *near))
    names = NAMES | {t.name for t in near}
    local = names - {DEFER}
    deferred = made.step("a", rule(60, offered=names, threshold=0.0))
    assert deferred.calls[0].name == DEFER
    again = made.step("a", rule(60, offered=names, threshold=0.0, on_defer=NAMES - {DEFER}))
    assert again.calls[0].name in NAMES - {DEFER}
    kept = made.step("a", rule(60, offered=names, threshold=1.1))
    assert kept.calls[0].name in local
    plain = made.step("a", rule(60, offered=names))
    assert plain.verdict is not None
    assert plain.verdict.deferred == (plain.calls[0].name == DEFER)


PIECES = [b"d", b"defer_to_larger_model", b"de", b"respond", b"x"]
HEADS = {DEFER: b'"defer_to_larger_model"', "delete": b'"delete"', RESPOND: b'"respond_to_user"'}


def reading(
    shares: dict[int, float], threshold: float | None, reader: DeferralReader | None = None,
    written: bytes = b'"',
) -> tuple[DeferralReader, object]:  # fmt: skip
    row = np.full(len(PIECES), -100.0, dtype=np.float32)
    for token, share in shares.items():
        row[token] = np.log(share)
    reader = reader or DeferralReader(HEADS, PIECES, threshold)
    return reader, reader.read(row, np.array(sorted(shares)), written)


def test_the_probability_multiplies_along_shared_letters() -> None:
    reader, first = reading({1: 0.1, 2: 0.6, 3: 0.3}, None)
    assert getattr(first, "verdict", 0) is None  # `de` may become delete or defer
    assert getattr(first, "token", -1) == 2
    pieces = [b"fer_", b"lete"]
    row = np.log(np.array([0.25, 0.75], dtype=np.float32))
    reader._pieces = pieces
    second = reader.read(row, np.array([0, 1]), b'"de')
    assert second.verdict is not None
    assert not second.verdict.deferred
    assert second.verdict.probability == pytest.approx(0.1 + 0.6 * 0.25)


def test_a_threshold_in_reach_of_shared_letters_walks_on() -> None:
    _, low = reading({1: 0.1, 2: 0.6, 3: 0.3}, 0.09)
    assert getattr(low, "token", -1) == 1
    _, middle = reading({1: 0.1, 2: 0.2, 3: 0.7}, 0.25)
    assert getattr(middle, "token", -1) == 2
    _, high = reading({1: 0.1, 2: 0.2, 3: 0.7}, 0.5)
    assert getattr(high, "token", -1) == 3
    _, blocked = reading({1: 0.45, 2: 0.4, 3: 0.15}, 0.9)
    assert getattr(blocked, "token", 0) == -1  # greedy wants to defer and must not


def test_control_names_are_known() -> None:
    assert {RESPOND, DEFER} <= CONTROL_NAMES
