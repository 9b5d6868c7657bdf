"""What a server on this machine takes: the process that listens on a port, from outside.

Read from Linux's /proc. Of a server elsewhere, of another person's, or on another system nothing
is known, and nothing is what is returned.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

HERE = frozenset({"localhost", "127.0.0.1", "::1"})
LISTENING = "0A"
"""A socket's state in /proc/net/tcp. Source: Linux, include/net/tcp_states.h."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running process."""

    pid: int

    def peak_bytes(self) -> int | None:
        """Return the most memory that it has had."""
        for line in _lines(Path(f"/proc/{self.pid}/status")):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None

    def cpu_ms(self) -> float | None:
        """Return the processor time of all its threads so far."""
        for line in _lines(Path(f"/proc/{self.pid}/stat")):
            # The name in parentheses may hold anything, blanks and parentheses too.
            user, system = line.rpartition(")")[2].split()[11:13]
            return (int(user) + int(system)) * 1000 / os.sysconf("SC_CLK_TCK")
        return None


def behind(url: str) -> Process | None:
    """Return the process that answers at the address, if it is one of this machine's."""
    address = urlsplit(url)
    if address.hostname not in HERE or not Path("/proc/net").is_dir():
        return None
    port = address.port or (443 if address.scheme == "https" else 80)
    sockets = {f"socket:[{inode}]" for inode in _listening_on(port)}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(folder / name) in sockets for name in os.listdir(folder)):
                return Process(int(folder.parent.name))
        except OSError:
            continue
    return None


def _listening_on(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        for line in _lines(Path("/proc/net") / table)[1:]:
            words = line.split()
            if words[3] == LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                yield words[9]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
