"""A real OpenAI-compatible server on loopback that answers what a test tells it to.

    with Loopback(calls(("get_user", {"user_id": "ana_ro_5127"})), says("Done.")) as server:
        config = RemoteConfig(base_url=server.url, model="big")

Each POST takes the next answer, the last one repeats; `server.requests` has what was asked.
Knows nothing of edgeagent.
"""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, TypeAlias

Json: TypeAlias = Any
PIECE = 7
"""Characters per streamed piece: small, so that pieces end in the middle of everything."""


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Json
    n_bytes: int
    port: int
    """The client's: the same for requests on one connection."""


@dataclass
class Reply:
    """The connection, in the hands of an answer."""

    handler: BaseHTTPRequestHandler
    asked: Asked
    server: Loopback

    def head(self, status: int, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", kind)
        for name, value in (headers or {}).items():
            self.handler.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.handler.send_header("Connection", "close")
            self.handler.close_connection = True
        self.handler.end_headers()

    def write(self, text: str) -> None:
        self.handler.wfile.write(text.encode())
        self.handler.wfile.flush()

    def event(self, document: Json) -> None:
        self.write(f"data: {json.dumps(document)}\n\n")

    def whole(self, status: int, kind: str, text: str, **headers: str) -> None:
        length = {"Content-Length": str(len(text.encode()))}
        self.head(status, kind, length | {k.replace("_", "-"): v for k, v in headers.items()})
        self.write(text)

    def hold(self) -> None:
        """Say nothing until the client hangs up or the server ends."""
        connection = self.handler.connection
        while not self.server.is_closing.is_set():
            readable, _, _ = select.select([connection], [], [], 0.01)
            if readable and not connection.recv(1, socket.MSG_PEEK):
                self.server.hung_up.set()
                break
        self.handler.close_connection = True


Answer: TypeAlias = Callable[[Reply], None]


def calls(*wanted: tuple[str, Json], usage: tuple[int, int] = (100, 20)) -> Answer:
    """Stream one or more tool calls; arguments given as text are sent as they are."""

    def answer(reply: Reply) -> None:
        reply.head(200, "text/event-stream")
        for index, (name, arguments) in enumerate(wanted):
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            first = {"index": index, "id": "call_0", "type": "function"}
            reply.event(_delta({"tool_calls": [{**first, "function": {"name": name}}]}))
            for start in range(0, len(text), PIECE):
                piece = {"arguments": text[start : start + PIECE]}
                reply.event(_delta({"tool_calls": [{"index": index, "function": piece}]}))
        _end(reply, "tool_calls", usage)

    return answer


def says(text: str, usage: tuple[int, int] = (100, 20)) -> Answer:
    """Stream plain words in place of a call."""

    def answer(reply: Reply) -> None:
        reply.head(200, "text/event-stream")
        for start in range(0, len(text), PIECE):
            reply.event(_delta({"content": text[start : start + PIECE]}))
        _end(reply, "stop", usage)

    return answer


def replies(message: str) -> Answer:
    """Stream a `respond_to_user` call."""
    return calls(("respond_to_user", {"message": message}))


def unstreamed(*wanted: tuple[str, Json]) -> Answer:
    """Answer with one document, as servers do that ignore `stream`."""
    made = [
        {"id": "call_0", "type": "function", "function": {"name": n, "arguments": json.dumps(a)}}
        for n, a in wanted
    ]
    choice = {"message": {"content": None, "tool_calls": made}, "finish_reason": "tool_calls"}
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    return document({"choices": [choice], "usage": usage})


def document(body: Json) -> Answer:
    """Answer 200 with this JSON document."""
    return lambda reply: reply.whole(200, "application/json", json.dumps(body))


def status(code: int, message: str = "no", **headers: str) -> Answer:
    """Answer with a status and OpenAI's error object; headers as `Retry_After="20"`."""
    body = json.dumps({"error": {"message": message, "type": "test", "code": None}})
    return lambda reply: reply.whole(code, "application/json", body, **headers)


def done_and_open(message: str) -> Answer:
    """Say a whole reply, say that it is done, and keep the connection open."""

    def answer(reply: Reply) -> None:
        replies(message)(reply)
        reply.hold()

    return answer


def page() -> Answer:
    """Answer 200 with a web page, as a sign-in network does."""
    return lambda reply: reply.whole(200, "text/html", "<!doctype html><h1>Welcome</h1>")


def stall() -> Answer:
    """Take the request and say nothing."""
    return Reply.hold


def stall_midway(text: str = "Let me") -> Answer:
    """Begin a reply and fall silent."""

    def answer(reply: Reply) -> None:
        reply.head(200, "text/event-stream")
        _begin_reply(reply, text)
        reply.hold()

    return answer


def half(text: str = "Let me") -> Answer:
    """Begin a reply and close the connection."""

    def answer(reply: Reply) -> None:
        reply.head(200, "text/event-stream")
        _begin_reply(reply, text)

    return answer


def hang_up() -> Answer:
    """Close the connection without a word."""

    def answer(reply: Reply) -> None:
        reply.handler.close_connection = True

    return answer


def flood() -> Answer:
    """Write arguments without end."""

    def answer(reply: Reply) -> None:
        reply.head(200, "text/event-stream")
        _begin_reply(reply, "")
        piece = _delta({"tool_calls": [{"index": 0, "function": {"arguments": "x" * 10_000}}]})
        while not reply.server.is_closing.is_set():
            reply.event(piece)

    return answer


def flood_line(code: int = 200) -> Answer:
    """Write bytes without end and without a line break."""

    def answer(reply: Reply) -> None:
        reply.head(code, "text/event-stream")
        while not reply.server.is_closing.is_set():
            reply.write("data: " + "x" * 100_000)

    return answer


def chatter() -> Answer:
    """Write comments without end, as fast as they are taken."""

    def answer(reply: Reply) -> None:
        reply.head(200, "text/event-stream")
        while not reply.server.is_closing.is_set():
            reply.write(": " + "x" * 50_000 + "\n\n")

    return answer


def drip() -> Answer:
    """Write a comment now and then, for ever: never silent, never useful."""

    def answer(reply: Reply) -> None:
        reply.head(200, "text/event-stream")
        while not reply.server.is_closing.wait(0.01):
            reply.write(": still here\n\n")

    return answer


UNKNOWN_TOOL = calls(("launch_rocket", {"target": "moon"}))
BAD_JSON = calls(("respond_to_user", '{"message": "Hel'))
UNFIT = calls(("respond_to_user", {"text": 3}))


class Loopback:
    """The server; starts on entry and is gone, with every connection, on exit."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[Asked] = []
        """POST requests only."""
        self.probes: list[Asked] = []
        """GET requests."""
        self.models = document({"object": "list", "data": []})
        """What `GET /v1/models` answers."""
        self.is_closing = threading.Event()
        self.hung_up = threading.Event()
        """The client closed a connection that the server was writing to or holding."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _next(self, asked: Asked) -> Answer:
        if asked.method == "GET":
            self.probes.append(asked)
            return self.models
        with self._lock:
            self.requests.append(asked)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.loads(raw) if raw else None
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(
                    self.command, self.path, headers, body, len(raw), self.client_address[1]
                )
                try:
                    server._next(asked)(Reply(self, asked, server))
                except OSError:
                    self.close_connection = True
                    server.hung_up.set()

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the test's output clean."""

        return Handler


def nobody() -> str:
    """Return an address on loopback where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def _delta(delta: Json) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}


def _begin_reply(reply: Reply, text: str) -> None:
    function = {"name": "respond_to_user", "arguments": '{"message": "' + text}
    reply.event(_delta({"tool_calls": [{"index": 0, "id": "call_0", "function": function}]}))


def _end(reply: Reply, reason: str, usage: tuple[int, int]) -> None:
    reply.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    reply.event({"choices": [], "usage": counts})
    reply.write("data: [DONE]\n\n")
