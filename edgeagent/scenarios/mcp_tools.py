"""The tools of an MCP server that is started as a child process and spoken to over its pipes.

Needs the extra `mcp`. Knows the protocol only through that package, and opens no socket itself.
Source: Model Context Protocol, transport `stdio`.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgeagent.cascade import ToolOutcome
from edgeagent.errors import ScenarioError
from edgeagent.messages import CONTROL_NAMES, Json, Tool, ToolKind
from edgeagent.scenarios.database import refused
from edgeagent.scenarios.job import guess_kind
from edgeagent.scenarios.plugins import untitled

START_S = 20.0


class McpServer:
    """A running server; call `close` to end its process."""

    def __init__(self, command: Sequence[str], folder: Path, log_file: Path) -> None:
        """Start `command` in `folder` and ask for its tools; its stderr goes to `log_file`.

        Raises:
            ScenarioError: the extra is not installed, or the server does not start or answer.
        """
        try:
            # 1200 ms measured, and only scenarios with an MCP server need it.
            from anyio.from_thread import start_blocking_portal
            from mcp import ClientSession, MCPError, StdioServerParameters, stdio_client
        except ImportError as exc:
            raise ScenarioError(
                f"MCP tools need the extra: pip install 'edgeagent[mcp]' ({exc})"
            ) from exc
        shown = " ".join(command)
        self._open = ExitStack()
        # Left open, the pipes' thread would hold up the interpreter's exit for ever.
        self.close = weakref.finalize(self, self._open.close)
        """End the session and the server's process; happens at exit at the latest."""
        try:
            log = self._open.enter_context(log_file.open("a", encoding="utf-8"))
            portal = self._open.enter_context(start_blocking_portal())
            server = StdioServerParameters(
                command=command[0], args=list(command[1:]), cwd=str(folder)
            )
            pipes = portal.wrap_async_context_manager(stdio_client(server, errlog=log))
            read, write = self._open.enter_context(pipes)
            session = portal.wrap_async_context_manager(ClientSession(read, write))
            self._session = self._open.enter_context(session)
            self._portal = portal
            self._ask(self._session.initialize, START_S)
            self.tools = tuple(_tool(found) for found in self._listed())
        except (MCPError, OSError, FutureTimeout, ValueError) as exc:
            self.close()
            raise ScenarioError(
                f"MCP server {shown!r} does not answer: {exc or 'no reply'}; see {log_file}"
            ) from exc

    def call(self, name: str, arguments: Mapping[str, Json], timeout_s: float) -> ToolOutcome:
        """Return what the server's tool answers; a silent server is an error outcome."""
        try:
            found = self._ask(self._session.call_tool, timeout_s, name, dict(arguments))
        except FutureTimeout:
            return refused(f"{name} did not answer within {timeout_s:g} s")
        told = found.model_dump(by_alias=True, mode="json")
        parts = [
            part["text"] if part.get("type") == "text" else json.dumps(part, ensure_ascii=False)
            for part in told.get("content", ())
        ]
        return ToolOutcome("\n".join(parts), bool(told.get("isError")))

    def _ask(self, function: Any, timeout_s: float, *arguments: Any) -> Any:
        future = self._portal.start_task_soon(function, *arguments)
        try:
            return future.result(timeout_s)
        except FutureTimeout:
            future.cancel()
            raise

    def _listed(self) -> list[dict[str, Json]]:
        told = self._ask(self._session.list_tools, START_S).model_dump(by_alias=True, mode="json")
        listed: list[dict[str, Json]] = told["tools"]
        return listed


def _tool(listed: Mapping[str, Json]) -> Tool:
    name = listed["name"]
    if name in CONTROL_NAMES:
        raise ScenarioError(f"an MCP tool is called {name!r}, which steers the turn itself")
    read_only = (listed.get("annotations") or {}).get("readOnlyHint")
    kind = guess_kind(name) if read_only is None else _KINDS[bool(read_only)]
    return Tool(name, listed.get("description") or "", untitled(listed["inputSchema"]), kind)


_KINDS = {True: ToolKind.READ, False: ToolKind.WRITE}
