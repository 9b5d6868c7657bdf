"""A conversation that lasts: turns run, every event stored before it is shown, crashes mended.

Knows the store and the cascade. Refuses to know how a model is loaded, what a scenario's tools
do, and who is watching.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Protocol

from edgeagent import acting, cascade, history
from edgeagent.cascade import Agent, Backend, Grants, LocalTier
from edgeagent.config import Config
from edgeagent.engine.client import ModelFacts
from edgeagent.errors import EdgeAgentError
from edgeagent.events import (
    TRANSIENT,
    Answered,
    ApprovalGiven,
    ApprovalNeeded,
    Decision,
    Deferred,
    Event,
    Prefilled,
    Question,
    RemoteFailed,
    Stats,
    StepStarted,
    Stop,
    TextSaid,
    Tier,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnFailed,
    TurnStarted,
)
from edgeagent.link import Link, LinkState
from edgeagent.messages import RESPOND, THINK, TRANSFER, Call, Conversation, Tool, ToolKind
from edgeagent.remote import Remote
from edgeagent.store import OutboxRow, Store, held

OUTBOX = "outbox"
INTERRUPTED = "the program ended in the middle of this turn; what was done stays done, ask again"
NOT_DONE = '{"error": "not done: the program ended before this was allowed"}'
REPEAT_READ = '{"error": "interrupted before there was a result; call it again if it is needed"}'
UNKNOWN = '{"error": "interrupted: the outcome is unknown, and the call was not repeated"}'


class OpenBackend(Backend, Protocol):
    """A backend that holds a file or a process."""

    def close(self) -> None: ...


class Scenario(Protocol):
    """Whom the customer talks to, and how that person introduces itself."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def policy(self) -> str: ...
    @property
    def tools(self) -> tuple[Tool, ...]: ...
    @property
    def backend(self) -> OpenBackend: ...
    @property
    def greeting(self) -> str: ...
    @property
    def examples(self) -> tuple[str, ...]: ...


