"""Values that are copied from the conversation: ids and names that nobody has said are not written.

A small model knows well that an id comes next, and sometimes begins it with another word's first
letters. Among the tokens that the grammar allows, only those count then that go on with a word of
the conversation. Where none does, the grammar alone decides, so an answer never gets stuck.
Knows the bytes of tokens and the layout of a call; knows no schema and no logits.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from typing import NamedTuple

from edgeagent.engine.wire import Wire
from edgeagent.manifest import Dialect
from edgeagent.messages import (
    RESPOND,
    CallMessage,
    Conversation,
    ResultMessage,
    UserMessage,
)

MIN_ID = 3
"""Letters and digits; shorter words are no ids."""
MIN_ALIKE = 5
"""A word of capitals or of digits alone is an id from this length on: three are an airport."""
MAX_CODE_ONLY = 4
"""Words of a message that may be nothing but a code, which then has no digit and no capitals."""

_RUN = re.compile(r"[\w'&-]+")
_PARTS = re.compile("['&-]")
"""What may stand inside a name, or join one to something else."""
_WORD = frozenset(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_'&-" + bytes(range(128, 256))
)
_TAIL = re.compile(rb"[A-Za-z0-9_'&\x80-\xff-]*\Z")
_STEERS = re.compile(rb'["\\]')
_MAY_INVENT = re.compile(rb'["\\0-9]')
"""What a piece of a reply, or the word before it, has where it may begin or end an id."""
_DIGITS = frozenset(b"0123456789")
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_QUOTE, _BACKSLASH, _COLON, _BLANK = b'"\\: '


class Words:
    """Words to copy, in order, so that beginnings are found."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = sorted({word.encode("utf-8", "replace") for word in words})

    def __contains__(self, word: bytes) -> bool:
        at = bisect_left(self._words, word)
        return at < len(self._words) and self._words[at] == word

    def __len__(self) -> int:
        return len(self._words)

    def begin(self, start: bytes) -> bool:
        """Tell whether a word begins so."""
        at = bisect_left(self._words, start)
        return at < len(self._words) and self._words[at].startswith(start)


class Copying:
    """What of one conversation may be copied, and whether a token goes on with it."""

    def __init__(
        self, conversation: Conversation, dialect: Dialect, wire: Wire, pieces: Sequence[bytes]
    ) -> None:
        """Offer the words of customers and of tools' results, and to names those of replies.

        A customer answers to a name that a reply spelled out; an id in it may have been misread.
        """
        self._said: list[str] = []
        self._replied: list[str] = []
        codes: set[str] = set()
        owners = _Owners(dialect.copied_ids)
        for message in conversation:
            match message:
                case UserMessage(text):
                    self._said.append(text)
                    codes |= _codes(text)
                case ResultMessage(name=name, content=content) if name != RESPOND:
                    self._said.append(content)
                    owners.learn(content)
                case CallMessage(calls):
                    replies = (call.arguments for call in calls if call.name == RESPOND)
                    self._replied += [str(reply.get("message", "")) for reply in replies]
                case _:
                    pass
        ids = codes.union(*map(_ids_of, self._said))
        self._ids = Words(ids)
        self._ids_of = {
            key.encode(): Words(owners.without_others(ids, key)) for key in dialect.copied_ids
        }
        self._id_keys = frozenset(self._ids_of)
        self._word_keys = frozenset(key.encode() for key in dialect.copied_words)
        self._keys = self._id_keys | self._word_keys
        self._between = wire.between.encode()
        self._pieces = pieces
        self.restart()

    @cached_property
    def _words(self) -> Words:
        # Made on use: few steps write a name, and a long conversation has a thousand words.
        return Words(frozenset().union(*map(_words_of, chain(self._said, self._replied))))

    def restart(self) -> None:
        """Forget what was written."""
        self._n_read = 0
        self._head: bytes | None = b""
        """What stands before the arguments; None from there on."""
        self._place = _OUTSIDE

    def has(self, answer: Sequence[int]) -> bool:
        """Tell whether every token of the answer is taken where it stands; then starts anew."""
        self.restart()
        is_taken = True
        for n, token in enumerate(answer):
            self.read(answer[:n])
            is_taken = is_taken and self.takes(token)
        self.restart()
        return is_taken

    def read(self, tokens: Sequence[int]) -> None:
        """Take the answer as far as it is written; it only grows."""
        for token in tokens[self._n_read :]:
            self._place = self._after(self._pieces[token])
        self._n_read = len(tokens)

    def _after(self, piece: bytes) -> _Place:
        if self._head is not None:
            self._head += piece
            _, begun, piece = self._head.partition(self._between)
            if not begun:
                return _OUTSIDE
            self._head = None
            place = _Place(last=_last_byte(self._between))
        else:
            place = self._place
        return place.behind(piece)

    def takes(self, token: int) -> bool:
        """Tell whether the token copies, as far as anything has to be copied here."""
        if self._head is not None:
            return True
        piece, place = self._pieces[token], self._place
        if not place.is_value:
            if _QUOTE not in piece:
                return True
        elif not (place.key in self._keys or _MAY_INVENT.search(place.word + piece)):
            return True
        for byte in piece:
            if place.is_value and not self._takes(place, byte):
                return False
            place = place.after(byte)
        return True

    def _takes(self, place: _Place, byte: int) -> bool:
        """Tell whether a value may go on with the byte, or end where it is a quote."""
        word, is_end = place.word, byte not in _WORD
        if place.key in self._id_keys:
            ids = self._ids_of[place.key] or self._ids
            return not ids or (word in ids if byte == _QUOTE else ids.begin(word + bytes((byte,))))
        if place.key in self._word_keys:
            if is_end:
                return not word or not self._words or word in self._words
            return not self._words or self._words.begin(word + bytes((byte,)))
        if not word or word[0] not in _LETTERS or not self._ids.begin(word):
            return True
        has_digit = not _DIGITS.isdisjoint(word)
        if is_end:
            return not has_digit or word in self._ids
        if has_digit or byte in _DIGITS:
            return self._ids.begin(word + bytes((byte,)))
        return True


