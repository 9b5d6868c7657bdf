"""JSON lines from files that other people made: read whole, complained about by line number.

`.gz` files are unpacked on the way. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeagent.errors import EvaluationError
from edgeagent.messages import Json

N_SHOWN = 200


def rows(path: Path) -> Iterator[tuple[str, dict[str, Json]]]:
    """Yield where each row stands (`rows.jsonl, line 3`) and the row; empty lines are passed over.

    Raises:
        EvaluationError: the file cannot be read, holds no row, or a line is not a JSON object.
    """
    n_rows = 0
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as exc:
            reason = str(exc) if isinstance(exc, ValueError) else "it is nested too deeply"
            raise EvaluationError(f"{where} is not JSON: {reason}") from exc
        if not isinstance(row, dict):
            raise EvaluationError(f"{where} is not a JSON object")
        n_rows += 1
        yield where, row
    if not n_rows:
        raise EvaluationError(f"{path} holds no rows")


def value(row: Mapping[str, Json], key: str, where: str) -> Any:
    """Return what the row has under `key`.

    Raises:
        EvaluationError: it has nothing there.
    """
    if key not in row:
        there = ", ".join(map(repr, row))[:N_SHOWN] or "nothing"
        raise EvaluationError(f"{where} has no {key!r}; it has {there}")
    return row[key]


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file):
                # Some editors begin a file with a byte order mark.
                yield _decoded(
                    line, "utf-8" if number else "utf-8-sig", f"{path}, line {number + 1}"
                )
    except OSError as exc:
        raise EvaluationError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except (EOFError, zlib.error) as exc:
        raise EvaluationError(f"cannot unpack {path}: {exc}") from exc


def _decoded(line: bytes, encoding: str, where: str) -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as exc:
        raise EvaluationError(f"{where} is not UTF-8: {exc.reason} at byte {exc.start}") from exc
