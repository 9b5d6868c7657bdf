"""One conversation at the shop's desk while it is written: who speaks, and the backend that acts.

The customer's words come from a grammar in the customer's language, the desk's from the same
files; results come from the scenario's own backend. Decides nothing about what is done.
"""

from __future__ import annotations

import json
import sqlite3
import tomllib
import unicodedata
from functools import cache
from importlib.resources import files
from random import Random
from typing import Literal, TypeAlias

from edgeagent.messages import DEFER, RESPOND, THINK, TRANSFER, Json
from edgeagent.scenarios.airline.simulator import spoken
from edgeagent.scenarios.airline.simulator.grammar import Grammar, Piece, of_tables
from edgeagent.scenarios.orders import backend
from models.nano import template
from models.nano.orders import stock

Language: TypeAlias = Literal["en", "vi"]
SHARE_PLAIN = 0.4
"""Of the Vietnamese customers, those who write without diacritics."""
SHARE_ID_TOLD = 0.65
"""Of the openings about an order, those that name its id at once."""

WORDS: dict[Language, dict[str, str]] = {
    "en": {},
    "vi": {
        "processing": "đang xử lý", "shipped": "đã gửi", "out for delivery": "đang giao",
        "delivered": "đã giao", "cancelled": "đã hủy", "returned": "đã trả",
        "low": "thấp", "normal": "thường", "high": "cao",
    },
}  # fmt: skip
"""What tools say in English and the desk says in the customer's language."""


@cache
def phrases(language: Language) -> Grammar:
    """Return the grammar of one language.

    Raises:
        ValueError: a phrase does not parse, or refers to nothing.
    """
    text = (files(__package__ or "") / f"{language}.toml").read_text(encoding="utf-8")
    return of_tables(tomllib.loads(text))


def without_marks(text: str) -> str:
    """Return Vietnamese as it is typed in a hurry: no diacritics."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return bare.replace("đ", "d").replace("Đ", "D")


class Desk:
    """The conversation so far, its language, and the orders that the backend knows."""

    def __init__(
        self, rng: Random, language: Language, held_out: bool, books: sqlite3.Connection
    ) -> None:
        self.rng = rng
        self.language: Language = language
        self.held_out = held_out
        self.messages: list[template.Message] = []
        self.orders: list[Json] = []
        self.last_ticket = rng.randint(1, 9999)
        self._books = books
        stock.clear(books, self.last_ticket)
        self._persona = spoken.draw_persona(rng)
        self._is_plain = language == "vi" and rng.random() < SHARE_PLAIN
        self._start = "maybe_hi"
        """The rule that the next opening begins with."""

    def put(self, order: dict[str, Json]) -> dict[str, Json]:
        """Add an order to the backend and return it, under another id where its own is taken."""
        while self.knows(order["order_id"]):
            order = {**order, "order_id": stock.order_id(self.rng)}
        self.orders.append(order)
        stock.add(self._books, order)
        return order

    def knows(self, order_id: str) -> bool:
        """Whether an order with that id is in the backend."""
        return any(order["order_id"] == order_id for order in self.orders)

    def open(self, rule: str, /, **slots: str) -> str:
        """Let the customer begin a wish; return what was said."""
        start, self._start = self._start, "also"
        return self._say([*self._pieces(start, slots), *self._pieces(rule, slots)])

    def open_both(self, first: str, second: str, /, **slots: str) -> str:
        """Let the customer begin with two wishes in one message; return what was said."""
        start, self._start = self._start, "also"
        rules = [start, first, "joint", second]
        if self.rng.random() < 0.5:
            rules = [start, second, "joint", first]
        return self._say([piece for rule in rules for piece in self._pieces(rule, slots)])

    def say(self, rule: str, /, **slots: str) -> str:
        """Let the customer answer or go on; return what was said."""
        if rule == "greet":
            self._start = "also"
        return self._say(self._pieces(rule, slots))

    def reply(self, rule: str, /, *, learn: str = "", **slots: str) -> None:
        """Answer the customer by a rule; `learn` is what of the step is a lesson, if not all."""
        self.tell(self.text(rule, **slots), learn)

    def tell(self, message: str, learn: str = "") -> None:
        """Answer the customer in these words."""
        self._step(RESPOND, {"message": message}, learn)

    def think(self, thought: str) -> None:
        """Note what nobody sees."""
        self._step(THINK, {"thought": thought})
        self.messages.append(template.result(""))

    def defer(self, reason: str) -> None:
        """Leave the turn to the larger model, whose steps are not shown."""
        self._step(DEFER, {"reason": reason})

    def hand_over(self, summary: str) -> None:
        """Give the customer to a person."""
        self._step(TRANSFER, {"summary": summary})

    def call(self, name: str, **arguments: str) -> Json:
        """Call a tool of the backend and return its decoded result."""
        self._step(name, arguments)
        outcome = backend.act(self._books, name, arguments)
        self.messages.append(template.result(outcome.content))
        return json.loads(outcome.content)

    def text(self, rule: str, /, **slots: str) -> str:
        """Return a phrase as the desk writes it."""
        pieces = phrases(self.language).speak(rule, slots, self.rng)
        return "".join(piece.text for piece in pieces)

    def word(self, english: str) -> str:
        """Return what a tool says in the customer's language."""
        return WORDS[self.language].get(english, english)

    def typed(self, value: str) -> str:
        """Return a value as this customer would write it."""
        return without_marks(value) if self._is_plain else value

    def spelled(self, order_id: str) -> str:
        """Return an order id the way people write it; most copy it."""
        digits = order_id.removeprefix("OD-")
        other = (order_id.lower(), digits, f"#{digits}", f"OD {digits}", f"#{order_id}")
        return order_id if self.rng.random() < 0.6 else self.rng.choice(other)

    def named(self, order_id: str, is_told: bool) -> str:
        """Return a way to name the order, with its id or without."""
        rule = "order_id" if is_told else "order_bare"
        pieces = phrases(self.language).speak(
            rule, {"id": self.spelled(order_id)}, self.rng, self.held_out
        )
        return "".join(piece.text for piece in pieces)

    def _pieces(self, rule: str, slots: dict[str, str]) -> list[Piece]:
        return phrases(self.language).speak(rule, slots, self.rng, self.held_out)

    def _say(self, pieces: list[Piece]) -> str:
        typed = [Piece(self.typed(piece.text), piece.is_value) for piece in pieces]
        text = spoken.write(typed, self._persona, self.rng)
        self.messages.append(template.user(text))
        return text

    def _step(self, name: str, arguments: dict[str, str], learn: str = "") -> None:
        step = template.call(name, arguments)
        self.messages.append({**step, "learn": learn} if learn else step)
