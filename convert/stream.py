"""Tensors from where they lie to a GGUF file, a few chunks at a time on every core.

The one pass that `convert.hf_to_gguf` and `convert.quantize` share. Knows neither models nor
recipes: it gets what to write in which type, and writes it in that order.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

import numpy as np

from convert.checkpoint import Mapped, Stored
from convert.gguf_file import Slot, padding
from convert.output import Output, replacing
from edgeagent.engine import quantizer
from edgeagent.engine.quantizer import Bytes, Floats
from edgeagent.errors import ConversionError, WriteFailed

CHUNK_WEIGHTS = 1 << 19
"""Weights that one thread converts at a time: 2 MiB as float32."""


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that the person should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Converted:
    """A part of a tensor is in the file, and everything before it."""

    name: str
    done_bytes: int
    total_bytes: int
    """Of the file."""


Step: TypeAlias = Noted | Converted


@dataclass(frozen=True, slots=True)
class Move:
    """One tensor's way."""

    stored: Stored
    slot: Slot
    importance: Floats | None = None
    """Shape (matrices * row,): what each column of each matrix weighs."""
    change: Callable[[Floats, int], Floats] | None = None
    """Gets float32 rows of the tensor, shape (n, row), and the number of the first of them;
    returns what to write in their place. Several threads call it at once."""
    is_whole: bool = False
    """Whether `change` has to get all rows at once."""

    @property
    def is_copy(self) -> bool:
        return self.change is None and self.stored.dtype is self.slot.type


@dataclass(frozen=True, slots=True)
class _Copied:
    """The tensor's bytes as they are."""

    move: Move


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Some of the tensor's rows, on their way through a thread."""

    move: Move
    bytes: Future[tuple[Bytes, Bytes]]
    """What to write, and the room that it is in."""
    is_last: bool


def written(
    out: Path, front: bytes, moves: Sequence[Move], n_threads: int | None
) -> Iterator[Converted]:
    """Write `front` and the tensors to the file; yield how far it is.

    Costs about 5 MB of memory per thread, and the float32 size twice of a tensor that a `change`
    has to get whole.
    Nothing is left under `out` unless the last step was yielded and the iterator exhausted.

    Raises:
        WriteFailed: the file cannot be written.
        ConversionError: a tensor cannot be in its type.
    """
    total = len(front) + sum(m.slot.n_bytes + padding(m.slot.n_bytes) for m in moves)
    _check_room(out, total)
    done = len(front)
    n_threads = n_threads or os.cpu_count() or 1
    with replacing(out) as file, _Workers(n_threads) as workers:
        file.write(front)
        for part in workers.ahead(moves):
            move = part.move
            if isinstance(part, _Copied):
                for n_bytes in _copy(move.stored, file):
                    done += n_bytes
                    yield Converted(move.slot.name, done, total)
            else:
                done += workers.finish(part, file)
            if isinstance(part, _Copied) or part.is_last:
                file.write(bytes(padding(move.slot.n_bytes)))
                done += padding(move.slot.n_bytes)
            yield Converted(move.slot.name, done, total)


def _check_room(out: Path, n_bytes: int) -> None:
    if out.is_dir() or not out.parent.is_dir():
        raise WriteFailed(f"{out} cannot be written: name a file in a folder that exists")
    free = shutil.disk_usage(out.parent).free
    if free < n_bytes:
        raise WriteFailed(
            f"{out} needs {n_bytes:,} bytes and the disk has {free:,} left; make room first"
        )


class _Workers:
    """Threads that convert chunks, and the memory that they do it in."""

    def __init__(self, n_threads: int) -> None:
        self._pool = ThreadPoolExecutor(n_threads)
        self._n_ahead = n_threads + 1
        # Memory that was just freed comes back from the system page by page, zeroed each time.
        self._rooms: SimpleQueue[Bytes] = SimpleQueue()
        self._scratch = _Scratch()

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def ahead(self, moves: Sequence[Move]) -> Iterator[_Copied | _Encoded]:
        """Yield the parts in order, with a few more already begun, past a tensor's end too."""
        begun: deque[_Copied | _Encoded] = deque()
        for part in self._parts(moves):
            begun.append(part)
            while len(begun) > self._n_ahead:
                yield begun.popleft()
        yield from begun

    def finish(self, part: _Encoded, file: Output) -> int:
        """Write the part when it is ready; return its bytes."""
        try:
            encoded, room = part.bytes.result()
        except ConversionError as exc:
            stored = part.move.stored
            raise ConversionError(f"{stored.shard}: {stored.name}: {exc}") from exc
        file.write(encoded.data)
        self._rooms.put(room)
        return encoded.size

    def _parts(self, moves: Sequence[Move]) -> Iterator[_Copied | _Encoded]:
        mapped = Mapped()
        for move in moves:
            if move.is_copy:
                yield _Copied(move)
                continue
            yield from self._encodings(move, mapped.bytes_of(move.stored))

    def _encodings(self, move: Move, raw: memoryview) -> Iterator[_Encoded]:
        row, n_rows = move.slot.shape[-1], move.slot.n_rows
        n_matrix = move.slot.shape[-2] if len(move.slot.shape) > 1 else 1
        n_step = n_rows if move.is_whole else max(1, CHUNK_WEIGHTS // row)
        row_bytes = move.stored.dtype.n_bytes(row)
        first = 0
        while first < n_rows:
            # A matrix of a stack has importance of its own, so no chunk goes past its end.
            last = min(first + n_step, (first // n_matrix + 1) * n_matrix, n_rows)
            matrix = first // n_matrix
            weighed = move.importance
            if weighed is not None:
                weighed = weighed[matrix * row : (matrix + 1) * row]
            part = raw[first * row_bytes : last * row_bytes]
            yield _Encoded(
                move,
                self._pool.submit(self._encode, move, part, first, weighed),
                is_last=last == n_rows,
            )
            first = last

    def _encode(
        self, move: Move, part: memoryview, first: int, importance: Floats | None
    ) -> tuple[Bytes, Bytes]:
        source, target, row = move.stored.dtype, move.slot.type, move.slot.shape[-1]
        n = len(part) // source.n_bytes(source.block) * source.block
        narrow = self._room(target.n_bytes(n))
        weights = quantizer.widen(part, source, self._scratch.of(n))
        if move.change is not None:
            weights = move.change(weights.reshape(-1, row), first).reshape(-1)
        return quantizer.encode(weights, target, row, importance, narrow), narrow

    def _room(self, n_bytes: int) -> Bytes:
        """Return memory for a result, used before where that is large enough."""
        try:
            room = self._rooms.get_nowait()
        except Empty:
            room = np.empty(0, np.uint8)
        return room if room.size >= n_bytes else np.empty(n_bytes, np.uint8)


class _Scratch(threading.local):
    """Each thread's memory for the weights of one chunk."""

    def __init__(self) -> None:
        self._wide = np.empty(0, np.float32)

    def of(self, n: int) -> Floats:
        if self._wide.size < n:
            self._wide = np.empty(n, np.float32)
        return self._wide


def _copy(stored: Stored, file: Output) -> Iterator[int]:
    """Append the tensor as it is; yield the bytes of each step."""
    done = 0
    with stored.shard.open("rb", buffering=0) as source:
        while done < stored.n_bytes:
            left = stored.n_bytes - done
            n_bytes = file.copy(source.fileno(), stored.offset + done, left)
            if not n_bytes:
                raise ConversionError(f"{stored.shard} became shorter; {stored.name} is cut off")
            done += n_bytes
            yield n_bytes
