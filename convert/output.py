"""A large file that appears under its name whole or not at all, written past the page cache.

The page cache would hold every byte that is written, and push out what is still to be read; on a
virtual machine its fresh pages alone cost 2 CPU seconds per GB, writing past it 0.1 (2026-11).
Where a file system cannot do that, or not any further, the usual way is taken.
"""

from __future__ import annotations

import glob
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeagent.errors import WriteFailed

if sys.platform != "win32":
    import fcntl

BUFFER_BYTES = 4 << 20
"""Written at a time; a multiple of every device's block."""


class Output:
    """A file descriptor that is written from its beginning to its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Whole pages, as direct writes need them.
        self._memory = mmap.mmap(-1, BUFFER_BYTES)
        self._buffer = memoryview(self._memory)
        self._filled = 0
        self._is_direct = _set_direct(fd, True)

    def write(self, raw: bytes | memoryview) -> None:
        """Append the bytes."""
        rest = memoryview(raw).cast("B")
        while rest:
            taken = min(len(rest), BUFFER_BYTES - self._filled)
            self._buffer[self._filled : self._filled + taken] = rest[:taken]
            rest = rest[taken:]
            self._took(taken)

    def copy(self, source: int, offset: int, n_bytes: int) -> int:
        """Append bytes of another file descriptor; return how many, 0 where that file ends.

        At most one buffer at a time, so that the caller is heard in between.
        """
        room = self._buffer[self._filled : self._filled + n_bytes]
        if hasattr(os, "preadv"):
            taken = os.preadv(source, [room], offset)
        else:
            found = os.pread(source, len(room), offset)
            taken, room[: len(found)] = len(found), found
        self._took(taken)
        return taken

    def finish(self) -> None:
        """Write what is left, and wait until the disk has everything."""
        self._write_past_blocks()
        self._buffer.release()
        self._memory.close()
        os.fsync(self._fd)

    def _took(self, n_bytes: int) -> None:
        self._filled += n_bytes
        if self._filled == BUFFER_BYTES:
            self._empty()

    def _empty(self) -> None:
        rest = self._buffer[: self._filled]
        while rest and self._is_direct:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except OSError:
                # A block size that is not ours, a file size limit: the usual way says what it is.
                break
            if len(rest) % mmap.PAGESIZE:
                break
        if rest:
            self._is_direct = _set_direct(self._fd, False)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self._filled = 0

    def _write_past_blocks(self) -> None:
        self._is_direct = self._is_direct and _set_direct(self._fd, False)
        self._empty()


@contextmanager
def replacing(path: Path) -> Iterator[Output]:
    """Open a file beside `path` that takes its place when the block ends, and vanishes if it fails.

    One that a killed run left behind vanishes here too, unless that run is still alive.

    Raises:
        WriteFailed: the folder is not writable or the disk is full.
    """
    _sweep(path)
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as exc:
        raise WriteFailed(f"cannot write in {path.parent}: {exc.strerror}") from exc
    try:
        try:
            with suppress(OSError):  # some file systems have no locks
                _claim(fd)
            output = Output(fd)
            yield output
            output.finish()
        finally:
            os.close(fd)
        # The temporary file is readable by its owner only; the result follows the umask.
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as exc:
        raise WriteFailed(f"cannot write {path}: {exc}; nothing was left") from exc
    finally:
        Path(name).unlink(missing_ok=True)


def _set_direct(fd: int, wanted: bool) -> bool:
    """Switch writing past the page cache on or off; return whether it is on."""
    if not hasattr(os, "O_DIRECT"):
        return False
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags)
    except OSError:
        return False
    return wanted


def _sweep(path: Path) -> None:
    """Delete what earlier runs left of this file, killed before they could do so themselves."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError), left.open("rb") as file:
            _claim(file.fileno())
            left.unlink()


def _claim(fd: int) -> None:
    """Lock the file as long as it is open; raise OSError where another run holds it."""
    if sys.platform != "win32":
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
