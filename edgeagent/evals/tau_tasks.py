"""tau-bench's airline tasks: read from a file, replayed without a model, held against their hashes.

edgeagent eval tau-replay --db tau-data --tasks tasks.json --json
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeagent.errors import EvaluationError
from edgeagent.messages import Json
from edgeagent.scenarios.airline import tau


@dataclass(frozen=True, slots=True)
class Replayed:
    """A task whose actions were carried out on fresh data."""

    id: Json
    final_db_sha256: str
    expected: str | None
    """The hash in the tasks file; None where it has none."""


def read(path: Path) -> list[Mapping[str, Json]]:
    """Return the tasks in a JSON file, gzipped or not; a task without an id gets its place.

    Raises:
        EvaluationError: the file cannot be read, or a task has no list of named actions.
    """
    try:
        raw = path.read_bytes()
        found = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except OSError as exc:
        raise EvaluationError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except (ValueError, EOFError, RecursionError) as exc:
        raise EvaluationError(f"{path} is not JSON: {exc}") from exc
    if not isinstance(found, list):
        raise EvaluationError(f"{path} should hold a list of tasks")
    return [_task(task, place, path) for place, task in enumerate(found)]


def replay(db_dir: Path, tasks: list[Mapping[str, Json]]) -> Iterator[Replayed]:
    """Yield what each task's actions end in, in order; 1 s for the data and 0.05 s each.

    Raises:
        ScenarioError: the folder does not hold tau-bench's users, flights and reservations.
    """
    for task, (task_id, sha256) in zip(tasks, tau.replay(db_dir, tasks), strict=True):
        yield Replayed(task_id, sha256, task["final_db_sha256"])


def _task(task: Json, place: int, path: Path) -> Mapping[str, Json]:
    where = f"{path}, task {place}"
    if not isinstance(task, dict) or not isinstance(task.get("actions"), list):
        raise EvaluationError(f"{where}: an object with a list of actions is expected")
    for number, action in enumerate(task["actions"]):
        is_named = isinstance(action, dict) and isinstance(action.get("name"), str)
        if not is_named or not isinstance(action.get("kwargs"), dict):
            raise EvaluationError(f"{where}, action {number}: a name and kwargs are expected")
    expected = task.get("final_db_sha256")
    return {
        "id": task.get("id", place),
        "actions": task["actions"],
        "final_db_sha256": expected if isinstance(expected, str) else None,
    }
