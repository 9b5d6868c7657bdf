"""`edgeagent compare` as it is typed: its files, its refusals, and going on after a stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeagent import paths
from edgeagent.commands import chat, comparisons
from edgeagent.errors import UsageError
from edgeagent.evals.compare.suites import SUITES
from tests.compare_kit import write_data
from tests.test_cli import ROOT, edgeagent
from tests.tiny_gguf import write_tiny

SMALL = ("--limit", "3", "--tokens", "40")


def arguments(folder: Path, *builds: Path) -> list[str]:
    data, tools = write_data(folder)
    return [
        "compare", *map(str, builds), "--suite", "tft", "--data", str(data),
        "--tools", str(tools), "--out", str(folder / "out"), *SMALL,
    ]  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_tiny(tmp_path / "a.gguf"), write_tiny(tmp_path / "b.gguf", seed=1)


def test_the_report_is_three_files_that_say_the_same(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    asked = arguments(tmp_path, *pair)
    run = edgeagent(*asked, "--json")
    assert run.returncode == 0, run.stderr
    made = json.loads(run.stdout)
    assert made == json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row[0] for row in made["table"]["rows"]] == ["a", "b"]
    assert made["record"]["command"].startswith("edgeagent compare ")
    assert made["record"]["files"]["tft data"]["name"] == "dev.jsonl"
    assert made["builds"][1]["suites"]["tft"]["n"] == 3
    again = edgeagent(*asked)
    assert again.returncode == 0, again.stderr
    assert len(re.findall("kept from before", again.stderr)) == 8
    assert again.stdout in (tmp_path / "out" / "report.md").read_text()
    assert "| a |" in again.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page
    for outside in ("<script", "<link", "src=", "href=", "url(", "@import"):
        assert outside not in page
    assert comparisons.folders() == [tmp_path / "out"]
    shown = chat._comparison(str(tmp_path / "out"))
    assert [row[0] for row in shown.rows] == ["a", "b"]
    assert all(len(row) == len(shown.columns) for row in shown.rows)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    asked = arguments(tmp_path, *pair)
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeagent", *asked],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("[1/8] a speed")
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "the same command goes on where it was" in rest
    assert not (tmp_path / "out" / "report.json").exists()
    again = edgeagent(*asked)
    assert again.returncode == 0, again.stderr
    assert "[1/8] a speed: kept from before" in again.stderr


def test_a_build_that_cannot_run_costs_the_exit_code_and_not_the_report(tmp_path: Path) -> None:
    good = write_tiny(tmp_path / "a.gguf")
    bad = write_tiny(tmp_path / "b.gguf", template=None)
    run = edgeagent(*arguments(tmp_path, good, bad))
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "b tft: failed: " in run.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text())["builds"][1]["failures"]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (["--suite", "nope"], f"there are {', '.join(SUITES)}"),
        (["nope.gguf"], "there is no file nope.gguf"),
        (["--base", "nope"], "no model is called 'nope'"),
        (["--manifest", "nope"], "no manifest is called 'nope'"),
        (["--data", "x", "--data", "y"], "--data is given twice"),
        (["--data", "bfcl=x"], "a suite that --suite does not name"),
        (["--data", "tft=/nowhere"], "there is no file /nowhere"),
        (["--text", "/nowhere"], "cannot read /nowhere"),
        (["--limit", "0"], "0 is not in the range"),
        (["http://127.0.0.1:1/v1"], "is a server"),
    ],
)
def test_bad_usage_is_known_before_any_work(change: list[str], hint: str, tmp_path: Path) -> None:
    asked = arguments(tmp_path, write_tiny(tmp_path / "a.gguf"))
    if change[0] == "--data" and "=" not in change[1]:
        at = asked.index("--data")
        asked[at : at + 2] = []
    run = edgeagent(*asked, *change)
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    assert hint in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize("missing", ["--data", "--tools", "--out"])
def test_what_a_suite_needs_is_asked_for(missing: str, tmp_path: Path) -> None:
    asked = arguments(tmp_path, write_tiny(tmp_path / "a.gguf"))
    at = asked.index(missing)
    del asked[at : at + 2]
    run = edgeagent(*asked)
    assert run.returncode == 2, run.stderr
    assert missing in run.stderr


@pytest.mark.parametrize(
    "line", ["not json", '{"question": "[]"}', '{"question": "[{]", "answer": "{}"}', "[]", ""]
)
def test_data_that_is_none_is_the_persons_to_fix(line: str, tmp_path: Path) -> None:
    asked = arguments(tmp_path, write_tiny(tmp_path / "a.gguf"))
    (tmp_path / "dev.jsonl").write_text(line)
    run = edgeagent(*asked)
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"table": 1, "builds": 2, "flips": 3, "prompts": 4}', "\x00"]
)
def test_a_report_that_is_none_is_not_shown(content: str, tmp_path: Path) -> None:
    (tmp_path / comparisons.REPORT).write_text(content)
    with pytest.raises(UsageError):
        chat._comparison(str(tmp_path))
    with pytest.raises(UsageError, match="edgeagent compare"):
        chat._comparison(str(tmp_path / "nowhere"))


def test_the_newest_report_is_listed_first_and_removed_ones_are_not(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        (folder / comparisons.REPORT).write_text("{}")
        comparisons.remember(folder)
    comparisons.remember(folders[0])
    (folders[1] / comparisons.REPORT).unlink()
    assert comparisons.folders() == [folders[0], folders[2]]
    assert str(paths.data_dir()) in str(comparisons._file())
