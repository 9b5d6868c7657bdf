"""Rows of a run, written to a file as they are made, so that an interrupted run can go on.

The first line says what the run was of; rows of another run are never mixed in. Knows no suite.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO

from edgeagent.errors import EvaluationError
from edgeagent.evals.rows import Progress, Row
from edgeagent.messages import Json


def read(path: Path, of: Mapping[str, Json]) -> list[Row]:
    """Return the rows that a run kept in `path`; none where there is no such file.

    A line that was cut short by a crash is left out, and taken off the file.

    Raises:
        EvaluationError: the file is not one of rows, or they are of another run than `of`.
    """
    try:
        raw = path.read_bytes() if path.exists() else b""
    except OSError as exc:
        raise EvaluationError(f"cannot read {path}: {exc.strerror or exc}") from exc
    whole = raw[: raw.rfind(b"\n") + 1]
    if not whole:
        if raw:
            raise EvaluationError(f"{path} is not a file of kept rows; name another one")
        return []
    try:
        head, *lines = [json.loads(line) for line in whole.splitlines()]
        known = head["of"]
        rows = [Row(**line) for line in lines]
    except (ValueError, TypeError, KeyError) as exc:
        raise EvaluationError(f"{path} is not a file of kept rows; name another one") from exc
    if known != of:
        changed = ", ".join(sorted(key for key in {*known, *of} if known.get(key) != of.get(key)))
        raise EvaluationError(
            f"{path} has rows of another run, it differs in {changed}; name another file"
        )
    if len(whole) < len(raw):
        os.truncate(path, len(whole))
    return rows


def keep(
    items: Iterable[Progress | Row], path: Path, of: Mapping[str, Json]
) -> Iterator[Progress | Row]:
    """Pass the items on, each row after it was added to the file.

    Raises:
        EvaluationError: the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            if not file.tell():
                _write(file, {"of": of})
            for item in items:
                if isinstance(item, Row):
                    _write(file, asdict(item))
                yield item
    except OSError as exc:
        raise EvaluationError(f"cannot write {path}: {exc.strerror or exc}") from exc


def _write(file: IO[str], line: Mapping[str, Json]) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()
