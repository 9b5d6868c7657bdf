"""One turn: draft a call, decide who takes it, act, repeat; everything that happens is yielded.

Knows tools, tiers and the person's permissions. Refuses to know how a model decodes, how the
session is stored and what the screen looks like.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from edgeagent import acting, history, ledger
from edgeagent.calls import new_id, partial_reply
from edgeagent.engine.client import ModelFacts, Prompt, StepDone, StepRule
from edgeagent.errors import (
    ContextFull,
    EngineDied,
    EngineError,
    RemoteError,
    UsageError,
)
from edgeagent.events import (
    Answered,
    ApprovalNeeded,
    ContextTrimmed,
    Decision,
    Deferred,
    EngineRestarted,
    Event,
    Prefilled,
    Question,
    RemoteFailed,
    Stats,
    StepStarted,
    Stop,
    TextSaid,
    Tier,
    Token,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnFailed,
    TurnStarted,
)
from edgeagent.messages import (
    DEFER,
    RESPOND,
    THINK,
    TRANSFER,
    Call,
    Conversation,
    Tool,
    ToolKind,
    Usage,
    Verdict,
)
from edgeagent.remote import RemoteDone

if TYPE_CHECKING:
    from edgeagent.config import Config
    from edgeagent.link import Link
    from edgeagent.remote import Remote

log = logging.getLogger(__name__)

OK = '{"ok": true}'
TRANSFERRED = "You are being transferred to a human agent; please hold on."
"""What the customer reads when the model hands over to a person."""
TOO_LATE = "not carried out: an earlier call of the same step ended it"


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

    def prepare(self, prompt: Prompt, cancel: threading.Event) -> None: ...

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]: ...

    def close(self) -> None: ...


def prompt_of(agent: Agent, conversation: Conversation, grants: Grants) -> Prompt:
    """Return what the local model is shown of the conversation."""
    recent = history.without_oldest(conversation, grants.n_trimmed)
    return Prompt(agent.policy, agent.tools, history.without_deferrals(recent))


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
    turn = _Turn(
        conversation, agent, local, remote, link, config, defer_threshold, approve, cancel, grants
    )
    return turn.run(text)


Said: TypeAlias = Generator[Event, None, None]
"""Part of a turn that only tells what happened."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a model wants to do next."""

    calls: tuple[Call, ...]
    offered: frozenset[str]
    verdict: Verdict | None
    usage: Usage
    ms: float
    text: str = ""
    """Plain words in place of a call."""
    raw: str = ""
    """What had been written when the person cancelled."""
    is_cancelled: bool = False


