"""The command line as a shell sees it: real processes, exit codes, one line per error."""

from __future__ import annotations

import importlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click
import pytest

from edgeagent import no_internet, paths
from edgeagent.__main__ import VERBS
from edgeagent.events import Answered, Deferred, Stats, Stop, Tier, TurnEnded, TurnStarted
from edgeagent.store import Store
from tests.tiny_gguf import write_tiny

ROOT = Path(__file__).parents[1]
HEAVY = ("llama_cpp", "llguidance", "textual", "numpy", "openai", "pydantic", "jinja2", "sqlite3")


def edgeagent(
    *arguments: str, stdin: str = "", timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "edgeagent", *arguments],
        input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def one_line_error(run: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the only line on stderr, having checked that there is nothing else."""
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    return line


@pytest.fixture
def store() -> Store:
    return Store(paths.data_dir() / "sessions.db")


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "edgeagent", "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    for verb, text in VERBS.items():
        assert f"  {verb} " in run.stdout
        assert text.split()[0] in run.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in run.stderr.splitlines()}
    assert "click" in imported
    assert imported & set(HEAVY) == set()
    assert not (paths.config_file().parent.parent.parent / "state").exists(), "help leaves no trace"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_the_table_has_a_module_with_help(verb: str) -> None:
    command = importlib.import_module(f"edgeagent.commands.{verb}").command
    assert isinstance(command, click.Command)
    assert command.get_help(click.Context(command, info_name=verb))


def test_run_imports_no_screen() -> None:
    imports = "import sys, edgeagent.commands.run; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", imports], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert "edgeagent" in loaded
    assert loaded & {"textual", "llama_cpp", "openai", "huggingface_hub", "torch"} == set()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["sesions"], "did you mean 'sessions'?"),
        (["frobnicate"], "see: edgeagent --help"),
        ([], "edgeagent run -p TEXT"),
        (["-c"], "edgeagent run -p TEXT"),
        (["chat"], "edgeagent run -p TEXT"),
        (["run", "-p", "  "], "-p is empty"),
        (["run"], "stdin is empty"),
        (["run", "-p", "x", "-c", "--resume", "y"], "give one of them"),
        (["run", "-p", "x", "-c"], "no session to go on with"),
        (["run", "-p", "x", "--resume", "nope"], "edgeagent sessions list"),
        (["run", "-p", "x", "--scenario", "nope"], "airline, restaurants, orders"),
        (["run", "-p", "x", "-m", "nope"], "no model is called 'nope'"),
        (["run", "-p", "x", "-m", "http://127.0.0.1:1/v1", "--offline"], "opens no socket"),
        (["run", "-p", "x", "--max-steps", "0"], "limits.max_steps = 0"),
        (["run", "-p", "x", "--defer", "maybe"], "'auto', 'ask', 'never'"),
        (["sessions", "show", "nope"], "edgeagent sessions list"),
        (["outbox", "drop", "7"], "edgeagent outbox list"),
        (["outbox", "replay"], "DEFER_BASE_URL"),
        (["scenario", "reset", "nope", "--yes"], "airline, restaurants, orders"),
        (["scenario", "reset", "orders"], "--yes"),
        (["scenario", "import-tau", "/nowhere", "--yes"], "/nowhere"),
    ],
)
def test_bad_usage_says_what_to_do_and_exits_2(arguments: list[str], hint: str) -> None:
    run = edgeagent(*arguments)
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    assert hint in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr


def test_a_malformed_setting_stops_every_verb_that_reads_them() -> None:
    paths.config_file().parent.mkdir(parents=True)
    paths.config_file().write_text("[limits]\nmax_step = 3\n")
    for arguments in (["run", "-p", "hello"], ["config", "show"]):
        line = one_line_error(edgeagent(*arguments), 2)
        assert "line 2: unknown key 'limits.max_step'; did you mean 'max_steps'?" in line
    assert edgeagent("config", "path").returncode == 0, "the file can still be found"
    assert edgeagent("sessions", "list").returncode == 0


def test_settings_are_shown_with_their_source_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEFER_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("DEFER_API_KEY", "hunter2")
    run = edgeagent("config", "show")
    assert 'model.name = "nano"  # default' in run.stdout
    assert 'remote.base_url = "http://127.0.0.1:1/v1"  # environment' in run.stdout
    assert 'remote.api_key = "**********"  # environment' in run.stdout
    shown = json.loads(edgeagent("config", "show", "--json").stdout)
    assert shown["limits.max_steps"] == {"value": 12, "source": "default"}
    assert "hunter2" not in json.dumps(shown) + run.stdout


def test_paths_are_printed_for_people_and_for_scripts(home: Path) -> None:
    shown = json.loads(edgeagent("config", "path", "--json").stdout)
    assert shown["config"] == str(home / "config/edgeagent/config.toml")
    assert str(home / "data/edgeagent") in edgeagent("config", "path").stdout


def test_sessions_are_listed_shown_and_exported(store: Store, tmp_path: Path) -> None:
    with closing(store):
        session = store.create_session("airline", "nano")
        store.create_session("airline", "nano")  # nothing was said in this one
        for event in (
            TurnStarted("Where is \x1b[31mmy bag?"),
            Answered("In Đà Nẵng.", Tier.OFFLINE),
            TurnEnded(Stop.ANSWERED, Stats()),
        ):
            store.append(session, event)
    (line,) = edgeagent("sessions", "list").stdout.splitlines()
    assert session in line
    assert "1 turn" in line
    (row,) = json.loads(edgeagent("sessions", "list", "--json").stdout)
    assert (row["id"], row["n_turns"]) == (session, 1)
    shown = edgeagent("sessions", "show", session[:-1]).stdout
    assert "[offline] In Đà Nẵng." in shown
    assert "\x1b" not in line + shown, "a terminal obeys no stored text"
    target = tmp_path / "session.json"
    assert edgeagent("sessions", "export", session, "-o", str(target)).returncode == 0
    exported = json.loads(target.read_text(encoding="utf-8"))
    assert [event["event"] for event in exported["events"]] == [
        "TurnStarted", "Answered", "TurnEnded",
    ]  # fmt: skip
    assert json.loads(edgeagent("sessions", "export", session, "--json").stdout) == exported
    assert json.loads(edgeagent("sessions", "show", session, "--json").stdout) == exported


def test_the_outbox_is_listed_and_emptied(store: Store) -> None:
    with closing(store):
        session = store.create_session("airline", "nano")
        store.append(session, TurnStarted("a hard one"))
        store.append(session, Deferred("too hard", "outbox", "offline"))
        entry = store.outbox_add(session, 0, "a hard one", "too hard", "offline")
    assert "a hard one" in edgeagent("outbox", "list").stdout
    (row,) = json.loads(edgeagent("outbox", "list", "--json").stdout)
    assert row["reason"] == "too hard"
    assert edgeagent("outbox", "drop", str(entry)).returncode == 0
    assert edgeagent("outbox", "list").stdout == ""


def test_a_damaged_database_is_one_line(home: Path) -> None:
    (paths.data_dir() / "sessions.db").write_bytes(b"rubbish" * 1000)
    assert "move the file aside" in one_line_error(edgeagent("sessions", "list"), 1)


def test_scenarios_are_listed_and_started_over() -> None:
    names = [row["name"] for row in json.loads(edgeagent("scenario", "list", "--json").stdout)]
    assert names == ["airline", "restaurants", "orders"]
    assert edgeagent("scenario", "reset", "orders", "--yes").returncode == 0
    assert (paths.data_dir() / "orders.db").is_file()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(shell: str) -> None:
    assert f"_EDGEAGENT_COMPLETE={shell}_complete" in edgeagent("completion", shell).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("edgeagent se", "plain,sessions"),
        ("edgeagent sessions ", "plain,export"),
        ("edgeagent run --all", "plain,--allow-writes"),
    ],
)
def test_verbs_and_options_complete(
    monkeypatch: pytest.MonkeyPatch, words: str, expected: str
) -> None:
    monkeypatch.setenv("_EDGEAGENT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert expected in edgeagent().stdout.splitlines()


def test_the_version_is_printed() -> None:
    assert edgeagent("--version").stdout.startswith("edgeagent ")
    assert edgeagent("-v").returncode == 0


def has_ended_turn() -> bool:
    with closing(Store(paths.data_dir() / "sessions.db")) as store:
        rows = store.sessions()
        return any(isinstance(e, TurnEnded) for row in rows for e in store.events(row.id))


def test_alone_it_opens_the_app_and_leaves_the_way_back(tmp_path: Path) -> None:
    """The real app on a pseudo-terminal: a message, a reply, ctrl+q."""
    model = write_tiny(tmp_path / "tiny.gguf")
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {
            "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "EDGEAGENT_MODEL__MAX_TOKENS": "24",
            "EDGEAGENT_LIMITS__MAX_STEPS": "2", "EDGEAGENT_MODEL__N_THREADS": "1",
        }  # fmt: skip
        options = ["-m", str(model), "--scenario", "orders", "--offline"]
        os.execv(sys.executable, [sys.executable, "-m", "edgeagent", *options])
    screen = b""

    def watch_until(is_there: Callable[[], bool]) -> None:
        nonlocal screen
        deadline = time.monotonic() + 120
        while not is_there():
            assert time.monotonic() < deadline, screen[-2000:]
            if select.select([terminal], [], [], 0.1)[0]:
                screen += os.read(terminal, 65536)

    watch_until(lambda: b"Write as the customer" in screen)
    os.write(terminal, b"hello\r")
    watch_until(has_ended_turn)
    os.write(terminal, b"\x11")
    watch_until(lambda: b"Go on with: edgeagent --resume " in screen)
    assert os.waitpid(child, 0)[1] == 0
    os.close(terminal)


CRASH = """
import sys, types, click
from edgeagent import __main__
@click.command()
def command():
    raise ZeroDivisionError("a bug\\nof ours")
sys.modules["edgeagent.commands.run"] = types.SimpleNamespace(command=command)
sys.argv = ["edgeagent", "run"]
__main__.main()
"""


def test_a_bug_is_two_lines_on_the_screen_and_a_traceback_in_the_log() -> None:
    run = subprocess.run(
        [sys.executable, "-c", CRASH], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert lines[0] == "edgeagent: internal error: ZeroDivisionError: a bug of ours"
    assert len(lines) == 2
    log = paths.state_dir() / "edgeagent.log"
    assert "Traceback" in log.read_text(encoding="utf-8")
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_reader_that_left_is_no_error_message() -> None:
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(
        [sys.executable, "-m", "edgeagent", "config", "show"],
        stdout=write, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    os.close(write)
    assert run.stderr == ""


def test_where_no_log_can_be_written_the_verb_still_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    run = edgeagent("scenario", "list")
    assert run.returncode == 0
    assert "there will be no log" in run.stderr


def test_the_doctor_finds_a_model_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT_MODEL__NAME", "/nowhere/model.gguf")
    run = edgeagent("doctor", "--json")
    assert run.returncode == 1
    states = {check["name"]: check["state"] for check in json.loads(run.stdout)}
    assert states["python"] == states["llama.cpp"] == states["sessions"] == "ok"
    assert states["model"] == "fail"


@pytest.mark.skipif(not no_internet.is_enforced(), reason="this kernel has no such filter")
@pytest.mark.parametrize(
    ("family", "code"),
    [("AF_INET", -signal.SIGSYS), ("AF_INET6", -signal.SIGSYS), ("AF_UNIX", 0)],
)
def test_the_filter_ends_whoever_asks_for_an_internet_socket(family: str, code: int) -> None:
    child = f"import socket; socket.socket(socket.{family}).close()"
    grandchild = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {child!r}]) != {code})"  # noqa: E501
    python = [sys.executable, "-m", "edgeagent.no_internet", sys.executable, "-c"]
    for program, expected in ((child, code), (grandchild, 0)):
        run = subprocess.run([*python, program], check=False, cwd=ROOT, capture_output=True)
        assert run.returncode == expected
