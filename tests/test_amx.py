"""A processor with matrix tiles: llama.cpp's code for them crashes, so it never gets them."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ASKS = """
import ctypes, errno
from edgeagent.engine import amx
libc = ctypes.CDLL(None, use_errno=True)
REQUEST, TILES, GET_FS = 0x1023, 18, 0x1003
amx.refuse()
assert libc.syscall(158, REQUEST, TILES) == -1 and ctypes.get_errno() == errno.EPERM
value = ctypes.c_ulong()
assert libc.syscall(158, GET_FS, ctypes.byref(value)) == 0 and value.value
"""
"""EPERM is the filter's answer: a processor without tiles has another one."""


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="no tiles to ask for"
)
def test_a_process_that_refuses_the_tiles_gets_none_and_everything_else() -> None:
    """With the tiles, Q8_0 and Q4_0 models ended the engine on their first pass."""
    asked = subprocess.run(
        [sys.executable, "-c", ASKS], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
