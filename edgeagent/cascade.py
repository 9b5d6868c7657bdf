"""One turn: draft a call, decide who takes it, act, repeat; everything that happens is yielded.

Knows tools, tiers and the person's permissions. Refuses to know how a model decodes, how the
session is stored and what the screen looks like.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from edgeagent.events import ApprovalNeeded, Decision, Event, Prefilled, Token
from edgeagent.messages import Call, Conversation, Tool

if TYPE_CHECKING:
    from edgeagent.config import Config
    from edgeagent.engine.client import ModelFacts, Prompt, StepDone, StepRule
    from edgeagent.link import Link
    from edgeagent.remote import Remote


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What a tool answered."""

    content: str
    """Text as the model reads it, mostly JSON."""
    is_error: bool = False


class Backend(Protocol):
    """What the tools of a scenario act on."""

    is_own: bool
    """True: our own database, where a call id runs at most once and leaves a receipt.
    False: the outside world, where only the intent is on record before the call."""

    def call(self, call: Call, timeout_s: float) -> ToolOutcome:
        """Execute the call and return its outcome; what it raises becomes an error result.

        Runs in a thread of its own, which is left behind when it overruns `timeout_s`.
        """
        ...

    def receipt(self, call_id: str) -> ToolOutcome | None:
        """Return the outcome of a call that was executed; None if it was not, or is unknown."""
        ...


@dataclass(frozen=True, slots=True)
class Agent:
    """Whom the customer talks to: a policy, its tools and what they act on."""

    policy: str
    tools: tuple[Tool, ...]
    backend: Backend


@dataclass(slots=True)
class Grants:
    """What holds from turn to turn; owned by the session, changed by its turns."""

    tools: set[str] = field(default_factory=set)
    """Write tools that the person allowed for the rest of the session."""
    may_defer: bool = False
    """The person allowed every deferral of the session."""
    is_handed_over: bool = False
    """The larger model has the rest of the conversation (`defer.scope = "conversation"`)."""
    n_trimmed: int = 0
    """Oldest turns that no longer fit in the local model's context."""


class LocalTier(Protocol):
    """The model that drafts every call: the engine, or a server that stands in for it."""

    @property
    def facts(self) -> ModelFacts | None: ...

    @property
    def is_alive(self) -> bool: ...

    def start(self) -> ModelFacts: ...

    def check_tools(self, tools: Sequence[Tool]) -> None: ...

    def warm(
        self, policy: str, tools: Sequence[Tool], cancel: threading.Event
    ) -> Iterator[Prefilled]: ...

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]: ...

    def close(self) -> None: ...


def run_turn(
    conversation: Conversation,
    text: str,
    *,
    agent: Agent,
    local: LocalTier,
    remote: Remote | None,
    link: Link,
    config: Config,
    defer_threshold: float | None,
    approve: Callable[[ApprovalNeeded], Decision],
    cancel: threading.Event,
    grants: Grants,
) -> Iterator[Event]:
    """Yield what happens until the customer has an answer; the last event ends the turn.

    `conversation` is everything before `text`. `remote` is None where none is configured.
    `defer_threshold` is the configuration's, else the manifest's, else None: the model decides.
    `approve` is called after its `ApprovalNeeded` was yielded, and may block on a person.
    """
    yield from ()
