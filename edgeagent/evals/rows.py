"""What every suite is given and gives back: options in, rows out, and a summary of the rows.

A row is one scored answer and holds all that a later comparison needs, so that rows can be kept
in a file and summed up again without a model. Knows no benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from edgeagent.wiring import Local

EXACT = "exact"
"""The 0/1 score that two builds are compared by; every suite gives it to every row."""

Summary: TypeAlias = dict[str, Any]
"""`{"n": int, "scores": {name: {"value", "low", "high", "n"}}, "floors": {agent: {name: value}}}`
and whatever a suite adds; values are None where a score has no row to stand on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer and its scores."""

    id: str
    """Unique in the suite and the same for every build; before the last `/` stands what the row
    shares with its neighbours (a conversation, a category)."""
    scores: Mapping[str, float | None]
    """Name → score; None where the score does not apply to this row."""
    prediction: str
    """As it was scored."""
    reference: str
    prompt: str
    """The conversation that the model was to go on with, for a person who looks at the row."""
    n_tokens: int
    """Tokens the model wrote."""
    ms: float
    note: str = ""
    """What went wrong or was done differently; empty for a plain row."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Options:
    """What to run."""

    data: Path | None = None
    """The benchmark's file or folder; None where the suite brings its own."""
    tools: Path | None = None
    """A `job_description.json`."""
    limit: int | None = None
    """Score that many rows, the first ones or a sample, as the suite says; None: all."""
    seed: int = 0
    done: frozenset[str] = frozenset()
    """Ids of rows that are there already and are neither run nor yielded again."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What only one suite understands, for instance BFCL's categories."""


class Suite(Protocol):
    """A benchmark."""

    name: str

    def run(self, local: Local, options: Options) -> Iterator[Progress | Row]:
        """Yield a row per answer, in the benchmark's order, and how far it is.

        `local` is started by the caller, who also closes it.
        """
        ...

    def summarize(self, rows: Sequence[Row]) -> Summary:
        """Return means with their intervals, and the floors beside them."""
        ...


def headline(rows: Sequence[Row]) -> dict[str, int]:
    """Return the 0/1 score per row id that McNemar's test is run on; rows without one are out."""
    return {
        row.id: int(score == 1.0) for row in rows if (score := row.scores.get(EXACT)) is not None
    }


def cluster(row: Row) -> str:
    """Return what the row shares with its neighbours: intervals treat those as one draw."""
    return row.id.rpartition("/")[0]