class _Place(NamedTuple):
    """Where in the arguments the next byte comes; one is made for almost every byte."""

    is_string: bool = False
    is_value: bool = False
    """In a string that is the value of a key."""
    is_escaped: bool = False
    string: bytes = b""
    """The string under way, or the last one."""
    key: bytes = b""
    """Names the value."""
    word: bytes = b""
    """The end of the value that is one word."""
    last: int = 0
    """The last byte outside strings that is no blank."""

    def behind(self, piece: bytes) -> _Place:
        """Return the place behind the bytes."""
        if self.is_value and not self.is_escaped and not _STEERS.search(piece):
            tail = _TAIL.search(piece)
            assert tail is not None, "it matches nothing at the end"
            word = tail[0] if tail.start() else self.word + tail[0]
            return _Place(is_string=True, is_value=True, key=self.key, word=word)
        place = self
        for byte in piece:
            place = place.after(byte)
        return place

    def after(self, byte: int) -> _Place:
        """Return the place behind the byte."""
        if not self.is_string:
            if byte == _QUOTE:
                is_value = self.last == _COLON
                key = self.string if is_value else b""
                return _Place(is_string=True, is_value=is_value, key=key)
            return self if byte <= _BLANK else _Place(string=self.string, last=byte)
        if byte == _QUOTE and not self.is_escaped:
            return _Place(string=self.string, last=byte)
        is_escaped = byte == _BACKSLASH and not self.is_escaped
        if self.is_value:  # only keys are looked at again
            word = self.word + bytes((byte,)) if byte in _WORD else b""
            return _Place(True, True, is_escaped, key=self.key, word=word)
        return _Place(True, False, is_escaped, string=self.string + bytes((byte,)))


_OUTSIDE = _Place()


class _Owners:
    """Which key an id belongs to, as far as results have shown it under one.

    A flight's number is no user id, even if it is the only word that a model thinks of. What no
    result has shown under any key, as what a customer has just said, may be anything.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        names = "|".join(map(re.escape, keys))
        self._values = re.compile(rf'"({names})":\s*"([^"\\]+)"') if keys else None
        self._words: dict[str, set[str]] = {key: set() for key in keys}
        self._forms: dict[str, set[str]] = {key: set() for key in keys}

    def learn(self, content: str) -> None:
        """Take in a result."""
        for key, value in _keyed(self._values, content) if self._values else ():
            self._words[key].add(value)
            if "_" in value:
                self._forms[key].add(_form(value))

    def without_others(self, ids: Iterable[str], key: str) -> frozenset[str]:
        """Return the ids that may be the value of `key`."""
        forms = _union(self._forms, key) - self._forms[key] if self._forms[key] else set()
        words = _union(self._words, key) - self._words[key]
        return frozenset(
            word for word in ids
            if word not in words and not ("_" in word and forms and _form(word) in forms)
        )  # fmt: skip


def _union(of_keys: Mapping[str, set[str]], but: str) -> set[str]:
    return {one for key, own in of_keys.items() if key != but for one in own}


@lru_cache(maxsize=4096)
def _form(word: str) -> str:
    """Return what ids joined by underscores have in common: `a_a_0000` for `mia_li_3668`."""
    return re.sub(r"\d", "0", re.sub(r"[A-Za-z]+", "a", word))


def _last_byte(text: bytes) -> int:
    stripped = text.rstrip()
    return stripped[-1] if stripped else 0


@lru_cache(maxsize=256)
def _keyed(values: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    return values.findall(text)


@lru_cache(maxsize=256)
def _ids_of(text: str) -> frozenset[str]:
    """Return the ids in a text, as written and in the case that records have."""
    found: set[str] = set()
    for match in _RUN.finditer(text):
        word = match.group(0)
        if len(word) >= MIN_ID and _is_id(word):
            # Customers write a code in small letters, and a name with a capital.
            found |= {word, word.lower() if "_" in word else word.upper()}
    return frozenset(found)


@lru_cache(maxsize=256)
def _words_of(text: str) -> frozenset[str]:
    """Return the words of a text, as written, with a capital and in capitals."""
    found: set[str] = set()
    for match in _RUN.finditer(text):
        word = match.group(0)
        for part in (word, word.strip("'&-"), *_PARTS.split(word)):
            found |= {part, part[:1].upper() + part[1:], part.upper()}
    return frozenset(found - {""})


def _is_id(word: str) -> bool:
    has_digit = any(letter.isdigit() for letter in word)
    has_letter = any(letter.isalpha() for letter in word)
    if has_digit and has_letter:
        return True
    return len(word) >= MIN_ALIKE and (has_digit or word.isupper())


def _codes(text: str) -> frozenset[str]:
    """Return what may be a code of small letters in a message that says little else."""
    words = text.split()
    if len(words) > MAX_CODE_ONLY:
        return frozenset()
    alike = (match.group(0) for match in _RUN.finditer(text))
    return frozenset(word.upper() for word in alike if len(word) >= MIN_ALIKE)
