"""The larger model: any OpenAI-compatible endpoint, one step at a time. The only OpenAI client.

A thread reads the connection and the turn listens with a clock in hand, so that a cancel, a
deadline or a silent server never holds the turn: the connection is shut, the thread ends by
itself. Knows no tiers and no permissions; what comes back is checked in `wire`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from edgeagent import reach, wire
from edgeagent.errors import RemoteBroken, RemoteError, RemoteOffline, RemoteTimeout
from edgeagent.events import Token
from edgeagent.messages import Call, Conversation, Json, Tool, Usage

if TYPE_CHECKING:
    import httpx2
    from openai import OpenAI, OpenAIError, Stream

    from edgeagent.config import RemoteConfig

log = logging.getLogger(__name__)

POLL_S = 0.02
"""How often a cancel and the clock are looked at."""
RETRY_PAUSE_S = 0.25
CLOSING_S = 0.05
"""How long the end of a finished answer is waited for, so that the connection can serve again."""
RESET = struct.pack("ii", 1, 0)
LEAVING = ("connect_tcp.started", "send_request_headers.started", "send_request_body.started")
"""What the transport must not begin for a turn that went on."""
BODY_BYTES = 8 * 1024 * 1024
"""All bytes of one answer: streaming wraps every token in some 200 bytes of JSON."""
ERROR_BYTES = 16 * 1024
"""Bytes of an error's body that are read for its message."""
NOT_TAKEN = (400, 422)
"""Statuses of a request that some servers do not understand: `required`, `stream_options`."""
NO_KEY = "unused"
"""The client library wants a key; what is sent is decided in `Remote._prepare`."""
SENT_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "host",
        "user-agent",
    }
)
"""The client library adds the machine's make and its environment's headers; these leave."""


@dataclass(frozen=True, slots=True)
class RemoteDone:
    """The larger model's step."""

    calls: tuple[Call, ...]
    """Checked against the tools; empty only when the step was cancelled."""
    usage: Usage
    ms: float


@dataclass(frozen=True, slots=True)
class Preview:
    """What the next request would send."""

    n_messages: int
    n_bytes: int


