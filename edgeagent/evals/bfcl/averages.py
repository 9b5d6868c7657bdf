"""BFCL's published averages of category accuracies: two official formulas, and two plain means.

Neither official formula leaves a category out: what was not run counts 0, and is named.
Source: gorilla's leaderboard, the formula since 2025-04-09 and the one before; the plain means
are how a card that counts all 22 categories arrives at its figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from edgeagent.evals.bfcl.categories import CATEGORIES
from edgeagent.messages import Json

SIMPLE = ("simple", "java", "javascript")
NON_LIVE = ("multiple", "parallel", "parallel_multiple", "irrelevance")
EXECUTED = ("exec_multiple", "exec_parallel", "exec_parallel_multiple")
LIVE = tuple(one for one in CATEGORIES if one.name.startswith("live_"))

Accuracies = Mapping[str, float]


def averages(accuracies: Accuracies, counts: Mapping[str, int]) -> dict[str, Json]:
    """Return every average of the categories' accuracies, each 0..1.

    `counts` are the entries scored in each category, for the micro mean. Live categories are
    weighted by their published sizes, so that a sample estimates the published figure.
    """

    def of(name: str) -> float:
        return accuracies.get(name, 0.0)

    simple = fmean(map(of, SIMPLE))
    non_live = [simple, *map(of, NON_LIVE)]
    executed = [fmean([of("exec_simple"), of("rest")]), *map(of, EXECUTED)]
    n_live = sum(one.n for one in LIVE)
    live = sum(one.n * of(one.name) for one in LIVE) / n_live
    known = [one.name for one in CATEGORIES if one.name in accuracies]
    n = sum(counts[name] for name in known)
    return {
        "simple_ast": simple,
        "since_2025_04": _overall(fmean(non_live), live),
        "before_2025_04": _overall(fmean([*non_live, *executed]), live),
        "micro": sum(counts[name] * of(name) for name in known) / n if n else None,
        "macro": fmean(map(of, known)) if known else None,
        "missing": [one.name for one in CATEGORIES if one.name not in accuracies],
    }


def _overall(non_live: float, live: float) -> dict[str, float]:
    return {
        "non_live": non_live,
        "live": live,
        "multi_turn": 0.0,
        "overall": fmean([live, non_live, 0.0]),
        "single_turn": fmean([live, non_live]),
    }
