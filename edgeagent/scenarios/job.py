"""Read a `job_description.json`: the policy text and the tools, in the format distil publishes.

Knows nothing of backends. `{"task_description": str, "tools": [{"type": "function", "function":
{"name", "description", "parameters"}}]}`; other keys are left alone.

A tool is control when its name is one of the four control tools. Otherwise its kind is what
`"x-kind"` beside `"function"` says, else write when the name's first word is in `WRITE_VERBS`
(`book_reservation`, `ReserveRestaurant`), else read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.abc import Traversable
from pathlib import Path

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from edgeagent.errors import ScenarioError
from edgeagent.messages import CONTROL_NAMES, Json, Tool, ToolKind

_VERBS = (
    "add apply approve assign book buy cancel change charge close create delete disable edit enable"
    " exchange insert issue make modify move open order pay place post put refund register remove"
    " rename reserve reset return schedule send set start stop submit transfer update upload"
    " write"
)
WRITE_VERBS = frozenset(_VERBS.split())


@dataclass(frozen=True, slots=True)
class Job:
    """What a folder asks of an agent."""

    policy: str
    tools: tuple[Tool, ...]


def read(path: Path | Traversable) -> Job:
    """Return the policy and tools in `path`.

    Raises:
        ScenarioError: the file is missing, is not JSON, or a part of it is not what it must be.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ScenarioError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise ScenarioError(f"{path} is not JSON in UTF-8: {exc}") from exc
    return parse(found, str(path))


def parse(found: Json, source: str) -> Job:
    """Return the job in an already decoded document; `source` names it in errors."""
    if not isinstance(found, dict):
        raise ScenarioError(f"{source}: the top is {_kind_of(found)}, it must be an object")
    policy = found.get("task_description")
    if not isinstance(policy, str) or not policy.strip():
        raise ScenarioError(f"{source}: task_description is missing or is not text")
    listed = found.get("tools")
    if not isinstance(listed, list) or not listed:
        raise ScenarioError(f"{source}: tools is missing or is not a list with a tool in it")
    tools = tuple(_tool(tool, f"{source}: tools[{n}]") for n, tool in enumerate(listed))
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise ScenarioError(f"{source}: two tools are called {name!r}; rename one")
    return Job(policy, tools)


def _tool(listed: Json, where: str) -> Tool:
    function = listed.get("function") if isinstance(listed, dict) else None
    if not isinstance(function, dict):
        raise ScenarioError(f'{where} is not {{"type": "function", "function": {{…}}}}')
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ScenarioError(f"{where}: function.name is missing or is not text")
    where = f"{where} ({name})"
    description = function.get("description", "")
    if not isinstance(description, str):
        raise ScenarioError(f"{where}: description is {_kind_of(description)}, it must be text")
    return Tool(name, description, _parameters(function, where), _kind(name, listed, where))


def _parameters(function: Mapping[str, Json], where: str) -> Mapping[str, Json]:
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise ScenarioError(f'{where}: parameters must be a JSON Schema with "type": "object"')
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as exc:
        at = "/".join(str(step) for step in exc.absolute_path) or "parameters"
        raise ScenarioError(f"{where}: {at} is not JSON Schema: {exc.message}") from exc
    properties = parameters.get("properties", {})
    for required in parameters.get("required", ()):
        if required not in properties:
            raise ScenarioError(f"{where}: {required!r} is required and is not in properties")
    return parameters


def _kind(name: str, listed: Mapping[str, Json], where: str) -> ToolKind:
    if name in CONTROL_NAMES:
        return ToolKind.CONTROL
    said = listed.get("x-kind")
    if said is None:
        return guess_kind(name)
    if said not in (ToolKind.READ, ToolKind.WRITE):
        raise ScenarioError(f'{where}: x-kind is {said!r}, it must be "read" or "write"')
    return ToolKind(said)


def guess_kind(name: str) -> ToolKind:
    """Return write when the first word of a snake_case or CamelCase name is a verb of change."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return ToolKind.WRITE if words and words[0].lower() in WRITE_VERBS else ToolKind.READ


def _kind_of(value: Json) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", type(None): "null"}
    return kinds.get(type(value), f"{value!r}")
