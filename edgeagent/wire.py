"""The chat format of OpenAI-compatible servers: our conversation out, their answer in.

Pure: no socket, no clock. What comes in is not trusted: it is bounded, parsed with pydantic, and
every call is checked against its tool's schema before anyone sees it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NoReturn, assert_never

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from edgeagent.calls import new_id, validate
from edgeagent.errors import RemoteBroken
from edgeagent.messages import (
    RESPOND,
    Call,
    CallMessage,
    Conversation,
    Json,
    ResultMessage,
    TextMessage,
    Tool,
    UserMessage,
)

ANSWER_BYTES = 256 * 1024
"""Text and arguments of one answer; a longer one is a flood."""
ARGUMENTS_BYTES = 64 * 1024
"""Arguments of one call."""
MAX_CALLS = 16
"""Calls of one answer."""
MAX_DEPTH = 32
"""Objects and lists inside each other in one call's arguments."""


def request_body(
    model: str, policy: str, tools: Sequence[Tool], conversation: Conversation
) -> dict[str, Json]:
    """Return the request that asks for the next call, streamed."""
    return {
        "model": model,
        "messages": chat_messages(policy, conversation),
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters),
                },
            }
            for tool in tools
        ],
        "stream": True,
    }


def chat_messages(policy: str, conversation: Conversation) -> list[dict[str, Json]]:
    """Return the messages; each call is followed by its result, as strict servers demand."""
    chat: list[dict[str, Json]] = [{"role": "system", "content": policy}]
    for message in conversation:
        match message:
            case UserMessage(text):
                chat.append({"role": "user", "content": text})
            case TextMessage(text):
                chat.append({"role": "assistant", "content": text})
            case CallMessage(calls):
                chat.append({"role": "assistant", "content": None, "tool_calls": _outgoing(calls)})
            case ResultMessage(call_id, _, content):
                chat.append({"role": "tool", "tool_call_id": call_id, "content": content})
            case _:
                assert_never(message)
    return chat


def _outgoing(calls: Sequence[Call]) -> list[dict[str, Json]]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.dumps(call.arguments, ensure_ascii=False),
            },
        }
        for call in calls
    ]


