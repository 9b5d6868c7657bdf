"""`edgeagent bench`: every engine does the recorded work, and the document says what it cost.

No test looks at how long something took; that is noise on a machine that tests.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeagent.engine import replay
from edgeagent.engine.client import EngineOptions, Prompt
from edgeagent.engine.replay import Cost, Loop
from edgeagent.errors import ContextFull, EngineError, EvaluationError, RemoteError
from edgeagent.evals.bench import recorded, spread, table
from edgeagent.evals.bench.server import BEST, Served
from edgeagent.manifest import Dialect
from edgeagent.messages import RESPOND, Call, Json, ResultMessage, UserMessage
from edgeagent.scenarios.airline import backend
from tests import loopback
from tests.engine_kit import POLICY, TOOLS
from tests.loopback import Loopback
from tests.test_cli import edgeagent
from tests.tiny_gguf import write_tiny

CALLS = (
    Call("call_1", "get_reservation_details", {"reservation_id": "ABC123"}),
    Call("call_2", RESPOND, {"message": 'It is "yours", Zoë.'}),
    # Keys in another order than the schema's, an optional one left out.
    Call("call_3", "book", {"bags": 1, "flights": [{"price": 12.5, "number": "H1"}],
                            "cabin": "economy"}),
)  # fmt: skip
PROMPT = Prompt(POLICY, TOOLS, (UserMessage("I want to see my booking ABC123."),))


def options(path: Path, **settings: Any) -> EngineOptions:
    return EngineOptions(
        path, Dialect(), n_threads=1, log_file=path.with_suffix(".log"), **settings
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
        # One pass for what is new of the prompt and one for each token but the last.
        assert two.n_passes == -(-two.n_prefilled // 128) + two.n_decoded - 1
        assert one.n_passes is not None
        assert one.n_passes < two.n_passes


def test_the_second_time_only_what_is_new_is_read(tiny: Path) -> None:
    for loop in (Loop.OURS, Loop.PLAIN):
        first, again = costs(tiny, loop, CALLS[0], CALLS[0])
        assert again.n_prefilled <= 1 < first.n_prefilled < first.n_prompt
        assert again.tokens == first.tokens


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
    call = {"id": "call_1", "name": "get_user_details", "arguments": {"user_id": "ann_lee_1"}}
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


def listed(server: Loopback) -> Loopback:
    server.models = loopback.document({"data": [{"id": "tiny"}]})
    return server


def test_the_document_holds_every_engine_step_and_repetition(tiny: Path, tmp_path: Path) -> None:
    wrote = loopback.calls(("get_user_details", {"user_id": "x"}), usage=(900, 10))
    with listed(Loopback(wrote)) as server:
        ran = edgeagent(
            "bench", "-m", str(tiny), "--conversation", str(talk(tmp_path)),
            "--server", server.url, "--server", f"{server.url}/", "--repetitions", "2", "--json",
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
    assert as_it_comes["sums"]["all"]["cpu_ratio"] is None
    assert as_it_comes["steps"][0]["n_decoded"] == 10
    assert any("wrote 60 tokens of its own" in note for note in made["notes"])
    assert made["record"]["settings"]["best"] == BEST
    assert made["record"]["files"]["conversation"]["name"] == "talk.json"
    shown = table.text(made).splitlines()
    assert sum("book" in line or RESPOND in line for line in shown) == 4 * 5
    assert shown[-1] == "6 steps in 4 turns, 2 times, medians"


def asked_of(server: Loopback) -> Iterator[Json]:
    return (request.body for request in server.requests)


def test_a_server_is_asked_for_the_record_and_no_more_tokens_than_it_has() -> None:
    timings = {"cache_n": 90, "prompt_n": 12, "prompt_ms": 5.0, "predicted_n": 7,
               "predicted_ms": 70.0, "draft_n": 2, "new_in_next_year": []}  # fmt: skip
    said = {"choices": [{"message": {"content": "Hi."}}], "timings": timings}
    with listed(Loopback(loopback.document(said))) as server, Served(server.url) as served:
        for is_best in (False, True):
            served.warm(POLICY, TOOLS, is_best=is_best)
            cost = served.ask(PROMPT, 33, is_best=is_best)
            assert (cost.n_prompt, cost.n_prefilled, cost.n_decoded) == (102, 12, 7)
            assert (cost.n_drafted, cost.decode_ms) == (2, 70.0)
        _, plain, _, best = asked_of(server)
    assert plain["max_tokens"] == best["max_tokens"] == 33
    assert plain["messages"][0] == {"role": "system", "content": POLICY}
    # The second time another conversation, or a server with a memory would not read it again.
    assert plain["messages"][1]["content"] != best["messages"][1]["content"]
    assert {key: best[key] for key in best.keys() - plain.keys()} == BEST


@pytest.mark.parametrize(
    "answer",
    [
        loopback.status(500), loopback.status(401), loopback.page(), loopback.hang_up(),
        loopback.document({"choices": [{"message": {"content": "Hi."}}]}),  # no counts
        loopback.document({"choices": 3}), loopback.document({"error": {"message": "full"}}),
    ],
)  # fmt: skip
def test_a_server_that_does_not_answer_is_an_error_of_ours(answer: loopback.Answer) -> None:
    with (
        listed(Loopback(answer)) as server,
        Served(server.url) as served,
        pytest.raises(RemoteError) as failed,
    ):
        served.ask(PROMPT, 5, is_best=False)
    assert "\n" not in str(failed.value)


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
