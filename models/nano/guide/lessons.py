"""Invented conversations about finding a restaurant and keeping a table, in the corpus's manner.

What a customer says of times, days, prices and places is drawn from many wordings, and every call
has to be read from them: `half past 6 in the evening` is `18:30`, `the 9th` is `2019-03-09`. The
recorded dialogues show how people talk about it; these show the conversions densely.

    python -m models.nano.guide.lessons
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

from edgeagent.scenarios.restaurants import backend
from models.nano import template, values
from models.nano.airline import tools_of
from models.nano.dialogue import Dialogue
from models.nano.guide import spoken
from models.nano.guide.spoken import say_day, say_party, say_time
from models.nano.template import Message, call, respond, result, user
from models.nano.titles import titled

POLICY = backend.description().policy
SHARE_TITLED = 0.6
"""Of the conversations, those under the guide's own policy."""

PRICES = ("inexpensive", "moderate", "expensive", "very expensive")


@cache
def tools() -> tuple[template.Tool, ...]:
    """Return the scenario's tools in the shape that templates take."""
    return tuple(tools_of(backend.description().tools))


_ASKED_BY = ("cuisine", "city", "price_range", "has_live_music", "serves_alcohol")
_USUAL = {"time": "", "date": str(spoken.TODAY), "party_size": "2"}
_ANEW: dict[str, Callable[[Random], str]] = {
    "time": spoken.clock,
    "date": spoken.day,
    "party_size": lambda rng: str(rng.randint(1, 6)),
    "cuisine": spoken.cuisine,
    "city": spoken.city,
    "price_range": lambda rng: rng.choice(PRICES),
}


@dataclass(slots=True)
class _Table:
    """What is wished for, and what has been said so far."""

    rng: Random
    messages: list[Message] = field(default_factory=list)
    search: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)

    def said(self, rule: str, **slots: str) -> str:
        return spoken.say(rule, self.rng, slots)

    def customer(self, text: str) -> None:
        self.messages.append(user(_written(text, self.rng)))

    def reply(self, text: str) -> None:
        self.messages.append(respond(text))


def dialogues(rng: Random, n: int) -> Iterator[Dialogue]:
    """Yield `n` conversations of 150 to 900 tokens."""
    for _ in range(n):
        table = _Table(rng)
        if rng.random() < 0.8:
            _find(table)
            row = _choose(table)
        else:
            row = _named(table)
        if row is not None:
            _reserve(table, row)
        if rng.random() < 0.4:
            table.customer(table.said("thanks"))
            table.reply(table.said("goodbye"))
        offered = list(tools())
        if rng.random() < 0.5:
            rng.shuffle(offered)
        dialogue = Dialogue("guide", tuple(offered), tuple(table.messages))
        yield titled(dialogue, rng, (POLICY,), SHARE_TITLED)


def _find(table: _Table) -> None:
    """Ask for a place, piece by piece, up to the result of the search."""
    rng = table.rng
    table.search = {"cuisine": spoken.cuisine(rng), "city": spoken.city(rng)}
    for key, share in (("price_range", 0.35), ("has_live_music", 0.12), ("serves_alcohol", 0.15)):
        if rng.random() < share:
            table.search[key] = rng.choice(PRICES) if key == "price_range" else "True"
    told = {key for key in table.search if rng.random() < 0.6}
    table.customer(_wish(table, told, "open"))
    for key in ("city", "cuisine"):
        if key in told:
            continue
        both = not told & {"city", "cuisine"} and rng.random() < 0.5
        table.reply(table.said("ask_both" if both else f"ask_{key}"))
        now = {"city", "cuisine"} if both else {key}
        now |= {extra for extra in table.search if extra not in told and rng.random() < 0.4}
        table.customer(_wish(table, now, "answer"))
        told |= now
    table.search = {key: value for key, value in table.search.items() if key in told}
    _call_find(table)
    if rng.random() < 0.25:
        _search_again(table)


