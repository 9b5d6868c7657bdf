"""Let the kernel end any process of ours that asks for an internet socket.

What runs to its end under this has opened none: the filter is inherited by every child, cannot
be taken off, and needs no privilege. Linux on x86-64 and 64-bit ARM only.

    python -m edgeagent.no_internet edgeagent run --offline -p "hello"
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path

from edgeagent import kernel_filter
from edgeagent.kernel_filter import (
    ALLOW,
    AT_ARCHITECTURE,
    AT_FIRST_ARGUMENT,
    AT_NUMBER,
    DENY,
    IS_EQUAL,
    KILL,
    LOAD,
    RETURN,
)

SOCKET_AND_IO_URING = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}
"""Machine → audit architecture, numbers of `socket` and `io_uring_setup`, which can make one too.

Source: Linux 6.1, include/uapi/linux/audit.h and the two syscall tables.
"""
INTERNET = (socket.AF_INET, socket.AF_INET6)


def forbid() -> None:
    """Put the filter on this process and on everything that it will start.

    Raises:
        OSError: this kernel or machine has no such filter; nothing has changed.
    """
    if sys.platform != "linux" or platform.machine() not in SOCKET_AND_IO_URING:
        raise OSError(f"no filter is known for {sys.platform} on {platform.machine()}")
    architecture, n_socket, n_io_uring = SOCKET_AND_IO_URING[platform.machine()]
    kernel_filter.install(
        [
            (LOAD, 0, 0, AT_ARCHITECTURE),
            (IS_EQUAL, 1, 0, architecture),
            (RETURN, 0, 0, KILL),  # another architecture numbers its calls otherwise
            (LOAD, 0, 0, AT_NUMBER),
            (IS_EQUAL, 5, 0, n_io_uring),
            (IS_EQUAL, 0, 3, n_socket),
            (LOAD, 0, 0, AT_FIRST_ARGUMENT),
            (IS_EQUAL, 3, 0, INTERNET[0]),
            (IS_EQUAL, 2, 0, INTERNET[1]),
            (RETURN, 0, 0, ALLOW),
            (RETURN, 0, 0, DENY),
            (RETURN, 0, 0, KILL),
        ]
    )


def is_enforced() -> bool:
    """Ask for an internet socket in a child under the filter; true when the kernel ended it."""
    attempt = (
        "import resource, socket; from edgeagent import no_internet;"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); no_internet.forbid(); socket.socket()"
    )
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", attempt]
    child = subprocess.run(command, cwd=root, capture_output=True, check=False)
    return child.returncode == -signal.SIGSYS


if __name__ == "__main__":
    forbid()
    os.execvp(sys.argv[1], sys.argv[1:])
