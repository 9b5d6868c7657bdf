"""Events in, conversation out: what the models are shown of everything that happened.

The events are the truth and the conversation is folded from them, in the cascade while a turn
runs and in the session when it is loaded again. Every call in a conversation is followed by
exactly one result, because strict servers refuse a history with an open call for ever. Knows
nothing of prompts, tiers or storage.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import assert_never

from edgeagent.events import Event, TextSaid, ToolCalled, ToolReturned, TurnStarted
from edgeagent.messages import (
    DEFER,
    Call,
    CallMessage,
    Conversation,
    Message,
    ResultMessage,
    TextMessage,
    UserMessage,
)

LOST = '{"error": "no result was recorded"}'
"""The result of a call that was still open when the next turn began."""


def conversation_of(events: Iterable[Event]) -> Conversation:
    """Return the conversation that the events tell, oldest message first."""
    return reduce(fold, events, ())


def fold(conversation: Conversation, event: Event) -> Conversation:
    """Return the conversation with what the event adds to it; most events add nothing.

    Calls of one step share a message: a call that comes before the result of the previous one
    belongs to the same step. A result that answers no open call is left out, so that recording
    it twice does no harm.
    """
    match event:
        case TurnStarted(text):
            return (*closed(conversation, LOST), UserMessage(text))
        case ToolCalled(call):
            return _with_call(conversation, call)
        case ToolReturned(call_id, _, content, is_error):
            asked = [call for call in open_calls(conversation) if call.id == call_id]
            results = (ResultMessage(call.id, call.name, content, is_error) for call in asked)
            return (*conversation, *results)
        case TextSaid(text):
            return (*closed(conversation, LOST), TextMessage(text))
        case _:
            return conversation


def open_calls(conversation: Conversation) -> tuple[Call, ...]:
    """Return the calls of the last step that have no result yet, in their order."""
    answered: set[str] = set()
    for message in reversed(conversation):
        if isinstance(message, ResultMessage):
            answered.add(message.call_id)
        elif isinstance(message, CallMessage):
            return tuple(call for call in message.calls if call.id not in answered)
        else:
            break
    return ()


def closed(conversation: Conversation, content: str) -> Conversation:
    """Return the conversation with every open call closed by an error result."""
    results = (
        ResultMessage(call.id, call.name, content, is_error=True)
        for call in open_calls(conversation)
    )
    return (*conversation, *results)


def n_turns(conversation: Conversation) -> int:
    """Return how many turns there are; a turn begins with the customer's message."""
    return sum(isinstance(message, UserMessage) for message in conversation)


def without_oldest(conversation: Conversation, n: int) -> Conversation:
    """Return the conversation without its `n` oldest turns, whole turns only."""
    starts = [i for i, message in enumerate(conversation) if isinstance(message, UserMessage)]
    if n <= 0:
        return conversation
    return conversation[starts[n] :] if n < len(starts) else ()


def n_oldest(conversation: Conversation, share: float) -> int:
    """Return how many of the oldest turns hold about `share` of the text, 0..1.

    At least one, and never the last turn.
    """
    size = sum(map(_size, conversation))
    limit = n_turns(conversation) - 1
    for n in range(1, limit):
        if size - sum(map(_size, without_oldest(conversation, n))) >= share * size:
            return n
    return max(1, limit)


def without_deferrals(conversation: Conversation) -> Conversation:
    """Return the conversation as a model is shown it: no deferral call, no result of one.

    The larger model has no such tool, and a local model that goes on by itself should read
    what it would have read had the deferral been masked.
    """
    shown: list[Message] = []
    for message in conversation:
        if isinstance(message, CallMessage):
            kept = tuple(call for call in message.calls if call.name != DEFER)
            if kept:
                shown.append(CallMessage(kept))
        elif not (isinstance(message, ResultMessage) and message.name == DEFER):
            shown.append(message)
    return tuple(shown)


def _with_call(conversation: Conversation, call: Call) -> Conversation:
    if conversation and isinstance(last := conversation[-1], CallMessage):
        if any(call.id == other.id for other in last.calls):
            return conversation
        return (*conversation[:-1], CallMessage((*last.calls, call)))
    return (*closed(conversation, LOST), CallMessage((call,)))


def _size(message: Message) -> int:
    """Return about how long the message is, in characters; tokens are the engine's to count."""
    match message:
        case UserMessage(text) | TextMessage(text):
            return len(text)
        case ResultMessage(_, _, content):
            return len(content)
        case CallMessage(calls):
            return sum(len(call.name) + len(str(call.arguments)) for call in calls)
        case _:
            assert_never(message)
