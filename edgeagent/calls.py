"""Calls as text and as values: ids, validation, and the reply inside an unfinished call.

Knows tools' schemas and no model; what a local or a larger model wrote is checked here alike.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from edgeagent.messages import RESPOND, Json, Tool

_REPLY = re.compile(
    rf'"name"\s*:\s*"{RESPOND}"\s*,\s*"\w+"\s*:\s*\{{\s*"message"\s*:\s*"((?:[^"\\]|\\.)*)',
    re.DOTALL,
)
_UNFINISHED = re.compile(r"\\u[0-9a-fA-F]{0,3}$")
_LONE = re.compile("[\ud800-\udfff]")


def new_id() -> str:
    """Return a call id that no other call has."""
    return f"call_{secrets.token_hex(6)}"


def partial_reply(raw: str) -> str:
    """Return what the customer may read of an unfinished call; "" when it is not a reply.

    `raw` is the call's text so far, from its beginning, in any syntax that writes the name before
    the arguments. What `raw` grows by, the reply grows by: no character is taken back.
    """
    found = _REPLY.search(raw)
    if found is None:
        return ""
    body = _UNFINISHED.sub("", found[1])
    try:
        text = str(json.loads(f'"{body}"', strict=False))
    except ValueError:  # an escape that JSON does not know, from a larger model
        return ""
    if "\ud800" <= text[-1:] <= "\udbff":
        text = text[:-1]  # the second half of the character is still to come
    return _LONE.sub("\ufffd", text)


def validate(name: str, arguments: Json, tools: Sequence[Tool]) -> str | None:
    """Return why the call is invalid, in one line; None when it is valid."""
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        return f"there is no tool {name!r}"
    if not isinstance(arguments, Mapping):
        return f"the arguments of {name} are not an object"
    if not _is_finite(arguments):
        return f"the arguments of {name} hold a number that JSON cannot write"
    schema = {"type": "object", **tool.parameters}
    error = best_match(Draft202012Validator(schema).iter_errors(arguments))
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path)
    message = error.message if len(error.message) <= 200 else f"{error.message[:200]}…"
    return f"{name}, {where}: {message}" if where else f"{name}: {message}"


def _is_finite(value: Json) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case Mapping():
            return all(_is_finite(item) for item in value.values())
        case list() | tuple():
            return all(_is_finite(item) for item in value)
    return True
