"""What the expert notes when a customer wishes for something: the wish, and what was told of it.

The customer said it in a thousand ways and many messages ago; the note says it in one way, with
airports as codes and days as dates. A small model finds its way back to a note.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgeagent.messages import Json
from edgeagent.scenarios.airline.simulator.goals import Utterance

NOTED = (
    "lookup_", "profile_", "search", "price_people", "book", "change_", "upgrade", "add_bags",
    "passenger", "cancel", "compensation_",
)  # fmt: skip
"""Kinds of wishes that take more than one step; the others are answered at once."""

_NAMES: Mapping[str, str] = {
    "book": "book a flight",
    "upgrade": "change cabin",
    "passenger": "change passenger",
    "change_open": "change flight",
    "change_leg": "change one flight",
    "add_bags_open": "add bags",
}
_SLOTS = (
    "user_id", "reservation_id", "origin", "destination", "date", "return_date", "flight_type",
    "cabin", "bags", "insurance", "reason", "place", "people", "leg",
)  # fmt: skip


def note(kind: str, told: Mapping[str, Json], waiting: Iterable[Utterance] = ()) -> str | None:
    """Return the note on a wish of this kind, or None where none is taken.

    Wishes that wait stand behind it, so that they are not forgotten.
    """
    others = [f"next: {_told(one.intent or '', one.told)}" for one in waiting]
    if not kind.startswith(NOTED) and not others:
        return None
    return "; ".join((f"wish: {_told(kind, told)}", *others))


def _told(kind: str, told: Mapping[str, Json]) -> str:
    wish = _NAMES.get(kind, kind.replace("_", " "))
    if not kind.startswith(NOTED):
        return wish
    facts = [f"{slot} {told[slot]}" for slot in _SLOTS if isinstance(told.get(slot), str | int)]
    if trip := told.get("trip"):
        facts.append(f"trip {trip['origin']} to {trip['destination']}")
    return "; ".join((wish, *facts))
