"""`edgeagent eval bfcl`: what a model is shown, both ways of decoding, the published averages."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeagent.engine.client import Prompt, StepDone, StepRule
from edgeagent.errors import ContextFull, EvaluationError
from edgeagent.evals.airline_null import Null
from edgeagent.evals.bfcl import categories, offering
from edgeagent.evals.bfcl.averages import averages
from edgeagent.evals.bfcl.categories import CATEGORIES
from edgeagent.evals.bfcl.entries import Entry
from edgeagent.evals.bfcl.suite import NEUTRAL, Bfcl, load, sampled
from edgeagent.evals.rows import Options, Progress, Row
from edgeagent.events import Prefilled, Token
from edgeagent.manifest import DEFAULT, Dialect, Manifest
from edgeagent.messages import (
    DEFER,
    RESPOND,
    Call,
    ResultMessage,
    TextMessage,
    Usage,
    UserMessage,
)
from edgeagent.wiring import Local
from tests.tiny_gguf import write_tiny

ROOT = Path(__file__).parents[1]
AREA = {
    "name": "geo.area",
    "description": "Area of a square.",
    "parameters": {
        "type": "dict",
        "properties": {
            "side": {"type": "float", "description": "Length."},
            "corner": {"type": "tuple", "items": {"type": "integer"}},
            "style": {"type": "dict", "properties": {"tone": {"type": "any"}}, "required": ["no"]},
            "unit": {"type": "string", "enum": ["cm", 3]},
        },
        "required": ["side"],
    },
}


def ask(row_id: str, text: str = "How large?") -> dict[str, Any]:
    question = [[{"role": "user", "content": text}]]
    return {"id": row_id, "question": question, "function": [AREA]}


def truth(row_id: str, *sides: float) -> dict[str, Any]:
    return {"id": row_id, "ground_truth": [{"geo.area": {"side": [side]}} for side in sides]}


def write(path: Path, rows: list[Any]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "bfcl"
    (folder / "possible_answer").mkdir(parents=True)
    for name, n_calls in (("BFCL_v3_simple", 1), ("BFCL_v4_parallel", 2)):
        short = name.rpartition("_")[2]
        write(folder / f"{name}.json", [ask(f"{short}_{n}") for n in range(4)])
        write(folder / "possible_answer" / f"{name}.json.gz",
              [truth(f"{short}_{n}", *range(1, n_calls + 1)) for n in range(4)])  # fmt: skip
    write(folder / "BFCL_v3_irrelevance.json.gz", [ask(f"irrelevance_{n}") for n in range(4)])
    return folder


class Script(Null):
    """Makes the calls of a script, step by step, again for every entry."""

    def __init__(self, *steps: list[tuple[str, dict[str, Any]]] | str | Exception) -> None:
        super().__init__(RESPOND, {})
        self.steps = steps
        self.at = 0
        self.prompts: list[Prompt] = []

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]:
        if isinstance(prompt.conversation[-1], UserMessage):
            self.at = 0
        self.prompts.append(prompt)
        said = self.steps[min(self.at, len(self.steps) - 1)]
        self.at += 1
        if isinstance(said, Exception):
            raise said
        calls = tuple(
            Call(f"call_{len(self.prompts)}{n}", name, arguments)
            for n, (name, arguments) in enumerate([] if isinstance(said, str) else said)
        )
        text = said if isinstance(said, str) else ""
        yield StepDone(calls, text, None, Usage(n_decoded=7), "complete")


ONE, TWO = ("geo.area", {"side": 1}), ("geo.area", {"side": 2})
REPLY = (RESPOND, {"message": "Done."})
WORDS = Manifest(name="w", title="w", licence="MIT", n_ctx=2048,
                 dialect=Dialect(calls="parallel_or_text"))  # fmt: skip


def rows(
    data: Path, tier: Script, *, manifest: Manifest = DEFAULT, **settings: Any
) -> dict[str, Row]:
    local = Local("script", tier, manifest)
    found = list(Bfcl().run(local, Options(data=data, settings=settings)))
    assert found[-1] == Progress(12, 12) or settings.get("categories")
    return {row.id.partition(":")[2]: row for row in found if isinstance(row, Row)}


def test_one_response_and_accumulated_calls_are_told_apart(data: Path) -> None:
    tier = Script([TWO], [ONE], [REPLY])
    found = rows(data, tier)
    assert found["simple_0/answer"].scores["exact"] == 0.0
    parallel = found["parallel_0/answer"].scores
    assert (parallel["exact"], parallel["accumulated"]) == (0.0, 1.0)
    assert (parallel["calls"], found["parallel_0/answer"].n_tokens) == (3.0, 21)
    results = [m for m in tier.prompts[2].conversation if isinstance(m, ResultMessage)]
    assert [result.content for result in results] == [NEUTRAL, NEUTRAL]


def test_several_calls_in_one_response_are_the_official_way(data: Path) -> None:
    found = rows(data, Script([TWO, ONE], "That is all."), manifest=WORDS)
    assert found["parallel_0/answer"].scores["exact"] == 1.0
    assert found["parallel_0/answer"].scores["accumulated"] == 1.0
    assert found["simple_0/answer"].scores["exact"] == 0.0


@pytest.mark.parametrize(("said", "manifest"), [([REPLY], DEFAULT), ("None fits.", WORDS)])
def test_a_reply_is_a_refusal(data: Path, said: Any, manifest: Manifest) -> None:
    found = rows(data, Script(said), manifest=manifest)
    assert found["irrelevance_0/answer"].scores["exact"] == 1.0
    assert found["simple_0/answer"].scores["exact"] == 0.0
    summary = Bfcl().summarize(list(found.values()))
    assert summary["floors"]["never call"]["exact"] == summary["scores"]["exact"]["value"]


def test_a_deferral_is_offered_only_if_asked_for_and_counted_apart(data: Path) -> None:
    tier = Script([(DEFER, {"reason": "hard"})])
    found = rows(data, tier, deferral=True)
    assert {row.scores["deferred"] for row in found.values()} == {1.0}
    assert {row.scores["exact"] for row in found.values()} == {0.0}
    assert DEFER in {tool.name for tool in tier.prompts[0].tools}
    rows(data, plain := Script([REPLY]))
    assert DEFER not in {tool.name for tool in plain.prompts[0].tools}


def test_a_model_that_never_stops_is_stopped(data: Path) -> None:
    found = rows(data, Script([ONE]), categories=["simple"])
    assert found["simple_0/answer"].scores["calls"] == 10.0
    assert found["simple_0/answer"].scores["exact"] == 1.0
    assert found["simple_0/answer"].scores["accumulated"] == 0.0


def test_an_entry_that_cannot_be_asked_is_wrong_even_where_silence_would_be_right(
    data: Path,
) -> None:
    found = rows(data, Script(ContextFull(9000, 512, 8192)))
    row = found["irrelevance_0/answer"]
    assert row.scores["exact"] == 0.0
    assert row.note.startswith("failed: the prompt has 9000 tokens")


def test_functions_become_tools_and_messages_a_conversation() -> None:
    said = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Area?"))
    messages = tuple({"role": role, "content": content} for role, content in said)
    odd = {**AREA, "name": "tête à tête " + "x" * 80}
    entry = Entry("simple_0", messages, (AREA, odd, odd), None)
    shown = offering.offer(entry, "python", with_reply=True, with_deferral=False)
    assert shown.policy.startswith("Be brief.\n\n")
    assert shown.conversation == (UserMessage("Hi"), TextMessage("Yes?"), UserMessage("Area?"))
    first, second, third, reply = shown.tools
    assert first.name == "geo.area"
    assert reply.name == RESPOND
    assert len({second.name, third.name}) == 2
    assert shown.names[second.name] == shown.names[third.name] == odd["name"]
    assert max(len(tool.name) for tool in shown.tools) <= 64
    assert first.description.endswith("in Python 3 syntax.")
    assert first.parameters == {
        "type": "object",
        "properties": {
            "side": {"type": "number", "description": "Length. This is a float type value."},
            "corner": {"type": "array", "items": {"type": "integer"}},
            "style": {"type": "object", "properties": {"tone": {"type": "string"}}, "required": []},
            "unit": {"type": "string", "enum": ["cm"]},
        },
        "required": ["side"],
    }
    java = offering.offer(entry, "java", with_reply=False, with_deferral=False).tools[0]
    kinds = {one["type"] for one in java.parameters["properties"].values()}
    assert kinds == {"string"}, "source text"


def test_a_model_that_never_calls_gets_the_published_floor() -> None:
    """The leaderboard's own figure for this is 19.73."""
    refusing = {
        one.name: float(one.judging == "irrelevance")
        for one in CATEGORIES
        if one.judging in ("ast", "irrelevance", "relevance")
    }
    found = averages(refusing, {one.name: one.n for one in CATEGORIES})
    since = found["since_2025_04"]
    assert round(since["live"], 3) == 0.392
    assert since["non_live"] == pytest.approx(0.2)
    assert round(since["overall"], 4) == 0.1973
    assert found["before_2025_04"]["non_live"] == pytest.approx(1 / 9)
    assert "exec_simple" in found["missing"]


