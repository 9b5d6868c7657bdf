"""Training windows: the tools, then whole turns of a conversation, and what to learn in them.

A window is cut as the runtime cuts a prompt: tools first, oldest turns dropped. Every token has
flags that say why it is learnt. Knows the tokenizer, not the training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from models.nano.dialogue import Dialogue
from models.nano.template import CALL_OPENING, Message, dumps, render

CUSTOMER = 1
"""The customer's words: learnt a little, for the language in them."""
CALL = 2
"""The assistant's step after what the grammar forces, up to `<|im_end|>`."""
COPY = 4
"""A value in a call that stands earlier in the window, letter by letter."""
NAME = 8
"""The name of the tool."""
REPLY = 16
"""The words of a recorded person's reply: one of many that would have done."""
CHOICE = 32
"""A token of a call that does not follow from the few before it; see choices.py."""
BARRED = 64
"""The first token of a tool's name where deferring was not offered: it takes no part there."""
RECORDED = ("sgd", "tau", "guide")
"""Sources whose replies people wrote; elsewhere replies follow rules."""

_NUMBERED = re.compile(r"(?=[\w-]*\d)[\w-]{3,}")
"""An id, a date, a price: a word with a digit in it."""


class Encoder(Protocol):
    """What a `tokenizers.Tokenizer` offers and this module uses."""

    def encode(self, sequence: str) -> Any: ...


@dataclass(slots=True)
class Piece:
    """One rendered message."""

    ids: list[int]
    flags: list[int]
    text: str
    is_customer: bool
    values: list[tuple[str, int, int]] = field(default_factory=list)
    """Text of a call's value, and its first and behind-last token."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens and their flags, equally long."""

    ids: list[int]
    flags: list[int]


def pieces(dialogue: Dialogue, encoder: Encoder) -> tuple[Piece, list[Piece]]:
    """Return the tools' piece and one piece for each message."""
    tools = _plain(render((), dialogue.tools, policy=dialogue.policy), encoder, 0)
    is_recorded = dialogue.source in RECORDED
    return tools, [_piece(message, encoder, is_recorded) for message in dialogue.messages]


def _plain(text: str, encoder: Encoder, flag: int) -> Piece:
    ids = list(encoder.encode(text).ids)
    return Piece(ids, [flag] * len(ids), text, False)


def _piece(message: Message, encoder: Encoder, is_recorded: bool) -> Piece:
    text = render([message])
    if message["role"] == "tool":
        return _plain(text, encoder, 0)
    if message["role"] == "user":
        piece = _plain(text, encoder, CUSTOMER)
        # Role line in front and the line break behind are the template's.
        piece.flags[:3] = [0, 0, 0]
        piece.flags[-1] = 0
        piece.is_customer = True
        return piece
    return _call_piece(message, text, encoder, is_recorded)


def _call_piece(message: Message, text: str, encoder: Encoder, is_recorded: bool) -> Piece:
    encoding = encoder.encode(text)
    starts = [start for start, _ in encoding.offsets]
    n = len(starts)
    begin = next(i for i in range(n) if starts[i] >= len(CALL_OPENING))
    flags = [0] * begin + [CALL] * (n - 1 - begin) + [0]
    function = message["tool_calls"][0]["function"]
    learn = message.get("learn", "everything")
    if learn == "nothing":
        return Piece(list(encoding.ids), [0] * n, text, False)
    end_of_name = len(CALL_OPENING) + len(function["name"])
    for i in range(begin, n):
        if starts[i] < end_of_name:
            flags[i] |= NAME
            if learn == "without deferring" and i == begin:
                flags[i] |= BARRED
        elif is_recorded and function["name"] == "respond_to_user":
            flags[i] |= REPLY if flags[i] else 0
    piece = Piece(list(encoding.ids), flags, text, False)
    if is_recorded and function["name"] == "respond_to_user":
        return piece
    at = end_of_name + len('", "arguments": ')
    for leaf, start in _leaves(function["arguments"], at):
        for value, first in _values(function["name"], leaf, start):
            inside = [i for i in range(n) if first <= starts[i] < first + len(value)]
            if len(inside) > 1:
                piece.values.append((value, inside[0], inside[-1] + 1))
    return piece


def _values(name: str, leaf: str, at: int) -> Iterator[tuple[str, int]]:
    """Yield what may be copied in a leaf: all of it, but in sentences the numbers and ids."""
    if name not in ("respond_to_user", "think"):
        yield leaf, at
        return
    for match in _NUMBERED.finditer(leaf):
        yield match.group(0), at + match.start()


def _leaves(value: Any, at: int) -> Iterator[tuple[str, int]]:
    """Yield text and place of every leaf of `value`, whose JSON begins at character `at`."""
    match value:
        case str():
            yield dumps(value)[1:-1], at + 1
        case dict():
            at += 1
            for key, item in value.items():
                at += len(dumps(key)) + 2
                yield from _leaves(item, at)
                at += len(dumps(item)) + 2
        case list():
            at += 1
            for item in value:
                yield from _leaves(item, at)
                at += len(dumps(item)) + 2
        case _:
            yield dumps(value), at


def windows(dialogue: Dialogue, encoder: Encoder, n_max: int, rng: Random) -> Iterator[Window]:
    """Yield windows of at most `n_max` tokens that together show every turn about once.

    The first begins with the conversation, each later one at a customer turn up to three turns
    before the first message that has not been shown. A last message that is too long is cut.
    """
    tools, messages = pieces(dialogue, encoder)
    turns = [i for i, piece in enumerate(messages) if piece.is_customer]
    start = 0
    while turns and len(tools.ids) < n_max * 0.7:
        window, shown = _window(tools, messages[start:], n_max)
        if any(flag & CALL for flag in window.flags):
            yield window
        if start + shown >= len(messages):
            return
        before = [turn for turn in turns if start < turn <= start + shown]
        if not before:
            return
        start = before[max(0, len(before) - 1 - rng.randint(0, 3))]


def _window(tools: Piece, messages: Sequence[Piece], n_max: int) -> tuple[Window, int]:
    """Return the window that begins with `messages`, and how many of them are whole in it."""
    ids, flags, context = list(tools.ids), list(tools.flags), ""
    for shown, piece in enumerate(messages):
        if len(ids) >= n_max:
            return Window(ids[:n_max], flags[:n_max]), max(shown - 1, 0)
        own = list(piece.flags)
        for value, first, behind in piece.values:
            if value in context:
                own[first:behind] = [flag | COPY for flag in own[first:behind]]
        ids += piece.ids
        flags += own
        context += piece.text
    is_whole = len(ids) <= n_max
    return Window(ids[:n_max], flags[:n_max]), len(messages) - (not is_whole)
