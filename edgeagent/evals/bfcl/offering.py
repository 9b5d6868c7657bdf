"""A BFCL entry as the product's runtime is shown it: functions as tools, messages as conversation.

The benchmark's types become JSON Schema's, as its own handlers do it; whatever a grammar has no
use for is left out. Knows no rules of scoring.
Source: gorilla 4d05b53f, model_handler: type mapping and language hints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeagent.evals.bfcl.checker import Language
from edgeagent.evals.bfcl.entries import Entry
from edgeagent.messages import (
    DEFER,
    RESPOND,
    Conversation,
    Json,
    Message,
    TextMessage,
    Tool,
    ToolKind,
    UserMessage,
)

POLICY = (
    "Answer the question with calls of the tools you are given. "
    "If none of them fits, or a value that they require is missing, do not call one: say so."
)
_TYPES: Mapping[str, str] = {
    "dict": "object", "float": "number", "tuple": "array", "any": "string", "string": "string",
    "integer": "integer", "boolean": "boolean", "array": "array", "object": "object",
    "number": "number",
}  # fmt: skip
_HINTS: Mapping[Language, str] = {
    "python": "Python 3",
    "java": "Java 8 SDK",
    "javascript": "JavaScript",
}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Offer:
    """What a model is shown for one entry."""

    policy: str
    tools: tuple[Tool, ...]
    conversation: Conversation
    names: Mapping[str, str]
    """Tool → the function's own name, where a tool cannot be called by it."""


def offer(entry: Entry, language: Language, *, with_reply: bool, with_deferral: bool) -> Offer:
    """Return the entry as a prompt; replies and deferrals are tools where they are asked for."""
    names: dict[str, str] = {}
    tools: list[Tool] = []
    for function in entry.functions:
        name = _free_name(function["name"], names)
        names[name] = function["name"]
        tools.append(_tool(name, function, language))
    if with_reply and RESPOND not in names:
        tools.append(_control(RESPOND, "Say something to the user.", "message"))
    if with_deferral and DEFER not in names:
        tools.append(_control(DEFER, "Leave this question to the larger model.", "reason"))
    said = [m["content"] for m in entry.messages if m.get("role") == "system"]
    conversation: list[Message] = [
        TextMessage(m["content"]) if m.get("role") == "assistant" else UserMessage(m["content"])
        for m in entry.messages
        if m.get("role") != "system"
    ]
    return Offer("\n\n".join([*said, POLICY]), tuple(tools), tuple(conversation), names)


def _free_name(name: str, taken: Mapping[str, str]) -> str:
    """Return the name as a tool can bear it, unlike the others."""
    fitting = _NOT_IN_NAMES.sub("_", name)[:LONGEST_NAME] or "_"
    number = 2
    while fitting in taken:
        fitting = f"{fitting[: LONGEST_NAME - 4]}_{number}"
        number += 1
    return fitting


def _tool(name: str, function: Mapping[str, Json], language: Language) -> Tool:
    schema = function.get("parameters", {})
    properties = schema.get("properties", {})
    convert = _schema if language == "python" else _source
    parameters = {
        "type": "object",
        "properties": {key: convert(one) for key, one in properties.items()},
        "required": [key for key in schema.get("required", []) if key in properties],
    }
    hint = f"Note that the provided function is in {_HINTS[language]} syntax."
    description = f"{function.get('description') or ''} {hint}".strip()
    return Tool(name, description, parameters, ToolKind.READ)


def _schema(declared: Json) -> dict[str, Json]:
    """Return a parameter's JSON Schema; what it cannot be is a string."""
    if not isinstance(declared, Mapping):
        return {"type": "string"}
    kind = str(declared.get("type", "any"))
    out: dict[str, Json] = {"type": _TYPES.get(kind, "string")}
    if description := declared.get("description"):
        is_float = " This is a float type value." if kind == "float" else ""
        out["description"] = f"{description}{is_float}"
    options = _enum(declared.get("enum"), out["type"])
    if options:
        out["enum"] = options
    if out["type"] == "array" and isinstance(declared.get("items"), Mapping):
        out["items"] = _schema(declared["items"])
    properties = declared.get("properties")
    if out["type"] == "object" and isinstance(properties, Mapping) and properties:
        out["properties"] = {key: _schema(one) for key, one in properties.items()}
        required = declared.get("required")
        if isinstance(required, list):
            out["required"] = [key for key in required if key in properties]
    return out


def _enum(options: Json, kind: str) -> Sequence[Json]:
    """Return the options that are of the parameter's type; a list declares those of its items."""
    types: dict[str, type | tuple[type, ...]] = {
        "string": str, "integer": int, "number": (int, float), "boolean": bool
    }  # fmt: skip
    if not isinstance(options, list) or kind not in types:
        return []
    return [one for one in options if isinstance(one, types[kind])]


def _source(declared: Json) -> dict[str, Json]:
    """Return the schema of a parameter that is written as source text."""
    known = declared if isinstance(declared, Mapping) else {}
    text = f"{known.get('description') or ''} This is a {known.get('type', 'any')} as source text."
    return {"type": "string", "description": text.strip()}


def _control(name: str, description: str, parameter: str) -> Tool:
    schema = {"type": "object", "properties": {parameter: {"type": "string"}},
              "required": [parameter]}  # fmt: skip
    return Tool(name, description, schema, ToolKind.CONTROL)
