"""Repeat every lane, interleaved, so that what the machine does meanwhile falls on all alike.

Lanes take turns with whole conversations, so that only one of ours is in memory, or with steps,
which is steadier where the machine has other work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from edgeagent.engine.replay import Cost
from edgeagent.evals.bench.lanes import Lane, Ran, Run
from edgeagent.evals.bench.recorded import Recorded


@dataclass(frozen=True, slots=True)
class Ended:
    """A lane has taken a step once more."""

    lane: str
    repetition: int
    """From 1."""
    step: int
    """From 1."""
    ms: float


@dataclass(slots=True)
class Bench:
    """What is measured, and what has been measured so far."""

    recorded: Recorded
    lanes: Sequence[Lane]
    """The first is ours; the others are held against it."""
    n_repetitions: int
    by_step: bool = False
    """Whether every lane takes a step before any takes the next; all are in memory then."""
    found: dict[str, list[Ran]] = field(default_factory=dict)
    """Lane → a run for each repetition."""
    script: list[Cost] = field(default_factory=list)
    """Each step as our engine wrote it first."""
    load: list[float | None] = field(default_factory=list)
    """Load average before and after: what else the machine had to do."""

    def carried_out(self) -> Iterator[Ended]:
        """Run everything; the order of the lanes moves on by one with each repetition.

        Raises:
            EvaluationError: a step does not fit into the context.
            EdgeAgentError: whatever a lane says is wrong.
        """
        self.load.append(load_average())
        self.found = {lane.name: [] for lane in self.lanes}
        for repetition in range(self.n_repetitions):
            first = repetition % len(self.lanes)
            order = (*self.lanes[first:], *self.lanes[:first])
            groups = [order] if self.by_step else [(lane,) for lane in order]
            for group in groups:
                yield from self._steps(group, repetition)
        self.load.append(load_average())

    def _steps(self, group: Sequence[Lane], repetition: int) -> Iterator[Ended]:
        """Let these lanes go through the record once, taking turns."""
        running = {lane.name: lane.run(self.recorded, self.script) for lane in group}
        with ExitStack() as stack:
            for run in running.values():
                stack.callback(run.close)
            for step in range(len(self.recorded.steps)):
                for lane in group:
                    cost = next(running[lane.name])
                    if lane is self.lanes[0] and repetition == 0:
                        self.script.append(cost)
                    yield Ended(lane.name, repetition + 1, step + 1, cost.total_ms)
            for name, run in running.items():
                self.found[name].append(_end(run))

    def cut_short(self) -> bool:
        """Leave it at the repetitions that every lane has ended; tell whether there is one."""
        n_whole = min(map(len, self.found.values()), default=0)
        self.found = {name: runs[:n_whole] for name, runs in self.found.items()}
        self.n_repetitions = n_whole
        self.load.append(load_average())
        return n_whole > 0


def _end(run: Run) -> Ran:
    try:
        next(run)
    except StopIteration as ended:
        ran: Ran = ended.value
        return ran
    raise AssertionError("a run ends behind its last step")


def load_average() -> float | None:
    """Return how many processes wanted to run over the last minute; None where nobody counts."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
