"""How people say a date, a city, a cabin or a number, and how a persona writes it down.

Canonical values are what tools take: `2024-05-20`, `SFO`, `basic_economy`, `2`. Everything here
is a choice by the caller's random generator; the values themselves are never altered by typing
errors, so a model can always copy or convert them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

from edgeagent.scenarios.airline.simulator.grammar import Piece
from edgeagent.scenarios.airline.world import CITIES

_MONTHS = "January February March April May June July August September October November December"
MONTHS = tuple(_MONTHS.split())
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
NEAR: Mapping[str, tuple[str, ...]] = {
    "2024-05-16": ("tomorrow", "tomorrow", "tomorrow morning"),
    "2024-05-17": ("this Friday", "the day after tomorrow", "Friday"),
    "2024-05-18": ("this Saturday", "Saturday"),
    "2024-05-19": ("this Sunday", "Sunday"),
    "2024-05-20": ("next Monday",),
    "2024-05-21": ("next Tuesday",),
}
"""Ways to say a day from the desk's fixed today, Wednesday 2024-05-15."""
CABIN_NAMES: Mapping[str, tuple[str, ...]] = {
    "basic_economy": ("basic", "Basic Economy", "basic-economy", "basic eco"),
    "economy": ("coach", "Economy", "regular economy", "normal economy", "eco"),
    "business": ("Business", "biz"),
}
"""Other names for a cabin than the desk's own."""


def say_city(code: str, rng: random.Random) -> str:
    """Say an airport: by code, by city or by both."""
    city = CITIES[code]
    if rng.random() < 0.15:
        return rng.choice((code.lower(), city.lower(), f"{city}, {code}", f"{code} ({city})"))
    return rng.choice((code, city, city, f"{city} ({code})"))


def say_date(day: str, rng: random.Random) -> str:
    """Say a day of 2024 the way people write to a chat."""
    when = date.fromisoformat(day)
    month, nth = MONTHS[when.month - 1], ordinal(when.day)
    if day in NEAR and rng.random() < 0.25:
        return rng.choice(NEAR[day])
    if when.month == 5 and rng.random() < 0.08:
        return f"the {nth}"
    return rng.choice(
        (
            f"{month} {when.day}",
            f"{month} {when.day}",
            f"{month} {nth}",
            f"{month[:3]} {when.day}",
            f"{when.day} {month}",
            f"{nth} of {month}",
            f"the {nth} of {month}",
            f"{when.month}/{when.day}",
            f"{month} {when.day}, 2024",
            f"{when:%A}, {month} {when.day}",
            f"{when:%A} the {nth}",
            f"{when:%a} {month[:3]} {when.day}",
            f"{month.lower()} {when.day}",
            f"{month.lower()} {nth}",
            f"{month} the {nth}",
            f"{when.day} {month[:3]}",
            f"{month[:3]} {nth}",
            f"{when:%m/%d}",
            f"{when.month}/{when.day}/2024",
            day,
            day,
            day,
        )
    )


def say_birthday(day: str, rng: random.Random) -> str:
    """Say a date of birth; half of the people write it as tools want it."""
    when = date.fromisoformat(day)
    month = MONTHS[when.month - 1]
    if rng.random() < 0.5:
        return day
    return rng.choice(
        (
            f"{month} {when.day}, {when.year}",
            f"{month} {when.day} {when.year}",
            f"{month[:3]} {when.day}, {when.year}",
            f"{when.day} {month} {when.year}",
            f"{when.day} {month[:3]} {when.year}",
            f"the {ordinal(when.day)} of {month} {when.year}",
            f"{when:%m/%d/%Y}",
        )
    )


def say_cabin(cabin: str) -> str:
    """Say a cabin without the underscore."""
    return cabin.replace("_", " ")


def name_cabin(cabin: str, rng: random.Random) -> str:
    """Name a cabin as customers do."""
    if rng.random() < 0.15:
        return rng.choice(CABIN_NAMES[cabin])
    return say_cabin(cabin)


def say_number(number: int, rng: random.Random) -> str:
    """Say a small count as a digit or a word."""
    return str(number) if rng.random() < 0.6 else NUMBERS[number]


