"""The terminal, if there is one: whether a person can be asked, and text that it must not obey."""

from __future__ import annotations

import sys


def can_ask() -> bool:
    """Return whether a person sits at both ends; a service may have no streams at all."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def plain(text: str) -> str:
    """Return the text without characters that a terminal obeys; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
