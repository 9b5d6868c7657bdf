"""distil labs' metrics for one predicted call, by their rules.

A call is text: bare JSON or wrapped in `<tool_call>`, its arguments under `parameters` or
`arguments`. Values are compared with Python's `==`: neither letter case nor spaces are forgiven.
Source: distil-cli-skill, `references/evaluation-metrics.md`; what the document leaves open was
settled by 311 rows that the platform scored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from edgeagent.evals.rouge import rouge_l
from edgeagent.messages import Json, Tool

METRICS = ("staged_tool_call", "binary_tool_call", "tool_call_equivalence", "rouge")
COUNTED = frozenset({"binary_tool_call", "tool_call_equivalence"})
"""The metrics that are 0 or 1."""
Defaults: TypeAlias = Mapping[str, Mapping[str, Json]]
"""Tool → the values of arguments that were not given."""

_WRAPPED = re.compile(r"^\s*<tool_call>\s*(.*?)\s*</tool_call>\s*$", re.DOTALL)
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call as somebody wrote it, valid or not."""

    fields: Mapping[str, Json]
    """Everything that stood in it, `arguments` renamed to `parameters`."""

    @property
    def name(self) -> str:
        """The function's name; empty where none is given as text."""
        name = self.fields.get("name")
        return name if isinstance(name, str) else ""

    @property
    def arguments(self) -> Mapping[str, Json]:
        """The arguments; empty where they are not an object."""
        found = self.fields.get("parameters")
        return found if isinstance(found, Mapping) else {}


def read_call(text: str) -> WrittenCall | None:
    """Return the call that the text is; None when it is not one JSON object."""
    wrapped = _WRAPPED.match(text)
    try:
        found = json.loads(wrapped[1] if wrapped else text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return WrittenCall({"parameters" if k == "arguments" else k: v for k, v in found.items()})


def write_call(name: str, arguments: Mapping[str, Json]) -> str:
    """Return a call as the test file writes its answers: bare JSON with `parameters`."""
    return json.dumps({"name": name, "parameters": dict(arguments)}, ensure_ascii=False)


def defaults_of(tools: Sequence[Tool]) -> Defaults:
    """Return what the tools' schemas say of arguments that are not given."""
    return {
        tool.name: {
            key: schema["default"]
            for key, schema in tool.parameters.get("properties", {}).items()
            if isinstance(schema, Mapping) and "default" in schema
        }
        for tool in tools
    }


def score(reference: str, prediction: str, defaults: Defaults) -> dict[str, float]:
    """Return the four metrics of a prediction, each 0..1.

    Anything can be predicted; what is not a call scores 0 but for the words it shares.

    Raises:
        ValueError: the reference is not a call.
    """
    wanted = read_call(reference)
    if wanted is None:
        raise ValueError("the reference is not a JSON object")
    try:
        scores = _compared(wanted, read_call(prediction), defaults)
    except RecursionError:  # nested just deeply enough to be read and not to be compared
        scores = _compared(wanted, None, defaults)
    return {**scores, "rouge": rouge_l(reference, prediction)}


def _compared(
    wanted: WrittenCall, found: WrittenCall | None, defaults: Defaults
) -> dict[str, float]:
    return {
        "staged_tool_call": _staged(wanted, found),
        "binary_tool_call": float(found is not None and found.fields == wanted.fields),
        "tool_call_equivalence": _equivalence(wanted, found, defaults),
    }


def _staged(wanted: WrittenCall, found: WrittenCall | None) -> float:
    """A quarter each for JSON, the name, the keys and everything."""
    if found is None:
        return 0.0
    if found.fields.get("name", _ABSENT) != wanted.fields.get("name", _ABSENT):
        return 0.25
    if _keys(found) != _keys(wanted):
        return 0.5
    return 1.0 if found.fields == wanted.fields else 0.75


def _keys(call: WrittenCall) -> Json:
    """Return the names of the arguments, or whatever stands there in their place."""
    given = call.fields.get("parameters") or {}
    return set(given) if isinstance(given, Mapping) else [given]


def _equivalence(wanted: WrittenCall, found: WrittenCall | None, defaults: Defaults) -> float:
    if found is None or found.fields.get("name", _ABSENT) != wanted.fields.get("name", _ABSENT):
        return 0.0
    filled = defaults.get(wanted.name, {})
    if not (_has_arguments(wanted) and _has_arguments(found)):
        return float(found.fields == wanted.fields)
    return float({**filled, **wanted.arguments} == {**filled, **found.arguments})


def _has_arguments(call: WrittenCall) -> bool:
    return isinstance(call.fields.get("parameters", {}), Mapping)
