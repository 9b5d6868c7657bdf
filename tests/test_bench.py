"""`edgeagent bench`: every engine does the recorded work, and the document says what it cost.

No test looks at how long something took; that is noise on a machine that tests.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edgeagent.engine import replay
from edgeagent.engine.client import EngineOptions, Prompt
from edgeagent.engine.replay import Cost, Loop
from edgeagent.errors import ContextFull, EngineError, EvaluationError
from edgeagent.evals.bench import recorded, spread, table
from edgeagent.evals.bench.server import BEST
from edgeagent.manifest import Dialect
from edgeagent.messages import (
    RESPOND,
    Call,
    Json,
    ResultMessage,
    UserMessage,
)
from edgeagent.scenarios.airline import backend
from tests import loopback
from tests.bench_kit import CALLS, PROMPT, listed, recording, timed
from tests.engine_kit import POLICY, TOOLS
from tests.loopback import Loopback
from tests.test_cli import edgeagent
from tests.tiny_gguf import HERMES_TEMPLATE, write_tiny


def options(path: Path, dialect: Dialect | None = None, **settings: Any) -> EngineOptions:
    return EngineOptions(
        path, dialect or Dialect(), n_threads=1, log_file=path.with_suffix(".log"), **settings
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny.gguf")


def costs(path: Path, loop: Loop, *calls: Call, tokens: tuple[Cost, ...] = ()) -> list[Cost]:
    made = replay.opened(options(path), loop)
    try:
        made.start()
        for _ in made.warm(POLICY, TOOLS, threading.Event()):
            pass
        return [
            replay.replay(made, loop, PROMPT, call, tokens[index].tokens if tokens else ())
            for index, call in enumerate(calls)
        ]
    finally:
        made.close()


def test_every_engine_reads_the_same_prompt_and_writes_the_same_tokens(tiny: Path) -> None:
    ours = costs(tiny, Loop.OURS, *CALLS)
    plain = costs(tiny, Loop.PLAIN, *CALLS)
    theirs = costs(tiny, Loop.BINDING, *CALLS, tokens=tuple(ours))
    for one, two, three in zip(ours, plain, theirs, strict=True):
        assert one.tokens == two.tokens == three.tokens
        assert one.n_prompt == two.n_prompt == three.n_prompt
        assert one.n_decoded == two.n_sampled == three.n_sampled == len(one.tokens)
        # Of a random model's own accord none of these tokens would have been forced or chosen.
        assert 0 < one.n_sampled < one.n_decoded
        assert one.peak_bytes
        assert three.peak_bytes
        # The last token of a plain loop is read in case more follow, the binding's is not.
        assert three.n_held == three.n_prompt + three.n_decoded - 1
        assert one.n_held <= two.n_held <= three.n_held + 1
        assert one.text.endswith("</tool_call>")
        # One pass for what is new of the prompt and one for each token but the last.
        assert two.n_passes == -(-two.n_prefilled // 128) + two.n_decoded - 1
        assert one.n_passes is not None
        assert one.n_passes < two.n_passes


def test_the_second_time_only_what_is_new_is_read(tiny: Path) -> None:
    for loop in (Loop.OURS, Loop.PLAIN):
        first, again = costs(tiny, loop, CALLS[0], CALLS[0])
        assert again.n_prefilled <= 1 < first.n_prefilled < first.n_prompt
        assert again.tokens == first.tokens


@pytest.mark.parametrize("append_only", [True, False])
@pytest.mark.parametrize("loop", [Loop.OURS, Loop.PLAIN])
def test_what_is_read_again_is_what_the_template_itself_writes_anew(
    loop: Loop, append_only: bool, tmp_path: Path
) -> None:
    """The template leaves the empty think block out of earlier turns, as Qwen3's does."""
    path = write_tiny(tmp_path / "tiny.gguf", template=HERMES_TEMPLATE)
    told = options(path, dialect=Dialect(append_only=append_only))
    talk = recording("get_reservation_details", RESPOND, "get_reservation_details")
    made = replay.opened(told, loop)
    try:
        made.start()
        steps = [
            replay.replay(made, loop, Prompt(POLICY, TOOLS, step.conversation), step.call)
            for step in talk.steps
        ]
    finally:
        made.close()
    again = [max(0, before.n_held - after.n_reused) for before, after in itertools.pairwise(steps)]
    if append_only:
        assert again == [0, 0]
    else:
        # The think block, and the answer behind it.
        assert all(steps[n].n_decoded < again[n] < steps[n].n_decoded + 20 for n in range(2))


