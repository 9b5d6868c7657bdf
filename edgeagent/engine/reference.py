"""A given call as the tokens that the grammar would have written it with.

Knows the grammar's matcher and the vocabulary; asks no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from llguidance import LLMatcher

from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import ID_SLOT, Wire
from edgeagent.messages import Call, Json, Tool


@dataclass(slots=True)
class Path:
    """Tokens of a call, and the places where something else could have stood."""

    tokens: list[int] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    is_whole: bool = True
    """Whether the grammar admits the whole call; else the tokens end where it does not."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One place where the grammar leaves a choice."""

    at: int
    """Number of tokens of the call before it."""
    n_bytes: int
    """Bytes of the call before it."""
    mask: bytes
    """The legal tokens, a bit each."""


def text_of(wire: Wire, call: Call, tools: Sequence[Tool]) -> str:
    """Return the call as the grammar wants it written, keys in the schema's order.

    It ends before an id that the model would make up: that decides nothing.
    """
    schema = next((tool.parameters for tool in tools if tool.name == call.name), {})
    separators = (wire.item_separator, wire.key_separator)
    arguments = json.dumps(
        _ordered(call.arguments, schema), ensure_ascii=False, separators=separators
    )
    after = wire.after.partition(ID_SLOT)[0]
    return f"{wire.before}{call.name}{wire.between}{arguments}{after}"


def trace(matcher: LLMatcher, vocabulary: Vocabulary, text: str) -> Path:
    """Follow the grammar along `text`, split into tokens as the vocabulary splits it."""
    path, left, plan = Path(), text.encode(), list[int]()
    n_whole = len(left)
    while left and not matcher.is_stopped():
        run = matcher.compute_ff_tokens()
        if run:
            plan = []
        else:
            mask = matcher.compute_bitmask()
            plan = plan or _plan(vocabulary, left)
            token = _legal(vocabulary, plan, left, mask)
            if token is None:
                path.is_whole = False
                break
            plan = plan[1:] if plan[:1] == [token] else []
            path.choices.append(Choice(len(path.tokens), n_whole - len(left), mask))
            run = [token]
        written = b"".join(vocabulary.pieces[token] for token in run)
        if not left.startswith(written) or not matcher.consume_tokens(run):
            path.is_whole = False
            break
        path.tokens += run
        left = left[len(written) :]
    return path


def _plan(vocabulary: Vocabulary, left: bytes) -> list[int]:
    try:
        return vocabulary.encode(left.decode(), parse_special=False)
    except UnicodeDecodeError:  # a forced run ended inside a character
        return []


def _legal(vocabulary: Vocabulary, plan: Sequence[int], left: bytes, mask: bytes) -> int | None:
    """Return the planned token, or else the longest legal one that the text goes on with."""
    # The beginnings cost a walk through the vocabulary; the plan is nearly always legal.
    for token in chain(plan[:1], _beginnings(vocabulary, left)):
        is_legal = mask[token >> 3] >> (token & 7) & 1
        if is_legal and left.startswith(vocabulary.pieces[token]):
            return token
    return None


def _beginnings(vocabulary: Vocabulary, left: bytes) -> Iterator[int]:
    # Special tokens among them: where one is legal, the template's own is meant.
    found = [
        (len(piece), token)
        for token, piece in enumerate(vocabulary.pieces)
        if piece and left.startswith(piece)
    ]
    for _, token in sorted(found, key=lambda pair: (-pair[0], pair[1])):
        yield token


def _ordered(value: Json, schema: Json) -> Json:
    """Return the value with the keys of its objects in the order of their schema."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, list | tuple):
        return [_ordered(item, schema.get("items")) for item in value]
    if not isinstance(value, Mapping):
        return value
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    names = [*(n for n in properties if n in value), *(n for n in value if n not in properties)]
    return {name: _ordered(value[name], properties.get(name)) for name in names}
