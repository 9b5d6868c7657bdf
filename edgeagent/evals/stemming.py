"""English word stems by Porter's rules, with the refinements that ROUGE scores are computed with.

Only lower-case ASCII words; knows nothing of what the stems are compared for.
Source: Porter 1980, "An algorithm for suffix stripping"; the refinements are those that NLTK
documents as `NLTK_EXTENSIONS`, its default and therefore rouge_score's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

Rule: TypeAlias = tuple[str, str, Callable[[str], bool]]
"""Suffix, what replaces it, and what must hold of the stem before it."""

IRREGULAR = {
    "skies": "sky", "sky": "sky", "dying": "die", "lying": "lie", "tying": "tie", "news": "news",
    "innings": "inning", "inning": "inning", "outings": "outing", "outing": "outing",
    "cannings": "canning", "canning": "canning", "howe": "howe", "proceed": "proceed",
    "exceed": "exceed", "succeed": "succeed",
}  # fmt: skip


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return the stem of a lower-case word; words of one or two letters are their own."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = _without_past(_without_plural(word))
    # Porter asks for a vowel before the y; asking for a consonant right before it keeps "say".
    if word.endswith("y") and len(word) > 2 and _shape(word)[-2] == "c":
        word = word[:-1] + "i"
    word = _first_match(_doubled(word), _STEP_3)
    word = _first_match(word, _STEP_4)
    if word.endswith("e") and _drops_e(word[:-1]):
        word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _shape(word: str) -> str:
    """Return `c` or `v` per letter; a y is a vowel after a consonant."""
    shape = ""
    for letter in word:
        is_vowel = letter in "aeiou" or (letter == "y" and shape.endswith("c"))
        shape += "v" if is_vowel else "c"
    return shape


def _measure(text: str) -> int:
    """Return how often a vowel is followed by a consonant."""
    return _shape(text).count("vc")


def _has_vowel(text: str) -> bool:
    return "v" in _shape(text)


def _ends_short(text: str) -> bool:
    """Tell whether it ends like "hop": consonant, vowel, consonant but w, x, y; or is like "at"."""
    shape = _shape(text)
    return shape == "vc" or (shape.endswith("cvc") and text[-1] not in "wxy")


def _without_plural(word: str) -> str:
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _without_past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    found = re.search(r"(ed|ing)$", word)
    if found is None or not _has_vowel(left := word[: found.start()]):
        return word
    if left.endswith(("at", "bl", "iz")):
        return left + "e"
    if left[-2:] == left[-1:] * 2 and _shape(left)[-1] == "c":
        return left if left[-1] in "lsz" else left[:-1]
    return left + "e" if _measure(left) == 1 and _ends_short(left) else left


def _doubled(word: str) -> str:
    """Shorten double suffixes: -ization to -ize; "alli" is shortened and looked at again."""
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        return _doubled(word[:-2])
    return _first_match(word, _STEP_2)


def _drops_e(text: str) -> bool:
    n = _measure(text)
    return n > 1 or (n == 1 and not _ends_short(text))


def _first_match(word: str, rules: Sequence[Rule]) -> str:
    """Apply the first rule whose suffix is there; when its stem does not qualify, none."""
    for suffix, replacement, holds in rules:
        if word.endswith(suffix):
            left = word[: len(word) - len(suffix)]
            return left + replacement if holds(left) else word
    return word


def _some(text: str) -> bool:
    return _measure(text) > 0


def _much(text: str) -> bool:
    return _measure(text) > 1


def _rules(table: str, holds: Callable[[str], bool]) -> list[Rule]:
    """Read `suffix>replacement` pairs; an empty replacement removes the suffix."""
    pairs = (pair.partition(">") for pair in table.split())
    return [(suffix, replacement, holds) for suffix, _, replacement in pairs]


_STEP_2: list[Rule] = [
    *_rules(
        "ational>ate tional>tion enci>ence anci>ance izer>ize bli>ble alli>al entli>ent eli>e"
        " ousli>ous ization>ize ation>ate ator>ate alism>al iveness>ive fulness>ful ousness>ous"
        " aliti>al iviti>ive biliti>ble fulli>ful",
        _some,
    ),
    ("logi", "log", lambda left: _some(left + "l")),
]
_STEP_3 = _rules("icate>ic ative> alize>al iciti>ic ical>ic ful> ness>", _some)
_STEP_4: list[Rule] = [
    *_rules("al> ance> ence> er> ic> able> ible> ant> ement> ment> ent>", _much),
    ("ion", "", lambda left: _much(left) and left[-1] in "st"),
    *_rules("ou> ism> ate> iti> ous> ive> ize>", _much),
]
