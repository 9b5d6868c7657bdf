"""`edgeagent run` end to end: a real engine on random weights, a scripted larger model on loopback.

`defer.threshold` 0 makes the tiny model hand every turn over at its first step, so the larger
model's script decides what happens, and the tools, the store and the processes are the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeagent import no_internet, paths
from edgeagent.errors import StoreError
from edgeagent.events import ApprovalGiven, ToolCalled, ToolReturned, TurnFailed
from edgeagent.store import Store
from tests.loopback import Loopback, Reply, calls, document, replies, stall, status
from tests.tiny_gguf import write_tiny, write_truncated

ROOT = Path(__file__).parents[1]
KEYS = {"session", "reply", "steps", "deferred", "deferred_to", "stop", "stats"}
STEP_KEYS = {"tier", "name", "arguments", "result", "valid", "ms"}
LOOK_UP = ("lookup_order", {"order_id": "OD-0"})
TICKET = ("create_ticket", {"issue": "It hums.", "priority": "low"})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def command(tiny: Path) -> list[str]:
    options = ["-m", str(tiny), "--scenario", "orders", "--max-tokens", "96"]
    return [sys.executable, "-m", "edgeagent", "run", *options]


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(command: list[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Two threads wait for each other wherever the test has not two cores for itself.
    monkeypatch.setenv("EDGEAGENT_MODEL__N_THREADS", "1")

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            input=stdin, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    return run


@pytest.fixture
def bigger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """The larger model, reachable; every turn goes to it."""
    with Loopback(replies("Hello.")) as server:
        monkeypatch.setenv("DEFER_BASE_URL", server.url)
        monkeypatch.setenv("DEFER_MODEL", "big")
        monkeypatch.setenv("EDGEAGENT_DEFER__THRESHOLD", "0")
        yield server


def documents(run: subprocess.CompletedProcess[str]) -> list[Any]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def stored(session_id: str) -> list[Any]:
    with closing(Store(paths.data_dir() / "sessions.db")) as store:
        return store.events(session_id)


def n_tickets() -> int:
    with closing(sqlite3.connect(paths.data_dir() / "orders.db")) as db:
        (count,) = db.execute("SELECT COUNT(*) FROM tickets").fetchone()
        return int(count)


def test_a_turn_is_one_document_with_the_promised_keys(run: Run, bigger: Loopback) -> None:
    bigger.answers[:] = [calls(LOOK_UP), replies("No such order.")]
    ended = run("-p", "Where is order OD-0?", "--json")
    assert ended.returncode == 0, ended.stderr
    (turn,) = documents(ended)
    assert set(turn) == KEYS
    assert all(set(step) == STEP_KEYS for step in turn["steps"])
    assert [(step["tier"], step["name"]) for step in turn["steps"]] == [
        ("local", "defer_to_larger_model"),
        ("remote", "lookup_order"),
        ("remote", "respond_to_user"),
    ]
    assert turn["reply"] == "No such order."
    assert (turn["deferred"], turn["deferred_to"], turn["stop"]) == (True, "big", "answered")
    assert all(step["valid"] and step["result"] is not None for step in turn["steps"])
    assert turn["stats"]["n_steps"] == 3
    assert turn["stats"]["usage"]["bytes_sent"] > 0


def test_on_random_weights_every_step_is_valid_and_the_turn_ends(run: Run) -> None:
    ended = run("-p", "hello <|im_end|> </tool_call>", "--json", "--offline", "--max-steps", "2")
    (turn,) = documents(ended)
    assert ended.returncode in (0, 1, 3)
    assert all(step["valid"] for step in turn["steps"])
    assert turn["stop"] in ("answered", "transferred", "step_limit")


def test_every_line_of_stdin_is_a_turn_of_one_session(run: Run, bigger: Loopback) -> None:
    bigger.answers[:] = [replies("One."), replies("Hai."), replies("Three.")]
    ended = run("--json", stdin="first\n\n  \nthứ hai\r\nthird")
    turns = documents(ended)
    assert [turn["reply"] for turn in turns] == ["One.", "Hai.", "Three."]
    assert len({turn["session"] for turn in turns}) == 1
    (last,) = [m for m in bigger.requests[-1].body["messages"] if m.get("content") == "thứ hai"]
    assert last["role"] == "user"


def test_without_json_the_reply_alone_is_on_stdout(run: Run, bigger: Loopback) -> None:
    bigger.answers[:] = [calls(LOOK_UP), replies("No such \x1b[2Jorder.")]
    ended = run("-p", "Where is order OD-0?")
    assert ended.stdout == "No such \ufffd[2Jorder.\n"
    assert "lookup_order" in ended.stderr
    assert "deferred to big" in ended.stderr


def test_a_write_needs_the_flag(run: Run, bigger: Loopback) -> None:
    bigger.answers[:] = [calls(TICKET), replies("I may not.")]
    (turn,) = documents(run("-p", "It hums.", "--json"))
    (step,) = [step for step in turn["steps"] if step["name"] == "create_ticket"]
    assert "error" in json.loads(step["result"])
    assert n_tickets() == 0
    bigger.answers[:] = [calls(TICKET), replies("Done.")]
    (turn,) = documents(run("-p", "It hums.", "--json", "--allow-writes"))
    (step,) = [step for step in turn["steps"] if step["name"] == "create_ticket"]
    assert "error" not in json.loads(step["result"])
    assert n_tickets() == 1


def test_without_a_terminal_ask_means_no(run: Run, bigger: Loopback) -> None:
    (turn,) = documents(run("-p", "hello", "--json", "--defer", "ask"))
    assert turn["deferred_to"] == "outbox"
    assert bigger.requests == []


@pytest.mark.parametrize("flag", [["--offline"], ["--defer", "never"]])
def test_told_to_stay_here_nothing_is_sent_and_nothing_written(
    run: Run, bigger: Loopback, flag: list[str]
) -> None:
    (turn,) = documents(run("-p", "hello", "--json", "--allow-writes", *flag))
    assert turn["deferred_to"] == "outbox"
    assert {step["tier"] for step in turn["steps"]} == {"offline"}
    assert bigger.requests == bigger.probes == []
    assert n_tickets() == 0


def test_the_step_limit_is_exit_code_3(run: Run, bigger: Loopback) -> None:
    bigger.answers[:] = [calls(LOOK_UP), calls(("get_faq", {"topic": "returns"}))]
    ended = run("-p", "hello", "--json", "--max-steps", "2")
    assert ended.returncode == 3
    (turn,) = documents(ended)
    assert turn["stop"] == "step_limit"


def test_a_session_goes_on_in_the_next_process(run: Run, bigger: Loopback) -> None:
    bigger.answers[:] = [replies("I am Big.")]
    (first,) = documents(run("-p", "Who are you?", "--json"))
    for how in (["-c"], ["--resume", first["session"][:-1]]):
        (turn,) = documents(run("-p", "And again?", "--json", *how))
        assert turn["session"] == first["session"]
    said = [message.get("content") for message in bigger.requests[-1].body["messages"]]
    assert said.count("And again?") == 2
    assert "Who are you?" in said
    other = run("-c", "--scenario", "airline", "-p", "x")
    assert other.returncode == 2, "the airline has no session to go on with"
    other = run("--resume", first["session"], "--scenario", "airline", "-p", "x")
    assert "serves 'orders', not 'airline'" in other.stderr


def test_a_folder_of_ones_own_is_a_scenario(run: Run, tmp_path: Path, bigger: Loopback) -> None:
    folder = tmp_path / "desk"
    folder.mkdir()
    job = {"task_description": "Be brief.", "tools": []}
    for name, argument in (
        ("respond_to_user", "message"), ("defer_to_larger_model", "reason"), ("look", "what"),
    ):  # fmt: skip
        properties = {argument: {"type": "string"}}
        parameters = {"type": "object", "properties": properties, "required": [argument]}
        function = {"name": name, "description": name, "parameters": parameters}
        job["tools"] = [*job["tools"], {"type": "function", "function": function}]
    (folder / "job_description.json").write_text(json.dumps(job), encoding="utf-8")
    bigger.answers[:] = [calls(("look", {"what": "tea"})), replies("Tea.")]
    (turn,) = documents(run("--scenario", str(folder), "-p", "Tea?", "--json"))
    assert (turn["reply"], turn["stop"]) == ("Tea.", "answered")
    again = run("--scenario", os.path.relpath(folder), "-c", "-p", "And now?", "--json")
    assert documents(again)[0]["session"] == turn["session"], "the same folder, spelled otherwise"


def test_a_model_that_cannot_be_loaded_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path
) -> None:
    broken = write_truncated(tmp_path / "broken.gguf")
    ended = run("-m", str(broken), "-p", "hello", "--json")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert str(broken) in ended.stderr


def test_a_turn_that_fails_still_prints_its_document(run: Run, bigger: Loopback) -> None:
    ended = run("--json", stdin="word " * 100_000)
    assert ended.returncode == 1, ended.stderr
    (turn,) = documents(ended)
    assert set(turn) == KEYS | {"error"}
    assert turn["stop"] == "failed"
    assert "n_ctx" in turn["error"]
    (turn,) = documents(run("-c", "-p", "hello", "--json"))
    assert turn["stop"] == "answered", "nothing is lost"


def test_a_server_takes_the_local_models_place(run: Run) -> None:
    answers = [calls(LOOK_UP), replies("No such order.")]
    with Loopback(*answers) as server:
        server.models = document({"object": "list", "data": [{"id": "small"}]})
        ended = run("-m", server.url, "-p", "Where is order OD-0?", "--json")
    (turn,) = documents(ended)
    assert [step["tier"] for step in turn["steps"]] == ["local", "local"]
    assert (turn["reply"], turn["deferred"]) == ("No such order.", False)


def test_a_larger_model_that_fails_leaves_the_turn_here(run: Run, bigger: Loopback) -> None:
    bigger.answers[:] = [status(401, "bad key")]
    (turn,) = documents(run("-p", "hello", "--json"))
    assert turn["deferred_to"] == "outbox"
    assert turn["steps"][-1]["tier"] == "offline"


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_an_interrupt_ends_the_turn_and_keeps_what_was_said(
    command: list[str], run: Run, bigger: Loopback
) -> None:
    bigger.answers[:] = [calls(LOOK_UP), stall()]
    process = subprocess.Popen(
        [*command, "-p", "hello", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(bigger.requests) == 2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    turn = json.loads(stdout)
    assert turn["stop"] == "cancelled"
    assert turn["steps"][1]["name"] == "lookup_order"
    assert "Traceback" not in stderr
    bigger.answers[:] = [replies("Here I am.")]
    (turn,) = documents(run("-c", "-p", "Still there?", "--json"))
    assert turn["reply"] == "Here I am."


def test_an_interrupt_between_turns_ends_the_program(command: list[str], bigger: Loopback) -> None:
    process = subprocess.Popen(
        [*command, "--json"], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["stop"] == "answered"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def seen(session_id: str, kind: type) -> int:
    try:
        return sum(isinstance(event, kind) for event in stored(session_id))
    except StoreError:
        return 0


def killed_once(command: list[str], session: str, is_time: Callable[[], bool]) -> None:
    """Start a turn that writes, and kill the process without warning when it is time."""
    arguments = ["--resume", session, "-p", "It hums, open a ticket.", "--json", "--allow-writes"]
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        until(is_time)
    finally:
        process.kill()
        process.communicate()


def test_killed_in_the_middle_of_a_write_it_happens_once_at_the_next_start(
    command: list[str], run: Run, bigger: Loopback
) -> None:
    (turn,) = documents(run("-p", "hello", "--json"))
    session = turn["session"]
    with closing(sqlite3.connect(paths.data_dir() / "orders.db", check_same_thread=False)) as db:

        def lock_and_call(reply: Reply) -> None:
            db.execute("BEGIN IMMEDIATE")  # from here on a write waits in the middle of itself
            calls(TICKET)(reply)

        bigger.answers[:] = [lock_and_call]
        killed_once(command, session, lambda: seen(session, ApprovalGiven) == 1)
    assert n_tickets() == 0
    bigger.answers[:] = [replies("Done.")]
    assert seen(session, ToolCalled) == 4  # two deferrals, a reply, the ticket
    for _ in range(2):
        (turn,) = documents(run("--resume", session, "-p", "Well?", "--json"))
        assert turn["stop"] == "answered"
        assert n_tickets() == 1
    past = stored(session)
    (result,) = [e for e in past if isinstance(e, ToolReturned) and e.name == "create_ticket"]
    assert not result.is_error
    assert sum(isinstance(event, TurnFailed) for event in past) == 1


def test_killed_after_a_write_it_does_not_happen_again(
    command: list[str], run: Run, bigger: Loopback
) -> None:
    (turn,) = documents(run("-p", "hello", "--json"))
    session = turn["session"]
    bigger.answers[:] = [calls(TICKET), stall()]
    n_before = len(bigger.requests)
    killed_once(command, session, lambda: len(bigger.requests) == n_before + 2)
    assert n_tickets() == 1
    bigger.answers[:] = [replies("Done.")]
    run("--resume", session, "-p", "Well?", "--json")
    assert n_tickets() == 1


def test_a_killed_process_leaves_no_worker_and_no_lock(
    command: list[str], run: Run, bigger: Loopback
) -> None:
    (turn,) = documents(run("-p", "hello", "--json"))
    bigger.answers[:] = [stall()]
    n_before = len(bigger.requests)
    process = subprocess.Popen(
        [*command, "-c", "-p", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until(lambda: len(bigger.requests) > n_before)
    busy = run("--resume", turn["session"], "-p", "x")
    assert busy.returncode == 1
    assert "open in another edgeagent" in busy.stderr
    workers = children(process.pid)
    assert len(workers) == 1
    process.kill()
    process.communicate()
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    bigger.answers[:] = [replies("Hello.")]
    assert run("--resume", turn["session"], "-p", "x").returncode == 0


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if not listed.exists():
        pytest.skip("this system does not list children")
    return [int(child) for child in listed.read_text().split()]


def test_the_outbox_is_replayed_with_consent_beside_the_local_answer(
    run: Run, bigger: Loopback
) -> None:
    (turn,) = documents(run("-p", "A hard one.", "--json", "--offline"))
    assert turn["deferred_to"] == "outbox"
    outbox = [sys.executable, "-m", "edgeagent", "outbox"]
    asked = subprocess.run(
        [*outbox, "replay"], input="", capture_output=True, text=True, check=False
    )
    assert asked.returncode == 2
    assert bigger.requests == [], "nobody agreed"
    bigger.answers[:] = [calls(TICKET), replies("An easy one.")]
    agreed = subprocess.run(
        [*outbox, "replay", "--yes"], capture_output=True, text=True, check=False
    )
    assert agreed.returncode == 0, agreed.stderr
    assert agreed.stdout == "An easy one.\n"
    assert n_tickets() == 0, "nobody allowed that"
    assert subprocess.run([*outbox, "list"], capture_output=True, check=True).stdout == b""
    assert [e for e in stored(turn["session"]) if isinstance(e, ToolCalled)] != []
    (again,) = documents(run("-c", "-p", "Thanks.", "--json", "--offline"))
    assert again["session"] != turn["session"], "the larger model's answer has its own session"


def test_a_replay_that_fails_leaves_the_turn_in_the_outbox(run: Run, bigger: Loopback) -> None:
    run("-p", "A hard one.", "--offline")
    bigger.answers[:] = [status(401, "bad key")]
    outbox = [sys.executable, "-m", "edgeagent", "outbox"]
    tried = subprocess.run(
        [*outbox, "replay", "--yes"], capture_output=True, text=True, check=False
    )
    assert tried.returncode == 1
    assert "stays in the outbox" in tried.stderr
    listed = subprocess.run([*outbox, "list"], capture_output=True, text=True, check=True)
    assert "A hard one." in listed.stdout


def test_the_log_has_a_line_per_turn_and_no_words_of_the_customer(
    run: Run, bigger: Loopback
) -> None:
    bigger.answers[:] = [replies("Zanzibar.")]
    run("-p", "Honolulu?", "--json")
    log = (paths.state_dir() / "edgeagent.log").read_text(encoding="utf-8")
    assert len([line for line in log.splitlines() if " turn stop=answered" in line]) == 1
    assert "Honolulu" not in log
    assert "Zanzibar" not in log


@pytest.mark.skipif(not no_internet.is_enforced(), reason="this kernel has no such filter")
def test_offline_opens_no_internet_socket(
    command: list[str], bigger: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would end any process of it that asked for one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    filtered = [sys.executable, "-m", "edgeagent.no_internet", *command, "-p", "hello", "--json"]
    offline = subprocess.run([*filtered, "--offline"], capture_output=True, check=False)
    assert offline.returncode in (0, 3), offline.stderr
    assert json.loads(offline.stdout)["deferred_to"] == "outbox"
    online = subprocess.run(filtered, capture_output=True, check=False)
    assert online.returncode == -signal.SIGSYS, "the same turn would have opened one"
