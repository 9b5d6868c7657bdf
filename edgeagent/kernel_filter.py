"""Puts a filter of system calls on this process and on everything that it will start.

A filter is inherited, cannot be taken off and needs no privilege. Linux only; knows no call's
number. What a filter is for is said where it is written.
Source: Linux 6.1, Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import TypeAlias

Step: TypeAlias = tuple[int, int, int, int]
"""What to do, steps to skip if it is true, if it is false, and what with."""

LOAD, IS_EQUAL, RETURN = 0x20, 0x15, 0x06
KILL, DENY, ALLOW = 0x80000000, 0x00050001, 0x7FFF0000
"""What a filter may return; DENY is errno EPERM."""
AT_NUMBER, AT_ARCHITECTURE, AT_FIRST_ARGUMENT = 0, 4, 16
"""Where a system call's number, machine and first argument (its lower half) are loaded from."""

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def install(steps: Sequence[Step]) -> None:
    """Put the filter on.

    Raises:
        OSError: the kernel refused it; nothing has changed.
    """
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