class Remote:
    """A client of one model, one step at a time; opens nothing before the first."""

    def __init__(self, config: RemoteConfig) -> None:
        assert config.base_url is not None, "whoever has no address has no larger model"
        self.name = config.model or "default"
        self.host = reach.host_of(config.base_url)
        self.bytes_sent = 0
        """Bytes of all request bodies so far, failed ones included."""
        self._config = config
        self._key = config.api_key.get_secret_value() if config.api_key else ""
        self._client: OpenAI | None = None
        self._exchange: _Exchange | None = None
        self._tool_choice: str | None = "required"
        """None once the server turned it down; it then gets the format's plainest form."""

    def __repr__(self) -> str:
        return f"Remote(name={self.name!r}, host={self.host!r})"

    def preview(self, policy: str, tools: Sequence[Tool], conversation: Conversation) -> Preview:
        """Return how much `step` would send, before anything is."""
        body = self._body(policy, tools, conversation)
        encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        return Preview(len(body["messages"]), len(encoded))

    def step(
        self,
        policy: str,
        tools: Sequence[Tool],
        conversation: Conversation,
        deadline_s: float,
        cancel: threading.Event,
    ) -> Iterator[Token | RemoteDone]:
        """Yield the answer as it is written, then the step; both within `deadline_s`.

        A server that fails (5xx) or stays silent before its first byte is tried once more.
        Tokens are the raw text of the call, as a local model would write it.

        Raises:
            RemoteError: no usable answer; its class tells what kind of failure.
        """
        self._open()
        sent_before, started = self.bytes_sent, time.monotonic()
        deadline = started + deadline_s
        tried: set[str] = set()
        answer = wire.Answer()
        calls: tuple[Call, ...] = ()
        while not (calls or cancel.is_set()):
            if time.monotonic() >= deadline:
                raise RemoteTimeout(f"no time is left in this turn to ask {self.host}")
            exchange = self._exchange = self._exchanged(policy, tools, conversation)
            answer = wire.Answer()
            has_begun = False
            try:
                for text in exchange.texts(answer, deadline, cancel):
                    has_begun = True
                    yield Token(text)
                if not cancel.is_set():
                    calls = answer.calls(tools)
            except RemoteError as error:
                if cancel.is_set():
                    break
                again = "" if has_begun else self._another_way(error, exchange.status)
                if not again or again in tried:
                    if "plain" in tried and exchange.status in NOT_TAKEN:
                        self._tool_choice = "required"  # that was not what it minded
                    raise
                tried.add(again)
                cancel.wait(RETRY_PAUSE_S if again == "same" else 0.0)
        usage = self._usage(answer, self.bytes_sent - sent_before)
        yield RemoteDone(calls, usage, (time.monotonic() - started) * 1000)

    def close(self) -> None:
        """Shut the connections; takes at most a second."""
        if self._exchange is not None and self._exchange.is_alive():
            self._exchange.abandon()
            self._exchange.join(1.0)
        if self._client is not None:
            self._client.close()
            self._client = None

    def _another_way(self, error: RemoteError, status: int) -> Literal["plain", "same", ""]:
        """Return how to ask again after a failure: plainer, the same, or not at all."""
        if status in NOT_TAKEN and self._tool_choice is not None:
            log.info("remote tool_choice=auto reason=%r", str(error))
            self._tool_choice = None
            return "plain"
        has_no_answer = status == 0 and isinstance(error, RemoteBroken)
        if status >= 500 or has_no_answer or isinstance(error, RemoteTimeout):
            return "same"
        return ""

    def _body(
        self, policy: str, tools: Sequence[Tool], conversation: Conversation
    ) -> dict[str, Json]:
        body = wire.request_body(self.name, policy, tools, conversation)
        if self._tool_choice is None:
            return {**body, "tool_choice": "auto"}
        return {
            **body,
            "tool_choice": self._tool_choice,
            "stream_options": {"include_usage": True},
        }

    def _usage(self, answer: wire.Answer, bytes_sent: int) -> Usage:
        config = self._config
        cost = answer.n_prompt * config.usd_per_mtok_in + answer.n_decoded * config.usd_per_mtok_out
        return Usage(
            n_prompt=answer.n_prompt,
            n_reused=answer.n_cached,
            n_decoded=answer.n_decoded,
            bytes_sent=bytes_sent,
            cost_usd=cost / 1e6,
        )

    def _open(self) -> None:
        if self._client is not None:
            return
        import httpx2
        import openai  # 700 ms, and only a turn that leaves the machine needs it

        config = self._config
        http = reach.opened(
            timeout=httpx2.Timeout(
                connect=config.connect_s,
                pool=config.connect_s,
                read=config.first_byte_s,
                write=config.first_byte_s,
            ),
            event_hooks={"request": [self._prepare], "response": [self._inspect]},
        )
        self._client = openai.OpenAI(
            base_url=config.base_url, api_key=NO_KEY, max_retries=0, timeout=http.timeout,
            http_client=http,
        )  # fmt: skip

    def _exchanged(
        self, policy: str, tools: Sequence[Tool], conversation: Conversation
    ) -> _Exchange:
        assert self._client is not None
        body = self._body(policy, tools, conversation)
        # A connection that is kept open serves again and is announced only once.
        known = self._exchange.socket if self._exchange else None
        return _Exchange(self._client, body, self._config, known)

    def _prepare(self, request: httpx2.Request) -> None:
        """Let nothing leave but the request itself; runs in the exchange's thread."""
        for name in [name for name in request.headers if name.lower() not in SENT_HEADERS]:
            del request.headers[name]
        request.headers["user-agent"] = reach.USER_AGENT
        # A compressed answer can be a thousand times what came over the wire.
        request.headers["accept-encoding"] = "identity"
        if self._key:
            request.headers["authorization"] = f"Bearer {self._key}"
        elif request.headers.get("authorization") == f"Bearer {NO_KEY}":
            del request.headers["authorization"]
        n_bytes = len(request.content)
        exchange = threading.current_thread()
        assert isinstance(exchange, _Exchange)

        def trace(name: str, details: dict[str, Any]) -> None:
            exchange.follow(name, details)
            if name.endswith("send_request_body.started"):
                self.bytes_sent += n_bytes

        request.extensions["trace"] = trace

    def _inspect(self, response: httpx2.Response) -> None:
        """Turn a refusal into our error, reading no more of its body than a message needs."""
        exchange = threading.current_thread()
        assert isinstance(exchange, _Exchange)
        status = exchange.status = response.status_code
        if response.headers.get("content-encoding", "identity") != "identity":
            raise RemoteBroken(f"{self.host} sends a compressed answer that was not asked for")
        if status >= 300:
            body = b""
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > ERROR_BYTES:
                    break
            said = wire.complaint(body)
            said = said.replace(self._key, "…") if self._key else said
            raise reach.from_status(status, response.headers, self.host, said)


