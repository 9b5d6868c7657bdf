"""Finished parts of a comparison, kept on disk so that nothing is measured twice.

An entry's name is the hash of everything that its content depends on, and its first bytes are
the hash of the rest: one that was damaged counts as missing. Losing them costs only time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeagent.errors import StoreError
from edgeagent.evals.rows import Row
from edgeagent.messages import Json

MAX_BYTES = 1 << 30
"""A base of 8,192 places takes 17 MB."""
N_DIGEST = 32
N_CHECK = 8
Arrays: TypeAlias = Mapping[str, NDArray[np.generic]]


class Cache:
    """Entries in one folder."""

    def __init__(self, folder: Path, *, is_fresh: bool = False) -> None:
        """Keep entries in `folder`; a fresh cache knows nothing of what others kept there."""
        self._folder = folder
        self._made: set[Path] | None = set() if is_fresh else None

    def read_json(self, key: str) -> Json | None:
        """Return what was kept under the key; None if nothing, or it was damaged."""
        raw = self._read(self._path(key, "json"))
        return None if raw is None else json.loads(raw)

    def write_json(self, key: str, value: Json) -> None:
        """Keep a value that is not None."""
        self._write(self._path(key, "json"), json.dumps(value).encode())

    def read_arrays(self, key: str) -> Arrays | None:
        """Return the arrays that were kept under the key; None if none, or they were damaged."""
        raw = self._read(self._path(key, "npz"))
        if raw is None:
            return None
        with np.load(BytesIO(raw), allow_pickle=False) as found:
            return dict(found.items())

    def write_arrays(self, key: str, arrays: Arrays) -> None:
        """Keep arrays by name."""
        made = BytesIO()
        np.savez(made, allow_pickle=False, **dict(arrays))
        self._write(self._path(key, "npz"), made.getvalue())

    def journal(self, key: str) -> Journal:
        """Return the rows of one suite on one build, as far as it got."""
        path = self._path(key, "rows")
        if self._is_unknown(path):
            path.unlink(missing_ok=True)
        return Journal(path)

    def _path(self, key: str, kind: str) -> Path:
        return self._folder / f"{key}.{kind}"

    def _is_unknown(self, path: Path) -> bool:
        """Say whether a fresh cache must not look at the file, and from now on may."""
        if self._made is None or path in self._made:
            return False
        self._made.add(path)
        return True

    def _read(self, path: Path) -> bytes | None:
        if self._is_unknown(path):
            return None
        try:
            raw = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        whole = raw[N_DIGEST:]
        return whole if hashlib.sha256(whole).digest() == raw[:N_DIGEST] else None

    def _write(self, path: Path, raw: bytes) -> None:
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.write_bytes(hashlib.sha256(raw).digest() + raw)
            os.replace(partial, path)
            self._trim(path)
        except OSError as exc:
            partial.unlink(missing_ok=True)
            raise _cannot_write(path, exc) from exc

    def _trim(self, newest: Path) -> None:
        files = sorted(self._folder.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
        size = 0
        for file in files:
            size += file.stat().st_size
            if file != newest and size > MAX_BYTES:
                file.unlink(missing_ok=True)


class Journal:
    """Rows, each on disk before the next one is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self) -> list[Row]:
        """Return the rows that are whole, in the order they came; a damaged one is left out."""
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return []
        found: dict[str, Row] = {}
        for line in lines:
            check, _, raw = line.partition(b" ")
            if check == _check(raw) and raw != _END:
                row = Row(**json.loads(raw))
                found[row.id] = row
        return list(found.values())

    def is_whole(self) -> bool:
        """Say whether the suite came to its end and every row of it can be read."""
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return False
        are_right = all(
            line.partition(b" ")[0] == _check(line.partition(b" ")[2]) for line in lines
        )
        return are_right and bool(lines) and lines[-1].partition(b" ")[2] == _END

    def add(self, row: Row) -> None:
        """Write a row behind the others."""
        self._append(_raw(row))

    def end(self) -> None:
        """Mark the suite as finished; damaged lines are gone afterwards."""
        lines = [_line(_raw(row)) for row in self.rows()]
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial.write_bytes(b"".join([*lines, _line(_END)]))
            os.replace(partial, self._path)
        except OSError as exc:
            raise _cannot_write(self._path, exc) from exc

    def _append(self, raw: bytes) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._path.open("ab+") as file:
                # A line that broke off must not take the next one with it.
                file.seek(0, os.SEEK_END)
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                file.write(_line(raw))
        except OSError as exc:
            raise _cannot_write(self._path, exc) from exc


_END = b"end"


def _raw(row: Row) -> bytes:
    return json.dumps(asdict(row)).encode()


def _line(raw: bytes) -> bytes:
    return _check(raw) + b" " + raw + b"\n"


def _check(raw: bytes) -> bytes:
    return hashlib.sha256(raw).hexdigest()[:N_CHECK].encode()


def _cannot_write(path: Path, exc: OSError) -> StoreError:
    return StoreError(
        f"cannot keep a finished part in {path.parent}: {exc.strerror or exc}; "
        "free some space or point XDG_CACHE_HOME elsewhere"
    )
