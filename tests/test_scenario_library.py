"""Scenarios open by name or folder; a folder's mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edgeagent.errors import ScenarioError
from edgeagent.messages import CONTROL_NAMES, RESPOND, Call, ToolKind
from edgeagent.scenarios import library
from edgeagent.scenarios.job import guess_kind
from tests.conftest import SHARED

AIRLINE_TOOLS = {
    "book_reservation": ToolKind.WRITE,
    "calculate": ToolKind.READ,
    "cancel_reservation": ToolKind.WRITE,
    "get_reservation_details": ToolKind.READ,
    "get_user_details": ToolKind.READ,
    "list_all_airports": ToolKind.READ,
    "search_direct_flight": ToolKind.READ,
    "search_onestop_flight": ToolKind.READ,
    "send_certificate": ToolKind.WRITE,
    "think": ToolKind.CONTROL,
    "transfer_to_human_agents": ToolKind.CONTROL,
    "update_reservation_baggages": ToolKind.WRITE,
    "update_reservation_flights": ToolKind.WRITE,
    "update_reservation_passengers": ToolKind.WRITE,
    "respond_to_user": ToolKind.CONTROL,
    "defer_to_larger_model": ToolKind.CONTROL,
}


def tool(name: str, **other: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    return {
        "type": "function",
        "function": {"name": name, "description": "d", "parameters": parameters},
        **other,
    }


def folder(path: Path, *tools: dict[str, Any], policy: str = "p") -> Path:
    path.mkdir(exist_ok=True)
    described = {"task_description": policy, "tools": list(tools)}
    (path / "job_description.json").write_text(json.dumps(described), encoding="utf-8")
    return path


def test_the_airline_has_its_sixteen_tools(tmp_path: Path) -> None:
    scenario = library.load("airline", tmp_path)
    assert {tool.name: tool.kind for tool in scenario.tools} == AIRLINE_TOOLS
    assert "2024-05-15 15:00:00 EST" in scenario.policy


@pytest.mark.parametrize("name", library.names())
def test_a_built_in_scenario_is_complete(name: str, tmp_path: Path) -> None:
    scenario = library.load(name, tmp_path)
    assert scenario.name == name
    assert scenario.title
    assert scenario.greeting
    assert scenario.examples
    assert not scenario.is_recorded
    assert scenario.backend.is_own
    assert RESPOND in {tool.name for tool in scenario.tools}
    assert (tmp_path / f"{name}.db").exists()
    for one in scenario.tools:
        Draft202012Validator.check_schema(one.parameters)
        assert one.parameters["additionalProperties"] is False
        assert one.description


def test_data_outlives_the_program(tmp_path: Path) -> None:
    ticket = Call("call_1", "create_ticket", {"issue": "broken lamp", "priority": "low"})
    first = library.load("orders", tmp_path).backend.call(ticket, 5.0)
    again = library.load("orders", tmp_path).backend
    assert again.receipt("call_1") == first


def test_the_two_rule_sets_keep_apart(tmp_path: Path) -> None:
    book = library.load("airline", tmp_path, rules="tau")
    assert book.title != library.load("airline", tmp_path).title
    assert {path.name for path in tmp_path.glob("*.db")} == {"airline.db", "airline-tau.db"}


def test_the_ids_in_the_examples_are_in_the_data(tmp_path: Path) -> None:
    scenario = library.load("airline", tmp_path)
    reservation_id = scenario.examples[0].split()[-1].strip("?")
    call = Call("call_1", "get_reservation_details", {"reservation_id": reservation_id})
    assert not scenario.backend.call(call, 5.0).is_error


def test_a_folder_without_a_backend_says_so(tmp_path: Path) -> None:
    path = folder(tmp_path / "clinic", tool("respond_to_user"), tool("find_slot"))
    scenario = library.load(str(path), tmp_path)
    assert scenario.name == "clinic"
    assert scenario.is_recorded
    assert "no backend" in scenario.title
    assert "find_slot" in scenario.greeting
    assert "respond_to_user" not in scenario.greeting
    outcome = scenario.backend.call(Call("call_1", "find_slot", {"x": "noon"}), 5.0)
    answer = json.loads(outcome.content)
    assert (answer["recorded"], answer["result"]) == (False, None)
    assert scenario.backend.receipt("call_1") is None
    assert not scenario.backend.is_own


@pytest.mark.parametrize("is_distils", [True, False])
def test_a_recorded_result_is_answered_again(tmp_path: Path, is_distils: bool) -> None:
    """distil's traces hold calls as JSON text and results as user messages; others do not."""
    path = folder(tmp_path / "clinic", tool("respond_to_user"), tool("find_slot"))
    arguments = {"x": "noon", "a": 1}
    function = {
        "name": "find_slot",
        "arguments": json.dumps(arguments) if is_distils else arguments,
    }
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]},
        {"role": "user" if is_distils else "tool", "content": '[{"slot": 3}]'},
    ]
    found = {"messages": messages}
    line = json.dumps({"context": json.dumps(found)} if is_distils else found)
    (path / "traces.jsonl").write_text(f"{line}\n\n", encoding="utf-8")
    scenario = library.load(str(path), tmp_path)
    assert "recorded" in scenario.title
    call = Call("call_1", "find_slot", {"a": 1, "x": "noon"})
    assert scenario.backend.call(call, 5.0).content == '[{"slot": 3}]'


