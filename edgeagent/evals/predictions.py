"""Rows of somebody's predictions, `{"answer", "prediction"}`, and their scores by distil's rules.

Knows no model: whoever made the predictions is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeagent.errors import EvaluationError
from edgeagent.evals import distil, jsonl
from edgeagent.evals.distil import Defaults
from edgeagent.messages import Json


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of a predictions file."""

    where: str
    """File and line."""
    answer: str
    prediction: str
    """Empty where nothing was predicted."""


def read(path: Path) -> Iterator[Prediction]:
    """Yield the rows of a file of JSON lines.

    A call may also stand there as an object instead of text. No prediction (`null`) is an empty
    one.

    Raises:
        EvaluationError: a row cannot be read, or has no answer or prediction.
    """
    for where, row in jsonl.rows(path):
        answer = _text(jsonl.value(row, "answer", where), f"{where}: the answer")
        found = jsonl.value(row, "prediction", where)
        prediction = "" if found is None else _text(found, f"{where}: the prediction")
        yield Prediction(where, answer, prediction)


def score(row: Prediction, defaults: Defaults) -> dict[str, float]:
    """Return the row's four metrics.

    Raises:
        EvaluationError: its answer is not a call.
    """
    try:
        return distil.score(row.answer, row.prediction, defaults)
    except ValueError as exc:
        raise EvaluationError(f"{row.where}: the answer is not a tool call in JSON") from exc


def _text(found: Json, what: str) -> str:
    if isinstance(found, dict):
        return json.dumps(found, ensure_ascii=False)
    if not isinstance(found, str):
        raise EvaluationError(f"{what} is neither text nor a call")
    return found
