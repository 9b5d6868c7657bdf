"""The scripted expert: hears what the customer means and does what the policy says.

One call per step, decided from what was told and from tool results alone; the goal stays the
customer's. Tasks live in `answering`, `booking` and `changing`; this module finds the task for
what was heard and goes on until the conversation is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from edgeagent.scenarios.airline.simulator import (
    answering,
    booking,
    changing,
    hard,
    noting,
    records,
)
from edgeagent.scenarios.airline.simulator.desk import Desk, Ended, TaskOver
from edgeagent.scenarios.airline.simulator.goals import Utterance

Task: TypeAlias = Callable[[Desk], Utterance]

TASKS: Mapping[str, Task] = {
    **answering.TASKS,
    **booking.TASKS,
    **changing.TASKS,
    **hard.TASKS,
}
"""What to do for each wish, by the wish's kind."""


def serve(desk: Desk) -> None:
    """Serve one customer until the end; everything said and done is on the desk."""
    try:
        heard = desk.open()
        while True:
            heard = _handle(desk, heard)
    except Ended:
        return


def _handle(desk: Desk, heard: Utterance) -> Utterance:
    """Do what was asked and return what the customer says next."""
    try:
        if heard.intent is None:
            return _after_hard_turn(desk) if "wants_facts" in heard.told else desk.say("closing")
        if heard.intent == "insist":
            return desk.say("no_exception")
        desk.start_wish(heard)
        thought = noting.note(heard.intent, desk.slots, desk.waiting)
        if thought is not None:
            desk.think(thought)
        return TASKS[heard.intent](desk)
    except TaskOver as exc:
        return exc.heard


def _after_hard_turn(desk: Desk) -> Utterance:
    """Look up what can be looked up, or hand over, as the customer chose."""
    if not desk.slots["wants_facts"]:
        desk.transfer("The request needs a check by a specialist.")
    if "reservation_id" in desk.slots:
        return answering.overview(desk, records.reservation(desk))
    return TASKS["profile_reservations"](desk)
