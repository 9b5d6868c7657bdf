"""A scenario in a folder of one's own: a job description, and whatever can answer its tools.

    job_description.json   policy and tools, in distil's format (`job.py`)
    tools.json             optional: {"python": [NAME…], "mcp": [[COMMAND, ARGUMENT…]…]}
    *traces.jsonl          optional: recorded conversations; their results answer equal calls

`python` names installed tools (`plugins.py`), `mcp` commands that start a server in the folder
(`mcp_tools.py`). Either adds its tools to those of the job description. A tool that nothing
stands behind answers with a recorded result, or with an empty one that says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeagent.cascade import ToolOutcome
from edgeagent.errors import ScenarioError
from edgeagent.messages import CONTROL_NAMES, Call, Json, Tool, ToolKind
from edgeagent.scenarios import job
from edgeagent.scenarios.mcp_tools import McpServer
from edgeagent.scenarios.plugins import FunctionTool, installed

NOTE = "no backend and no recorded answer for this call; nothing was looked up or changed"


class FolderBackend:
    """Answers the tools of a folder; nothing it does is known to be done exactly once."""

    is_own = False

    def __init__(
        self,
        functions: Mapping[str, FunctionTool],
        servers: Mapping[str, McpServer],
        recorded: Mapping[tuple[str, str], str],
    ) -> None:
        """`servers` is by tool name, `recorded` by tool name and canonical arguments."""
        self._functions = functions
        self._servers = servers
        self._recorded = recorded

    def call(self, call: Call, timeout_s: float) -> ToolOutcome:
        """Return the live, recorded or empty answer; a function's own exceptions rise."""
        if call.name in self._functions:
            return self._functions[call.name].call(call.arguments)
        if call.name in self._servers:
            return self._servers[call.name].call(call.name, call.arguments, timeout_s)
        content = self._recorded.get((call.name, _canonical(call.arguments)))
        if content is not None:
            return ToolOutcome(content)
        return ToolOutcome(json.dumps({"recorded": False, "result": None, "note": NOTE}))

    def receipt(self, call_id: str) -> ToolOutcome | None:
        """Return None: what a foreign tool did is not ours to know."""
        return None

    def close(self) -> None:
        """End the servers' processes."""
        for server in set(self._servers.values()):
            server.close()


@dataclass(frozen=True, slots=True)
class Opened:
    """What a folder holds."""

    policy: str
    tools: tuple[Tool, ...]
    backend: FolderBackend
    without_backend: tuple[str, ...]
    """Names of the tools that only records, if anything, answer."""
    n_recorded: int


def open_folder(folder: Path, log_file: Path) -> Opened:
    """Return the folder's job with a backend for it; starts the MCP servers it names.

    Raises:
        ScenarioError: a file is missing or malformed; the message names it and what is wrong.
    """
    described = job.read(folder / "job_description.json")
    python, commands = _live(folder / "tools.json")
    functions = {name: installed(name) for name in python}
    recorded: dict[tuple[str, str], str] = {}
    for path in sorted(folder.glob("*traces.jsonl")):
        for key, content in _records(path):
            recorded.setdefault(key, content)
    servers: dict[str, McpServer] = {}
    tools = {tool.name: tool for tool in described.tools}
    try:
        for command in commands:
            server = McpServer(command, folder, log_file)
            servers.update(dict.fromkeys((tool.name for tool in server.tools), server))
            tools |= {tool.name: tool for tool in server.tools if tool.name not in tools}
    except ScenarioError:
        FolderBackend({}, servers, {}).close()
        raise
    for name, function in functions.items():
        # The job description's own wording of a tool wins over the function's.
        tools.setdefault(name, function.tool)
    silent = tuple(
        tool.name
        for tool in tools.values()
        if tool.kind is not ToolKind.CONTROL
        and tool.name not in functions
        and tool.name not in servers
    )
    backend = FolderBackend(functions, servers, recorded)
    return Opened(described.policy, tuple(tools.values()), backend, silent, len(recorded))


def _live(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.exists():
        return [], []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ScenarioError(f"cannot read {path}: {exc}") from exc
    if not isinstance(found, dict) or not set(found) <= {"python", "mcp"}:
        raise ScenarioError(f'{path} holds other keys than "python" and "mcp"')
    python, commands = found.get("python", []), found.get("mcp", [])
    if not _is_texts(python):
        raise ScenarioError(f'{path}: "python" must be a list of tool names')
    if not isinstance(commands, list) or not all(_is_texts(one) and one for one in commands):
        raise ScenarioError(f'{path}: "mcp" must be a list of commands, each a list of words')
    return python, commands


def _is_texts(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _records(path: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield ((tool, canonical arguments), result) of every recorded call that touched a tool.

    A line is `{"context": "<json with messages>"}` or `{"messages": […]}`. A result is the message
    after the call: distil's traces give it the role user, others the role tool.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise ScenarioError(f"cannot read {path}: {exc}") from exc
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            context = found.get("context")
            messages = (json.loads(context) if context else found)["messages"]
            yield from _results(messages)
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            raise ScenarioError(
                f"{path}, line {n} is not a recorded conversation: {exc!r}"
            ) from exc


def _results(messages: list[Json]) -> Iterator[tuple[tuple[str, str], str]]:
    for n, message in enumerate(messages):
        calls = message.get("tool_calls") or ()
        for offset, call in enumerate(calls, 1):
            function = call["function"]
            if function["name"] in CONTROL_NAMES or n + offset >= len(messages):
                continue
            given = function["arguments"]
            arguments = json.loads(given) if isinstance(given, str) else given
            content = messages[n + offset]["content"]
            text = content if isinstance(content, str) else json.dumps(content)
            yield (function["name"], _canonical(arguments)), text


def _canonical(arguments: Mapping[str, Json]) -> str:
    return json.dumps(dict(arguments), sort_keys=True)
