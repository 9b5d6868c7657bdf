"""Python functions as tools: the signature becomes the schema, the docstring the description.

A package offers one through its entry points, and a scenario's folder asks for it by name
(see `folder.py`). It runs in this process with all its rights: install only what you trust.

    [project.entry-points."edgeagent.tools"]
    set_thermostat = "my_home.tools:set_thermostat"

The kind is the function's attribute `kind` (`read` or `write`), else a guess by its name.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError

from edgeagent.cascade import ToolOutcome
from edgeagent.errors import ScenarioError
from edgeagent.messages import CONTROL_NAMES, Json, Tool, ToolKind
from edgeagent.scenarios.database import refused
from edgeagent.scenarios.job import guess_kind

GROUP = "edgeagent.tools"


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A tool and the function behind it."""

    tool: Tool
    function: Callable[..., object]
    model: type[BaseModel]

    def call(self, arguments: Mapping[str, Json]) -> ToolOutcome:
        """Run the function; its own exceptions rise, arguments that do not fit are an error."""
        try:
            checked = self.model.model_validate(dict(arguments))
        except ValidationError as exc:
            problems = "; ".join(
                f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()
            )
            return refused(f"arguments do not fit: {problems}")
        given = {name: getattr(checked, name) for name in checked.model_fields_set}
        value = self.function(**given)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return ToolOutcome(text)


def installed(name: str) -> FunctionTool:
    """Return the tool that an installed package offers under `name`; imports that package.

    Raises:
        ScenarioError: no package offers it, it cannot be imported, or it is no usable function.
    """
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        raise ScenarioError(f"no installed package offers the tool {name!r}; offered are: {known}")
    try:
        function = next(iter(found)).load()
    except (ImportError, AttributeError) as exc:
        raise ScenarioError(f"tool {name!r} cannot be imported: {exc}") from exc
    return of_function(function, name)


def of_function(function: Callable[..., object], name: str | None = None) -> FunctionTool:
    """Return the function as a tool; every parameter needs a type.

    Raises:
        ScenarioError: a parameter is untyped, variadic, or of a type that JSON cannot carry.
    """
    if not callable(function):
        raise ScenarioError(f"tool {name!r} is not a function")
    name = str(name or getattr(function, "__name__", "tool"))
    if name in CONTROL_NAMES:
        raise ScenarioError(f"{name!r} steers the turn itself, it cannot be a tool")
    try:
        model = create_model(  # type: ignore[call-overload]  # fields are only known at run time
            name, __config__=ConfigDict(extra="forbid"), **_fields(function, name)
        )
        schema = model.model_json_schema()
    except (PydanticUserError, NameError, TypeError) as exc:
        raise ScenarioError(f"tool {name!r}: its parameters make no JSON Schema: {exc}") from exc
    schema.pop("description", None)
    description = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
    return FunctionTool(
        Tool(name, description, untitled(schema), _kind(function, name)), function, model
    )


def _fields(function: Callable[..., object], name: str) -> dict[str, tuple[object, object]]:
    types = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, tuple[object, object]] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ScenarioError(f"tool {name!r}: *{parameter.name} has no schema")
        if parameter.kind is parameter.POSITIONAL_ONLY or parameter.name not in types:
            raise ScenarioError(f"tool {name!r}: {parameter.name} needs a type and a name to call")
        is_required = parameter.default is parameter.empty
        default = Field() if is_required else Field(default=parameter.default)
        fields[parameter.name] = (types[parameter.name], default)
    return fields


def _kind(function: Callable[..., object], name: str) -> ToolKind:
    said = getattr(function, "kind", None)
    if said is None:
        return guess_kind(name)
    if said not in (ToolKind.READ, ToolKind.WRITE):
        raise ScenarioError(f"tool {name!r}: kind is {said!r}, it must be 'read' or 'write'")
    return ToolKind(said)


def untitled(schema: Json) -> Json:
    """Leave out pydantic's titles: they cost the model tokens and say nothing."""
    if isinstance(schema, list):
        return [untitled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: untitled(part) for name, part in value.items()}
        if key == "properties"
        else untitled(value)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }
