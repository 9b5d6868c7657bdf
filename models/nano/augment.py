"""Variations of a conversation that keep it true: other values, other tools, other names.

What is replaced is replaced everywhere, so the new value still has to be read from the context.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from models.nano import values
from models.nano.dialogue import DEFER_TOOL, THINK_TOOL, TRANSFER_TOOL, Dialogue
from models.nano.template import Message, Tool, call, respond, result, tool, user

_KEEP = re.compile(r"^(true|false|dontcare|\d{1,2}|none)$", re.IGNORECASE)
_KEEP_KEYS = re.compile(r"(^time$|_time$|date|number_of|party|^seats|class|currency)")

_REFUSALS = (
    "I'm sorry, I can't help with that here. I can help you with {what}.",
    "That is not something I can do. Is there anything about {what} that you need?",
    "Sorry, none of my tools can do that. I can assist with {what}.",
    "I'm afraid that is outside of what I can help with; ask me about {what}.",
)


def canonical(dialogue: Dialogue) -> Dialogue:
    """Return the dialogue with every call's arguments in the order of its tool's properties."""
    orders = {
        t["function"]["name"]: list(t["function"]["parameters"].get("properties", {}))
        for t in dialogue.tools
    }
    messages = []
    for message in dialogue.messages:
        if calls := message.get("tool_calls"):
            name, arguments = calls[0]["function"]["name"], calls[0]["function"]["arguments"]
            keys = [key for key in orders[name] if key in arguments]
            message = call(name, {key: arguments[key] for key in keys})
        messages.append(message)
    return replace(dialogue, messages=tuple(messages))


def replace_values(dialogue: Dialogue, rng: Random, vocabulary: tuple[str, ...]) -> Dialogue:
    """Return the dialogue with its open values replaced by values made up for this call.

    A value that a call uses before the context spells it out (a city the customer abbreviated)
    is kept, because its replacement could not be known.
    """
    replacements = {
        old: _replacement(key, old, rng, vocabulary) for old, key in _open_values(dialogue).items()
    }
    if not replacements:
        return dialogue
    lowered = {old.lower(): new for old, new in replacements.items()}
    ordered = sorted(lowered, key=len, reverse=True)
    pattern = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, ordered)) + r")(?!\w)", re.I)

    def swap(text: str) -> str:
        return pattern.sub(lambda match: lowered[match.group(0).lower()], text)

    messages = tuple(_map_text(message, swap) for message in dialogue.messages)
    return replace(dialogue, messages=messages)


def _open_values(dialogue: Dialogue) -> dict[str, str]:
    enums = {
        str(value)
        for t in dialogue.tools
        for spec in t["function"]["parameters"].get("properties", {}).values()
        for value in spec.get("enum", ())
    }
    found: dict[str, str] = {}
    unknown: set[str] = set()
    context = ""
    for message in dialogue.messages:
        if calls := message.get("tool_calls"):
            arguments = calls[0]["function"]["arguments"]
            if "message" in arguments:
                context += " " + arguments["message"].lower()
                continue
            for key, value in arguments.items():
                found.setdefault(str(value), key)
                if str(value).lower() not in context:
                    unknown.add(str(value))
        elif message["role"] == "tool":
            context += " " + message["content"].lower()
            for row in json.loads(message["content"]):
                for key, value in row.items():
                    found.setdefault(str(value), key)
        else:
            context += " " + message["content"].lower()
    return {
        value: key
        for value, key in found.items()
        if value not in enums | unknown and not _KEEP.match(value) and not _KEEP_KEYS.search(key)
    }


def _replacement(key: str, old: str, rng: Random, vocabulary: tuple[str, ...]) -> str:
    if "phone" in key:
        return values.phone(rng)
    if "address" in key and any(c.isdigit() for c in old):
        return values.address(rng, vocabulary)
    if re.fullmatch(r"[\d.,]+", old):
        return values.digits(rng, 1).replace("0", "7") + re.sub(
            r"\d", lambda _: values.digits(rng, 1), old[1:]
        )
    if re.fullmatch(r"[A-Z]{3}", old):
        return values.airport(rng)
    if re.search(r"[^\w\s]", old) and rng.random() < 0.7:
        # An ampersand or an apostrophe inside a name is where copying breaks off.
        return re.sub(
            r"[^\W\d_]{2,}", lambda _: values.name(rng, 1, vocabulary), re.sub(r"\d", "7", old)
        )
    n_words = max(1, min(6, len(old.split()) + rng.choice((-1, 0, 0, 0, 1))))
    return values.name(rng, n_words, vocabulary)


def _map_text(message: Message, swap: Any) -> Message:
    if calls := message.get("tool_calls"):
        function = calls[0]["function"]
        arguments = {
            key: swap(value) if isinstance(value, str) else value
            for key, value in function["arguments"].items()
        }
        return call(function["name"], arguments)
    if message["role"] == "tool":
        rows = json.loads(message["content"])
        swapped = [
            {key: swap(v) if isinstance(v, str) else v for key, v in row.items()} for row in rows
        ]
        return result(swapped)
    return user(swap(message["content"]))


def vary_tools(dialogue: Dialogue, rng: Random, others: Sequence[Tool]) -> Dialogue:
    """Return the dialogue with its tools permuted and perhaps renamed, among other tools."""
    tools = list(dialogue.tools)
    names = {t["function"]["name"] for t in tools}
    if rng.random() < 0.3:
        extra = rng.sample(list(others), min(len(others), rng.randint(1, 4)))
        tools += [t for t in extra if t["function"]["name"] not in names]
    if rng.random() < 0.3:
        tools += [t for t in (THINK_TOOL, TRANSFER_TOOL, DEFER_TOOL) if rng.random() < 0.6]
    if rng.random() < 0.6:
        rng.shuffle(tools)
    unique = {t["function"]["name"]: t for t in tools}
    varied = replace(dialogue, tools=tuple(unique.values()))
    return canonical(_rename(varied, rng) if rng.random() < 0.35 else varied)


def _rename(dialogue: Dialogue, rng: Random) -> Dialogue:
    """Return the dialogue with service tools under another spelling, and keys shuffled."""
    style = rng.choice((_snake, _camel, lambda name: _snake(name) + "_" + values.word(rng).lower()))
    mapping = {
        t["function"]["name"]: style(t["function"]["name"])
        for t in dialogue.tools
        if t["function"]["name"][0].isupper()
    }
    tools = []
    for t in dialogue.tools:
        function = t["function"]
        properties = list(function["parameters"]["properties"].items())
        rng.shuffle(properties)
        name = mapping.get(function["name"], function["name"])
        tools.append(tool(name, dict(properties), function["parameters"]["required"]))
    messages = tuple(
        call(mapping.get(f["name"], f["name"]), f["arguments"])
        if (f := m["tool_calls"][0]["function"] if m.get("tool_calls") else None)
        else m
        for m in dialogue.messages
    )
    return replace(dialogue, tools=tuple(tools), messages=messages)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _camel(name: str) -> str:
    return name[0].lower() + name[1:]


def irrelevant(dialogue: Dialogue, request: str, rng: Random) -> Dialogue:
    """Return the dialogue begun by `request`, which none of its tools can serve, and refused."""
    names = [t["function"]["name"] for t in dialogue.tools if t["function"]["name"][0].isupper()]
    what = " or ".join(_snake(name).replace("_", " ") for name in names[:2]) or "something else"
    refusal = respond(rng.choice(_REFUSALS).format(what=what))
    return replace(dialogue, messages=(user(request), refusal, *dialogue.messages))
