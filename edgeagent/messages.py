"""The values a conversation is made of: tools, calls and messages.

Knows nothing of models, prompts, storage or screens. Two equal conversations compare equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

Json: TypeAlias = Any
"""A value that `json.dumps` takes: dict with str keys, list, str, int, float, bool or None."""

RESPOND = "respond_to_user"
THINK = "think"
TRANSFER = "transfer_to_human_agents"
DEFER = "defer_to_larger_model"
CONTROL_NAMES = frozenset({RESPOND, THINK, TRANSFER, DEFER})


class ToolKind(StrEnum):
    """What a tool may change."""

    READ = "read"
    WRITE = "write"
    CONTROL = "control"
    """Steers the turn itself and touches no backend (names in `CONTROL_NAMES`)."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Json]
    """JSON Schema of the arguments object, keys in the order that prompt and grammar keep."""
    kind: ToolKind


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call, decoded and valid."""

    id: str
    """Unique in the session, `call_<hex>`; a backend executes one id at most once."""
    name: str
    arguments: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class UserMessage:
    """What the customer wrote."""

    text: str


@dataclass(frozen=True, slots=True)
class CallMessage:
    """What the model did in one step: one call, or several where the model's manifest allows."""

    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class TextMessage:
    """Plain text of the model; only models whose manifest allows a refusal in words make it."""

    text: str


@dataclass(frozen=True, slots=True)
class ResultMessage:
    """What a tool answered; a message to the customer has the result `{"ok": true}`."""

    call_id: str
    name: str
    content: str
    """Text as the model reads it, mostly JSON."""
    is_error: bool = False


Message: TypeAlias = UserMessage | CallMessage | TextMessage | ResultMessage
Conversation: TypeAlias = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the model thought of deferring, read at the tool-name branch."""

    deferred: bool
    probability: float
    """Of the deferral call among the tools the grammar offered; 0..1."""
    reason: str
    """`greedy`, `threshold` or `not offered`: which rule decided."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one step cost."""

    n_prompt: int = 0
    n_reused: int = 0
    """Prompt tokens that were already in the context."""
    n_decoded: int = 0
    """Tokens of the answer, forced ones included."""
    n_sampled: int = 0
    """Tokens of the answer that needed a choice; the others were forced."""
    n_drafted: int = 0
    """Tokens that were guessed and read before they were chosen."""
    n_accepted: int = 0
    """Guessed tokens that became part of the answer."""
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    n_ctx: int = 0
    bytes_sent: int = 0
    """Bytes of the request body that left the machine; 0 on the local tier."""
    cost_usd: float = 0.0
