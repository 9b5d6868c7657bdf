"""Prefilled prompts on disk: a warm start reads them instead of computing them.

A file holds the context after system and tools, or what a conversation that was left had added
to that; the tokens before are shared, and lie in one file for all. llama.cpp's own format knows
neither the model nor damage (a 1.7B state loads into a 0.6B model without an error), so each file
ends in a label: model, llama.cpp, what shapes the memory, tokens, size and checksum. A file whose
label does not say exactly what is expected is not shown to llama.cpp. Name and label appear
together or not at all, so any number of processes may read, write and clear one folder at once.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from edgeagent.engine.context import Context
from edgeagent.engine.identity import sha256_of
from edgeagent.engine.prompt import n_shared
from edgeagent.engine.versions import versions

log = logging.getLogger(__name__)

MAX_FILES = 32
MAX_BYTES = 2 << 30
"""A 4,000-token prefix of a 1.7B model takes 0.4 GB."""
MAX_LABEL = 4096
STALE_S = 3600
"""A partial file that nobody has written to for so long was left by a process that is gone."""
MIN_PARKED = 64
"""Tokens; fewer are read again as fast as they are found."""
_HEAD = 12
"""Bytes before the tokens in a state of llama.cpp's."""
_FOOT = struct.Struct("<I8s")
_MAGIC = b"edgepfx3"
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
    first: int
    """Tokens that come before those in the file; 0 for a prefix."""
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
        self._resumed: Path | None = None

    def load(self, context: Context, tokens: Sequence[int]) -> bool:
        """Load the context that ends after `tokens`; False if it is not there or not whole."""
        path = self._path(tokens)
        return path is not None and path.is_file() and self._load(path, context, tokens)

    def save(self, context: Context) -> None:
        """Keep the context as it is; a disk that is full or read-only only costs the next start."""
        self._save(context, 0)

    def resume(self, context: Context, tokens: Sequence[int], first: int) -> int:
        """Load the conversation that shares most with `tokens`, of which the context has `first`.

        Returns how many tokens it shares with them now.
        """
        here = n_shared(context.log, tokens)
        best, kept = None, here + MIN_PARKED
        for path, told in self._parked(first, tokens):
            shared = n_shared(told, tokens)
            if shared >= kept:
                best, kept = (path, told), shared
        if best is None or not self._load(best[0], context, best[1], first):
            return min(here, len(context.log))
        self._resumed = best[0]
        return kept

    def park(self, context: Context, first: int) -> None:
        """Keep what follows the first tokens, which other conversations share."""
        if first and len(context.log) >= first + MIN_PARKED and self._save(context, first):
            if self._resumed not in (None, self._path(context.log, first)):
                self._resumed.unlink(missing_ok=True)  # the longer one holds it too
            self._resumed = None

    def _load(self, path: Path, context: Context, tokens: Sequence[int], first: int = 0) -> bool:
        try:
            reason = self._flaw(path, tokens, first)
        except OSError as exc:  # another process may just have cleared it away
            reason = str(exc)
        if not reason and not context.load(path, tokens, first):
            reason = "llama.cpp does not take it"
        if reason:
            log.warning("prefix is computed again, file=%s reason=%r", path.name, reason)
            return False
        with contextlib.suppress(OSError):
            os.utime(path)
        return True

    def _save(self, context: Context, first: int) -> bool:
        path = self._path(context.log, first)
        size = context.n_state_bytes(first)
        if path is None or size > self._max_bytes:
            return False
        partial = path.with_suffix(f".{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if shutil.disk_usage(path.parent).free < 2 * size or not context.save(partial, first):
                return False
            self._sign(partial, context.log, first)
            os.replace(partial, path)
            self._trim(path)
        except OSError as exc:
            log.warning("prefix is not kept, file=%s reason=%r", path.name, str(exc))
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
        return path.is_file()

    def _parked(self, first: int, tokens: Sequence[int]) -> Iterator[tuple[Path, list[int]]]:
        """Yield the conversations that begin with the first of `tokens`, and all their tokens."""
        if self._folder is None or not self._folder.is_dir():
            return
        self._who(self._folder)
        for path in self._folder.glob("*.state"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                said = (_read_label(file) if path.is_file() else None) or {}
                n = said.get("n_tokens")
                if said.get("first") == first and isinstance(n, int) and n > first:
                    file.seek(_HEAD)
                    part = array("i")
                    part.frombytes(file.read((n - first) * part.itemsize))
                    told = [*tokens[:first], *part]
                    if said.get("tokens") == _digest(told):
                        yield path, told

    def _path(self, tokens: Sequence[int], first: int = 0) -> Path | None:
        if self._folder is None:
            return None
        key = hashlib.sha256(
            " ".join([*self._who(self._folder), self._setting, str(first), ""]).encode()
        )
        key.update(array("i", tokens).tobytes())
        return self._folder / f"{key.hexdigest()[:32]}.state"

    def _who(self, folder: Path) -> tuple[str, str]:
        if self._identity is None:
            self._identity = sha256_of(self._model, folder), versions()["llama.cpp"]
        return self._identity

    def _label(self, tokens: Sequence[int], first: int, size: int, crc32: int) -> Label:
        assert self._identity is not None
        digest = _digest(tokens)
        return Label(*self._identity, self._setting, digest, first, len(tokens), size, crc32)

    def _sign(self, path: Path, tokens: Sequence[int], first: int) -> None:
        """Write the label behind the state."""
        with path.open("r+b") as file:
            size = path.stat().st_size
            text = json.dumps(asdict(self._label(tokens, first, size, _crc32(file, size)))).encode()
            file.seek(size)
            file.write(text + _FOOT.pack(len(text), _MAGIC))

    def _flaw(self, path: Path, tokens: Sequence[int], first: int) -> str:
        """Return why the file is not the state after `tokens`; empty if it is. Reads it all."""
        with path.open("rb") as file:
            said = _read_label(file)
            if said is None:
                return "it is cut short or damaged"
            size, crc32 = said.get("size"), said.get("crc32")
            end = file.tell()
            if not (isinstance(size, int) and isinstance(crc32, int) and size == end):
                return "its size is not the one that was written"
            if said != asdict(self._label(tokens, first, size, crc32)):
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


def _digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(array("i", tokens).tobytes()).hexdigest()


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
