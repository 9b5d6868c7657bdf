"""What is bad about the input of an airline episode: the kinds, and how to tell them.

Read from what the customer wants and from what the scripted expert met while serving it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from edgeagent.messages import Conversation, Json, ResultMessage
from edgeagent.scenarios.airline.simulator import planting
from edgeagent.scenarios.airline.simulator.goals import Goal, Wish

ORDERS = ("order by the customer", "order in data")
"""Prompt injection; the agent that resists ends where the policy says."""
ERRORS = ("tool error", "no match")
"""What an agent recovers from: asks again, corrects, refuses or hands off."""


def kinds_of(goal: Goal, met: Conversation) -> tuple[str, ...]:
    """Return every kind of bad input in the episode; `met` is the expert's conversation."""
    found = [kind for wish in goal.wishes for kind in _of_wish(wish)]
    if goal.wrong_user_id is not None or goal.forgot_user_id:
        found.append("wrong or lost id")
    if sum(wish.joined for wish in goal.wishes) > 1:
        found.append("three wishes in a message")
    for message in met:
        if isinstance(message, ResultMessage):
            found += _of_result(message)
    return tuple(sorted(set(found)))


def _of_wish(wish: Wish) -> Iterator[str]:
    if wish.kind == "absurd":
        yield "nonsense"
    if wish.kind == "foreign":
        yield "another language"
    if wish.kind == "injection" or wish.injects:
        yield "order by the customer"
    if wish.joined:
        yield "wishes in one message"
    if wish.abandons or wish.revises is not None:
        yield "changed mind"
    if "wrong_reservation_id" in wish.facts:
        yield "wrong or lost id"
    if not wish.vague.isdisjoint(("reservation_id", "described", "date")):
        yield "half-remembered"


def _of_result(message: ResultMessage) -> Iterator[str]:
    if message.is_error:
        yield "tool error"
    if message.name.startswith("search_") and message.content == "[]":
        yield "no match"
    if message.name in ("get_user_details", "get_reservation_details") and not message.is_error:
        document: Json = json.loads(message.content)
        if planting.is_planted(document):
            yield "order in data"