@pytest.mark.skipif(not SHARED.exists(), reason="distil's files are not beside the checkout")
def test_distils_own_folder_loads(tmp_path: Path) -> None:
    scenario = library.load(str(SHARED / "tft"), tmp_path)
    assert {tool.name: tool.kind for tool in scenario.tools} == {
        "respond_to_user": ToolKind.CONTROL,
        "ReserveRestaurant": ToolKind.WRITE,
        "FindRestaurants": ToolKind.READ,
    }
    call = Call("call_1", "FindRestaurants", {"city": "Occidental", "cuisine": "Italian"})
    assert "Negri's" in scenario.backend.call(call, 5.0).content


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("book_reservation", ToolKind.WRITE),
        ("ReserveRestaurant", ToolKind.WRITE),
        ("sendEmail", ToolKind.WRITE),
        ("delete", ToolKind.WRITE),
        ("SetAlarm2", ToolKind.WRITE),
        ("find_booking", ToolKind.READ),
        ("settings", ToolKind.READ),
        ("bookings", ToolKind.READ),
        ("2fa", ToolKind.READ),
        ("_", ToolKind.READ),
    ],
)
def test_a_kind_is_guessed_by_the_first_word(name: str, kind: ToolKind) -> None:
    assert guess_kind(name) is kind


def test_a_folder_may_say_what_kind_a_tool_is(tmp_path: Path) -> None:
    path = folder(
        tmp_path / "a",
        tool("poke", **{"x-kind": "write"}),
        tool("set_view", **{"x-kind": "read"}),
        tool("think", **{"x-kind": "write"}),
    )
    kinds = [one.kind for one in library.load(str(path), tmp_path).tools]
    assert kinds == [ToolKind.WRITE, ToolKind.READ, ToolKind.CONTROL]


MALFORMED: list[tuple[str, str]] = [
    ("{", "not JSON"),
    ("\ufeff{}", "not JSON"),
    ("[]", "the top is a list"),
    ("{}", "task_description"),
    ('{"task_description": " ", "tools": []}', "task_description"),
    ('{"task_description": "p"}', "tools is missing"),
    ('{"task_description": "p", "tools": []}', "tools is missing"),
    ('{"task_description": "p", "tools": [7]}', r"tools\[0\]"),
    ('{"task_description": "p", "tools": [{"function": {}}]}', r"tools\[0\].*name"),
    (json.dumps({"task_description": "p", "tools": [tool("a"), tool("a")]}), "two tools.*'a'"),
    (json.dumps({"task_description": "p", "tools": [tool("a", **{"x-kind": "maybe"})]}), "x-kind"),
]


@pytest.mark.parametrize(("text", "said"), MALFORMED)
def test_a_malformed_description_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "job_description.json").write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=rf"(?s)job_description\.json.*{said}"):
        library.load(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ([], "type"),
        ({"type": "array"}, "type"),
        ({"type": "object", "properties": {"x": {"type": "strin"}}}, "properties/x/type"),
        ({"type": "object", "required": ["y"]}, "'y' is required"),
    ],
)
def test_a_malformed_schema_is_named(tmp_path: Path, parameters: Any, said: str) -> None:
    wrong = tool("find_slot")
    wrong["function"]["parameters"] = parameters
    path = folder(tmp_path / "clinic", wrong)
    with pytest.raises(ScenarioError, match=rf"find_slot.*{said}"):
        library.load(str(path), tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tools.json", "[", "cannot read"),
        ("tools.json", '{"pyton": []}', "other keys"),
        ("tools.json", '{"python": "a"}', "python"),
        ("tools.json", '{"mcp": [[]]}', "mcp"),
        ("tools.json", '{"mcp": ["server"]}', "mcp"),
        ("tools.json", '{"python": ["no_such_tool"]}', "no_such_tool"),
        ("my_traces.jsonl", '{"messages": []}\n{"context": "x"}', "line 2"),
        ("my_traces.jsonl", '{"messages": [{"tool_calls": [{}]}]}', "line 1"),
    ],
)
def test_a_malformed_neighbour_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = folder(tmp_path / "clinic", tool("find_slot"))
    (path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=said):
        library.load(str(path), tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "", "airlines"])
def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScenarioError, match=r"airline, restaurants, orders|job_description"):
        library.load(name, tmp_path)


def test_control_tools_are_the_same_four_everywhere(tmp_path: Path) -> None:
    for name in library.names():
        for one in library.load(name, tmp_path).tools:
            assert (one.kind is ToolKind.CONTROL) == (one.name in CONTROL_NAMES)
