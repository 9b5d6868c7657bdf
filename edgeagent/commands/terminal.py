"""Text on its way to a terminal that must not obey it."""

from __future__ import annotations


def plain(text: str) -> str:
    """Return the text without characters that a terminal obeys; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
