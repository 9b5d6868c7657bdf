"""Titles of desks, so that a model reads its own and is not put out by others'.

A prompt shows the first sentence of the policy's first line. The desks that ship have theirs,
recorded conversations were held under the record's; any other desk is called what its user likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from models.nano import values
from models.nano.dialogue import Dialogue

_FORMS = (
    "# {what} desk", "# {what}", "# {name} {what}", "# {what} policy", "{name}: {what}",
    "You are an assistant for {what}.", "You are a helpful {what} assistant",
    "You work at the {what} desk of {name}", "As the agent of {name} you handle {what}",
    "You help customers with {what}.", "# {name}", "# Instructions for {what}",
    "You are {name}, who answers questions about {what}", "# How {name} serves its customers",
)  # fmt: skip
_WHAT = (
    "service", "support", "booking", "reservations", "travel", "search and reservation", "tickets",
    "rental cars", "hotels", "music", "events", "appointments", "customer care", "help",
    "payments", "weather", "homes", "media", "deliveries", "the front office",
)  # fmt: skip


def invented(rng: Random) -> str:
    """Return the title of a desk that nobody has."""
    title = rng.choice(_FORMS).format(what=rng.choice(_WHAT), name=values.word(rng))
    return title.title() if rng.random() < 0.1 else title


def titled(dialogue: Dialogue, rng: Random, own: Sequence[str], share: float) -> Dialogue:
    """Return the dialogue under one of its `own` policies in `share` of the cases.

    Of the others half are under an invented title, half under none.
    """
    if own and rng.random() < share:
        return replace(dialogue, policy=rng.choice(own))
    return replace(dialogue, policy=invented(rng) if rng.random() < 0.5 else "")
