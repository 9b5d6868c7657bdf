"""Ways to say times, days, prices, places and people in invented restaurant conversations.

Rules stand in `en.toml`, in the notation of the airline simulator's phrase grammar. Canonical
values are the corpus's: `18:30`, `2019-03-09`, `moderate`, a city's own spelling.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import TypeAlias

from edgeagent.scenarios.airline.simulator.grammar import Grammar, of_tables
from edgeagent.scenarios.airline.simulator.spoken import ordinal
from models.nano import values

TODAY = date(2019, 3, 1)
"""The corpus's own day, a Friday; a reservation without a day is for it."""
_HOURS = ("twelve", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
          "eleven")  # fmt: skip
_MINUTES = {15: "fifteen", 30: "thirty", 45: "forty five"}
_KINDS = ("Cafe", "Restaurant", "Grill", "Kitchen", "Bistro", "House", "Diner", "Bar & Grill",
          "Pizzeria", "Bakery", "Garden", "Palace", "Eatery", "Cuisine", "Bar", "Brewing", "Tavern",
          "Cantina", "Noodle House", "Steakhouse")  # fmt: skip


Words: TypeAlias = dict[str, list[str]]


@cache
def _tables() -> tuple[Grammar, Words, Words]:
    text = Path(__file__).with_name("en.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    words, aliases = tables.pop("words"), {**tables.pop("called"), **tables.pop("nicknames")}
    return of_tables(tables), words, aliases


def say(rule: str, rng: Random, slots: Mapping[str, str]) -> str:
    """Expand a rule; raises KeyError for a slot that is not filled."""
    return "".join(piece.text for piece in _tables()[0].speak(rule, slots, rng))


def cuisine(rng: Random) -> str:
    """Return a kind of food, one in eight invented."""
    return values.word(rng) if rng.random() < 0.12 else rng.choice(_tables()[1]["cuisines"])


def city(rng: Random) -> str:
    """Return a city, four in ten invented."""
    if rng.random() < 0.6:
        return "San Francisco" if rng.random() < 0.1 else rng.choice(_tables()[1]["cities"])
    head = rng.choice(("", "", "San ", "Mount ", "El ", "Port ", "Santa ", "St. "))
    tail = rng.choice(("", "", "", " City", " Valley", " Park", " Hills", " Creek", " Beach"))
    return f"{head}{values.word(rng, 2)}{tail}"


def called(value: str, rng: Random, share: float) -> str:
    """Return another name that customers have for a kind of food or a city, if there is one."""
    names = aliases(value)
    return rng.choice(names) if names and rng.random() < share else value


def aliases(value: str) -> list[str]:
    """Return those other names, none for most values."""
    return _tables()[2].get(value, [])


def restaurant(rng: Random) -> str:
    """Return the name of a place that does not exist."""
    names = _tables()[1]["names"]
    base = values.word(rng) if rng.random() < 0.5 else rng.choice(names)
    if rng.random() < 0.3:
        base += " " + (values.word(rng) if rng.random() < 0.5 else rng.choice(names))
    shape = rng.random()
    if shape < 0.2:
        return f"{base}'s"
    if shape < 0.3:
        return f"The {base} {rng.choice(_KINDS)}"
    if shape < 0.4:
        return f"{base} & {values.word(rng)}"
    return f"{base} {rng.choice(_KINDS)}" if shape < 0.8 else base


def clock(rng: Random) -> str:
    """Return a time to eat at, in quarters of an hour."""
    hour = rng.choices(range(8, 23), (1, 1, 1, 4, 5, 5, 4, 2, 3, 5, 6, 6, 4, 2, 1))[0]
    return f"{hour:02}:{rng.choice((0, 0, 15, 30, 30, 45)):02}"


def day(rng: Random) -> str:
    """Return a day of the fortnight behind today, seldom a later one."""
    ahead = rng.randint(1, 13) if rng.random() < 0.9 else rng.randint(14, 60)
    return str(TODAY + timedelta(ahead))


def plain_time(value: str, rng: Random) -> str:
    """Return the time as an assistant repeats it."""
    hour, minute = map(int, value.split(":"))
    half = "am" if hour < 12 else "pm"
    short = f"{(hour - 1) % 12 + 1}" + (f":{minute:02}" if minute or rng.random() < 0.4 else "")
    return short + rng.choice((f" {half}", f" {half}", half, f" {half.upper()}"))


def plain_day(value: str, rng: Random) -> str:
    """Return the day as an assistant repeats it."""
    when = date.fromisoformat(value)
    if when == TODAY:
        return "today"
    if when - TODAY == timedelta(1):
        return rng.choice(("tomorrow", "March 2nd", "tomorrow"))
    return rng.choice((f"{when:%B} {ordinal(when.day)}", f"{when:%B} {ordinal(when.day)}",
                       f"{ordinal(when.day)} of {when:%B}", f"{when:%A}, {when:%B} {when.day}",
                       weekday(when) or f"{when:%B} {when.day}"))  # fmt: skip


def weekday(when: date) -> str:
    """Return `this Saturday` or `next Tuesday` for the nine days behind today, else nothing."""
    ahead = (when - TODAY).days
    if ahead in (1, 2):
        return f"this {when:%A}"
    return f"next {when:%A}" if 3 <= ahead <= 9 else ""


def say_time(value: str, rng: Random) -> str:
    """Return the time as a customer may put it, with or without its half of the day."""
    hour, minute = map(int, value.split(":"))
    twelve = (hour - 1) % 12 + 1
    digits = f"{twelve}:{minute:02}" if minute or rng.random() < 0.3 else f"{twelve}"
    half = "am" if hour < 12 else "pm"
    part = "morning" if hour < 12 else "afternoon" if hour < 17 else "evening"
    night = rng.choice(("evening", "night", "evening")) if hour >= 17 else part
    word = _HOURS[twelve % 12]
    forms = [
        f"at {digits} {half}", f"{digits} {half}", f"at {digits}{half}", f"{digits}{half}",
        f"at {digits} in the {night}", f"{digits} in the {part}", f"in the {part} at {digits}",
        f"{part} {digits}", f"at {word} {_MINUTES.get(minute, 'o clock')} in the {night}",
        f"by {digits} {half}", f"around {digits} in the {night}", f"for {digits} {half}",
        f"at {value}", f"at {digits} {half.upper()}", f"in the {part}, {digits}",
    ]  # fmt: skip
    if minute == 0:
        forms += [f"at {twelve} o'clock in the {night}", f"{word} in the {part}"]
    if minute == 30:
        forms += [f"half past {twelve} in the {night}", f"at half past {word} in the {part}"] * 2
    if minute == 15:
        forms += [
            f"quarter past {twelve} in the {part}",
            f"at a quarter past {word} in the {night}",
        ]
    if minute == 45:
        coming = twelve % 12 + 1
        forms += [f"quarter to {coming} in the {night}", f"at a quarter to {_HOURS[coming % 12]}"
                  f" in the {part}"]  # fmt: skip
    if value == "12:00":
        forms += ["at noon", "12 noon"] * 3
    if 11 <= hour <= 21 and rng.random() < 0.12:
        return f"at {digits}"
    return rng.choice(forms)


def say_day(value: str, rng: Random) -> str:
    """Return the day as a customer may put it."""
    when = date.fromisoformat(value)
    nth, month = ordinal(when.day), f"{when:%B}"
    if when == TODAY:
        return rng.choice(("today", "for today", "tonight", "today", f"on {month} {nth}"))
    forms = [f"on {month} {nth}", f"on the {nth} of {month}", f"{month} {when.day}",
             f"{month} {nth}", f"for {month} {nth}", f"on {month[:3]} {when.day}",
             f"{nth} of {month}"]  # fmt: skip
    if when.month == 3:
        forms += [f"on the {nth}", f"the {nth}", f"on the {nth} of this month", f"on the {nth}"]
    if near := weekday(when):
        forms += [f"on {near}", near, near]
        ahead = (when - TODAY).days
        week = "this week" if ahead < 3 else "next week"
        forms += [f"on {when:%A} {week}", f"{when:%A} {week}"]
    if (when - TODAY).days == 1:
        forms += ["tomorrow"] * 4
    if (when - TODAY).days == 2:
        forms += ["the day after tomorrow", "day after tomorrow"]
    return rng.choice(forms)


def say_party(value: str, rng: Random) -> str:
    """Return how many will come, as a customer may put it."""
    n = int(value)
    word = _HOURS[n]
    if n == 1:
        return rng.choice(("for one", "just for me", "only me", "for 1 person", "for one person",
                           "I'll be alone", "a table for 1", "for myself"))  # fmt: skip
    return rng.choice((
        f"for {n}", f"for {word}", f"for {n} people", f"for {word} people", f"{n} people",
        f"a table for {word}", f"party of {n}", f"we will be {word}", f"{word} of us",
        f"a table for {n}", f"me and {_HOURS[n - 1]} {'other' if n == 2 else 'others'}",
        f"{word} persons", f"we are {n}",
    ))  # fmt: skip
