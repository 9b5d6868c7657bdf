"""The one place where events become blocks of the transcript.

Live turns and stored sessions take the same path. Knows no session, thread or store, and of the
transcript only that blocks can be added to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import assert_never

from edgeagent.calls import partial_reply
from edgeagent.events import (
    Answered,
    ApprovalGiven,
    ApprovalNeeded,
    ContextTrimmed,
    Deferred,
    EngineRestarted,
    Event,
    Prefilled,
    RemoteFailed,
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
from edgeagent.messages import DEFER, RESPOND, THINK
from edgeagent.tui.approval import Ask
from edgeagent.tui.blocks import Line, LineKind, Said
from edgeagent.tui.plain import milliseconds, one_line, pretty, reason, short_arguments
from edgeagent.tui.posts import Slot
from edgeagent.tui.transcript import Transcript

N_HISTORY = 400
"""Stored events that are shown; about half of them make a block."""
ARGUMENTS_WIDTH = 72
REASON_CHARACTERS = 240
"""A longer reason for deferring is shown when its line is opened."""
OUTBOX = "outbox"
_NAME = re.compile(r'"name"\s*:\s*"(\w+)"')


class Narration:
    """Tells one session to the transcript, event by event."""

    def __init__(self, transcript: Transcript, keymap: Mapping[str, str]) -> None:
        self._transcript = transcript
        self._keymap = keymap
        self._tools: dict[str, Line] = {}
        """Lines of calls that have no result yet, by call id."""
        self._asks: dict[tuple[str, str], Ask] = {}
        """Questions without an answer, by question and call id."""
        self._raw = ""
        """What the model has written of the call it is writing."""
        self._reply: Said | None = None
        """The reply of this turn, from its first token on."""
        self._cancelled: Line | None = None
        self._n_trimmed = 0

    def show_history(self, events: Sequence[Event]) -> None:
        """Show stored events; the oldest ones only as a line that says how many there are."""
        first = _first_shown(events)
        with self._transcript.gathering():
            if first:
                self.note("notice", f"{first:,} earlier events are kept and not shown here")
            for event in events[first:]:
                self.show(event)

    def cancel(self) -> None:
        """Say that the turn is being stopped, before the turn itself has noticed."""
        self._cancelled = self.note("warning", "cancelled; what was said and done stays")
        for line in self._tools.values():
            line.state = "stopping"

    def show(self, event: Event, slot: Slot | None = None) -> None:  # noqa: C901  one branch per event
        """Turn one event into what the person sees of it."""
        match event:
            case TurnStarted(text):
                self._raw, self._reply, self._cancelled = "", None, None
                self._transcript.add(Said("customer", text))
            case StepStarted():
                self._raw = ""
            case Prefilled():
                pass
            case Token(text):
                self._raw += text
                self._stream(partial_reply(self._raw))
            case ToolCalled():
                self._called(event)
            case ToolReturned():
                self._returned(event)
            case TextSaid(text, tier):
                self._answer(text, tier)
            case Answered(text, tier):
                self._answer(text, tier)
            case ApprovalNeeded():
                self._ask(event, slot)
            case ApprovalGiven():
                ask = self._asks.pop((event.question, event.call_id), None)
                if ask is not None and ask.decision is None:
                    ask.decision = event.decision
            case Deferred():
                self._deferred(event)
            case RemoteFailed(kind, detail):
                self._drop_unfinished()
                self.note("warning", f"the larger model failed ({kind}): {detail}")
            case EngineRestarted(detail):
                self._drop_unfinished()
                self.note("warning", f"the local model was restarted: {detail}")
            case ContextTrimmed(n_turns):
                self._trimmed(n_turns)
            case TurnEnded():
                self._ended(event)
            case TurnFailed(error):
                self._close_tools()
                self.note("error", error, name="the turn failed")
            case _:
                assert_never(event)

    def note(self, kind: LineKind, text: str, *, name: str = "", detail: str = "") -> Line:
        """Add a line that no event of the turn stands for, and return it."""
        line = Line(kind, text, name=name, detail=detail)
        self._transcript.add(line)
        return line

    def greet(self, text: str) -> None:
        """Show what the agent says before the customer has said anything."""
        self._transcript.add(Said("agent", text))

    @property
    def written_name(self) -> str:
        """Name of the call that is being written; empty before it is known."""
        found = _NAME.search(self._raw)
        return found[1] if found else ""

    def _called(self, event: ToolCalled) -> None:
        call = event.call
        if call.name == RESPOND:
            self._stream(str(call.arguments.get("message", "")))
            return
        if call.name == DEFER:
            return  # `Deferred` follows and says more
        if call.name == THINK:
            thought = " ".join(str(value) for value in call.arguments.values())
            line = Line("tool", one_line(thought, ARGUMENTS_WIDTH), name=call.name, detail=thought)
        else:
            shown = short_arguments(call.arguments, ARGUMENTS_WIDTH)
            line = Line("tool", shown, name=call.name, state="running")
            line.set_reactive(Line.detail, _detail(event))
            self._tools[call.id] = line
        self._transcript.add(line)

    def _returned(self, event: ToolReturned) -> None:
        line = self._tools.pop(event.call_id, None)
        if line is None:
            return
        line.is_bad = event.is_error
        line.code = pretty(event.content)
        line.detail += f"\n\nresult\n{line.code}"
        outcome = f"failed: {one_line(reason(event.content), 160)}" if event.is_error else "ok"
        line.state = f"{outcome}  {milliseconds(event.ms)}"

    def _stream(self, text: str) -> None:
        if not text:
            return
        if self._reply is None:
            self._reply = Said("agent")
            self._transcript.add(self._reply)
        self._reply.text = text

    def _answer(self, text: str, tier: Tier) -> None:
        self._stream(text)
        if self._reply is not None:
            self._reply.tier = tier

    def _drop_unfinished(self) -> None:
        """Take back a reply that was being written: its step begins again elsewhere."""
        self._raw = ""
        if self._reply is not None and self._reply.tier is None:
            self._transcript.take_back(self._reply)
            self._reply = None

    def _ask(self, event: ApprovalNeeded, slot: Slot | None) -> None:
        ask = Ask(event, slot, self._keymap)
        self._asks[event.question, event.call.id] = ask
        if event.call.id in self._tools:
            self._tools[event.call.id].state = "waiting for you"
        self._transcript.add(ask)

    def _deferred(self, event: Deferred) -> None:
        kind: LineKind = "deferral"
        text = f"deferred to {event.to}"
        if event.to == OUTBOX:
            kind = "warning"
            text = (f"a larger model was wanted ({event.cause}): answered here, "
                    "no changes possible in this turn, kept in the outbox")  # fmt: skip
        line = Line(kind, text, detail=f"because: {event.reason}")
        line.set_reactive(Line.is_open, len(event.reason) <= REASON_CHARACTERS)
        self._transcript.add(line)

    def _trimmed(self, n_turns: int) -> None:
        if n_turns != self._n_trimmed:
            self._n_trimmed = n_turns
            turns = "turn no longer fits" if n_turns == 1 else f"{n_turns} turns no longer fit"
            self.note("notice", f"the oldest {turns} the context: kept here, unseen by the model")

    def _ended(self, event: TurnEnded) -> None:
        self._close_tools()
        stats = event.stats
        if self._reply is not None:
            steps = "1 step" if stats.n_steps == 1 else f"{stats.n_steps} steps"
            self._reply.note = f"{steps}, {milliseconds(stats.ms)}"
        match event.stop:
            case Stop.ANSWERED | Stop.FAILED:
                if self._cancelled is not None:
                    self._cancelled.text = "the turn was over before it could be cancelled"
            case Stop.TRANSFERRED:
                self.note("notice", "handed to a human agent")
            case Stop.CANCELLED:
                if self._reply is not None:
                    self._reply.note = "cancelled"
                if self._cancelled is None:
                    self.note("warning", "cancelled")
            case Stop.STEP_LIMIT:
                self.note("warning", f"stopped after {stats.n_steps} steps; write to go on")
            case _:
                assert_never(event.stop)

    def _close_tools(self) -> None:
        for line in self._tools.values():
            line.state = "no result"
        self._tools.clear()


def _detail(event: ToolCalled) -> str:
    arguments = json.dumps(event.call.arguments, indent=2, ensure_ascii=False)
    how = f"chosen by the {event.tier} model in {milliseconds(event.ms)}"
    if event.verdict is not None:
        how += f"; deferring had a probability of {event.verdict.probability:.2f}"
    return f"{how}\n\narguments\n{arguments}"


def _first_shown(events: Sequence[Event]) -> int:
    """Return where the newest events begin that fit the screen's memory, a turn's start if any."""
    first = max(0, len(events) - N_HISTORY)
    starts = (i for i in range(first, len(events)) if isinstance(events[i], TurnStarted))
    return next(starts, first) if first else 0
