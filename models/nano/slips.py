"""Lessons in which a call went wrong once: the tool says so, and the next call is the right one.

The scripted expert never errs, so a model that learns from it alone has never seen what its own
errors lead to. Here a wrong call stands in front of a right one, as context and not as something
to learn, with what the airline's tools answer to it (`tests/test_nano_slips.py` asks them).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from models.nano import template
from models.nano.dialogue import Dialogue

SHARE = 0.15
"""Of the lessons, those with a slip."""
NOT_FOUND = {
    "user_id": json.dumps({"error": "user not found"}),
    "reservation_id": json.dumps({"error": "reservation not found"}),
}
"""What tools answer to an id that is not in the data; they look at it before anything else."""
_ID = re.compile(r"[a-z]+(?:_[a-z]+)*_\d+|HAT\d{3}|(?<![A-Z0-9])(?=[A-Z0-9]*\d)[A-Z0-9]{6}\b")


def slipped(dialogue: Dialogue, rng: Random) -> Dialogue:
    """Return the lesson with one slip in it, if any of its calls can go wrong so."""
    places = [at for at, message in enumerate(dialogue.messages) if _can_slip(message)]
    if not places:
        return dialogue
    at = rng.choice(places)
    function = dialogue.messages[at]["tool_calls"][0]["function"]
    arguments, answer = _wrong(function["arguments"], dialogue.messages[:at], rng)
    if arguments == function["arguments"]:
        return dialogue
    slip = (
        {**template.call(function["name"], arguments), "learn": "nothing"},
        template.result(answer),
    )
    messages = (*dialogue.messages[:at], *slip, *dialogue.messages[at:])
    return replace(dialogue, messages=messages)


def _can_slip(message: template.Message) -> bool:
    if not message.get("tool_calls") or message.get("learn") == "nothing":
        return False
    function = message["tool_calls"][0]["function"]
    is_search = function["name"] == "search_direct_flight"
    return is_search or next(iter(function["arguments"]), "") in NOT_FOUND


def _wrong(
    arguments: template.Message, before: Sequence[template.Message], rng: Random
) -> tuple[template.Message, str]:
    """Return the arguments with one mistaken, and what the tool answers."""
    key = next(iter(arguments))
    if key == "origin":
        city = arguments[rng.choice(("origin", "destination"))]
        return {**arguments, "origin": city, "destination": city}, "[]"
    right = arguments[key]
    said = {word for word in _ID.findall(json.dumps(list(before))) if not _is_like(word, right)}
    wrong = rng.choice(sorted(said)) if said and rng.random() < 0.7 else _misread(right, rng)
    return {**arguments, key: wrong}, NOT_FOUND[key]


def _is_like(word: str, right: str) -> bool:
    """Tell whether an id may be one of the same kind, which might be in the data."""
    return ("_" in word) == ("_" in right) and word[:3] not in ("cre", "gif", "cer")


def _misread(right: str, rng: Random) -> str:
    """Return the id with two of its characters swapped for others of their kind."""
    letters = list(right)
    for at in rng.sample(range(len(letters)), 2):
        if letters[at].isdigit():
            letters[at] = rng.choice("0123456789")
        elif letters[at].isalpha():
            pool = "abcdefghijklmnopqrstuvwxyz"
            letters[at] = rng.choice(pool.upper() if letters[at].isupper() else pool)
    return "".join(letters)
