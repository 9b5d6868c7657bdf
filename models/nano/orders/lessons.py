"""Lessons of the shop's help desk in nano's messages, English and Vietnamese.

Every step is what a scripted expert did on the scenario's own backend; orders, goods, names and
sums are drawn anew for each lesson. Deterministic by seed.

    python -m models.nano.orders.lessons
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal, TypeAlias

from edgeagent.messages import Json
from edgeagent.scenarios.orders import backend
from models.nano import template
from models.nano.airline import tools_of
from models.nano.dialogue import Dialogue
from models.nano.orders import stock
from models.nano.orders.desk import Desk
from models.nano.orders.scripts import SCRIPTS

Split: TypeAlias = Literal["train", "held_out"]
SHARE_VIETNAMESE = 1 / 3
SHARE_SECOND_WISH = 0.15
SHARE_THANKS = 0.2
SHARE_GREETING = 0.05
SHARE_SHUFFLED = 0.125
"""Of the lessons, those whose tools stand in another order."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One conversation and the state of the backend that it began with."""

    dialogue: Dialogue
    kinds: tuple[str, ...]
    """Keys of `SCRIPTS`."""
    language: str
    orders: tuple[Json, ...]
    last_ticket: int


@cache
def tools() -> tuple[template.Tool, ...]:
    """Return the scenario's tools in the shape that templates take."""
    return tuple(tools_of(backend.description().tools))


def dialogues(seed: int, n: int, split: Split = "train") -> Iterator[Dialogue]:
    """Yield `n` lessons; about 0.5 ms each."""
    return (lesson.dialogue for lesson in lessons(seed, n, split))


def lessons(seed: int, n: int, split: Split = "train") -> Iterator[Lesson]:
    """Yield `n` lessons with what they stand on.

    Held-out ones have customers whose wording, and goods whose names, training never sees.
    """
    books = stock.open_books()
    for number in range(n):
        rng = Random(f"orders {split} {seed} {number}")
        language: Literal["en", "vi"] = "vi" if rng.random() < SHARE_VIETNAMESE else "en"
        desk = Desk(rng, language, split == "held_out", books)
        kinds = _play(desk)
        order = tools()
        if rng.random() < SHARE_SHUFFLED:
            order = tuple(rng.sample(order, len(order)))
        policy = backend.description().policy
        dialogue = Dialogue("orders", order, tuple(desk.messages), policy)
        yield Lesson(dialogue, kinds, language, tuple(desk.orders), desk.last_ticket)
    books.close()


def _play(desk: Desk) -> tuple[str, ...]:
    """Serve one customer, who may have a second wish; return what was wished for."""
    rng = desk.rng
    kinds: list[str] = []
    if rng.random() < SHARE_GREETING:
        desk.say("greet")
        desk.reply("r_hello")
    names = tuple(SCRIPTS)
    weights = [weight for weight, _ in SCRIPTS.values()]
    goes_on, n_wishes = True, 2 if rng.random() < SHARE_SECOND_WISH else 1
    while goes_on and len(kinds) < n_wishes:
        kinds += rng.choices(names, weights)
        goes_on = SCRIPTS[kinds[-1]][1](desk)
    if goes_on and rng.random() < SHARE_THANKS:
        desk.say("thanks")
        desk.reply("r_bye")
    return tuple(kinds)


def main() -> None:
    """Print five lessons as the model reads them."""
    for dialogue in dialogues(1, 5):
        print(template.render(dialogue.messages, dialogue.tools))


if __name__ == "__main__":
    main()
