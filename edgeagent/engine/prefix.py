"""Prefilled prompts on disk: a warm start reads them instead of computing them.

A file holds the context after system and tools. llama.cpp's own format knows neither the model
nor damage (a 1.7B state loads into a 0.6B model without an error), so the name carries a hash of
the model and a note beside the file carries a checksum; the tokens are compared at loading.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path

from edgeagent.engine.context import Context

MAX_FILES = 8
MAX_BYTES = 2 << 30
"""A 4,000-token prefix of a 1.7B model takes 0.4 GB."""
_BLOCK = 1 << 20


class PrefixStore:
    """Saved contexts of one model; keeps the newest few."""

    def __init__(self, folder: Path | None, model: Path, setting: str) -> None:
        """Keep files under `folder`; None keeps none. `setting` names what shapes the memory."""
        self._folder = folder / "prefixes" if folder is not None else None
        self._model = model
        self._setting = setting
        self._identity = ""

    def load(self, context: Context, tokens: Sequence[int]) -> bool:
        """Load the context that ends after `tokens`; False if it is not there or not whole."""
        path = self._path(tokens)
        if path is None or not path.exists() or not _is_whole(path):
            return False
        if not context.load(path, tokens):
            return False
        os.utime(path)
        return True

    def save(self, context: Context) -> None:
        """Keep the context as it is; a disk that is full or read-only only costs the next start."""
        path = self._path(context.log)
        if path is None:
            return
        partial = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not context.save(partial):
                partial.unlink(missing_ok=True)
                return
            note = {"size": partial.stat().st_size, "crc32": _crc32(partial)}
            os.replace(partial, path)
            _write(_note(path), json.dumps(note))
            self._trim(path.parent, path)
        except OSError:
            partial.unlink(missing_ok=True)

    def _path(self, tokens: Sequence[int]) -> Path | None:
        if self._folder is None:
            return None
        self._identity = self._identity or self._identify(self._folder)
        key = hashlib.sha256(f"{self._identity} {self._setting} ".encode())
        key.update(array("i", tokens).tobytes())
        return self._folder / f"{key.hexdigest()[:32]}.state"

    def _identify(self, folder: Path) -> str:
        """Return the model file's SHA-256, from the last time if the file looks the same."""
        stat = self._model.stat()
        seen = f"{self._model.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        cache = folder / "hashes.json"
        known = _read_hashes(cache)
        if seen not in known:
            with self._model.open("rb") as file:
                known[seen] = hashlib.file_digest(file, "sha256").hexdigest()
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                _write(cache, json.dumps(dict(list(known.items())[-32:])))
            except OSError:
                pass  # hashed again at the next start
        return known[seen]

    def _trim(self, folder: Path, newest: Path) -> None:
        files = sorted(folder.glob("*.state"), key=lambda p: p.stat().st_mtime, reverse=True)
        size = 0
        for rank, path in enumerate(files):
            size += path.stat().st_size
            if path != newest and (rank >= MAX_FILES or size > MAX_BYTES):
                path.unlink(missing_ok=True)
                _note(path).unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    try:
        note = json.loads(_note(path).read_text(encoding="utf-8"))
        return bool(note == {"size": path.stat().st_size, "crc32": _crc32(path)})
    except (OSError, ValueError):
        return False


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_hashes(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
