"""How the threads of a pass wait: awake on an idle machine, asleep on a busy one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from edgeagent.engine import waiting
from edgeagent.engine.waiting import Crowd, Others, Waiting


class Watched(Crowd):
    """A crowd that is only counted."""

    def __init__(self) -> None:
        self.is_gathered = False

    def gather(self) -> None:
        self.is_gathered = True

    def disperse(self) -> None:
        self.is_gathered = False


@dataclass
class Machine:
    """Another machine: its clock, and what its other programs use."""

    now_s: float = 100.0
    others_s: float = 5.0
    crowd: Watched = field(default_factory=Watched)
    n_looks: int = 0

    def seen(self) -> Others | None:
        self.n_looks += 1
        return Others(self.now_s, self.others_s)

    def goes_on(self, seconds: float, n_busy: float) -> None:
        self.now_s += seconds
        self.others_s += seconds * n_busy


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(waiting.time, "monotonic", lambda: machine.now_s)
    monkeypatch.setattr(waiting, "processors", lambda: {0, 1, 2, 3})
    return machine


def test_threads_sleep_at_once_only_while_other_programs_need_their_processors(
    machine: Machine,
) -> None:
    threads = Waiting(3, machine.crowd, machine.seen)  # one of four processors is left
    for n_busy, is_busy in ((0.1, False), (1.2, False), (1.3, True), (3.0, True), (0.9, False)):
        machine.goes_on(1.0, n_busy)
        threads.look()
        assert machine.crowd.is_gathered == is_busy, n_busy


def test_it_looks_twice_a_second_and_sooner_at_first(machine: Machine) -> None:
    threads = Waiting(4, machine.crowd, machine.seen)
    for _ in range(100):
        machine.goes_on(0.01, 1.0)
        threads.look()
    assert machine.crowd.is_gathered
    assert machine.n_looks == 1 + 2  # at the start, after a tenth, and after another half second


def test_what_was_seen_before_a_pause_tells_nothing(machine: Machine) -> None:
    threads = Waiting(4, machine.crowd, machine.seen)
    machine.goes_on(30.0, 4.0)
    threads.look()
    assert not machine.crowd.is_gathered
    machine.goes_on(0.2, 4.0)
    threads.look()
    assert machine.crowd.is_gathered


def test_a_machine_that_tells_nothing_is_left_alone(machine: Machine) -> None:
    threads = Waiting(4, machine.crowd, lambda: None)
    machine.goes_on(1.0, 4.0)
    threads.look()
    assert not machine.crowd.is_gathered


def test_what_this_process_uses_is_not_what_others_use() -> None:
    before = waiting.others()
    if before is None:
        pytest.skip("the system does not tell")
    used = os.times().user
    while os.times().user < used + 0.3:
        pass
    after = waiting.others()
    assert after is not None
    spent_s = after.at_s - before.at_s
    assert after.others_s - before.others_s < (os.cpu_count() or 1) * spent_s - 0.2


GATHERING = """
import ctypes, os
try:
    ctypes.CDLL("libgomp.so.1")
except OSError:
    raise SystemExit(77)
from edgeagent.engine.waiting import Crowd
def n(): return len(os.listdir("/proc/self/task"))
crowd = Crowd()
alone = n()
for _ in range(3):
    crowd.gather(); crowd.gather()
    assert crowd.is_there and n() > alone + len(os.sched_getaffinity(0)), n()
    crowd.disperse(); crowd.disperse()
    assert not crowd.is_there
    while n() > alone: pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts its threads in /proc")
def test_a_crowd_is_more_threads_than_processors_and_leaves_none_behind() -> None:
    environment = {**os.environ, **waiting.ENVIRONMENT}
    command = [sys.executable, "-c", GATHERING]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip("there is no libgomp here")
    assert done.returncode == 0, done.stderr


def test_a_process_without_libgomp_gathers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_libgomp", lambda: None)
    crowd = Crowd()
    crowd.gather()
    assert not crowd.is_there
    crowd.disperse()