class _Turn:
    """The state of one turn; `run` is its only life."""

    def __init__(
        self,
        conversation: Conversation,
        agent: Agent,
        local: LocalTier,
        remote: Remote | None,
        link: Link,
        config: Config,
        defer_threshold: float | None,
        approve: Callable[[ApprovalNeeded], Decision],
        cancel: threading.Event,
        grants: Grants,
    ) -> None:
        self.conversation = conversation
        self.agent = agent
        self.kinds = {tool.name: tool.kind for tool in agent.tools}
        self.local = local
        self.remote = remote
        self.link = link
        self.config = config
        self.defer_threshold = defer_threshold
        self.cancel = cancel
        self.grants = grants
        self.actor = acting.Actor(
            agent.tools, agent.backend, config.limits, approve, cancel, grants.tools
        )
        self.tier = Tier.LOCAL
        self.n_steps = 0
        self.usage = Usage()
        self.reason = "the conversation was handed over before"
        """Why the turn was deferred, once it was."""
        self.remote_left_s = config.remote.turn_s

    def run(self, text: str) -> Iterator[Event]:
        """Yield the turn; what is yielded is in the conversation before anything follows."""
        for event in self._events(text):
            self.conversation = history.fold(self.conversation, event)
            yield event

    def _events(self, text: str) -> Iterator[Event]:
        started = time.monotonic()
        sent_before = self._bytes_sent()
        yield TurnStarted(text)
        if self.grants.is_handed_over and not self._why_not_remote():
            self.tier = Tier.REMOTE
        try:
            stop = yield from self._steps()
        except (EngineError, UsageError) as error:
            log.info("turn failed=%r n_steps=%d tier=%s", str(error), self.n_steps, self.tier)
            yield TurnFailed(str(error))
            return
        ms = (time.monotonic() - started - self.actor.waited_s) * 1000
        log.info("turn stop=%s n_steps=%d tier=%s ms=%.0f", stop, self.n_steps, self.tier, ms)
        usage = replace(self.usage, bytes_sent=self._bytes_sent() - sent_before)
        yield TurnEnded(stop, Stats(self.n_steps, ms, usage))

    def _bytes_sent(self) -> int:
        return self.remote.bytes_sent if self.remote else 0

    def _steps(self) -> Generator[Event, None, Stop]:
        while self.n_steps < self.config.limits.max_steps:
            if self.cancel.is_set():
                return Stop.CANCELLED
            self.n_steps += 1
            if self.tier is Tier.REMOTE:
                draft = yield from self._remote_step()
                if draft is None:
                    self.n_steps -= 1
                    continue
            else:
                draft = yield from self._local_step()
            self.usage = ledger.added(self.usage, draft.usage)
            stop = yield from self._act(draft)
            if stop is not None:
                return stop
        return Stop.STEP_LIMIT

    def _local_step(self) -> Generator[Event, None, _Draft]:
        yield StepStarted(self.n_steps, self.tier)
        was_restarted = False
        while True:
            cause = self._why_not_remote()
            rule = self._rule(cause)
            try:
                draft = yield from self._decode(rule)
            except ContextFull as full:
                yield self._trimmed(full)
            except EngineDied as died:
                if was_restarted:
                    raise
                was_restarted = True
                log.warning("engine died=%r", str(died))
                self.local.start()
                yield EngineRestarted(str(died))
                yield StepStarted(self.n_steps, self.tier)
            else:
                if rule.on_defer is not None and draft.verdict and draft.verdict.deferred:
                    sure = f"the local model would hand over (p={draft.verdict.probability:.2f})"
                    yield self._gone_offline(sure, cause)
                    return replace(draft, offered=rule.on_defer)
                return draft

    def _rule(self, cause: str) -> StepRule:
        """Return what the local model may do; `cause` tells why it cannot hand over."""
        offered = frozenset(self.kinds)
        distrusted = {name for name, kind in self.kinds.items() if kind is ToolKind.WRITE}
        harmless = offered - distrusted - {DEFER}
        if self.tier is Tier.OFFLINE:
            offered = harmless
        if self.actor.must_answer:
            offered = offered & {RESPOND, TRANSFER, DEFER} or offered
            harmless = harmless & {RESPOND, TRANSFER} or harmless
        if not offered:
            raise EngineError(f"only the larger model has tools for this turn, and: {cause}")
        has_deferral = DEFER in offered
        return StepRule(
            offered=offered,
            defer_threshold=self.defer_threshold if has_deferral else None,
            on_defer=harmless if has_deferral and cause and harmless else None,
            max_tokens=self.config.model.max_tokens,
        )

    def _decode(self, rule: StepRule) -> Generator[Event, None, _Draft]:
        started = time.monotonic()
        prompt = prompt_of(self.agent, self.conversation, self.grants)
        raw = ""
        done: StepDone | None = None
        for item in self.local.step(prompt, rule, self.cancel):
            if isinstance(item, StepDone):
                done = item
                continue
            if isinstance(item, Token):
                raw += item.text
            yield item
        assert done is not None, "a step ends with StepDone or raises"
        is_cancelled = done.stop == "cancelled"
        if not (done.calls or done.text or is_cancelled):
            raise EngineError("the local model made no call; try another build of it")
        ms = (time.monotonic() - started) * 1000
        return _Draft(
            done.calls, rule.offered, done.verdict, done.usage, ms, done.text, raw, is_cancelled
        )

    def _trimmed(self, full: ContextFull) -> Event:
        """Leave the oldest turns out of the prompt; never the last one, never policy or tools."""
        recent = history.without_oldest(self.conversation, self.grants.n_trimmed)
        if history.n_turns(recent) <= 1:
            raise full
        # An eighth of the context is freed beyond the need: each trim costs a whole prefill.
        excess = full.n_prompt + full.n_reserve - full.n_ctx * 7 // 8
        self.grants.n_trimmed += history.n_oldest(recent, excess / max(1, full.n_prompt))
        return ContextTrimmed(self.grants.n_trimmed)

    def _remote_step(self) -> Generator[Event, None, _Draft | None]:
        """Draft with the larger model; None when it failed and the turn is local again."""
        assert self.remote is not None
        yield StepStarted(self.n_steps, Tier.REMOTE)
        offered = frozenset(self.kinds) - {DEFER}
        if self.actor.must_answer:
            offered = offered & {RESPOND, TRANSFER} or offered
        started, sent_before = time.monotonic(), self.remote.bytes_sent
        raw = ""
        done: RemoteDone | None = None
        try:
            for item in self.remote.step(
                *self._for_remote(offered), self.remote_left_s, self.cancel
            ):
                if isinstance(item, RemoteDone):
                    done = item
                    continue
                raw += item.text
                yield item
        except RemoteError as error:
            self.link.record_failure(error)
            sent = self.remote.bytes_sent - sent_before
            yield RemoteFailed(type(error).__name__, str(error), sent)
            yield self._gone_offline(self.reason, str(error))
            return None
        finally:
            self.remote_left_s -= time.monotonic() - started
        assert done is not None, "a step ends with RemoteDone or raises"
        if done.calls:
            self.link.record_success()
            self.grants.is_handed_over |= self.config.defer.scope == "conversation"
        return _Draft(
            done.calls, offered, None, done.usage, done.ms, raw=raw, is_cancelled=not done.calls
        )

    def _for_remote(self, offered: frozenset[str]) -> tuple[str, list[Tool], Conversation]:
        """Return what the larger model is shown: whatever happened, and only its own tools."""
        tools = [tool for tool in self.agent.tools if tool.name in offered]
        return self.agent.policy, tools, history.without_deferrals(self.conversation)

    def _why_not_remote(self) -> str:
        """Return why the turn cannot leave the machine; empty when it can."""
        if self.config.defer.mode == "never":
            return "never"
        return self.link.reason if self.remote is None or not self.link.is_up else ""

    def _gone_offline(self, reason: str, cause: str) -> Event:
        self.tier = Tier.OFFLINE
        self.reason = reason
        return Deferred(reason, "outbox", cause)

    def _act(self, draft: _Draft) -> Generator[Event, None, Stop | None]:
        """Carry out the draft, each call in its order; return how the turn ended, if it did."""
        if draft.is_cancelled:
            yield from self._keep_what_was_said(draft)
            return Stop.CANCELLED
        if not draft.calls:
            yield TextSaid(draft.text, self.tier, draft.usage, draft.ms)
            yield Answered(draft.text, self.tier)
            return Stop.ANSWERED
        tier, usage, ms = self.tier, draft.usage, draft.ms
        for call in draft.calls:
            yield ToolCalled(call, tier, draft.verdict, usage, ms)
            usage, ms = Usage(), 0.0  # the step is counted once
        stop: Stop | None = None
        for call in draft.calls:
            if stop is None and self.cancel.is_set() and call.name != RESPOND:
                stop = Stop.CANCELLED  # a reply that is complete has been read: it counts
            if stop is Stop.CANCELLED:
                yield acting.refused(call, acting.CANCELLED)
            elif stop is not None or self.tier is not tier:
                yield acting.refused(call, TOO_LATE)
            else:
                stop = yield from self._perform(call, draft.offered)
        return stop

    def _keep_what_was_said(self, draft: _Draft) -> Said:
        """Keep a reply that was cut short: the customer has read it, so the model should too."""
        said = partial_reply(draft.raw)
        if said and RESPOND in draft.offered:
            call = Call(new_id(), RESPOND, {"message": said})
            yield ToolCalled(call, self.tier, draft.verdict, draft.usage, draft.ms)
            cut = json.dumps({"ok": True, "cut": acting.CANCELLED})
            yield ToolReturned(call.id, RESPOND, cut, is_error=False, ms=0.0)
            yield Answered(said, self.tier)

    def _perform(self, call: Call, offered: frozenset[str]) -> Generator[Event, None, Stop | None]:
        problem = self.actor.problem(call, offered)
        if problem:
            yield acting.refused(call, problem)
        elif call.name == RESPOND:
            yield ToolReturned(call.id, RESPOND, OK, is_error=False, ms=0.0)
            yield Answered(str(call.arguments.get("message", "")), self.tier)
            return Stop.ANSWERED
        elif call.name == TRANSFER:
            yield ToolReturned(call.id, TRANSFER, OK, is_error=False, ms=0.0)
            yield Answered(TRANSFERRED, self.tier)
            return Stop.TRANSFERRED
        elif call.name == THINK:
            yield ToolReturned(call.id, THINK, "", is_error=False, ms=0.0)
        elif call.name == DEFER:
            yield from self._defer(call)
        else:
            yield from self.actor.use_tool(call)
        return None

    def _defer(self, call: Call) -> Said:
        self.reason = str(call.arguments.get("reason", ""))
        cause = self._why_not_remote()
        if not cause and not (yield from self._may_leave(call)):
            cause = "refused"
        if cause or self.remote is None:
            yield self._gone_offline(self.reason, cause)
            model = None
        else:
            self.tier = Tier.REMOTE
            model = self.remote.name
            yield Deferred(self.reason, model, "requested")
        content = json.dumps({"deferred_to": model})
        yield ToolReturned(call.id, DEFER, content, is_error=False, ms=0.0)

    def _may_leave(self, call: Call) -> Generator[Event, None, bool]:
        if self.config.defer.mode != "ask" or self.grants.may_defer:
            return True
        assert self.remote is not None
        preview = self.remote.preview(*self._for_remote(frozenset(self.kinds) - {DEFER}))
        is_for_good = self.config.defer.scope == "conversation"
        detail = (
            f"{preview.n_messages} messages, {preview.n_bytes} bytes, to {self.remote.name} at "
            f"{self.remote.host}{', and the rest of the conversation' if is_for_good else ''}"
        )
        decision = yield from self.actor.ask(ApprovalNeeded(call, Question.DEFER, detail))
        self.grants.may_defer |= decision is Decision.ALWAYS
        return decision is not Decision.REFUSE
