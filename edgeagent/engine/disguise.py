"""Untrusted text in disguise: what it says can form no special token of the template's.

Knows characters and JSON Schema's words, no vocabulary and no template.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeagent.messages import Json, Tool

_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_KEYWORDS = frozenset({
    "type", "properties", "required", "items", "enum", "const", "description", "title", "default",
    "examples", "format", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minLength", "maxLength", "minItems", "maxItems", "multipleOf", "additionalProperties",
    "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "prefixItems", "patternProperties",
    "nullable", "deprecated", "uniqueItems", "minProperties", "maxProperties", "$schema",
})  # fmt: skip
_BY_NAME = frozenset({"properties", "$defs", "definitions", "patternProperties"})
"""Keywords whose value maps names of the tool's author to schemas."""


class Disguise:
    """Swaps the characters that special tokens are made of for stand-ins, and back."""

    def __init__(self, stand_ins: Mapping[str, str], mark: str) -> None:
        """Swap by `stand_ins`; `mark` is a character that nobody uses."""
        self.mark = mark
        self._stand_ins = tuple(sorted(stand_ins.items()))
        self._there = str.maketrans(dict(stand_ins))
        self._back = str.maketrans({stand_in: char for char, stand_in in stand_ins.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Disguise):
            return NotImplemented
        return (self.mark, self._stand_ins) == (other.mark, other._stand_ins)

    def __hash__(self) -> int:
        return hash((self.mark, self._stand_ins))

    def text(self, text: str) -> str:
        """Return the text disguised."""
        # Lone surrogates, which JSON can carry, have no bytes to tokenize.
        return text.encode("utf-8", "replace").decode().translate(self._there)

    def undo(self, text: str) -> str:
        """Return the text as it was."""
        return text.translate(self._back)

    def value(self, value: Json) -> Json:
        """Return a JSON value with every string and key disguised."""
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {self.text(key): self.value(item) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
        return value

    def tool(self, tool: Tool) -> Mapping[str, Json]:
        """Return a tool in OpenAI's layout, disguised."""
        return {
            "type": "function",
            "function": {
                "name": self.text(tool.name),
                "description": self.text(tool.description),
                "parameters": self.schema(tool.parameters),
            },
        }

    def foreign_tool(self, tool: Mapping[str, Json]) -> Mapping[str, Json]:
        """Disguise a tool in OpenAI's layout, keys in its own order."""
        function = tool.get("function", tool)
        made = {
            key: self.schema(value) if key == "parameters" else self.value(value)
            for key, value in function.items()
        }
        return {"type": "function", "function": made}

    def schema(self, schema: Json) -> Json:
        """Disguise a JSON Schema but for the words that templates look for."""
        if isinstance(schema, list | tuple):
            return [self.schema(item) for item in schema]
        if not isinstance(schema, Mapping):
            return self.value(schema)
        return {
            key if key in _KEYWORDS else self.text(key): self._keyword(key, value)
            for key, value in schema.items()
        }

    def _keyword(self, key: str, value: Json) -> Json:
        if key == "type":
            kinds = [value] if isinstance(value, str) else value
            known = isinstance(kinds, list) and all(kind in _TYPES for kind in kinds)
            return value if known else self.value(value)
        if key in _BY_NAME and isinstance(value, Mapping):
            return {self.text(name): self.schema(item) for name, item in value.items()}
        if isinstance(value, Mapping) or key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            return self.schema(value) if key not in ("default", "const") else self.value(value)
        return self.value(value)
