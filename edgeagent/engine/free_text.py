"""Free text in a call: strings that may say anything, where the grammar need not be asked.

In the middle of such a string every character but a quote, a backslash or a control may come next,
and behind it the grammar stands where it stood: what was allowed still is, what closed the answer
still does, and nothing is forced. Knows schemas and bytes; asks no matcher.
Source: llguidance 1.9.1, `CHAR_REGEX` in parser/src/json/compiler.rs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from edgeagent.engine.narrowing import SCALAR
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.wire import Wire
from edgeagent.messages import Json

_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_WHOLE = re.compile(rb'(?:[^"\\]|\\["\\/bfnrt])*')
"""Text of a string that does not end inside an escape; one of four digits is left to be asked."""
_CONTROL = re.compile(r'["\\\x00-\x1f\x7f]')
_REMARKS = frozenset({"title", "description", "default", "examples", "deprecated"})
"""Keywords that constrain nothing."""
_FLAT = _REMARKS | {
    "type", "required", "format", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "minProperties",
    "maxProperties", "$ref", "x-guidance",
}  # fmt: skip
"""Keywords that hold no schema. What a reference names is among the definitions."""
_BY_NAME = frozenset({"$defs", "definitions"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})


class Place(NamedTuple):
    """Where in a call the next byte comes."""

    tail: bytes = b""
    """What was written since the last whole string, as far as it matters."""
    last: bytes = b""
    """The last whole string."""
    is_free: bool = False
    """Between two characters of a string that may go on with any."""


class FreeText:
    """Where the calls of some tools are free text, and which tokens are plain text."""

    def __init__(
        self, schemas: Iterable[Mapping[str, Json]], wire: Wire, vocabulary: Vocabulary
    ) -> None:
        """Follow calls with arguments of these narrowed schemas; costs 3 us per property."""
        heads = _heads(wire)
        # Where the text around the arguments splits a string, strings cannot be followed.
        is_even = not any(b'"' in _STRING.sub(b"", head) for head in heads)
        # What stands behind a key of that text is no argument.
        around = {match[1] for head in heads for match in _STRING.finditer(head)}
        self._keys = free_keys(schemas) - around if is_even else frozenset[bytes]()
        self._pieces = vocabulary.pieces
        self._steering = {*vocabulary.special.values(), *vocabulary.ends}
        self._plain: dict[int, bool] = {}

    def is_plain(self, token: int) -> bool:
        """Tell whether the token is whole characters that a string holds as they are."""
        known = self._plain.get(token)
        if known is None:
            known = token not in self._steering and _is_plain(self._pieces[token])
            self._plain[token] = known
        return known

    def behind(self, place: Place, tokens: Sequence[int]) -> Place:
        """Return the place behind the tokens."""
        if not self._keys or (place.is_free and all(map(self.is_plain, tokens))):
            return place
        tail, last = place.tail + b"".join(self._pieces[token] for token in tokens), place.last
        outside = 0
        for match in _STRING.finditer(tail):
            last, outside = match[1], match.end()
        tail = tail[outside:]
        before, quote, text = tail.partition(b'"')
        if not quote:  # what matters is whether a colon is all that there is
            tail = b"".join(before.split())[:2]
        is_value = bool(quote) and before.strip() == b":" and last in self._keys
        is_free = is_value and _WHOLE.fullmatch(text) is not None and _is_text(text)
        return Place(tail, last, is_free)


def free_keys(schemas: Iterable[Mapping[str, Json]]) -> frozenset[bytes]:
    """Return the names of properties whose value, wherever it is a string, may be any string.

    None at all where a schema says something about strings that this does not understand.
    """
    found: dict[str, bool] = {}
    if not all(_walk(schema, found) for schema in schemas):
        return frozenset()
    return frozenset(name.encode() for name, is_free in found.items() if is_free)


def _walk(schema: Json, found: dict[str, bool]) -> bool:
    """Note every property; tell whether all of the schema is understood."""
    if not isinstance(schema, Mapping):
        return isinstance(schema, bool)
    return all(_walk_keyword(key, value, found) for key, value in schema.items())


def _walk_keyword(key: str, value: Json, found: dict[str, bool]) -> bool:
    if key == "properties":
        for name, part in value.items():
            found[name] = found.get(name, True) and _is_free(part)
    if key == "properties" or key in _BY_NAME:
        return all(_walk(part, found) for part in value.values())
    if key in _LISTS:
        return all(_walk(part, found) for part in value)
    if key == "items":
        return _walk(value, found)
    if key == "additionalProperties":  # any name may be one of these
        return value is False or value == SCALAR or _is_free(value)
    if key in ("enum", "const"):  # a whole object may be one of these
        options = value if key == "enum" else [value]
        return not any(isinstance(option, dict | list) for option in options)
    return key in _FLAT


def _is_free(schema: Json) -> bool:
    return (
        isinstance(schema, Mapping)
        and schema.get("type") == "string"
        and schema.keys() <= {"type", *_REMARKS}
    )


def _heads(wire: Wire) -> list[bytes]:
    """Return what may stand around a name, before and between calls."""
    befores = [wire.before] if wire.separator is None else [wire.before, wire.separator]
    return [f"{before}name{wire.between}".encode() for before in befores]


def _is_plain(piece: bytes) -> bool:
    return bool(piece) and _is_text(piece) and not _CONTROL.search(piece.decode())


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