def payloads(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the JSON documents of a body: server-sent events, or one document of a server
    that does not stream.

    Raises:
        RemoteBroken: the body is a web page, or one event is larger than an answer may be.
    Source: WHATWG HTML, 9.2.6 "Interpreting an event stream"; only `data` fields matter here.
    """
    rest = b""
    event: list[bytes] = []
    is_document: bool | None = None
    for chunk in chunks:
        rest += chunk
        if len(rest) > ANSWER_BYTES + ARGUMENTS_BYTES:
            raise RemoteBroken("the larger model's answer is too long")
        if is_document is None and rest.strip():
            is_document = _begins_document(rest.lstrip())
        if is_document:
            continue
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield from _dispatched(line.rstrip(b"\r"), event)
    if is_document:
        yield rest
        return
    yield from _dispatched(rest.rstrip(b"\r"), event)
    yield from _dispatched(b"", event)


def _begins_document(body: bytes) -> bool:
    if body.startswith(b"<"):
        raise RemoteBroken("the larger model's server answers with a web page, not with JSON")
    return body.startswith(b"{")


def _dispatched(line: bytes, event: list[bytes]) -> Iterator[bytes]:
    field, _, value = line.partition(b":")
    if field == b"data":
        event.append(value.removeprefix(b" "))
    elif not line and event:
        whole = b"\n".join(event)
        event.clear()
        yield whole


def _joined(content: Any) -> Any:
    """Some servers send the text in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content


def _as_text(arguments: Any) -> Any:
    """Some servers send the arguments as an object and not as text."""
    return json.dumps(arguments) if isinstance(arguments, dict) else arguments


class _Incoming(BaseModel):
    # Servers add fields of their own; what we do not know we do not read.
    model_config = ConfigDict(extra="ignore")


class _Function(_Incoming):
    name: str | None = None
    arguments: Annotated[str | None, BeforeValidator(_as_text)] = None


class _ToolCall(_Incoming):
    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


class _Delta(_Incoming):
    content: Annotated[str | None, BeforeValidator(_joined)] = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(_Incoming):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Details(_Incoming):
    cached_tokens: int | None = None


class _Usage(_Incoming):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(_Incoming):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class Answer:
    """One answer as it comes in; `feed` its documents, then take the `calls`."""

    def __init__(self) -> None:
        self.n_prompt = 0
        self.n_cached = 0
        self.n_decoded = 0
        self.is_done = False
        """The server said that nothing follows."""
        self._content: list[str] = []
        self._names: list[str] = []
        self._arguments: list[list[str]] = []
        self._by_index: dict[int, int] = {}
        self._n_bytes = 0
        self._is_complete = False

    def feed(self, payload: bytes) -> Iterator[str]:
        """Take one document; yield what it adds to the call's text, as a local model writes it.

        Raises:
            RemoteBroken: it is not what the format says, it is an error, or it is too much.
        """
        if payload.strip() == b"[DONE]":
            self.is_done = self._is_complete = True
            return
        try:
            chunk = _Chunk.model_validate_json(payload)
        except ValidationError as exc:
            where = ".".join(map(str, exc.errors()[0]["loc"])) or "the document"
            raise RemoteBroken(f"the larger model's answer is malformed at {where}") from exc
        if chunk.error:
            raise RemoteBroken(f"the larger model's server failed: {explained(chunk.error)}")
        if chunk.usage:
            self._count(chunk.usage)
        for choice in (chunk.choices or [])[:1]:
            self._is_complete |= choice.finish_reason is not None
            yield from self._add(choice.delta or choice.message or _Delta())

    def calls(self, tools: Sequence[Tool]) -> tuple[Call, ...]:
        """Return the finished, valid calls; plain text is a reply to the customer.

        Raises:
            RemoteBroken: the answer is unfinished, empty, or calls what it may not.
        """
        if not self._is_complete:
            raise RemoteBroken("the larger model's answer broke off")
        if not self._names:
            text = "".join(self._content).strip()
            if not text:
                raise RemoteBroken("the larger model's answer is empty")
            return (_checked(RESPOND, {"message": text}, tools),)
        return tuple(
            _checked(name, _parsed(name, "".join(parts)), tools)
            for name, parts in zip(self._names, self._arguments, strict=True)
        )

    def _add(self, delta: _Delta) -> Iterator[str]:
        if delta.content:
            self._grow(delta.content)
            if not self._content:
                yield f'<tool_call>\n{{"name": "{RESPOND}", "arguments": {{"message": "'
            self._content.append(delta.content)
            yield json.dumps(delta.content, ensure_ascii=False)[1:-1]
        if delta.tool_calls and self._content and not self._names:
            yield '"}}\n</tool_call>\n'  # those words were no reply
        for position, part in enumerate(delta.tool_calls or []):
            yield from self._add_call(part, position)

    def _add_call(self, part: _ToolCall, position: int) -> Iterator[str]:
        slot = self._slot(part, position)
        if slot == len(self._names):
            if len(self._names) == MAX_CALLS:
                raise RemoteBroken(f"the larger model makes more than {MAX_CALLS} calls at once")
            self._names.append("")
            self._arguments.append([])
        name, text = part.function.name or "", part.function.arguments or ""
        self._grow(name + text)
        if name and name != self._names[slot]:  # some servers repeat it in every part
            self._names[slot] += name
            yield f'<tool_call>\n{{"name": {json.dumps(self._names[slot])}, "arguments": '
        self._arguments[slot].append(text)
        if sum(map(len, self._arguments[slot])) > ARGUMENTS_BYTES:
            raise RemoteBroken("the larger model's arguments are too long")
        yield text

    def _slot(self, part: _ToolCall, position: int) -> int:
        """Return which call the part continues; servers that send no index send whole calls."""
        if part.index is None:
            if part.function.name or not self._names:
                return len(self._names)
            return len(self._names) - 1
        return self._by_index.setdefault(part.index, len(self._names))

    def _grow(self, text: str) -> None:
        self._n_bytes += len(text.encode(errors="replace"))
        if self._n_bytes > ANSWER_BYTES:
            raise RemoteBroken("the larger model's answer is too long")

    def _count(self, usage: _Usage) -> None:
        self.n_prompt = max(0, usage.prompt_tokens or 0)
        self.n_decoded = max(0, usage.completion_tokens or 0)
        if usage.prompt_tokens_details:
            self.n_cached = max(0, usage.prompt_tokens_details.cached_tokens or 0)


def complaint(body: bytes) -> str:
    """Return what the body of an error says; empty where it is no JSON object."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return (
        explained(document["error"]) if isinstance(document, dict) and "error" in document else ""
    )


def explained(error: Json) -> str:
    """Return an error object of a server as one line of at most 200 characters."""
    message = error.get("message", error) if isinstance(error, dict) else error
    line = " ".join(str(message).split())
    printable = "".join(character for character in line if character.isprintable())
    return printable if len(printable) <= 200 else printable[:199] + "…"


def _parsed(name: str, text: str) -> dict[str, Json]:
    try:
        arguments = json.loads(text or "{}", parse_constant=_refuse_constant)
        # A lone surrogate parses and can be neither stored nor shown.
        text.encode()
        json.dumps(arguments, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise RemoteBroken(f"the larger model's arguments for {name!r} are not JSON") from exc
    if not isinstance(arguments, dict) or _is_deeper(arguments, MAX_DEPTH):
        raise RemoteBroken(f"the larger model's arguments for {name!r} are no plain object")
    return arguments


def _is_deeper(value: Json, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(_is_deeper(item, depth - 1) for item in inner)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _checked(name: str, arguments: dict[str, Json], tools: Sequence[Tool]) -> Call:
    """Return the call under an id of ours; ids of servers repeat, and ours run at most once."""
    problem = validate(name, arguments, tools)
    if problem is not None:
        raise RemoteBroken(f"the larger model called {explained(name)!r}: {problem}")
    return Call(new_id(), name, arguments)
