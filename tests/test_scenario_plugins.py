"""Python functions and MCP servers as tools."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from edgeagent.errors import ScenarioError
from edgeagent.messages import Call, ToolKind
from edgeagent.scenarios import folder, library, plugins
from tests.test_scenario_library import folder as make_folder
from tests.test_scenario_library import tool


class Room(StrEnum):
    KITCHEN = "kitchen"
    HALL = "hall"


def set_heating(room: Room, degrees: int, mode: Literal["eco", "full"] = "eco") -> dict[str, Any]:
    """Set the heating of a room.

    Anything after the first paragraph is for people.
    """
    return {"room": room, "degrees": degrees, "mode": mode}


def peek(path: str) -> str:
    """Look at something."""
    return f"saw {path}"


peek.kind = "write"  # type: ignore[attr-defined]  # how a function says what kind of tool it is


def test_a_signature_becomes_a_schema() -> None:
    made = plugins.of_function(set_heating).tool
    assert made.name == "set_heating"
    assert made.description == "Set the heating of a room."
    assert made.kind is ToolKind.WRITE
    assert list(made.parameters["properties"]) == ["room", "degrees", "mode"]
    assert made.parameters["required"] == ["room", "degrees"]
    assert made.parameters["additionalProperties"] is False
    assert "title" not in json.dumps(made.parameters)


def test_a_function_gets_typed_arguments() -> None:
    made = plugins.of_function(set_heating)
    outcome = made.call({"room": "hall", "degrees": 20})
    assert json.loads(outcome.content) == {"room": "hall", "degrees": 20, "mode": "eco"}
    for wrong in ({"room": "attic", "degrees": 20}, {"room": "hall"}, {"more": 1}):
        assert made.call(wrong).is_error


def test_an_attribute_says_the_kind() -> None:
    made = plugins.of_function(peek)
    assert made.tool.kind is ToolKind.WRITE
    assert made.call({"path": "x"}).content == "saw x"


def untyped(x) -> str:  # type: ignore[no-untyped-def]  # what the test is about
    return str(x)


def variadic(*words: str) -> str:
    return "".join(words)


class Opaque:
    """Nothing that JSON could carry."""


def shapeless(thing: Opaque) -> str:
    return str(thing)


def think(thought: str) -> str:
    return thought


@pytest.mark.parametrize(
    ("function", "said"),
    [(untyped, "x needs a type"), (variadic, r"\*words"), (shapeless, "JSON Schema"),
     (think, "steers the turn"), (7, "not a function")],
)  # fmt: skip
def test_a_function_that_makes_no_tool_is_refused(function: Any, said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        plugins.of_function(function)


def install(site: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """Put a package with one entry point on the path, as an installer would."""
    (site / "home.py").write_text(
        'def read_meter(room: str) -> str:\n    """Read a meter."""\n    return room + ": 21"\n'
    )
    about = site / "home-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: home\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[edgeagent.tools]\nread_meter = {target}\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "home", raising=False)


def test_an_installed_tool_joins_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, monkeypatch, "home:read_meter")
    path = make_folder(tmp_path / "house", tool("respond_to_user"))
    (path / "tools.json").write_text('{"python": ["read_meter"]}')
    scenario = library.load(str(path), tmp_path)
    assert not scenario.is_recorded
    assert [(one.name, one.description) for one in scenario.tools][1:] == [
        ("read_meter", "Read a meter.")
    ]
    outcome = scenario.backend.call(Call("call_1", "read_meter", {"room": "hall"}), 5.0)
    assert outcome.content == "hall: 21"


@pytest.mark.parametrize("target", ["home:no_such_function", "no_such_module:read_meter"])
def test_an_installed_tool_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    install(tmp_path, monkeypatch, target)
    with pytest.raises(ScenarioError, match="'read_meter' cannot be imported"):
        plugins.installed("read_meter")


SERVER = '''
import time
from mcp.server import MCPServer
server = MCPServer("house")

@server.tool()
def read_room(room: str) -> str:
    """Read the temperature of a room."""
    return f"{room}: 21"

@server.tool()
def set_room(room: str, wait_s: float) -> str:
    """Set the temperature of a room."""
    time.sleep(wait_s)
    return "done"

server.run("stdio")
'''


def test_a_servers_tools_join_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="the extra mcp is not installed")
    path = make_folder(tmp_path / "house", tool("respond_to_user"))
    (path / "server.py").write_text(SERVER)
    (path / "tools.json").write_text(json.dumps({"mcp": [[sys.executable, "server.py"]]}))
    opened = folder.open_folder(path, tmp_path / "mcp.log")
    try:
        assert {one.name: one.kind for one in opened.tools} == {
            "respond_to_user": ToolKind.CONTROL,
            "read_room": ToolKind.READ,
            "set_room": ToolKind.WRITE,
        }
        assert opened.without_backend == ()
        ask = opened.backend.call
        assert ask(Call("call_1", "read_room", {"room": "hall"}), 10.0).content == "hall: 21"
        assert ask(Call("call_2", "read_room", {}), 10.0).is_error
        late = ask(Call("call_3", "set_room", {"room": "hall", "wait_s": 30}), 0.2)
        assert late.is_error
        assert "0.2 s" in late.content
    finally:
        opened.backend.close()


@pytest.mark.parametrize("command", [["/no/such/server"], [sys.executable, "-c", "exit(1)"]])
def test_a_server_that_does_not_answer_is_named(tmp_path: Path, command: list[str]) -> None:
    path = make_folder(tmp_path / "house", tool("respond_to_user"))
    (path / "tools.json").write_text(json.dumps({"mcp": [command]}))
    with pytest.raises(ScenarioError, match="MCP"):  # the server, or the extra that is missing
        folder.open_folder(path, tmp_path / "mcp.log")
