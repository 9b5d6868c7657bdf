"""Intervals hold what they promise: against tables, closed forms and repeated draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeagent.evals import intervals
from edgeagent.evals.intervals import bootstrap, bootstrap_ratio, mcnemar, paired_bootstrap, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (72, 99), (1, 1), (3, 359)])
def test_wilson_gives_the_shares_that_are_just_not_rejected(k: int, n: int) -> None:
    z = 1.959964
    for limit in wilson(k, n):
        distance = abs(k / n - limit)
        assert distance == pytest.approx(z * math.sqrt(limit * (1 - limit) / n), abs=1e-6)


def test_wilson_knows_nothing_of_an_empty_draw() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


@pytest.mark.parametrize(
    ("ours", "theirs", "p"),
    [(10, 7, 0.6291), (0, 0, 1.0), (5, 5, 1.0), (0, 6, 0.03125), (900, 1000, 0.0231)],
)
def test_mcnemar_is_the_exact_binomial(ours: int, theirs: int, p: float) -> None:
    assert mcnemar(ours, theirs) == pytest.approx(p, abs=1e-4)
    assert mcnemar(theirs, ours) == mcnemar(ours, theirs)


def test_a_bootstrap_agrees_with_the_normal_interval_where_that_one_holds() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 400).tolist()
    found = bootstrap(values)
    half = 1.96 * np.std(values) / math.sqrt(400)
    assert found.value == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(np.mean(values) - half, abs=0.02)
    assert found.high == pytest.approx(np.mean(values) + half, abs=0.02)


def test_turns_of_one_conversation_are_one_draw() -> None:
    values = [float(n % 20 < 10) for n in range(200)]  # of 20 conversations 10 are always right
    alone, together = bootstrap(values), bootstrap(values, [n % 20 for n in range(200)])
    assert alone.value == together.value == 0.5
    assert alone.low is not None
    assert together.low is not None
    assert alone.low == pytest.approx(0.5 - 1.96 * 0.5 / math.sqrt(200), abs=0.02)
    assert together.low == pytest.approx(0.5 - 1.96 * 0.5 / math.sqrt(20), abs=0.05)


def test_too_few_conversations_are_drawn_turn_by_turn() -> None:
    values = [0.0, 1.0] * 10
    assert bootstrap(values, [n // 10 for n in range(20)]) == bootstrap(values)


def test_rows_without_weight_do_not_count() -> None:
    found = bootstrap_ratio([1, 0, 0, 1], [1, 1, 0, 0])
    assert (found.value, found.n) == (0.5, 2)
    assert bootstrap_ratio([0.0], [0.0]) == intervals.NOTHING == bootstrap([])


def test_a_pair_is_compared_row_by_row() -> None:
    ours, theirs = [1.0, 1.0, 0.0, 1.0] * 20, [1.0, 0.0, 0.0, 1.0] * 20
    found = paired_bootstrap(ours, theirs)
    assert found.value == 0.25
    assert found.low is not None
    assert 0.1 < found.low < 0.25
    with pytest.raises(ValueError, match="4 rows cannot be paired with 3"):
        paired_bootstrap([1.0] * 4, [1.0] * 3)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [0.0, 1.0, 0.5, 0.25] * 9
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4) != bootstrap(values, seed=5)