def test_published_category_scores_average_to_the_published_figures() -> None:
    """Qwen3-1.7B on the leaderboard of 2025-06-14: non-live AST 83.27, live 72.95."""
    scores = {
        "multiple": 0.93, "parallel": 0.875, "parallel_multiple": 0.815, "irrelevance": 0.796,
        "simple": 0.7108, "java": 0.7108, "javascript": 0.7108,
        "live_simple": 0.7558, "live_multiple": 0.7265, "live_parallel": 0.75,
        "live_parallel_multiple": 0.75, "live_relevance": 0.6111, "live_irrelevance": 0.7245,
    }  # fmt: skip
    found = averages(scores, dict.fromkeys(scores, 1))
    ast_only = (0.7108 + 0.93 + 0.875 + 0.815) / 4
    assert ast_only == pytest.approx(0.8327, abs=1e-4)
    assert found["since_2025_04"]["non_live"] == pytest.approx((4 * ast_only + 0.796) / 5)
    assert found["since_2025_04"]["live"] == pytest.approx(0.7295, abs=2e-3)


def test_the_plain_means_count_entries_and_categories() -> None:
    found = averages({"simple": 1.0, "irrelevance": 0.0}, {"simple": 3, "irrelevance": 1})
    assert (found["micro"], found["macro"]) == (0.75, 0.5)
    nothing = averages({}, {})
    assert (nothing["micro"], nothing["macro"]) == (None, None)
    assert nothing["since_2025_04"]["overall"] == 0.0


