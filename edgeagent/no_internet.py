"""Let the kernel end any process of ours that asks for an internet socket.

What runs to its end under this has opened none: the filter is inherited by every child, cannot
be taken off, and needs no privilege. Linux on x86-64 and 64-bit ARM only.

    python -m edgeagent.no_internet edgeagent run --offline -p "hello"
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path

SOCKET_AND_IO_URING = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}
"""Machine → audit architecture, numbers of `socket` and `io_uring_setup`, which can make one too.

Source: Linux 6.1, include/uapi/linux/audit.h and the two syscall tables.
"""
INTERNET = (socket.AF_INET, socket.AF_INET6)

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_KILL, _DENY, _ALLOW = 0x80000000, 0x00050001, 0x7FFF0000  # DENY is errno EPERM
_LOAD, _IS_EQUAL, _RETURN = 0x20, 0x15, 0x06
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT = 0, 4, 16


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def forbid() -> None:
    """Put the filter on this process and on everything that it will start.

    Raises:
        OSError: this kernel or machine has no such filter; nothing has changed.
    """
    if sys.platform != "linux" or platform.machine() not in SOCKET_AND_IO_URING:
        raise OSError(f"no filter is known for {sys.platform} on {platform.machine()}")
    architecture, n_socket, n_io_uring = SOCKET_AND_IO_URING[platform.machine()]
    steps = [
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_IS_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),  # another architecture numbers its calls otherwise
        (_LOAD, 0, 0, _AT_NUMBER),
        (_IS_EQUAL, 5, 0, n_io_uring),
        (_IS_EQUAL, 0, 3, n_socket),
        (_LOAD, 0, 0, _AT_FIRST_ARGUMENT),
        (_IS_EQUAL, 3, 0, INTERNET[0]),
        (_IS_EQUAL, 2, 0, INTERNET[1]),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
        (_RETURN, 0, 0, _KILL),
    ]
    code = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"the kernel refused the filter: {os.strerror(number)}")


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
