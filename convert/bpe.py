"""Qwen's tokenizer in plain Python, from tokenizer.json alone: what llama.cpp is held against.

Slow (0.1 ms per word) and made for samples. Shares nothing with llama.cpp's tables; Unicode
classes are Python's own.
Source: tokenizers 0.21, `pre_tokenizers::split`, `pre_tokenizers::byte_level`, `models::bpe`.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise

from convert.tokenizer import SPLIT, Tokenizer, TokenType


class Reference:
    """Text to token ids, as the checkpoint's own tokenizer would do it."""

    def __init__(self, words: Tokenizer) -> None:
        """Prepare from a tokenizer that was read; costs 0.3 s, most of it Unicode's classes."""
        self._ids = {token: i for i, token in enumerate(words.tokens)}
        pairs = (merge.split(" ") for merge in words.merges)
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
        added = [
            token
            for token, kind in zip(words.tokens, words.types, strict=True)
            if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
        ]
        longest_first = sorted(added, key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if added else None

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text, its added tokens found first."""
        ids: list[int] = []
        parts = self._added.split(text) if self._added else [text]
        for number, part in enumerate(parts):
            if number % 2:
                ids.append(self._ids[part])
                continue
            for word in _pattern().findall(unicodedata.normalize("NFC", part)):
                ids += self._word(word)
        return ids

    def _word(self, word: str) -> Iterator[int]:
        parts = [_alphabet()[byte] for byte in word.encode("utf-8")]
        while len(parts) > 1:
            ranked = [
                (self._ranks.get(pair, sys.maxsize), at) for at, pair in enumerate(pairwise(parts))
            ]
            rank, at = min(ranked)
            if rank == sys.maxsize:
                break
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        return (self._ids[part] for part in parts)


def first_difference(one: Sequence[object], other: Sequence[object]) -> int | None:
    """Return the first place where the two differ; None where they are equal."""
    if list(one) == list(other):
        return None
    shared = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(shared, min(len(one), len(other)))


@cache
def _alphabet() -> Mapping[int, str]:
    """Return the character that stands for each byte in byte-level vocabularies."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}


@cache
def _pattern() -> re.Pattern[str]:
    r"""Return Qwen's split, with \p{L} and \p{N} spelled out, which Python's `re` lacks."""
    pattern = re.sub(r"(?<![\[}])\\p\{(\w)\}(?=[+|])", r"[\\p{\1}]", SPLIT)
    for letter in "LN":
        pattern = pattern.replace(rf"\p{{{letter}}}", _class(letter))
    return re.compile(pattern)


def _class(letter: str) -> str:
    """Return the ranges of all characters whose category begins with the letter."""
    ranges: list[tuple[int, int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code))[0] == letter:
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1] = (ranges[-1][0], code)
            else:
                ranges.append((code, code))
    return "".join(f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in ranges)
