"""Wishes that the deferral policy names as a whole: known from their wording, left at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from edgeagent.scenarios.airline.simulator.desk import Desk
from edgeagent.scenarios.airline.simulator.goals import Utterance


def _leave(desk: Desk, reason: str, reply: str) -> Utterance:
    return desk.defer(reason, reply)


TASKS: Mapping[str, Callable[[Desk], Utterance]] = {
    "defer_refund": partial(
        _leave,
        reason="refund eligibility depends on fare, insurance, booking time and reason",
        reply="larger_refund",
    ),
    "defer_total": partial(
        _leave, reason="arithmetic across several reservations", reply="larger_total"
    ),
    "defer_many": partial(
        _leave, reason="several changes and rules taken together", reply="larger_many"
    ),
    "defer_plan": partial(
        _leave, reason="comparing many dates and prices in several steps", reply="larger_plan"
    ),
    "defer_ambiguous": partial(
        _leave, reason="the wish can be read in more than one way", reply="larger_choice"
    ),
}
