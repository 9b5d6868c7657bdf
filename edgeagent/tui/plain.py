"""Text of models, tools and customers made fit for a screen: never markup, never a control code.

Knows no widget. What is shown may be shortened and cleaned; what is copied is the text itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from edgeagent.messages import Json

_REPLACED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls, escape among them; tab and newline stay
    "\u200e\u200f\u202a-\u202e\u2066-\u2069"  # would reorder what is shown, an approval's text too
    "\ud800-\udfff]"  # half a surrogate pair cannot be written to a terminal
)


def literal(text: str) -> str:
    """Return `text` with everything that could steer a terminal made visible."""
    return _REPLACED.sub(_picture, text.replace("\r\n", "\n")).replace("\t", "    ")


def _picture(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def clipped(text: str, n_characters: int) -> str:
    """Return the start of `text` and how much of it is missing."""
    if len(text) <= n_characters:
        return text
    return f"{text[:n_characters]}\n… {len(text) - n_characters:,} more characters"


def one_line(text: str, width: int) -> str:
    """Return `text` on one line of at most `width` characters."""
    line = " ".join(text[: width * 8].split())
    return line if len(line) <= width else line[: width - 1] + "…"


def whole_words(text: str) -> str:
    """Return the start of `text` up to the blank behind its last finished word."""
    found = re.match(r"(?s).*\S\s", text)
    return found.group() if found else ""


def short_arguments(arguments: Mapping[str, Json], width: int) -> str:
    """Return arguments as `key=value` pairs on one line."""
    pairs = (f"{key}={value if isinstance(value, str) else json.dumps(value)}"
             for key, value in arguments.items())  # fmt: skip
    return one_line(", ".join(pairs), width)


def pretty(content: str) -> str:
    """Return a tool's result indented if it is JSON, and as it is if it is not."""
    try:
        return json.dumps(json.loads(content), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return content


def reason(content: str) -> str:
    """Return what went wrong from a tool's error result: its `error` if it has one."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return str(found["error"]) if isinstance(found, dict) and "error" in found else content


def milliseconds(ms: float) -> str:
    """Return a duration in the unit that a person would say it in."""
    if ms < 1:
        return "<1 ms"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"
