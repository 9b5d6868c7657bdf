"""What the tests of `compare` share: a suite without a model, a test file, a finished report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeagent.evals.intervals import share
from edgeagent.evals.rows import EXACT, Options, Progress, Row, Summary, headline
from edgeagent.wiring import Local

JOB = {
    "task_description": "Be polite. Look things up before you answer.",
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "respond_to_user",
                "description": "Say something.",
                "parameters": {
                    "type": "object",
                    "properties": {"message": {"type": "string"}},
                    "required": ["message"],
                },
            },
        },
        {
            "type": "function",
            "function": {
                "name": "find_table",
                "description": "Find a free table.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "city": {"type": "string"},
                        "kind": {"type": "string", "enum": ["inside", "outside"]},
                    },
                    "required": ["city"],
                },
            },
        },
    ],
}


def called(name: str, **arguments: str) -> dict[str, Any]:
    """An assistant's message with one call."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


def write_data(folder: Path, n: int = 2) -> tuple[Path, Path]:
    """Write a test file of `n` conversations, three pairs each, and its job description."""
    lines = []
    for number in range(n):
        question = [
            {"role": "user", "content": f"I need a table number {number}."},
            called("respond_to_user", message="In which city?"),
            {"role": "user", "content": "In Lyon, outside."},
            called("find_table", city="Lyon", kind="outside"),
            {"role": "user", "content": '[{"name": "Chez Ann"}]'},
        ]
        answer = {"name": "respond_to_user", "parameters": {"message": "Chez Ann has one."}}
        lines.append(json.dumps({"question": json.dumps(question), "answer": json.dumps(answer)}))
    data, tools = folder / "dev.jsonl", folder / "job_description.json"
    data.write_text("\n".join(lines) + "\n")
    tools.write_text(json.dumps(JOB))
    return data, tools


def row(id: str, exact: float, name: float | None = None, prediction: str = "said") -> Row:
    """A row with little in it."""
    scores: dict[str, float | None] = {EXACT: exact}
    if name is not None:
        scores["name"] = name
    return Row(id, scores, prediction, "wanted", f"asked {id}", 3, 1.5)


@dataclass
class Counting:
    """A suite that asks no model: right on even rows, and on all of them for a lucky quant."""

    name: str = "counting"
    n: int = 6
    asked: list[str] = field(default_factory=list)
    """Ids of rows that were made, over all runs."""

    def run(self, local: Local, options: Options) -> Iterator[Progress | Row]:
        for number in range(self.n):
            id = f"{number // 2}/{number}"
            if id not in options.done:
                self.asked.append(id)
                right = float(number % 2 == 0 or "lucky" in local.name)
                yield row(id, right, prediction=f"answer {right:g}")
            yield Progress(number + 1, self.n)

    def summarize(self, rows: Sequence[Row]) -> Summary:
        right = headline(rows)
        scores = {EXACT: share(sum(right.values()), len(right)).as_json()}
        return {"n": len(rows), "scores": scores, "floors": {"coin": {EXACT: 0.5}}}
