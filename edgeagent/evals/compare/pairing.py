"""A build against the base on the same questions: what got worse, what better, and by chance?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeagent.evals.intervals import mcnemar, paired_bootstrap
from edgeagent.evals.rows import EXACT, Row, cluster
from edgeagent.messages import Json

NAME = "name"
"""A 0/1 score that some suites give: the right tool, whatever its arguments."""


@dataclass(frozen=True, slots=True)
class Flip:
    """An answer that is right in one build and wrong in the other."""

    score: str
    """`exact`, or `name` where the tool itself changed sides."""
    base: Row
    build: Row
    is_lost: bool
    """Right in the base only."""


@dataclass(frozen=True, slots=True)
class Test:
    """How one 0/1 score changed sides."""

    n: int
    """Rows that both builds have it for."""
    n_lost: int
    n_gained: int
    p: float
    """McNemar's exact test: how often chance alone would flip so unevenly."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """What two builds' rows of one suite say of each other."""

    flips: tuple[Flip, ...]
    """One per answer; of an answer whose tool changed sides too, only that is told."""
    tests: Mapping[str, Test]
    """By score."""
    n: int
    """Rows that both have."""
    n_changed: int
    """Answers that differ, right or wrong."""
    deltas: Mapping[str, Json]
    """Score → build minus base, with its paired interval."""


def paired(base: Sequence[Row], build: Sequence[Row], seed: int) -> Pairing:
    """Return the comparison over the rows that both have."""
    theirs = {row.id: row for row in base}
    pairs = [(theirs[row.id], row) for row in build if row.id in theirs]
    flips: dict[str, Flip] = {}
    tests: dict[str, Test] = {}
    for score in (NAME, EXACT):
        both = [
            (before, after)
            for before, after in pairs
            if None not in (before.scores.get(score), after.scores.get(score))
        ]
        found = [
            Flip(score, before, after, is_lost=before.scores[score] == 1)
            for before, after in both
            if (before.scores[score] == 1) != (after.scores[score] == 1)
        ]
        n_lost = sum(flip.is_lost for flip in found)
        n_gained = len(found) - n_lost
        if both:
            tests[score] = Test(len(both), n_lost, n_gained, mcnemar(n_gained, n_lost))
        for flip in found:
            flips.setdefault(flip.build.id, flip)
    in_order = tuple(flips[after.id] for _, after in pairs if after.id in flips)
    n_changed = sum(before.prediction != after.prediction for before, after in pairs)
    return Pairing(in_order, tests, len(pairs), n_changed, _deltas(pairs, seed))


def _deltas(pairs: Sequence[tuple[Row, Row]], seed: int) -> dict[str, Json]:
    names = dict.fromkeys(name for _, row in pairs for name in row.scores if "/" not in name)
    found: dict[str, Json] = {}
    for name in names:
        both = [
            (theirs, ours, cluster(after))
            for before, after in pairs
            if (theirs := before.scores.get(name)) is not None
            and (ours := after.scores.get(name)) is not None
        ]
        if both:
            before, after, groups = zip(*both, strict=True)
            # One draw per row where every row stands alone.
            labels = groups if len(set(groups)) > 1 else None
            found[name] = paired_bootstrap(after, before, labels, seed).as_json()
    return found


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p values as they stand when so many builds are tested at once.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = highest
    return adjusted