def _wish(table: _Table, told: set[str], kind: str) -> str:
    rng = table.rng
    slots = {key: _spoken(key, table.search[key], rng) for key in table.search}
    parts = [table.said(f"with_{key}", **{key: slots[key]}) for key in sorted(told - _MAIN)]
    rng.shuffle(parts)
    main = "_".join(key for key in ("cuisine", "city") if key in told)
    text = table.said(f"{kind}_{main or 'nothing'}", **slots)
    return (
        ". ".join([text, *parts])
        if kind == "answer" or rng.random() < 0.6
        else text + "".join(" " + part for part in parts)
    )


_MAIN = {"cuisine", "city"}


def _spoken(key: str, value: str, rng: Random) -> str:
    if key == "cuisine":
        other = spoken.called(value, rng, 0.45)
        return value.lower() if other == value and rng.random() < 0.35 else other
    if key == "city":
        return spoken.called(value, rng, 0.5)
    if key == "price_range":
        return spoken.say(f"price_{value.replace(' ', '_')}", rng, {})
    return value


def _call_find(table: _Table) -> None:
    rng = table.rng
    table.messages.append(
        call(
            "FindRestaurants", {key: table.search[key] for key in _ASKED_BY if key in table.search}
        )
    )
    n = rng.choices((0, 1, 2, 3), (1, 3, 3, 2))[0]
    table.rows = [_row(table) for _ in range(n)]
    table.messages.append(result(table.rows))
    if not table.rows:
        table.reply(table.said("found_nothing"))
        table.search["cuisine"] = spoken.cuisine(rng)
        table.customer(
            table.said("other_cuisine", cuisine=_spoken("cuisine", table.search["cuisine"], rng))
        )
        _call_find(table)
        return
    name, city = table.rows[0]["restaurant_name"], table.search["city"]
    table.reply(table.said("found", n=str(rng.randint(n, 10)), name=name, city=city))


def _row(table: _Table) -> dict[str, str]:
    rng, search = table.rng, table.search
    return {
        "city": search["city"],
        "cuisine": search["cuisine"],
        "has_live_music": search.get("has_live_music", rng.choice(("True", "False", "False"))),
        "phone_number": values.phone(rng),
        "price_range": search.get("price_range", rng.choice(PRICES)),
        "restaurant_name": spoken.restaurant(rng),
        "serves_alcohol": search.get("serves_alcohol", rng.choice(("True", "False"))),
        "street_address": values.address(rng),
    }


def _search_again(table: _Table) -> None:
    """Change one wish and search anew."""
    rng = table.rng
    key = rng.choice(("cuisine", "city", "price_range"))
    table.search[key] = _ANEW[key](rng)
    table.customer(table.said(f"other_{key}", **{key: _spoken(key, table.search[key], rng)}))
    _call_find(table)


def _choose(table: _Table) -> dict[str, str] | None:
    """Talk about the rows; return the chosen one, or None for a customer who only looks."""
    rng, at = table.rng, 0
    while at + 1 < len(table.rows) and rng.random() < 0.3:
        at += 1
        table.customer(table.said("another"))
        table.reply(table.said("offer", name=table.rows[at]["restaurant_name"]))
    row = table.rows[at]
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        key = rng.choice(("phone_number", "street_address", "price_range", "serves_alcohol"))
        table.customer(table.said(f"question_{key}"))
        told = f"tell_{key}_{row[key]}" if key == "serves_alcohol" else f"tell_{key}"
        table.reply(table.said(told, value=row[key]))
    if rng.random() < 0.15:
        return None
    if rng.random() < 0.4:
        table.customer(table.said("fine"))
        table.reply(table.said("offer_table"))
    return row


def _named(table: _Table) -> dict[str, str]:
    """Return a place that the customer knows already; the conversation starts with booking."""
    rng = table.rng
    row = {"restaurant_name": spoken.restaurant(rng), "city": spoken.city(rng)}
    table.search = {"city": row["city"]}
    if rng.random() < 0.5:
        table.customer(table.said("book_named", name=row["restaurant_name"], city=row["city"]))
        return row
    table.customer(table.said("book_something"))
    table.reply(table.said("ask_name"))
    table.customer(table.said("tell_name", name=row["restaurant_name"], city=row["city"]))
    return row