def miscopied(text: str, rng: random.Random) -> str:
    """Return an id with one letter or digit left out, doubled or replaced."""
    at = rng.randrange(len(text))
    other = rng.choice("ABCDEFGH" if text[at].isalpha() else "0123456789")
    if text[at].islower():
        other = other.lower()
    return rng.choice(
        (
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
            text[:at] + (other if other != text[at] else "x") + text[at + 1 :],
        )
    )


def ordinal(number: int) -> str:
    """Return `1st`, `22nd`, `13th`."""
    if number in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def join_words(words: Iterable[str]) -> str:
    """Return `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


@dataclass(frozen=True, slots=True)
class Persona:
    """How one customer writes and behaves."""

    case: Literal["neat", "lower", "plain"]
    typo_rate: float
    """Chance of a typing error per word."""
    temper: Literal["terse", "chatty", "rude", "polite"]
    openness: float
    """Chance that a fact is told before it is asked for."""
    patience: int
    """How many times the customer repeats what was not understood."""


def draw_persona(rng: random.Random) -> Persona:
    """Draw a customer's manners."""
    return Persona(
        case=rng.choice(("neat", "neat", "lower", "lower", "plain")),
        typo_rate=rng.choice((0.0, 0.0, 0.0, 0.01, 0.03, 0.06)),
        temper=rng.choice(("terse", "terse", "terse", "chatty", "rude", "polite", "polite")),
        openness=rng.choice((0.1, 0.3, 0.5, 0.7, 0.9)),
        patience=3,
    )


def write(pieces: Iterable[Piece], persona: Persona, rng: random.Random) -> str:
    """Write down what was said: capitals, typing errors and the end of the sentence."""
    written: list[str] = []
    starts = True
    for piece in pieces:
        text = piece.text
        if not piece.is_value:
            if persona.typo_rate:
                text = _mistype(text, persona.typo_rate, rng)
            if persona.case == "lower":
                text = text.lower()
        if persona.case == "neat":
            text = _capitalise(text, starts)
        if text:
            starts = _ends_sentence(written, text)
            written.append(text)
    sentence = "".join(written).strip()
    sentence = re.sub(r" +", " ", sentence)
    sentence = re.sub(r" ([,.;'])", r"\1", sentence)
    sentence = re.sub(r",[ ,]*,", ",", sentence)
    if persona.case == "neat" and sentence and sentence[-1].isalnum():
        sentence += "?" if _asks(sentence) else rng.choice((".", ".", "", "!"))
    elif sentence and sentence[-1].isalnum() and _asks(sentence) and rng.random() < 0.5:
        sentence += "?"
    return sentence


_QUESTION = re.compile(
    r"^((hi|hello|hey|ok|great|thanks|good|perfect|also|and|next|now|so|oh|by the way|also now"
    r"|another thing|one more thing|additionally|good (morning|evening|afternoon))( there)?[,.!]*"
    r" )*"
    r"((what|which|who|whose|when|where|how|is|are|am|can|could|does|did|would|will|was|should"
    r"|any)\b|(may|do) (i|we|you|my|basic)\b)",
    re.IGNORECASE,
)


def _asks(sentence: str) -> bool:
    last = re.split(r"[.!?] ", sentence)[-1]
    return bool(_QUESTION.match(last))


def _ends_sentence(written: list[str], text: str) -> bool:
    tail = text.rstrip()
    return bool(tail) and tail[-1] in ".!?" and (text != tail or len(tail) > 1)


def _capitalise(text: str, starts: bool) -> str:
    if starts and text[:1].islower() and not re.match(r"[a-z]+_[a-z_0-9]+", text):
        text = text[0].upper() + text[1:]
    return re.sub(r"([.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def _mistype(text: str, rate: float, rng: random.Random) -> str:
    return re.sub(
        r"[A-Za-z]{4,}", lambda m: _slip(m[0], rng) if rng.random() < rate * 2 else m[0], text
    )


def _slip(word: str, rng: random.Random) -> str:
    """Swap, drop, double or miss a letter inside a word."""
    at = rng.randrange(1, len(word) - 1)
    return rng.choice(
        (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        )
    )
