"""Short exercises in copying: a value is said once and has to come back letter by letter.

Each one is a small conversation in the real format with random tools, keys and values, so that
what is learnt here is only where to look and how to go on. Used at the start of training, when
long conversations are wasted on a model that cannot copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from models.nano import values
from models.nano.dialogue import RESPOND_TOOL, Dialogue
from models.nano.template import Message, call, respond, result, tool, user

_TEXT = {"type": "string"}
Maker = Callable[[Random], str]


def _name(n_low: int, n_high: int) -> Maker:
    return lambda rng: values.name(rng, rng.randint(n_low, n_high))


KEYS: dict[str, Maker] = {
    "user_id": values.user_id,
    "reservation_id": values.reservation_id,
    "flight_number": values.flight_number,
    "payment_id": values.payment_id,
    "date": values.date,
    "time": values.clock,
    "origin": values.airport,
    "destination": values.airport,
    "first_name": _name(1, 1),
    "last_name": _name(1, 1),
    "dob": values.date,
    "email": values.email,
    "phone_number": values.phone,
    "street_address": values.address,
    "city": _name(1, 2),
    "restaurant_name": _name(1, 4),
    "hotel_name": _name(1, 4),
    "event_name": _name(2, 4),
    "amount": values.amount,
    "price": values.amount,
    "order_id": lambda rng: rng.choice("ABW#") + values.digits(rng, rng.randint(3, 6)),
    "title": _name(1, 5),
    "director": _name(2, 2),
    "passenger": _name(2, 2),
    "account": lambda rng: values.digits(rng, rng.randint(4, 9)),
    "note": _name(3, 6),
}
"""Argument names and what their values look like."""

_ASK = ("What is your {key}?", "Could you tell me the {key}?", "I need the {key}, please.",
        "Which {key}?", "And the {key}?")  # fmt: skip
_GIVE = ("{value}", "It is {value}.", "The {key} is {value}", "{value} please", "my {key}: {value}",
         "Sure, {value}.", "that would be {value}", "{key} {value}")  # fmt: skip
_SAY = ("the {key} is {value}", "{key} {value}", "my {key}: {value}", "{key} = {value}",
        "with {key} {value}")  # fmt: skip
_WANT = ("I want to {verb}. {pairs}", "Please {verb} for me, {pairs}", "{pairs}. Can you {verb}?",
         "Hi! {pairs}, and I would like to {verb}.", "{pairs}")  # fmt: skip
_QUESTION = ("What is the {key}?", "Tell me the {key}.", "{key}?", "And which {key} is it?",
             "Can you give me the {key}?")  # fmt: skip
_ANSWER = ("The {key} is {value}.", "It is {value}.", "{value}", "The {key}: {value}.",
           "Here it is: {value}.")  # fmt: skip
_VERBS = ("find", "get", "book", "update", "cancel", "check", "search", "add", "change", "send",
          "open", "look_up", "order")  # fmt: skip


def dialogues(rng: Random, n: int) -> Iterator[Dialogue]:
    """Yield `n` exercises of two to six turns."""
    for _ in range(n):
        yield _exercise(rng)


def _exercise(rng: Random) -> Dialogue:
    keys = rng.sample(sorted(KEYS), rng.randint(2, 7))
    n_asked = rng.randint(1, min(4, len(keys)))
    asked, shown = keys[:n_asked], keys[n_asked:]
    verb = rng.choice(_VERBS)
    name = f"{verb}_{rng.choice(asked).removesuffix('_id')}"
    tools = [RESPOND_TOOL, tool(name, dict.fromkeys(asked, _TEXT), asked)]
    for _ in range(rng.randint(0, 3)):
        other = rng.sample(sorted(KEYS), rng.randint(1, 3))
        other_name = f"{rng.choice(_VERBS)}_{rng.choice(other)}"
        if other_name != name:
            tools.append(tool(other_name, dict.fromkeys(other, _TEXT), other))
    rng.shuffle(tools)
    arguments = {key: KEYS[key](rng) for key in asked}
    messages = list(_collect(verb, arguments, rng))
    messages.append(call(name, arguments))
    messages += _questions(arguments, shown, rng)
    unique = {t["function"]["name"]: t for t in tools}
    return Dialogue("diet", tuple(unique.values()), tuple(messages))


def _spoken(key: str) -> str:
    return key.replace("_", " ").replace(" id", " ID").replace("dob", "date of birth")


def _collect(verb: str, arguments: dict[str, str], rng: Random) -> Iterator[Message]:
    """Yield the turns in which the customer says every argument, some only when asked."""
    keys = list(arguments)
    rng.shuffle(keys)
    n_first = rng.randint(1, len(keys))
    pairs = ", ".join(
        rng.choice(_SAY).format(key=_spoken(k), value=arguments[k]) for k in keys[:n_first]
    )
    yield user(rng.choice(_WANT).format(verb=verb.replace("_", " "), pairs=pairs))
    # Asked for in the order of the signature, as everywhere else.
    for key in [key for key in arguments if key in keys[n_first:]]:
        yield respond(rng.choice(_ASK).format(key=_spoken(key)))
        yield user(rng.choice(_GIVE).format(key=_spoken(key), value=arguments[key]))


def _questions(arguments: dict[str, str], shown: list[str], rng: Random) -> Iterator[Message]:
    """Yield a result of several rows and questions about them."""
    rows: list[dict[str, Any]] = []
    for _ in range(rng.randint(1, 3)):
        row = {**arguments, **{key: KEYS[key](rng) for key in shown}}
        order = list(row)
        rng.shuffle(order)
        rows.append({key: row[key] for key in order})
    yield result(rows if len(rows) > 1 or rng.random() < 0.5 else rows[0])
    key = rng.choice(list(rows[0]))
    yield respond(rng.choice(_ANSWER).format(key=_spoken(key), value=rows[0][key]))
    for _ in range(rng.randint(0, 2)):
        key = rng.choice(list(rows[0]))
        yield user(rng.choice(_QUESTION).format(key=_spoken(key)))
        yield respond(rng.choice(_ANSWER).format(key=_spoken(key), value=rows[0][key]))
