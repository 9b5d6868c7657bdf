"""How a GGUF file begins: its metadata and its list of tensors, as bytes.

Knows no model and writes no file: it gets entries and tensor places. The tensors follow in the
order of the list, each padded to the alignment.
Source: ggml 0.25.3, docs/gguf.md; version 3, little-endian, alignment 32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from edgeagent.errors import ConversionError
from edgeagent.gguf_header import ALIGNMENT, MAGIC, SCALARS, VERSION, TensorType, Value, ValueType

UINT32 = struct.Struct("<I")
UINT64 = struct.Struct("<Q")
LONGEST_SHOWN = 80
"""Characters of a value in an error."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One metadata value."""

    key: str
    kind: ValueType
    """Of the value, or of an array's elements."""
    value: Value


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor that is going to be written."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    """Rows first, numpy's order."""

    @property
    def n_bytes(self) -> int:
        return self.type.n_bytes(prod(self.shape))

    @property
    def n_rows(self) -> int:
        return prod(self.shape[:-1])


@dataclass(frozen=True, slots=True)
class Carried:
    """One metadata value, as it stands in another GGUF file."""

    key: str
    raw: bytes
    """Its type and value, behind the key."""


def text(key: str, value: str) -> Entry:
    """Return an entry that holds text."""
    return Entry(key, ValueType.STRING, value)


def u32(key: str, value: int) -> Entry:
    """Return an entry that holds a whole number."""
    return Entry(key, ValueType.UINT32, value)


def f32(key: str, value: float) -> Entry:
    """Return an entry that holds a number."""
    return Entry(key, ValueType.FLOAT32, value)


def head(entries: Sequence[Entry | Carried], slots: Sequence[Slot]) -> bytes:
    """Return everything in front of the first tensor, padding included.

    Raises:
        ConversionError: a value does not fit its type.
    """
    parts = [MAGIC, UINT32.pack(VERSION), UINT64.pack(len(slots)), UINT64.pack(len(entries))]
    for entry in entries:
        if isinstance(entry, Carried):
            parts += [_text(entry.key), entry.raw]
            continue
        try:
            parts += [_text(entry.key), *_value(entry)]
        except (struct.error, UnicodeEncodeError) as exc:
            shown = repr(entry.value)[:LONGEST_SHOWN]
            raise ConversionError(f"{entry.key} cannot be {shown}: {exc}") from exc
    offset = 0
    for slot in slots:
        parts += [_text(slot.name), UINT32.pack(len(slot.shape))]
        parts += [UINT64.pack(n) for n in reversed(slot.shape)]
        parts += [UINT32.pack(slot.type), UINT64.pack(offset)]
        offset += slot.n_bytes + padding(slot.n_bytes)
    written = b"".join(parts)
    return written + bytes(padding(len(written)))


def size_bytes(entries: Sequence[Entry | Carried], slots: Sequence[Slot]) -> int:
    """Return how long the whole file will be."""
    return len(head(entries, slots)) + sum(s.n_bytes + padding(s.n_bytes) for s in slots)


def padding(n_bytes: int) -> int:
    """Return how many zero bytes follow so many."""
    return -n_bytes % ALIGNMENT


def _value(entry: Entry) -> Iterable[bytes]:
    if not isinstance(entry.value, list):
        yield UINT32.pack(entry.kind)
        yield _scalar(entry.kind, entry.value)
        return
    yield UINT32.pack(ValueType.ARRAY)
    yield UINT32.pack(entry.kind)
    yield UINT64.pack(len(entry.value))
    if entry.kind is ValueType.STRING:
        yield from (_text(str(item)) for item in entry.value)
    else:
        letter = SCALARS[entry.kind].format[-1]
        yield struct.pack(f"<{len(entry.value)}{letter}", *entry.value)


def _scalar(kind: ValueType, value: Value) -> bytes:
    return _text(str(value)) if kind is ValueType.STRING else SCALARS[kind].pack(value)


def _text(value: str) -> bytes:
    encoded = value.encode("utf-8")
    return UINT64.pack(len(encoded)) + encoded
