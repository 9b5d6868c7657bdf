"""Repeat every lane, interleaved, so that what the machine does meanwhile falls on all alike."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgeagent.engine.replay import Cost
from edgeagent.evals.bench.lanes import Lane, Ran
from edgeagent.evals.bench.recorded import Recorded


@dataclass(frozen=True, slots=True)
class Ended:
    """A lane has been through the record once more."""

    lane: str
    repetition: int
    """From 1."""
    ms: float
    """Of all its steps."""


@dataclass(slots=True)
class Bench:
    """What is measured, and what has been measured so far."""

    recorded: Recorded
    lanes: Sequence[Lane]
    """The first is ours; the others are held against it."""
    n_repetitions: int
    found: dict[str, list[Ran]] = field(default_factory=dict)
    """Lane → a run for each repetition."""
    script: tuple[Cost, ...] = ()
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
            for lane in (*self.lanes[first:], *self.lanes[:first]):
                ran = lane.run(self.recorded, self.script)
                if not self.script:
                    self.script = ran.costs
                self.found[lane.name].append(ran)
                yield Ended(lane.name, repetition + 1, sum(cost.total_ms for cost in ran.costs))
        self.load.append(load_average())

    def cut_short(self) -> bool:
        """Leave it at the repetitions that every lane has ended; tell whether there is one."""
        n_whole = min(map(len, self.found.values()), default=0)
        self.found = {name: runs[:n_whole] for name, runs in self.found.items()}
        self.n_repetitions = n_whole
        self.load.append(load_average())
        return n_whole > 0


def load_average() -> float | None:
    """Return how many processes wanted to run over the last minute; None where nobody counts."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