class _Exchange(threading.Thread):
    """One request and its answer, read by this thread; whoever listens can leave at any moment."""

    def __init__(
        self,
        client: OpenAI,
        body: dict[str, Json],
        config: RemoteConfig,
        known: socket.socket | None,
    ) -> None:
        super().__init__(name="remote", daemon=True)
        self.status = 0
        """Of the answer; 0 while there is none."""
        self.socket = known
        """The connection's, so that it can be shut under the reading thread."""
        self._client = client
        self._body = body
        self._config = config
        self._host = reach.host_of(str(config.base_url))
        self._items: queue.SimpleQueue[bytes | RemoteError | None] = queue.SimpleQueue()
        self._has_connected = False
        self._is_abandoned = False
        self._is_read = False

    def texts(self, answer: wire.Answer, deadline: float, cancel: threading.Event) -> Iterator[str]:
        """Send the request and feed the answer, yielding its text, until it says that it is done.

        Raises:
            RemoteError: what the thread met, what came was not usable, or the clock ran out.
        """
        self.start()
        try:
            for payload in wire.payloads(self._chunks(deadline, cancel)):
                yield from answer.feed(payload)
                if answer.is_done:
                    self.join(CLOSING_S)
                    break
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Shut the connection unless all of it was read; the thread notices and ends."""
        self._is_abandoned = True
        if not self._is_read and self.socket is not None:
            with contextlib.suppress(OSError):  # the server was faster
                # Resets on close: a server that is writing should notice at once, not be drained.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self.socket.shutdown(socket.SHUT_RDWR)

    def follow(self, name: str, details: dict[str, Any]) -> None:
        """Learn from the transport which socket is ours and when it is connected."""
        import httpx2

        if self._is_abandoned and name.endswith(LEAVING):
            raise httpx2.ConnectError("the turn went on without this request")
        if name.endswith(("connect_tcp.complete", "start_tls.complete")):
            self.socket = details["return_value"].get_extra_info("socket")
        elif name.endswith("send_request_headers.started"):
            self._has_connected = True

    def run(self) -> None:
        """Read the whole answer; what goes wrong is passed to the listener."""
        import httpx2
        import openai

        try:
            answer = self._client.chat.completions.create(**self._body)
            with cast("Stream[object]", answer) as stream:  # the body says `stream`
                n_bytes = 0
                for chunk in stream.response.iter_bytes():
                    n_bytes += len(chunk)
                    if n_bytes > BODY_BYTES:
                        raise RemoteBroken(f"{self._host} sends more than an answer can be")
                    self._items.put(chunk)
            self._is_read = True
            self._items.put(None)
        except RemoteError as error:
            self._items.put(error)
        except openai.OpenAIError as exc:
            self._items.put(translated(exc, self._host))
        except (httpx2.HTTPError, httpx2.StreamError, OSError, RuntimeError, ValueError) as exc:
            # The last three are how a socket shut under a reader shows itself.
            self._items.put(reach.from_transport(exc, self._host))

    def _chunks(self, deadline: float, cancel: threading.Event) -> Iterator[bytes]:
        """Yield the body as it arrives; ends early, and quietly, on a cancel.

        Raises:
            RemoteError: what the thread met, or the clock ran out.
        """
        connect_s = self._config.connect_s
        started = time.monotonic()
        while not cancel.is_set():
            now = time.monotonic()
            if now >= deadline:  # a server that is never silent and never done
                raise RemoteTimeout(f"{self._host} took longer than the turn may take")
            # Looking up a name has no timeout of its own in the client library.
            if not self._has_connected and now - started > connect_s + 2 * POLL_S:
                raise RemoteOffline(f"no connection to {self._host} within {connect_s:g} s")
            try:
                item = self._items.get(timeout=min(POLL_S, deadline - now))
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, RemoteError):
                raise item
            yield item


def translated(exc: OpenAIError, host: str) -> RemoteError:
    """Return our error for one of the client library's."""
    import openai

    match exc:
        case openai.APIConnectionError() if isinstance(exc.__cause__, Exception):
            return reach.from_transport(exc.__cause__, host)
        case openai.APITimeoutError():
            return RemoteTimeout(f"{host} went silent")
        case openai.APIConnectionError():
            return RemoteOffline(f"cannot reach {host}")
        case openai.APIStatusError():
            return reach.from_status(exc.status_code, exc.response.headers, host)
        case _:
            return RemoteBroken(f"{host}: {type(exc).__name__}")
