"""Medians and spreads of repeated measurements, and ratios pair by pair. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from edgeagent.messages import Json


@dataclass(frozen=True, slots=True)
class Spread:
    """What repetitions gave."""

    median: float
    low: float
    """The smallest."""
    high: float
    """The largest."""
    n: int

    @property
    def width(self) -> float:
        """From the smallest to the largest, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def as_json(self) -> dict[str, Json]:
        """Return it as `{"median", "low", "high", "n"}`."""
        return asdict(self)


def of(values: Sequence[float]) -> Spread:
    """Return the spread of one value or more."""
    return Spread(median(values), min(values), max(values), len(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """Return ours / theirs within each repetition; None where theirs took no time at all."""
    if not all(theirs):
        return None
    return of([our / their for our, their in zip(ours, theirs, strict=True)])
