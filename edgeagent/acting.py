"""Carrying out a call: is it valid, is it a loop, does the person allow it, and then in its time.

What is covered: a tool that raises, that hangs, that is called again and again. What is not
covered: a tool that blocks the interpreter itself, ends the process or fills the memory; our own
and the scenario's tools are trusted that far. Knows no models and no tiers.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

from edgeagent.calls import validate
from edgeagent.events import (
    ApprovalGiven,
    ApprovalNeeded,
    Decision,
    Event,
    Question,
    ToolReturned,
)
from edgeagent.messages import RESPOND, Call, Tool, ToolKind

if TYPE_CHECKING:
    from edgeagent.cascade import Backend
    from edgeagent.config import LimitsConfig

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_S = 0.02

CANCELLED = "cancelled by the person"
DECLINED = "the person declined this action; do not try it again unless they ask for it"
REPEATED = (
    "the same call with the same arguments was made before in this turn and its result stands; "
    "answer the customer or do something else"
)
MAY_HAPPEN = "; it may still take effect, so look before trying again"


class Actor:
    """Carries out the calls of one turn, on whichever tier they were drafted."""

    def __init__(
        self,
        tools: tuple[Tool, ...],
        backend: Backend,
        limits: LimitsConfig,
        approve: Callable[[ApprovalNeeded], Decision],
        cancel: threading.Event,
        allowed: set[str],
    ) -> None:
        self.must_answer = False
        """The model repeats itself; only talking to the customer is left to it."""
        self.waited_s = 0.0
        """For the person's answers; no part of what the turn took."""
        self._tools = tools
        self._kinds = {tool.name: tool.kind for tool in tools}
        self._backend = backend
        self._limits = limits
        self._approve = approve
        self._cancel = cancel
        self._allowed = allowed
        self._loop = LoopGuard(limits.repeat)

    def problem(self, call: Call, offered: frozenset[str]) -> str:
        """Return why the call must not be carried out, as the model reads it; empty if it may."""
        if call.name not in offered:
            return f"{call.name!r} is not available in this turn"
        invalid = validate(call.name, call.arguments, self._tools)
        if invalid is not None:
            return invalid
        if call.name != RESPOND and (count := self._loop.count(call)) != "go":
            self.must_answer |= count == "stop"
            return REPEATED
        return ""

    def ask(self, needed: ApprovalNeeded) -> Generator[Event, None, Decision]:
        """Ask the person, which may take as long as the person does."""
        yield needed
        asked = time.monotonic()
        decision = self._approve(needed)
        self.waited_s += time.monotonic() - asked
        if self._cancel.is_set():  # whoever cancels has not agreed
            decision = Decision.REFUSE
        yield ApprovalGiven(needed.call.id, needed.question, decision)
        return decision

    def use_tool(self, call: Call) -> Generator[Event, None, None]:
        """Execute the call on the backend, once it is allowed."""
        is_write = self._kinds[call.name] is ToolKind.WRITE
        if is_write and not (yield from self._may_write(call)):
            yield refused(call, CANCELLED if self._cancel.is_set() else DECLINED)
            return
        timeout_s = self._limits.tool_timeout_s
        started = time.monotonic()
        tried = attempt(
            lambda: self._backend.call(call, timeout_s),
            call.name,
            timeout_s,
            # A write that has begun is waited for: nobody should wonder whether it happened.
            None if is_write else self._cancel,
        )
        ms = (time.monotonic() - started) * 1000
        match tried:
            case Finished(outcome):
                yield ToolReturned(call.id, call.name, outcome.content, outcome.is_error, ms)
            case Unfinished(cause, detail):
                doubt = MAY_HAPPEN if is_write and cause == "overran" else ""
                yield refused(call, detail + doubt, ms)

    def _may_write(self, call: Call) -> Generator[Event, None, bool]:
        if call.name in self._allowed:
            # On record for each call: after a crash only what was allowed is carried out.
            yield ApprovalGiven(call.id, Question.WRITE, Decision.ALWAYS)
            return True
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        needed = ApprovalNeeded(call, Question.WRITE, f"{call.name} {arguments}")
        decision = yield from self.ask(needed)
        if decision is Decision.ALWAYS:
            self._allowed.add(call.name)
        return decision is not Decision.REFUSE


def refused(call: Call, why: str, ms: float = 0.0) -> ToolReturned:
    """Return the result of a call that was not, or not wholly, carried out."""
    content = json.dumps({"error": why}, ensure_ascii=False)
    return ToolReturned(call.id, call.name, content, is_error=True, ms=ms)


@dataclass(frozen=True, slots=True)
class Finished(Generic[T]):
    """The tool's code came to its end."""

    value: T


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The tool's code gave no value."""

    cause: Literal["raised", "overran", "cancelled"]
    detail: str


Attempt: TypeAlias = Finished[T] | Unfinished


def attempt(
    work: Callable[[], T], name: str, timeout_s: float, cancel: threading.Event | None
) -> Attempt[T]:
    """Run the tool's code in a thread; return its value, or why there is none.

    Without `cancel` it is waited for to the end of its time. A thread that overruns is left
    behind: Python cannot end it, and it does not hold the program open.
    """
    outcome: queue.SimpleQueue[Attempt[T]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put(Finished(work()))
        except Exception as exc:  # the tool's own code may raise anything
            log.warning("tool name=%s raised=%s", name, type(exc).__name__)
            log.debug("the tool's traceback", exc_info=True)
            outcome.put(Unfinished("raised", f"{type(exc).__name__}: {exc}"))

    threading.Thread(target=run, name=f"tool {name}", daemon=True).start()
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            log.warning("tool name=%s overran timeout_s=%g", name, timeout_s)
            return Unfinished("overran", f"no answer within {timeout_s:g} s")
        try:
            return outcome.get(timeout=min(left_s, POLL_S) if cancel else left_s)
        except queue.Empty:
            if cancel is not None and cancel.is_set():
                return Unfinished("cancelled", CANCELLED)


class LoopGuard:
    """Counts the calls of one turn, to stop a model that repeats itself."""

    def __init__(self, repeat: int) -> None:
        self._repeat = repeat
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, call: Call) -> Literal["go", "warn", "stop"]:
        """Count the call; `warn` when it comes the `repeat`-th time, `stop` from then on."""
        key = (call.name, json.dumps(call.arguments, sort_keys=True))
        self._counts[key] += 1
        if self._counts[key] < self._repeat:
            return "go"
        return "warn" if self._counts[key] == self._repeat else "stop"
