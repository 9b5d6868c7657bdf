"""How sure a score is: 95 % intervals and paired tests, from rows alone. Knows no benchmark."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
N_RESAMPLES = 2000
MIN_GROUPS = 10
"""Groups from which they are drawn whole; of two conversations there are only three draws, and
the interval would be a point."""
BLOCK = 200
"""Resamples that are drawn at once; bounds the memory."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score with its 95 % interval; all None where there was nothing to score."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Rows that it stands on."""

    def as_json(self) -> dict[str, float | int | None]:
        """Return it as `{"value", "low", "high", "n"}`."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


NOTHING = Estimate(None, None, None, 0)


def wilson(k: int, n: int) -> tuple[float, float]:
    """Return the interval of a share of `k` in `n`; (0, 1) when nothing was drawn.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if n == 0:
        return 0.0, 1.0
    p = k / n
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    # At 0 and n the formula meets the end exactly, but for rounding.
    low = 0.0 if k == 0 else max(0.0, middle - half)
    return low, 1.0 if k == n else min(1.0, middle + half)


def share(k: int, n: int) -> Estimate:
    """Return the share of `k` in `n` with its Wilson interval."""
    if n == 0:
        return NOTHING
    return Estimate(k / n, *wilson(k, n), n)


def bootstrap(
    values: Sequence[float], groups: Sequence[Hashable] | None = None, seed: int = 0
) -> Estimate:
    """Return the mean of `values` with its percentile bootstrap interval.

    With `groups`, one label per value, whole groups are drawn where there are enough of them:
    turns of one conversation are not independent of each other. 10 ms for 400 values.
    """
    return bootstrap_ratio(values, [1.0] * len(values), groups, seed)


def bootstrap_ratio(
    above: Sequence[float],
    below: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """Return sum(above) / sum(below) with its interval; for F scores and means of some rows.

    Rows with nothing below carry no weight; `n` counts the others.
    """
    weights = np.asarray(below, dtype=np.float64)
    counted = np.where(weights != 0, np.asarray(above, dtype=np.float64), 0.0)
    sums = _by_group(np.column_stack([counted, weights]), groups)
    n = int(np.count_nonzero(weights))

    def ratio(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(totals[:, 0] / totals[:, 1])

    return bootstrap_of(ratio, sums, n, seed)


def bootstrap_of(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    sums: NDArray[np.float64],
    n: int,
    seed: int = 0,
) -> Estimate:
    """Return a statistic of column totals with its interval.

    `sums` has one line per draw (a row, or a group's rows added up), float64, shape (draws, k);
    `statistic` maps totals of shape (m, k) to m values, NaN where there is none.
    """
    if n == 0 or not len(sums):
        return NOTHING
    value = float(statistic(sums.sum(axis=0, keepdims=True))[0])
    if math.isnan(value):
        return NOTHING
    random = np.random.default_rng(seed)
    found = []
    for _ in range(N_RESAMPLES // BLOCK):
        drawn = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), BLOCK)
        found.append(statistic(drawn.astype(np.float64) @ sums))
    resampled = np.concatenate(found)
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n)


def paired_bootstrap(
    ours: Sequence[float],
    theirs: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Estimate:
    """Return mean(ours) - mean(theirs) over the same rows, with its interval."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rows cannot be paired with {len(theirs)}")
    return bootstrap([a - b for a, b in zip(ours, theirs, strict=True)], groups, seed)


def mcnemar(n_only_ours: int, n_only_theirs: int) -> float:
    """Return the exact two-sided p that right and wrong changed sides evenly.

    `n_only_ours` rows are right here and wrong there, `n_only_theirs` the other way round.
    Source: McNemar 1947 with the exact binomial in place of chi square.
    """
    n = n_only_ours + n_only_theirs
    if n == 0:
        return 1.0
    k = min(n_only_ours, n_only_theirs)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / (1 << n))


def draws(groups: Sequence[Hashable]) -> Sequence[Hashable]:
    """Return what is drawn as one, a label per row: the groups, or each row where they are few."""
    return groups if len(set(groups)) >= MIN_GROUPS else range(len(groups))


def _by_group(rows: NDArray[np.float64], groups: Sequence[Hashable] | None) -> NDArray[np.float64]:
    if groups is None:
        return rows
    if len(groups) != len(rows):
        raise ValueError(f"{len(groups)} labels for {len(rows)} rows")
    members: dict[Hashable, list[int]] = defaultdict(list)
    for place, group in enumerate(draws(groups)):
        members[group].append(place)
    return np.array([rows[places].sum(axis=0) for places in members.values()]).reshape(
        len(members), rows.shape[1]
    )