def test_a_sample_has_every_category_and_is_the_same_again(data: Path) -> None:
    parts = load(data)
    some = sampled(parts, 6, seed=1)
    assert [len(found) for _, found in some] == [2, 2, 2]
    assert some == sampled(parts, 6, seed=1)
    assert any(sampled(parts, 6, seed=s) != some for s in range(2, 6))
    assert [len(found) for _, found in sampled(parts, 1, seed=1)] == [1, 1, 1]
    assert sampled(parts, 99, seed=1) == parts


def test_entries_without_a_verdict_are_counted_apart(data: Path) -> None:
    write(data / "BFCL_v3_exec_simple.json", [ask("exec_simple_0")])
    write(data / "possible_answer" / "BFCL_v3_exec_simple.json",
          [{"id": "exec_simple_0", "ground_truth": ["get_stock(name='X')"]}])  # fmt: skip
    found = rows(data, Script([REPLY]), categories=["exec_simple"])
    summary = Bfcl().summarize(list(found.values()))
    assert summary["categories"]["exec_simple"]["unavailable"] == 1
    assert summary["scores"]["exact"]["value"] is None
    assert "exec_simple" in summary["averages"]["exact"]["missing"]


def test_folders_without_the_files_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no BFCL_v3_"):
        load(tmp_path)
    with pytest.raises(EvaluationError, match="no BFCL file for java"):
        load(data, ["java"])
    (data / "possible_answer" / "BFCL_v3_simple.json.gz").unlink()
    with pytest.raises(EvaluationError, match="without its file in possible_answer"):
        load(data)
    with pytest.raises(EvaluationError, match="give --data"):
        next(Bfcl().run(Local("x", Script("x"), DEFAULT), Options()))
    assert categories.by_name("simple_python") is categories.by_name("BFCL_v3_simple.json.gz")


def test_the_verb_runs_random_weights_goes_on_and_prints_the_averages(
    data: Path, tmp_path: Path
) -> None:
    model = write_tiny(tmp_path / "tiny.gguf")
    homes = {f"XDG_{name}_HOME": str(tmp_path) for name in ("CONFIG", "DATA", "CACHE", "STATE")}

    def run(*typed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgeagent", "eval", "bfcl", "--data", str(data),
             "--model", str(model), "--limit", "3", *typed],
            capture_output=True, text=True, cwd=ROOT,
            env={**os.environ, **homes, "EDGEAGENT_MODEL__MAX_TOKENS": "24"},
        )  # fmt: skip

    done = run("--json", "--rows", str(tmp_path / "rows.jsonl"))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["n"] == len(told["rows"]) == 3
    assert set(told["averages"]) == {"exact", "accumulated"}
    assert told["record"]["settings"]["limit"] == 3
    assert not [row["note"] for row in told["rows"] if row["note"].startswith("failed")]
    again = run("--rows", str(tmp_path / "rows.jsonl"))
    assert "irrelevance" in again.stdout
    assert "since_2025_04: non_live" in again.stdout
    bad = run("--category", "nothing")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "Traceback" not in bad.stderr
