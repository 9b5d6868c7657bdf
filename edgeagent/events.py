"""What happened in a turn, as values in the past tense.

The only contract between the cascade and its consumers (app, headless run, evaluations, store).
Every event is stored before it is shown, so each one must survive `to_json` and `from_json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from edgeagent.messages import Call, Usage, Verdict


class Tier(StrEnum):
    """Who took a step."""

    LOCAL = "local"
    REMOTE = "remote"
    OFFLINE = "offline"
    """The local model on a turn it wanted to hand over, with no larger model in reach."""


class Decision(StrEnum):
    """What the person answered to a question."""

    ONCE = "once"
    ALWAYS = "always"
    REFUSE = "refuse"


class Question(StrEnum):
    """What a person is asked to allow."""

    WRITE = "write"
    DEFER = "defer"


class Stop(StrEnum):
    """Why a turn ended."""

    ANSWERED = "answered"
    TRANSFERRED = "transferred"
    CANCELLED = "cancelled"
    STEP_LIMIT = "step_limit"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The customer's message is in the history."""

    text: str


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A model began to choose its next call."""

    step: int
    tier: Tier


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The local model read `done` of `total` new prompt tokens."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Token:
    """The model wrote a piece of its call; raw text, not yet valid JSON."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """A complete, valid call; stored before anything acts on it."""

    call: Call
    tier: Tier
    verdict: Verdict | None
    """None on the remote tier."""
    usage: Usage
    ms: float
    """From the start of the step to the complete call."""


@dataclass(frozen=True, slots=True)
class TextSaid:
    """A model whose manifest allows it refused in plain words."""

    text: str
    tier: Tier
    usage: Usage
    ms: float


@dataclass(frozen=True, slots=True)
class ApprovalNeeded:
    """A person has to allow a write, or to allow the turn to leave the machine."""

    call: Call
    question: Question
    detail: str
    """What is about to happen or to be sent, in words for the screen."""


@dataclass(frozen=True, slots=True)
class ApprovalGiven:
    """The answer to the approval that was asked for `call_id`."""

    call_id: str
    question: Question
    decision: Decision


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """A call has its result; control tools have one too."""

    call_id: str
    name: str
    content: str
    is_error: bool
    ms: float


@dataclass(frozen=True, slots=True)
class Deferred:
    """The turn left the local model."""

    reason: str
    to: str
    """Model name of the remote, or `outbox` when no larger model was in reach."""
    cause: str
    """`requested`, or why it could not leave: `offline`, `never`, `refused`, `not configured`, …"""


@dataclass(frozen=True, slots=True)
class RemoteFailed:
    """The larger model was tried and gave nothing usable; the local path goes on."""

    kind: str
    """Class name of the `RemoteError`."""
    detail: str
    bytes_sent: int = 0
    """Bytes of the request body that had left the machine by then."""


@dataclass(frozen=True, slots=True)
class EngineRestarted:
    """The worker process died and was started again; the step is tried once more."""

    detail: str


@dataclass(frozen=True, slots=True)
class ContextTrimmed:
    """The oldest turns left the prompt so that it fits; they stay in the history."""

    n_turns: int
    """Oldest turns that the prompt leaves out, in all."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The customer has a reply."""

    text: str
    tier: Tier


@dataclass(frozen=True, slots=True)
class Stats:
    """What a whole turn cost."""

    n_steps: int = 0
    ms: float = 0.0
    """Without the time that the person took to allow or refuse something."""
    usage: Usage = field(default_factory=Usage)
    """Sums over the steps; `n_prompt` and `n_ctx` are those of the last local step."""


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The turn is over and the history is valid."""

    stop: Stop
    stats: Stats


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """The turn could not be finished; what was done stays done."""

    error: str
    """One line: what failed and what to do."""


Event: TypeAlias = (
    TurnStarted
    | StepStarted
    | Prefilled
    | Token
    | ToolCalled
    | TextSaid
    | ApprovalNeeded
    | ApprovalGiven
    | ToolReturned
    | Deferred
    | RemoteFailed
    | EngineRestarted
    | ContextTrimmed
    | Answered
    | TurnEnded
    | TurnFailed
)

TRANSIENT = (Prefilled, Token)
"""Progress that is shown and not stored: what it says is in the event that completes it."""

_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        TurnStarted, StepStarted, Prefilled, Token, ToolCalled, TextSaid, ApprovalNeeded,
        ApprovalGiven, ToolReturned, Deferred, RemoteFailed, EngineRestarted, ContextTrimmed,
        Answered, TurnEnded, TurnFailed,
    )
}  # fmt: skip


def to_json(event: Event) -> dict[str, Any]:
    """Return the event as a JSON object with its class name under `event`."""
    return {"event": type(event).__name__, **dataclasses.asdict(event)}


def from_json(record: Mapping[str, Any]) -> Event:
    """Return the event that `to_json` wrote.

    Raises:
        KeyError: the record names no known event.
    """
    fields = {key: value for key, value in record.items() if key != "event"}
    for name, build in _TYPED.items():
        if fields.get(name) is not None:
            fields[name] = build(fields[name])
    event: Event = _CLASSES[record["event"]](**fields)
    return event


def _stats(record: Mapping[str, Any]) -> Stats:
    return Stats(record["n_steps"], record["ms"], Usage(**record["usage"]))


_TYPED: dict[str, Any] = {
    "tier": Tier,
    "decision": Decision,
    "question": Question,
    "stop": Stop,
    "call": lambda record: Call(**record),
    "verdict": lambda record: Verdict(**record),
    "usage": lambda record: Usage(**record),
    "stats": _stats,
}
