"""Java and JavaScript literals as values: models answer these categories in source text.

What is no literal of its declared type stays text, which is how a variable's name passes. The
benchmark reads source with patterns, not with a parser, and is followed where they go wrong:
lists are cut at every comma, and an object ends at its first closing brace.
Source: gorilla 492322e, java_type_converter and js_type_converter (Apache-2.0); re-implemented.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from edgeagent.messages import Json

_JAVA: Mapping[str, type] = {
    "byte": int, "short": int, "integer": int, "long": int, "float": float, "double": float,
    "boolean": bool, "char": str, "String": str, "any": str, "Array": list, "ArrayList": list,
    "Queue": list, "Stack": list, "Set": set, "HashMap": dict, "Hashtable": dict,
}  # fmt: skip
_JAVASCRIPT: Mapping[str, type] = {
    "String": str, "integer": int, "float": float, "Bigint": int, "Boolean": bool, "dict": dict,
    "array": list, "any": str,
}  # fmt: skip
_LISTS = ("Array", "ArrayList", "array")
_WHOLE, _FRACTION, _EXPONENT = r"-?\d+", r"(?:\.\d+)?", r"(?:[eE][+-]?\d+)?"
_LITERALS: Mapping[str, Mapping[str, str]] = {
    "java": {
        "byte": f"({_WHOLE})",
        "short": f"({_WHOLE})",
        "integer": f"({_WHOLE})",
        "long": f"({_WHOLE})[lL]",
        "float": f"({_WHOLE}{_FRACTION}{_EXPONENT})[fF]",
        "double": f"({_WHOLE}{_FRACTION}{_EXPONENT})",
        "boolean": "(true|false)",
    },
    "javascript": {
        "integer": f"({_WHOLE})",
        "Bigint": f"({_WHOLE})n",
        "float": f"({_WHOLE}{_FRACTION})",
        "Boolean": "(true|false)",
    },
}
"""Type → what its literals look like; the group is the value."""
_MOST_DIGITS = 4000


def types(
    language: Literal["java", "javascript"], type_name: str, item_name: str
) -> tuple[type | None, type | None]:
    """Return the Python types of a parameter and of its items; None for a type not known."""
    table = _JAVA if language == "java" else _JAVASCRIPT
    return table.get(type_name), table.get(item_name) if type_name in _LISTS else None


def convert(
    language: Literal["java", "javascript"], text: str, type_name: str, item_name: str = ""
) -> Json:
    """Return the value that the source text is a literal of, else the text itself."""
    match language, type_name:
        case "java", "ArrayList":
            return _array_list(text, item_name)
        case "java", "Array":
            return _java_array(text, item_name)
        case "java", "HashMap":
            return _hash_map(text)
        case "javascript", "array":
            return _javascript_array(text.strip(), item_name)
        case "javascript", "dict":
            return _javascript_object(text.strip())
        case "javascript", "String" if _is_quoted(text):
            return text[1:-1]
    return _scalar(language, text, type_name)


def _scalar(language: Literal["java", "javascript"], text: str, type_name: str) -> Json:
    pattern = _LITERALS[language].get(type_name)
    found = re.fullmatch(pattern, text) if pattern and len(text) < _MOST_DIGITS else None
    if found is None:
        return text
    kind, _ = types(language, type_name, "")
    if kind is bool:
        return found[1] == "true"
    return int(found[1]) if kind is int else float(found[1])


def _is_quoted(text: str) -> bool:
    return text[:1] in ('"', "'") and text.endswith(text[:1])


def _guessed(text: str) -> Json:
    """Return the value of a literal whose type is not declared."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _java_guessed(text: str) -> Json:
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    for type_name in ("long", "float"):
        value = _scalar("java", text, type_name)
        if value is not text:
            return value
    return _guessed(text)


def _java_item(text: str, item_name: str) -> Json:
    if item_name in ("char", "String"):
        return text[1:-1]
    return convert("java", text, item_name) if item_name else _java_guessed(text)


def _array_list(text: str, item_name: str) -> Json:
    if listed := re.search(r"new\s+ArrayList<\w*>\(Arrays\.asList\((.+?)\)\)", text):
        return [_java_item(one.strip(), item_name) for one in listed[1].split(",")]
    if block := re.search(r"new\s+ArrayList<\w*>\(\)\s*\{\{(.+?)\}\}", text, re.DOTALL):
        added = re.findall(r"add\((.+?)\)", block[1])
        return [_java_item(one.strip(), item_name) for one in added]
    return [] if re.search(r"new\s+ArrayList<\w*>\(\)", text) else text


def _java_array(text: str, item_name: str) -> Json:
    found = re.search(r"new\s+\w+\[\]\s*\{(.*?)\}", text)
    if found is None:
        return text
    # Texts keep their quotes here, unlike those of an ArrayList.
    items = [one.strip() for one in found[1].split(",") if one.strip()]
    return [convert("java", one, item_name) if item_name else _java_guessed(one) for one in items]


def _hash_map(text: str) -> Json:
    block = re.search(r"new\s+HashMap<.*?>\s*\(\)\s*\{(.*?)\}", text, re.DOTALL)
    if block is not None:
        put = re.findall(r'put\("(.*?)"\s*,\s*(.*?)\)', block[1])
        return {key: _java_guessed(value.strip()) for key, value in put}
    return {} if re.search(r"new\s+HashMap<.*?>\s*\(\)", text) else text


def _javascript_guessed(text: str) -> Json:
    return text[1:-1] if _is_quoted(text) else _guessed(text)


def _javascript_array(text: str, item_name: str) -> Json:
    # Rows end at their first bracket: `.*?` in its place would try every way to join them.
    nested = r"\s*\[[^\]\n]*\]\s*(?:,\s*\[[^\]\n]*\]\s*)*"
    if table := re.match(rf"\[{nested}\]|new\s+Array\({nested}\)", text):
        rows = re.findall(r"\[\s*\[?(.*?)\]", table[0])
        return [[_javascript_guessed(one.strip()) for one in row.split(",")] for row in rows]
    found = re.match(r"\[(.*?)\]|new\s+Array\((.*?)\)", text)
    if found is None:
        return text
    body = (found[1] if found[1] is not None else found[2]).strip()
    items = [one.strip() for one in body.split(",")] if body else []
    if not item_name:
        return [_javascript_guessed(one) for one in items]
    return [convert("javascript", one, item_name) for one in items]


def _javascript_object(text: str) -> Json:
    found = re.match(r"\{(.*?)\}", text)
    if found is None:
        return text
    pairs: list[str] = []
    for part in found[1].split(","):
        if pairs and (":" not in part.lstrip()[1:] or ":" not in pairs[-1]):
            pairs[-1] += f",{part}"  # the comma stands inside a value
        else:
            pairs.append(part)
    return {
        key.strip().strip("'\""): _javascript_member(value.strip())
        for key, colon, value in (pair.partition(":") for pair in pairs)
        if colon
    }


def _javascript_member(text: str) -> Json:
    if text.startswith("[") and text.endswith("]"):
        return _javascript_array(text, "")
    if text.startswith("{") and text.endswith("}"):
        return _javascript_object(text)
    return _javascript_guessed(text.strip("'\""))