@pytest.mark.parametrize("loop", [Loop.OURS, Loop.PLAIN])
def test_a_step_that_does_not_fit_says_so(loop: Loop, tmp_path: Path) -> None:
    made = replay.opened(options(write_tiny(tmp_path / "tiny.gguf"), n_ctx=1200), loop)
    try:
        made.start()
        long = Call("call_9", RESPOND, {"message": " ".join(map(str, range(500)))})
        with pytest.raises(ContextFull):
            replay.replay(made, loop, PROMPT, long)
        assert replay.replay(made, loop, PROMPT, CALLS[0]).n_decoded  # and goes on
        with pytest.raises(EngineError, match="cannot write"):
            replay.replay(made, loop, PROMPT, Call("call_8", "book", {"bags": "many"}))
    finally:
        made.close()


def test_our_own_conversation_is_a_search_and_a_booking() -> None:
    found = recorded.read(recorded.OURS)
    names = [step.call.name for step in found.steps]
    assert "search_direct_flight" in names
    assert "book_reservation" in names
    assert RESPOND in names
    assert found.tools == backend.description().tools
    last = found.steps[-1].conversation
    asked = {call.id for message in last for call in getattr(message, "calls", ())}
    answered = {message.call_id for message in last if isinstance(message, ResultMessage)}
    assert answered == asked


def call_message(name: str, arguments: Json, call_id: str = "c1") -> dict[str, Json]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    listed = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [listed]}


MESSAGES = [
    {"role": "user", "content": "Where is my bag?"},
    call_message("get_user_details", {"user_id": "ann_lee_1"}),
    {"role": "tool", "tool_call_id": "c1", "content": '{"name": "Ann"}'},
    call_message(RESPOND, {"message": "On its way."}, "c2"),
    {"role": "tool", "tool_call_id": "c2", "content": '{"ok": true}'},
    {"role": "user", "content": "Thanks."},
    {"role": "assistant", "content": "You are welcome."},
]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(MESSAGES),
        json.dumps({"messages": MESSAGES}, indent=1),
        "\n".join(json.dumps(message) for message in MESSAGES),
    ],
    ids=["list", "object", "lines"],
)
def test_chat_messages_are_read_in_any_layout(text: str, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text(text)
    found = recorded.read(path)
    assert [step.call.name for step in found.steps] == ["get_user_details", RESPOND, RESPOND]
    assert found.steps[2].call.arguments == {"message": "You are welcome."}
    assert found.policy == backend.description().policy


def test_a_system_message_is_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps([{"role": "system", "content": "Be brief."}, *MESSAGES]))
    assert recorded.read(path).policy == "Be brief."


def test_a_sessions_export_is_read(tmp_path: Path) -> None:
    call: dict[str, Json] = {
        "id": "call_1", "name": "get_user_details", "arguments": {"user_id": "ann_lee_1"},
    }  # fmt: skip
    usage: dict[str, Json] = {}
    events = [
        {"seq": 1, "at": 0.0, "event": "TurnStarted", "text": "Where is my bag?"},
        {"seq": 2, "at": 0.0, "event": "ToolCalled", "call": call, "tier": "local",
         "verdict": None, "usage": usage, "ms": 1.0},
        {"seq": 3, "at": 0.0, "event": "ToolReturned", "call_id": "call_1",
         "name": "get_user_details", "content": "{}", "is_error": False, "ms": 1.0},
    ]  # fmt: skip
    path = tmp_path / "session.json"
    path.write_text(json.dumps({"session": "x", "scenario": "airline", "events": events}))
    (step,) = recorded.read(path).steps
    assert step.call == Call(**call)
    assert step.conversation == (UserMessage("Where is my bag?"),)


