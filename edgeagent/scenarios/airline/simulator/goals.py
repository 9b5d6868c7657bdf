"""What a customer came for: the values that say it. Knows nothing of phrases or of worlds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from edgeagent.messages import Json


class Ask(StrEnum):
    """Something that an agent's message can ask for."""

    USER_ID = "user_id"
    RESERVATION_ID = "reservation_id"
    WHICH_RESERVATION = "which_reservation"
    ROUTE = "route"
    ORIGIN = "origin"
    DESTINATION = "destination"
    DATE = "date"
    RETURN_DATE = "return_date"
    FLIGHT_TYPE = "flight_type"
    CABIN = "cabin"
    FLIGHT = "flight"
    PASSENGERS = "passengers"
    NEW_PASSENGER = "new_passenger"
    BAGS = "bags"
    INSURANCE = "insurance"
    PAYMENT = "payment"
    REASON = "reason"
    CONFIRM = "confirm"
    HUMAN_OR_FACTS = "human_or_facts"
    WISH = "wish"


@dataclass(frozen=True, slots=True)
class Wish:
    """One thing that the customer wants."""

    kind: str
    """Name of the phrase rule that opens it, such as `lookup_bags` or `cancel`."""
    facts: Mapping[str, Json]
    """Canonical values by slot: what the customer can tell when asked."""
    declines: bool = False
    """Says no when asked to confirm."""
    asks_again: bool = False
    """Asks for the price once more before saying yes or no."""
    revises: tuple[str, Json] | None = None
    """A slot and the value that it is changed to when a booking is read out."""
    insists: bool = False
    """Asks for an exception after a refusal."""
    vague: frozenset[str] = frozenset()
    """Slots that the customer first answers vaguely or wrongly, or does not know."""
    joined: bool = False
    """Is told in the same message as the wish before."""
    abandons: bool = False
    """Is given up for the next wish at the first question."""
    injects: bool = False
    """Comes with an order to the agent to break its rules."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Everything one customer knows and wants."""

    user_id: str
    wishes: tuple[Wish, ...]
    held_out: bool = False
    """Speaks wording that training never uses."""
    forgot_user_id: bool = False
    """Says so when asked; finds it again or wants a person, by chance."""
    wrong_user_id: str | None = None
    """The first attempt at the user id, mistyped."""
    stays_wrong: bool = False
    """Gives the mistyped user id a second time."""
    finds_user_id: bool = True
    """Comes up with the user id when a person is offered instead."""
    greets_first: bool = False


@dataclass(frozen=True, slots=True)
class Utterance:
    """What the customer wrote, and what it means."""

    text: str
    intent: str | None
    """The wish it opens; None where it answers a question."""
    told: Mapping[str, Json]
    """Canonical values that the text contains."""
    also: tuple[Utterance, ...] = ()
    """Further wishes that the same message tells."""
