"""Prefilled prompts on disk: a warm start reads them instead of computing them.

A file holds the context after system and tools. llama.cpp's own format knows neither the model
nor damage (a 1.7B state loads into a 0.6B model without an error), so each file ends in a label:
model, llama.cpp, what shapes the memory, tokens, size and checksum. A file whose label does not
say exactly what is expected is not shown to llama.cpp. Name and label appear together or not at
all, so any number of processes may read, write and clear the same folder at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import struct
import time
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from edgeagent.engine.context import Context
from edgeagent.engine.identity import sha256_of
from edgeagent.engine.versions import versions

log = logging.getLogger(__name__)

MAX_FILES = 32
MAX_BYTES = 2 << 30
"""A 4,000-token prefix of a 1.7B model takes 0.4 GB."""
MAX_LABEL = 4096
STALE_S = 3600
"""A partial file that nobody has written to for so long was left by a process that is gone."""
_FOOT = struct.Struct("<I8s")
_MAGIC = b"edgepfx2"
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Label:
    """What a file says of itself."""

    model: str
    """SHA-256 of the GGUF file."""
    engine: str
    """Commit of llama.cpp, whose layout of a state may change."""
    setting: str
    """Types of K and V, flash attention."""
    tokens: str
    """SHA-256 of the tokens."""
    n_tokens: int
    size: int
    """Bytes before the label."""
    crc32: int


class PrefixStore:
    """Saved contexts; those used last are kept, up to a size that all models share."""

    def __init__(
        self, folder: Path | None, model: Path, setting: str, max_bytes: int = MAX_BYTES
    ) -> None:
        """Keep files under `folder`; None keeps none. `setting` names what shapes the memory."""
        self._folder = folder / "prefixes" if folder is not None and max_bytes > 0 else None
        self._model = model
        self._setting = setting
        self._max_bytes = max_bytes
        self._identity: tuple[str, str] | None = None

    def load(self, context: Context, tokens: Sequence[int]) -> bool:
        """Load the context that ends after `tokens`; False if it is not there or not whole."""
        path = self._path(tokens)
        if path is None or not path.is_file():
            return False
        try:
            reason = self._flaw(path, tokens)
        except OSError as exc:  # another process may just have cleared it away
            reason = str(exc)
        if not reason and not context.load(path, tokens):
            reason = "llama.cpp does not take it"
        if reason:
            log.warning("prefix is computed again, file=%s reason=%r", path.name, reason)
            return False
        with contextlib.suppress(OSError):
            os.utime(path)
        return True

    def save(self, context: Context) -> None:
        """Keep the context as it is; a disk that is full or read-only only costs the next start."""
        path = self._path(context.log)
        size = context.n_state_bytes
        if path is None or size > self._max_bytes:
            return
        partial = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if shutil.disk_usage(path.parent).free < 2 * size:
                return
            if context.save(partial):
                self._sign(partial, context.log)
                os.replace(partial, path)
                self._trim(path)
        except OSError as exc:
            log.warning("prefix is not kept, file=%s reason=%r", path.name, str(exc))
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()

    def _path(self, tokens: Sequence[int]) -> Path | None:
        if self._folder is None:
            return None
        key = hashlib.sha256(" ".join([*self._who(self._folder), self._setting, ""]).encode())
        key.update(array("i", tokens).tobytes())
        return self._folder / f"{key.hexdigest()[:32]}.state"

    def _who(self, folder: Path) -> tuple[str, str]:
        if self._identity is None:
            self._identity = sha256_of(self._model, folder), versions()["llama.cpp"]
        return self._identity

    def _label(self, tokens: Sequence[int], size: int, crc32: int) -> Label:
        assert self._identity is not None
        digest = hashlib.sha256(array("i", tokens).tobytes()).hexdigest()
        return Label(*self._identity, self._setting, digest, len(tokens), size, crc32)

    def _sign(self, path: Path, tokens: Sequence[int]) -> None:
        """Write the label behind the state."""
        with path.open("r+b") as file:
            size = path.stat().st_size
            text = json.dumps(asdict(self._label(tokens, size, _crc32(file, size)))).encode()
            file.seek(size)
            file.write(text + _FOOT.pack(len(text), _MAGIC))

    def _flaw(self, path: Path, tokens: Sequence[int]) -> str:
        """Return why the file is not the state after `tokens`; empty if it is. Reads it all."""
        with path.open("rb") as file:
            said = _read_label(file)
            if said is None:
                return "it is cut short or damaged"
            size, crc32 = said.get("size"), said.get("crc32")
            end = file.tell()
            if not (isinstance(size, int) and isinstance(crc32, int) and size == end):
                return "its size is not the one that was written"
            if said != asdict(self._label(tokens, size, crc32)):
                return "it is of another model, engine or setting"
            file.seek(0)
            return "" if _crc32(file, size) == crc32 else "it is damaged"

    def _trim(self, newest: Path) -> None:
        """Make room: what was used least recently goes first, the file just written last."""
        now, size = time.time(), 0
        kept: list[tuple[float, int, Path]] = []
        for path in newest.parent.iterdir():
            try:
                stat = path.stat()
            except OSError:
                continue  # another process was faster
            if path.suffix == ".state" and path.is_file():
                kept.append((stat.st_mtime, stat.st_size, path))
            elif path.suffix in (".part", ".tmp") and now - stat.st_mtime > STALE_S:
                path.unlink(missing_ok=True)
        kept.sort(key=lambda row: (row[2] == newest, row[0]), reverse=True)
        for rank, (_, n_bytes, path) in enumerate(kept):
            size += n_bytes
            if path != newest and (rank >= MAX_FILES or size > self._max_bytes):
                path.unlink(missing_ok=True)


def _read_label(file: BinaryIO) -> Mapping[str, object] | None:
    """Return what the file says of itself, and stay before it; None if that is no label."""
    end = file.seek(0, os.SEEK_END)
    if end < _FOOT.size:
        return None
    file.seek(end - _FOOT.size)
    length, magic = _FOOT.unpack(file.read(_FOOT.size))
    if magic != _MAGIC or not 0 < length <= min(MAX_LABEL, end - _FOOT.size):
        return None
    start = file.seek(end - _FOOT.size - length)
    try:
        label = json.loads(file.read(length))
    except (ValueError, RecursionError):
        return None
    file.seek(start)
    return label if isinstance(label, dict) else None


def _crc32(file: BinaryIO, n_bytes: int) -> int:
    value = 0
    while n_bytes > 0 and (block := file.read(min(_BLOCK, n_bytes))):
        value = zlib.crc32(block, value)
        n_bytes -= len(block)
    return value if n_bytes == 0 else -1
