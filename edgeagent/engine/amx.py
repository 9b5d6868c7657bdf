"""Keeps llama.cpp away from a processor's matrix tiles (AMX), where its build would crash.

llama.cpp asks the kernel for the tiles when the first model is loaded, and keeps to its other
kernels where it is refused. So it is refused: in what GCC makes of ggml's source the shape of the
tiles is never written, and the first pass of any Q4_0, Q8_0 or K-quant ends the process.
Source: llama-cpp-python 0.3.36 built with GCC 12 on an Intel Xeon (Sapphire Rapids);
https://github.com/ggml-org/llama.cpp/pull/26954 and issue 20824.
"""

from __future__ import annotations

import platform
import sys
from functools import cache
from pathlib import Path

from edgeagent import kernel_filter
from edgeagent.kernel_filter import (
    ALLOW,
    AT_ARCHITECTURE,
    AT_FIRST_ARGUMENT,
    AT_NUMBER,
    DENY,
    IS_EQUAL,
    LOAD,
    RETURN,
)

_X86_64, _ARCH_PRCTL, _REQUEST_PERMISSION = 0xC000003E, 158, 0x1023
"""Audit architecture, number of `arch_prctl`, and its order to permit a part of the processor.

Source: Linux 6.1, include/uapi/linux/audit.h, the table of calls, and asm/prctl.h.
"""


@cache
def shut_out() -> bool:
    """Have the kernel refuse the tiles to this process; return whether none can be used now.

    Once is enough, before the first model is loaded; costs 0.2 ms.
    """
    if not _has_tiles():
        return True
    try:
        refuse()
    except OSError:
        return False
    return True


def refuse() -> None:
    """Have the kernel refuse every optional part of an x86-64 processor that is asked for.

    Raises:
        OSError: this kernel has no filters; nothing has changed.
    """
    kernel_filter.install(
        [
            (LOAD, 0, 0, AT_ARCHITECTURE),
            (IS_EQUAL, 0, 5, _X86_64),
            (LOAD, 0, 0, AT_NUMBER),
            (IS_EQUAL, 0, 3, _ARCH_PRCTL),
            (LOAD, 0, 0, AT_FIRST_ARGUMENT),
            (IS_EQUAL, 0, 1, _REQUEST_PERMISSION),
            (RETURN, 0, 0, DENY),
            (RETURN, 0, 0, ALLOW),
        ]
    )


def _has_tiles() -> bool:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False  # no other system gives out tiles that llama.cpp would ask for
    try:
        return "amx_tile" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
