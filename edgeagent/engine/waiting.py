"""How the threads of a pass wait for each other: a little while awake, or asleep at once.

The threads meet several hundred times in a pass. Asleep they are woken late, which costs a third
of a token of a 1.7B model on two idle cores; awake they hold a core that another program, or the
thread they wait for, could have, which on two busy ones doubles what a token takes.

libgomp reads once, at its start, how long threads stay awake (GOMP_SPINCOUNT), but not at all
while it has more threads than there are processors and OMP_WAIT_POLICY is passive. So a crowd of
threads that do nothing sends the others to sleep, and its end wakes them: half a millisecond each.
Source: libgomp 12, config/linux/wait.h and env.c. With any other OpenMP nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "3000"}
"""Of a process whose threads wait so; about 50 us awake."""
INTERVAL_S, FIRST_S = 0.5, 0.1
"""Between two looks at the machine, and before the first: shorter ones see single ticks."""
STALE_S = 2.0
"""After such a pause what was seen before it tells nothing; the first look comes anew."""
SPARE = 0.25
"""Processors that other programs may use before that counts as busy: the app itself draws."""


@dataclass(frozen=True, slots=True)
class Others:
    """What other programs have used by some time."""

    at_s: float
    """Of the monotonic clock."""
    others_s: float
    """Processor seconds since the machine started, and some constant."""


Seen: TypeAlias = Callable[[], Others | None]


class Crowd:
    """Threads of libgomp that do nothing, more of them than there are processors."""

    def __init__(self) -> None:
        self._libgomp = _libgomp()
        self._leave: threading.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_there(self) -> bool:
        """Whether the others sleep at once."""
        return self._thread is not None

    def gather(self) -> None:
        """Send the others to sleep; nothing where libgomp is not in use."""
        if self._libgomp is None or self.is_there:
            return
        self._leave, has_come = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=self._stay, args=(self._leave, has_come), name="crowd", daemon=True
        )
        self._thread.start()
        has_come.wait()

    def _stay(self, leave: threading.Event, has_come: threading.Event) -> None:
        # They belong to this thread, and go when it ends. free(NULL) does nothing.
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        self._libgomp.GOMP_parallel(nothing, None, len(processors()) + 1, 0)
        has_come.set()
        leave.wait()

    def disperse(self) -> None:
        """Let the others stay awake a while."""
        if self._thread is None or self._leave is None:
            return
        self._leave.set()
        self._thread.join()
        self._thread = None


class Waiting:
    """Decides now and then how the threads of this process wait."""

    def __init__(self, n_threads: int, crowd: Crowd, seen: Seen) -> None:
        """Decide for passes of `n_threads` threads by what is `seen` of the machine."""
        self._crowd, self._seen = crowd, seen
        self._n_free = len(processors()) - n_threads
        self._before = seen()
        self._due_s = FIRST_S

    def look(self) -> None:
        """Look at the machine, if that is due: 50 us twice a second."""
        if self._before is None:
            return
        passed_s = time.monotonic() - self._before.at_s
        if passed_s < self._due_s:
            return
        before, self._before = self._before, self._seen()
        self._due_s = INTERVAL_S if passed_s < STALE_S else FIRST_S
        if self._before is None or passed_s >= STALE_S:
            return
        n_busy = (self._before.others_s - before.others_s) / (self._before.at_s - before.at_s)
        if n_busy > self._n_free + SPARE:
            self._crowd.gather()
        else:
            self._crowd.disperse()


def _libgomp() -> Any:
    """Return libgomp if this process uses it."""
    try:
        found = ctypes.CDLL("libgomp.so.1", os.RTLD_NOLOAD | os.RTLD_NOW)
        found.GOMP_parallel.argtypes = (
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint,
        )  # fmt: skip
    except (OSError, AttributeError):
        return None
    return found


def processors() -> set[int]:
    """Return the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def others() -> Others | None:
    """Return what other programs have used so far; None where the system does not tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
    except (OSError, ValueError):
        return None
    ticks = user + nice + system + irq + softirq + steal
    own = os.times()
    spent_s = ticks / os.sysconf("SC_CLK_TCK") - own.user - own.system
    return Others(time.monotonic(), spent_s)