@pytest.mark.parametrize(
    "text",
    [
        "", "nonsense", "[]", "{}", "7", "\x00", '{"messages": 3}', '{"messages": [3]}',
        '{"events": 3}', '{"events": [{}]}', '{"events": [{"event": "ToolCalled"}]}',
        '{"events": []}', "[" * 5000, '[{"role": "user", "content": "Hello."}]',
        json.dumps([MESSAGES[0], call_message("launch", {})]),
        json.dumps([MESSAGES[0], call_message("get_user_details", {"user_id": 3})]),
        json.dumps([MESSAGES[0], {"role": "assistant", "tool_calls": [{"id": []}]}]),
        json.dumps([MESSAGES[0], {"role": "tool", "tool_call_id": [], "content": ""}]),
    ],
)  # fmt: skip
def test_a_conversation_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text(text)
    with pytest.raises(EvaluationError) as refused:
        recorded.read(path)
    assert "\n" not in str(refused.value)


def test_the_spread_is_told_and_ratios_are_taken_pair_by_pair() -> None:
    found = spread.of([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.n, found.width) == (2.0, 1.0, 3.0, 3, 1.0)
    # Each repetition twice as fast, though the machine slowed down threefold meanwhile.
    ratio = spread.ratios([1.0, 3.0], [2.0, 6.0])
    assert ratio is not None
    assert (ratio.low, ratio.high) == (0.5, 0.5)
    assert spread.ratios([1.0], [0.0]) is None


def talk(folder: Path, n_turns: int = 2) -> Path:
    path = folder / "talk.json"
    path.write_text(json.dumps((MESSAGES * n_turns)[: 7 * n_turns]))
    return path


def test_the_document_holds_every_engine_step_and_repetition(tiny: Path, tmp_path: Path) -> None:
    wrote = loopback.calls(("get_user_details", {"user_id": "x"}), usage=(900, 10))
    with listed(Loopback(wrote)) as server:
        ran = edgeagent(
            "bench", "-m", str(tiny), "--conversation", str(talk(tmp_path)),
            "--server", server.url, "--server", f"{server.url}/", "--repetitions", "2", "--json",
            timeout_s=600,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    made = json.loads(ran.stdout)
    names = [lane["name"] for lane in made["lanes"]]
    host = server.url.removeprefix("http://")
    assert names == [
        "edgeagent", "plain loop", "llama-cpp-python",
        f"{host} as it comes", f"{host} at its best",
    ]  # fmt: skip
    ours, plain, binding, as_it_comes, _ = made["lanes"]
    wanted = [step["n_tokens"] for step in made["steps"]]
    assert len(wanted) == 6
    for lane in (ours, plain, binding):
        assert [step["n_decoded"] for step in lane["steps"]] == wanted
        assert lane["peak_bytes"]["n"] == 2
        assert lane["cold"]["load_ms"]["n"] == 2
    assert all(step["n_forced"] > 0 for step in ours["steps"])
    assert all(step["n_forced"] == 0 for step in plain["steps"])
    assert ours["cold"]["source"] == "prefilled"
    assert ours["warm"]["source"] == "disk"
    assert plain["warm"] is None
    assert ours["sums"]["all"]["ratio"] is None
    assert {lane["sums"][key]["ratio"]["n"] for lane in made["lanes"][1:] for key in
            ("calls", "replies", "all")} == {2}  # fmt: skip
    assert ours["sums"]["calls"]["n_steps"] == 2
    assert all(lane["sums"]["all"]["cpu_ratio"]["median"] > 0 for lane in (plain, binding))
    assert as_it_comes["sums"]["all"]["cpu_ms"]["n"] == 2
    assert as_it_comes["steps"][0]["n_decoded"] == 10
    assert as_it_comes["peak_bytes"]["n"] == 2
    assert any("wrote 60 tokens of its own" in note for note in made["notes"])
    assert made["record"]["settings"]["best"] == BEST
    assert made["record"]["files"]["conversation"]["name"] == "talk.json"
    shown = table.text(made).splitlines()
    assert sum("book" in line or RESPOND in line for line in shown) == 4 * 5
    assert shown[-1] == "6 steps in 4 turns, 2 times, medians"


def test_engines_take_turns_with_steps_when_asked_to(tiny: Path, tmp_path: Path) -> None:
    with listed(Loopback(timed())) as server:
        ran = edgeagent(
            "bench", "-m", str(tiny), "--conversation", str(talk(tmp_path, 1)), "--by-step",
            "--against", "plain", "--best-server", server.url, "--repetitions", "2", "--json",
            timeout_s=600,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    best = f"{server.url.removeprefix('http://')} at its best"
    order = ["edgeagent", "plain loop", best]
    told = [line.rpartition(":")[0] for line in ran.stderr.splitlines() if line.startswith("[")]
    assert told == [
        *(f"[1/2] step {step}, {name}" for step in (1, 2, 3) for name in order),
        *(f"[2/2] step {step}, {name}" for step in (1, 2, 3) for name in [*order[1:], order[0]]),
    ]
    lanes = json.loads(ran.stdout)["lanes"]
    assert [lane["name"] for lane in lanes] == order
    assert all(lane["turn_ms"]["n"] == 2 for lane in lanes)
    assert lanes[1]["sums"]["all"]["decode_ratio"]["n"] == 2
    assert lanes[2]["cold"] is None  # it had read the beginning before


def test_what_was_measured_before_an_interruption_is_shown(tiny: Path, tmp_path: Path) -> None:
    with listed(Loopback(timed())) as server:
        ran = subprocess.Popen(
            [sys.executable, "-m", "edgeagent", "bench", "-m", str(tiny), "--conversation",
             str(talk(tmp_path, 1)), "--against", "nothing", "--server", server.url,
             "--repetitions", "999", "--json"],
            cwd=Path(__file__).parents[1], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A shell's background job is deaf to Ctrl-C, and so is what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        assert ran.stderr is not None
        for line in ran.stderr:
            if line.startswith("[2/999] step 1, edgeagent"):
                break
        ran.send_signal(signal.SIGINT)
        said, errors = ran.communicate(timeout=60)
    assert ran.returncode == 130
    assert "Traceback" not in errors
    made = json.loads(said)
    assert made["repetitions"] >= 1
    assert {lane["turn_ms"]["n"] for lane in made["lanes"]} == {made["repetitions"]}


def test_another_model_behind_the_address_is_told_in_one_line(tiny: Path) -> None:
    with Loopback(timed()) as server:
        for meta in ({"n_params": 7}, {"size": 7}):
            server.models = loopback.document({"data": [{"id": "big\x1b[2J", "meta": meta}]})
            ran = edgeagent("bench", "-m", str(tiny), "--against", "plain", "--server", server.url)
            assert ran.returncode == 2, ran.stderr
            assert ran.stdout == ""
            (told,) = ran.stderr.splitlines()
            assert "another model" in told
            assert told.isprintable()
        assert server.requests == []


BAD = {
    "no model": (["-m", "{here}/none.gguf"], 2),
    "a server as the model": (["-m", "http://127.0.0.1:9/v1"], 2),
    "no conversation": (["--conversation", "{here}/none"], 2),
    "a folder": (["--conversation", "{here}"], 2),
    "too long for the context": (["--conversation", "{here}/talk.json"], 2),
    "no repetition": (["--repetitions", "0"], 2),
    "no tools": (["--tools", "{here}/talk.json"], 2),
    "nobody there": (["--server", "{nobody}"], 1),
    "no address": (["--server", "llama"], 2),
    "offline": (["--server", "{nobody}"], 2),
    "nobody there at its best": (["--best-server", "{nobody}"], 1),
    "prefixes in a file": (["--keep-prefixes", "{here}/talk.json"], 2),
}
"""What is typed, and the exit code."""


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_line_and_a_code(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = write_tiny(tmp_path / "small.gguf", n_ctx=2048)
    talk(tmp_path, 40)
    if case == "offline":
        monkeypatch.setenv("EDGEAGENT_OFFLINE", "true")
    typed, code = BAD[case]
    places = {"here": str(tmp_path), "nobody": loopback.nobody()}
    given = [word.format(**places) for word in typed]
    model = [] if "-m" in given else ["-m", str(small)]
    ran = edgeagent("bench", *model, "--against", "plain", *given)
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "internal error" not in ran.stderr
    assert ran.stdout == ""
    (told,) = (
        line for line in ran.stderr.splitlines() if line.startswith(("edgeagent:", "Error:"))
    )
    assert told