class Session:
    """One conversation; owns all that it is given and closes it."""

    def __init__(
        self,
        store: Store,
        session_id: str,
        scenario: Scenario,
        local: LocalTier,
        remote: Remote | None,
        link: Link,
        config: Config,
        defer_threshold: float | None = None,
    ) -> None:
        """Load the history; run `recover` before the first turn of a session that has one.

        Closes what it was given when it cannot go on.

        Raises:
            StoreError: the session is open in another process, or cannot be read.
        """
        self.store = store
        self.session_id = session_id
        self.scenario = scenario
        self.agent = Agent(scenario.policy, scenario.tools, scenario.backend)
        self.local = local
        self.remote = remote
        self.link = link
        self.config = config
        self.grants = Grants()
        self._defer_threshold = defer_threshold
        with ExitStack() as stack:
            for part in (store, scenario.backend, link, remote, local):
                if part is not None:
                    stack.callback(part.close)
            stack.enter_context(held(store, session_id))
            past = store.events(session_id)
            self._resources = stack.pop_all()
        self._conversation = history.conversation_of(past)
        self._turn_is_open = _open_turn(past) is not None
        if config.defer.scope == "conversation":
            self.grants.is_handed_over = any(
                isinstance(event, Deferred) and event.to != OUTBOX for event in past
            )

    @property
    def scenario_name(self) -> str:
        """Short name of the scenario."""
        return self.scenario.name

    @property
    def title(self) -> str:
        """Name of the scenario for the head of a screen."""
        return self.scenario.title

    @property
    def greeting(self) -> str:
        """What the scenario says before the customer does; not part of the conversation."""
        return self.scenario.greeting

    @property
    def examples(self) -> tuple[str, ...]:
        """Messages that a first-time customer may try."""
        return self.scenario.examples

    @property
    def facts(self) -> ModelFacts | None:
        """What is known of the local model; None before it is loaded."""
        return self.local.facts

    @property
    def conversation(self) -> Conversation:
        """Everything said and done so far, as the models are shown it."""
        return self._conversation

    def link_state(self) -> tuple[LinkState, str]:
        """Return whether the larger model is in reach, and why; never blocks."""
        return self.link.state, self.link.reason

    def events(self) -> list[Event]:
        """Return what is stored of the session, oldest first."""
        return self.store.events(self.session_id)

    def start(self) -> ModelFacts:
        """Load the local model and check the tools against its grammar; takes seconds.

        Raises:
            ModelLoadError, TemplateError, SchemaRefused: from the local tier.
        """
        facts = self.local.start()
        self.local.check_tools(self.agent.tools)
        return facts

    def warm(self, cancel: threading.Event) -> Iterator[Prefilled]:
        """Read the policy and tools into the local model's context ahead of the first turn."""
        yield from self.local.warm(self.agent.policy, self.agent.tools, cancel)

    def prepare(self, typed: str, cancel: threading.Event) -> None:
        """Let the local model read what is certain of the next turn while the customer types.

        It changes what the turn costs and nothing else: no event, no socket, no answer, and the
        turn does not wait for it. Blocks while the model reads; call it from a thread.
        """
        if self._turn_is_open or self.grants.is_handed_over or not self.local.is_alive:
            return
        coming = history.fold(self._conversation, TurnStarted(_as_text(typed)))
        # What is wrong with the model or the conversation is for the turn to tell.
        with suppress(EdgeAgentError):
            self.local.prepare(cascade.prompt_of(self.agent, coming, self.grants), cancel)

    def turn(
        self,
        text: str,
        cancel: threading.Event,
        approve: Callable[[ApprovalNeeded], Decision],
    ) -> Iterator[Event]:
        """Yield what happens until the turn is over; each event is stored before it is yielded.

        `approve` is called in this thread right after its `ApprovalNeeded` was yielded.

        Raises:
            StoreError: an event could not be stored; nothing after it was done.
        """
        if self._turn_is_open:  # the consumer dropped the last turn, or the disk was full
            self.recover()
        yield from self._stored(self._run(text, cancel, approve, self.grants))

    def recover(self) -> list[Event]:
        """Close what a crash left open, store the events that do, and return them.

        A write on our own database that had been allowed gets its receipt, or is executed now:
        exactly once either way. What was not allowed is not done. What may have reached the
        outside world is never repeated.
        """
        past = self.events()
        start = _open_turn(past)
        self._turn_is_open = False
        if start is None:
            return []
        self._queue(past[start:], start)
        mended: list[Event] = []
        for call in history.open_calls(self._conversation):
            mended.append(self._close(call, past))
        mended += _ending([*past[start:], *mended])
        for event in mended:
            self._keep(event)
        return mended

    def replay(
        self,
        entry: OutboxRow,
        cancel: threading.Event,
        approve: Callable[[ApprovalNeeded], Decision],
    ) -> Iterator[Event]:
        """Yield a queued turn as the larger model takes it; for a session forked before it.

        The entry leaves the outbox when there is an answer, and stays when there is none.
        """
        events = self._run(entry.text, cancel, approve, Grants(is_handed_over=True))
        for event in self._stored(_only_remote(events)):
            if isinstance(event, Answered) and event.tier is Tier.REMOTE:
                self.store.outbox_done(entry.id, "replayed", event.text)
            yield event

    def close(self) -> None:
        """End the local model and let go of the session; it can be resumed by its id."""
        self._resources.close()

    def _run(
        self,
        text: str,
        cancel: threading.Event,
        approve: Callable[[ApprovalNeeded], Decision],
        grants: Grants,
    ) -> Iterator[Event]:
        return cascade.run_turn(
            self._conversation,
            _as_text(text),
            agent=self.agent,
            local=self.local,
            remote=self.remote,
            link=self.link,
            config=self.config,
            defer_threshold=self._defer_threshold,
            approve=approve,
            cancel=cancel,
            grants=grants,
        )

    def _stored(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if not isinstance(event, TRANSIENT):
                self._keep(event)
            yield event

    def _keep(self, event: Event) -> None:
        if isinstance(event, TurnStarted):
            self._turn_is_open = True
        seq = self.store.append(self.session_id, event)
        self._conversation = history.fold(self._conversation, event)
        match event:
            case TurnStarted():
                self._turn_seq, self._text = seq, event.text
            case Deferred(reason, to, cause) if to == OUTBOX:
                self.store.outbox_add(self.session_id, self._turn_seq, self._text, reason, cause)
            case TurnEnded() | TurnFailed():
                self._turn_is_open = False

    def _queue(self, turn: Sequence[Event], turn_seq: int) -> None:
        """Queue an interrupted turn that had been deferred; a second time changes nothing."""
        assert isinstance(turn[0], TurnStarted)
        for event in turn:
            if isinstance(event, Deferred) and event.to == OUTBOX:
                self.store.outbox_add(
                    self.session_id, turn_seq, turn[0].text, event.reason, event.cause
                )

    def _close(self, call: Call, past: Sequence[Event]) -> ToolReturned:
        begun = time.perf_counter()
        content, is_error = self._outcome(call, past)
        ms = (time.perf_counter() - begun) * 1000
        return ToolReturned(call.id, call.name, content, is_error, ms)

    def _outcome(self, call: Call, past: Sequence[Event]) -> tuple[str, bool]:
        kind = next((t.kind for t in self.agent.tools if t.name == call.name), ToolKind.READ)
        backend = self.agent.backend
        if kind is ToolKind.CONTROL:
            return ("" if call.name == THINK else '{"ok": true}'), False
        receipt = backend.receipt(call.id) if backend.is_own else None
        if receipt is not None:
            return receipt.content, receipt.is_error
        if kind is ToolKind.READ:
            return REPEAT_READ, True
        if not _was_approved(call, past):
            return NOT_DONE, True
        if not backend.is_own:
            return UNKNOWN, True
        timeout_s = self.config.limits.tool_timeout_s
        tried = acting.attempt(lambda: backend.call(call, timeout_s), call.name, timeout_s, None)
        if isinstance(tried, acting.Unfinished):
            return json.dumps({"error": tried.detail}), True
        return tried.value.content, tried.value.is_error


def _as_text(typed: str) -> str:
    """Return the text without halves of surrogate pairs, which have no bytes."""
    return typed.encode("utf-8", "replace").decode("utf-8")


def _open_turn(events: Sequence[Event]) -> int | None:
    """Return the index of the last turn's first event if that turn has no end."""
    for index in range(len(events) - 1, -1, -1):
        match events[index]:
            case TurnEnded() | TurnFailed():
                return None
            case TurnStarted():
                return index
    return None


def _was_approved(call: Call, past: Sequence[Event]) -> bool:
    return any(
        isinstance(event, ApprovalGiven)
        and event.call_id == call.id
        and event.question is Question.WRITE
        and event.decision is not Decision.REFUSE
        for event in past
    )


def _ending(turn: Sequence[Event]) -> list[Event]:
    """Return what is missing at the end of an interrupted turn whose calls are all closed."""
    stats = Stats(n_steps=sum(isinstance(event, StepStarted) for event in turn))
    is_answered = any(isinstance(event, Answered) for event in turn)
    said = next((e for e in reversed(turn) if isinstance(e, ToolCalled | TextSaid)), None)
    match said:
        case TextSaid(text, tier):
            answer, stop = Answered(text, tier), Stop.ANSWERED
        case ToolCalled(call, tier) if call.name == RESPOND:
            answer, stop = Answered(str(call.arguments.get("message", "")), tier), Stop.ANSWERED
        case ToolCalled(call, tier) if call.name == TRANSFER:
            answer, stop = Answered(cascade.TRANSFERRED, tier), Stop.TRANSFERRED
        case _:
            return [TurnFailed(INTERRUPTED)]
    return [TurnEnded(stop, stats)] if is_answered else [answer, TurnEnded(stop, stats)]


def _only_remote(events: Iterator[Event]) -> Iterator[Event]:
    """End the turn where the cascade would go on without the larger model."""
    for event in events:
        match event:
            case StepStarted(_, Tier.LOCAL | Tier.OFFLINE):
                yield TurnFailed("the larger model is not in reach; the turn stays in the outbox")
                return
            case RemoteFailed(_, detail):
                yield event
                yield TurnFailed(f"{detail}; the turn stays in the outbox")
                return
            case _:
                yield event
