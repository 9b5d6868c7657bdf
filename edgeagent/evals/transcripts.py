"""Recorded conversations, taken apart into what a model is asked and what the record answers.

Reads lists of chat messages as distil's test files and tau-bench's trajectories hold them. Every
call of the assistant makes one pair: all before it, and the call. Knows no model and no scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from edgeagent import history
from edgeagent.calls import new_id
from edgeagent.cascade import OK
from edgeagent.errors import EvaluationError
from edgeagent.evals import distil
from edgeagent.messages import (
    RESPOND,
    Call,
    CallMessage,
    Conversation,
    Json,
    ResultMessage,
    TextMessage,
    UserMessage,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One question to a model, and the recorded answer."""

    id: str
    """Conversation and step, `3/7`; both count from 1."""
    policy: str
    """The record's own system message; empty without one."""
    conversation: Conversation
    reference: str
    """The call, bare JSON with `parameters`."""


def pairs(
    messages: Json, where: str, conversation_id: str, answer: str | None = None
) -> Iterator[Pair]:
    """Yield a pair per call of the assistant, and one for `answer` after the last message.

    Words of the assistant outside a call are a reply to the customer. Of several calls in one
    message the first is the reference. Where the record has no `tool` messages, the customer's
    message right after a service call is its result, as distil writes them.

    Raises:
        EvaluationError: a message is not one, a result answers no call, or the answer is no call.
    """
    if not isinstance(messages, list):
        raise EvaluationError(f"{where}: the conversation is not a list of messages")
    reader = _Reader(where, any(_role(message) == "tool" for message in messages))
    n_steps = 0
    for number, message in enumerate(messages, start=1):
        before = history.closed(reader.conversation, "")
        reader.take(message, number)
        if _role(message) == "assistant" and before:
            n_steps += 1
            first = reader.last_calls[0]
            reference = distil.write_call(first.name, first.arguments)
            yield Pair(f"{conversation_id}/{n_steps}", reader.policy, before, reference)
    if answer is not None:
        if distil.read_call(answer) is None:
            raise EvaluationError(f"{where}: the answer is not a tool call in JSON")
        conversation = history.closed(reader.conversation, "")
        yield Pair(f"{conversation_id}/{n_steps + 1}", reader.policy, conversation, answer)


class _Reader:
    """The conversation so far; every call in it has its result before anything else follows."""

    def __init__(self, where: str, has_tool_role: bool) -> None:
        self.where = where
        self.has_tool_role = has_tool_role
        self.policy = ""
        self.conversation: Conversation = ()
        self.last_calls: tuple[Call, ...] = ()

    def take(self, message: Json, number: int) -> None:
        """Add a message.

        Raises:
            EvaluationError: it is not a message, or a result that answers no call.
        """
        where = f"{self.where}, message {number}"
        if not isinstance(message, dict):
            raise EvaluationError(f"{where} is not an object")
        match _role(message):
            case "system":
                self.policy = _text(message, where)
            case "user":
                self._take_user(_text(message, where))
            case "tool":
                self._take_result(message, where)
            case "assistant":
                self._take_calls(_calls(message, where))
            case role:
                raise EvaluationError(f"{where} has the role {role!r}")

    def _take_user(self, text: str) -> None:
        still_open = history.open_calls(self.conversation)
        if still_open and not self.has_tool_role:
            self._answer(still_open[0], text)
        else:
            self.conversation = (*history.closed(self.conversation, ""), UserMessage(text))

    def _take_result(self, message: dict[str, Json], where: str) -> None:
        still_open = history.open_calls(self.conversation)
        wanted = message.get("tool_call_id")
        asked = next((call for call in still_open if wanted in (None, call.id)), None)
        if asked is None:
            raise EvaluationError(f"{where} is the result of {wanted!r}, a call that is not open")
        self._answer(asked, _text(message, where))

    def _take_calls(self, calls: tuple[Call, ...]) -> None:
        self.conversation = (*history.closed(self.conversation, ""), CallMessage(calls))
        self.last_calls = calls
        for call in calls:
            if call.name == RESPOND:
                self._answer(call, OK)

    def _answer(self, call: Call, content: str) -> None:
        result = ResultMessage(call.id, call.name, content)
        self.conversation = (*self.conversation, result)


def _role(message: Json) -> Json:
    return message.get("role") if isinstance(message, dict) else None


def _text(message: dict[str, Json], where: str) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise EvaluationError(f"{where} has no text as its content")
    return content


def _calls(message: dict[str, Json], where: str) -> tuple[Call, ...]:
    listed = message.get("tool_calls")
    if not listed:
        return (Call(new_id(), RESPOND, {"message": _text(message, where)}),)
    if not isinstance(listed, list):
        raise EvaluationError(f"{where}: tool_calls is not a list")
    return tuple(_call(call, where) for call in listed)


def _call(listed: Json, where: str) -> Call:
    function = listed.get("function") if isinstance(listed, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise EvaluationError(f'{where}: a call is not {{"function": {{"name", "arguments"}}}}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as exc:
            raise EvaluationError(f"{where}: the arguments of {name!r} are not JSON") from exc
    if not isinstance(arguments, dict):
        raise EvaluationError(f"{where}: the arguments of {name!r} are not an object")
    call_id = listed.get("id")
    return Call(call_id if isinstance(call_id, str) and call_id else new_id(), name, arguments)


def as_text(conversation: Conversation) -> str:
    """Return the conversation as lines that a person, or a judge, can read."""
    lines = []
    for message in conversation:
        match message:
            case UserMessage(text):
                lines.append(f"customer: {text}")
            case TextMessage(text):
                lines.append(f"assistant: {text}")
            case CallMessage(calls):
                lines += [distil.write_call(call.name, call.arguments) for call in calls]
            case ResultMessage(_, name, content):
                lines += [f"result: {content}"] if name != RESPOND else []
            case _:
                assert_never(message)
    return "\n".join(lines)