def _reserve(table: _Table, row: dict[str, str]) -> None:
    """Settle time, day and people, have them confirmed, reserve, perhaps at another time."""
    rng = table.rng
    wanted = {
        "restaurant_name": row["restaurant_name"],
        "city": row["city"],
        "time": spoken.clock(rng),
        "date": spoken.day(rng) if rng.random() < 0.65 else str(spoken.TODAY),
        "party_size": str(rng.randint(1, 6)) if rng.random() < 0.55 else "2",
    }
    told = {key for key, usual in _USUAL.items() if wanted[key] != usual}
    first = {key for key in told if rng.random() < 0.55}
    if table.messages[-1]["role"] == "assistant":
        table.customer(_details(table, wanted, first, "book"))
    elif first:
        table.messages.pop()
        named = table.said("book_named", name=wanted["restaurant_name"], city=wanted["city"])
        table.customer(f"{named} {_details(table, wanted, first, 'only')}")
    if "time" not in first:
        table.reply(table.said("ask_time"))
        first |= {key for key in told if key == "time" or rng.random() < 0.7}
        table.customer(_details(table, wanted, first, "only"))
    late = sorted(told - first)
    now = wanted | {key: _USUAL[key] for key in late}
    table.reply(_confirmation(table, now))
    while late or rng.random() < 0.25:
        key = late.pop() if late else rng.choice(("time", "time", "date", "party_size"))
        if now[key] == wanted[key]:
            wanted[key] = _ANEW[key](rng)
        now[key] = wanted[key]
        table.customer(table.said("rather", what=_detail(key, now[key], rng)))
        table.reply(_confirmation(table, now, key if rng.random() < 0.3 else ""))
    yes = table.said("yes")
    if rng.random() < 0.3:
        yes += ". " + table.said(f"question_{rng.choice(('phone_number', 'street_address'))}")
    table.customer(yes)
    _call_reserve(table, wanted, row)


def _details(table: _Table, wanted: dict[str, str], keys: set[str], kind: str) -> str:
    ordered = sorted(keys)
    table.rng.shuffle(ordered)
    joint = table.rng.choice((" ", ", ", " "))
    what = joint.join(_detail(key, wanted[key], table.rng) for key in ordered)
    return table.said(f"details_{kind}", what=what) if what else table.said("book_it")


def _detail(key: str, value: str, rng: Random) -> str:
    speak = {"time": say_time, "date": say_day, "party_size": say_party}[key]
    return speak(value, rng)


def _confirmation(table: _Table, wanted: dict[str, str], only: str = "") -> str:
    """Return the question that repeats everything, or only what has just changed."""
    rng = table.rng
    return table.said(
        f"confirm_{only}" if only else "confirm",
        name=wanted["restaurant_name"],
        city=wanted["city"],
        time=spoken.plain_time(wanted["time"], rng),
        date=spoken.plain_day(wanted["date"], rng),
        party=wanted["party_size"],
    )


def _call_reserve(table: _Table, wanted: dict[str, str], row: dict[str, str]) -> None:
    rng = table.rng
    table.messages.append(call("ReserveRestaurant", dict(wanted)))
    outcome = rng.random()
    if outcome < 0.2:
        table.messages.append(result([]))
        wanted["time"] = spoken.clock(rng)
        table.reply(table.said("failed", time=spoken.plain_time(wanted["time"], rng)))
        table.customer(table.said("yes"))
        _call_reserve(table, wanted, row)
        return
    full = {key: row[key] for key in row if key not in wanted}
    table.messages.append(result([dict(sorted({**full, **wanted}.items()))]))
    table.reply(table.said("reserved"))


def _written(text: str, rng: Random) -> str:
    """Return the text as people type it."""
    text = " ".join(text.split())
    style = rng.random()
    if style < 0.6:
        text = text[0].upper() + text[1:]
        return (
            text
            if text[-1] in ".!?"
            else text + rng.choice((".", ".", "", "?" if _asks(text) else "."))
        )
    return text.lower() if style > 0.97 else text


def _asks(text: str) -> bool:
    words: Sequence[str] = ("can ", "could ", "what", "is ", "do ", "would ", "where", "how ")
    return text.lower().startswith(tuple(words))


def main() -> None:
    """Print five conversations as the model reads them."""
    for dialogue in dialogues(Random(1), 5):
        print(template.render(dialogue.messages, dialogue.tools))


if __name__ == "__main__":
    main()
