"""A schema made tight enough to generate from.

Every value of the narrowed schema is valid against the given one; not the reverse. Objects are
closed, numbers stay in the range that every JSON reader keeps, and "anything" becomes something.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeagent.messages import Json

MAX_INTEGER = 2**53 - 1
"""Larger ones lose digits in JavaScript and in floats; 5,000-digit ones Python refuses to read."""
MAX_NUMBER = 1e15

SCALAR: Mapping[str, Json] = {
    "anyOf": [
        {"type": "string"},
        {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER},
        {"type": "boolean"},
        {"type": "null"},
    ]
}
"""Any value but lists and objects; what arrays and objects hold that say nothing of it."""
_ANYTHING: Mapping[str, Json] = {
    "anyOf": [
        *SCALAR["anyOf"],
        {"type": "array", "items": SCALAR},
        {"type": "object", "additionalProperties": SCALAR},
    ]
}
_SAYS_WHAT = ("type", "enum", "const", "$ref", "anyOf", "oneOf")
_COMBINES = ("anyOf", "oneOf", "allOf", "$ref", "not", "if")
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")


def narrowed(parameters: Mapping[str, Json]) -> dict[str, Json]:
    """Return the schema of a tool's arguments, ready for the grammar."""
    root = dict(parameters)
    if not any(key in root for key in _SAYS_WHAT):
        root["type"] = "object"
    if root.get("type") == "object" and not any(key in root for key in _COMBINES):
        root.setdefault("properties", {})
    schema = _narrow(root, is_part=False)
    assert isinstance(schema, dict)
    return schema


def unsound(schema: Json) -> str | None:
    """Return why llguidance would admit calls that the schema forbids; None if it would not.

    Source: found with llguidance 1.9.1; it refuses other keywords that it does not know itself.
    """
    if not isinstance(schema, Mapping):
        parts = schema if isinstance(schema, list | tuple) else ()
        return next((why for part in parts if (why := unsound(part)) is not None), None)
    factor = schema.get("multipleOf")
    if isinstance(factor, float) and not factor.is_integer():
        return f"the grammar cannot enforce 'multipleOf' {factor}: 19.99 is no multiple of 0.01"
    for key in (*_LOWER, *_UPPER):
        bound = schema.get(key)
        if isinstance(bound, int | float) and abs(bound) > MAX_INTEGER:
            return f"the grammar cannot enforce {key!r} beyond {MAX_INTEGER}"
    least, required = schema.get("minProperties"), schema.get("required")
    if isinstance(least, int) and least > max(1, len(required) if required else 0):
        return "the grammar cannot enforce 'minProperties' over free keys: one could come twice"
    return unsound(list(schema.values()))


def _narrow(schema: Json, *, is_part: bool) -> Json:
    """Narrow one schema; `is_part` inside `allOf`, where closing would contradict the siblings."""
    if schema is True or schema == {}:
        return _ANYTHING
    if not isinstance(schema, Mapping):
        return schema
    out = {key: _keyword(key, value) for key, value in schema.items()}
    out.pop("$schema", None)
    if not is_part and not any(key in out for key in _SAYS_WHAT):
        parts = [part for part in out.get("allOf", []) if isinstance(part, Mapping)]
        implied = next((kind for part in (out, *parts) if (kind := _implied_type(part))), None)
        out = {**out, "type": implied} if implied else {**_ANYTHING, **out}
    kinds = out.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if is_part or any(key in out for key in ("enum", "const")):
        return out
    if "object" in kinds and not any(key in out for key in _COMBINES):
        _close(out)
    if "array" in kinds and "items" not in out:
        out["items"] = SCALAR
    if "number" in kinds or "integer" in kinds:
        bound = MAX_NUMBER if "number" in kinds else MAX_INTEGER
        _bound(out, bound)
    if "number" in kinds and "exclusiveMinimum" in out and "exclusiveMaximum" in out:
        # llguidance 1.9.1 admits 0 for both at once, 0 and 0.001.
        lower, upper = out.pop("exclusiveMinimum"), out["exclusiveMaximum"]
        out["minimum"] = max(out.get("minimum", lower), lower + (upper - lower) / 2**20)
    return out


def _keyword(key: str, value: Json) -> Json:
    if key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(
        value, Mapping
    ):
        return {name: _narrow(item, is_part=False) for name, item in value.items()}
    if key == "items":
        return _narrow(value, is_part=False) if value is not True else SCALAR
    if key == "additionalProperties" and value is not False:
        return SCALAR if value is True or value == {} else _narrow(value, is_part=False)
    if key in ("anyOf", "oneOf", "prefixItems") and isinstance(value, list):
        return [_narrow(item, is_part=False) for item in value]
    if key == "allOf" and isinstance(value, list):
        return [_narrow(item, is_part=True) for item in value]
    return value


def _implied_type(schema: Mapping[str, Json]) -> Json:
    """Return the type that a schema names or speaks of, None if it does neither."""
    if "type" in schema:
        return schema["type"]
    for kind, keys in (
        ("object", ("properties", "required", "additionalProperties", "patternProperties")),
        ("array", ("items", "prefixItems", "minItems", "maxItems")),
        ("string", ("pattern", "minLength", "maxLength", "format")),
        ("number", (*_LOWER, *_UPPER, "multipleOf")),
    ):
        if any(key in schema for key in keys):
            return kind
    return None


def _close(schema: dict[str, Json]) -> None:
    if "additionalProperties" not in schema:
        has_names = "properties" in schema or "patternProperties" in schema
        schema["additionalProperties"] = False if has_names else SCALAR


def _bound(schema: dict[str, Json], bound: float) -> None:
    if not any(key in schema for key in _LOWER):
        upper = min((schema[key] for key in _UPPER if key in schema), default=0)
        schema["minimum"] = min(-bound, upper - bound)
    if not any(key in schema for key in _UPPER):
        lower = max((schema[key] for key in _LOWER if key in schema), default=0)
        schema["maximum"] = max(bound, lower + bound)
