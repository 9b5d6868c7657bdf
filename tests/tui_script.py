"""A session that plays a script of real events: what the app is tested with, no model needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from edgeagent.errors import ModelNotFound, UsageError
from edgeagent.events import (
    TRANSIENT,
    Answered,
    ApprovalGiven,
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
    Tier,
    Token,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnStarted,
)
from edgeagent.link import LinkState
from edgeagent.messages import Call, Tool, ToolKind, Usage, Verdict
from edgeagent.tui.ports import Choice, Comparison, Flip, Option, Ports

Approve: TypeAlias = Callable[[ApprovalNeeded], Decision]
Turn: TypeAlias = Callable[[str, threading.Event, Approve], Iterator[Event]]

USAGE = Usage(n_prompt=812, n_reused=700, n_decoded=37, decode_ms=250.0, n_ctx=4096)
RESERVATION = (
    '{"reservation_id": "7KD2RM", "user_id": "dora_santini_8164", "origin": "DFW", '
    '"destination": "LAX", "cabin": "business", "insurance": "yes"}'
)
TOOLS = (
    Tool("get_reservation_details", "Look up a reservation.", {"type": "object"}, ToolKind.READ),
    Tool("cancel_reservation", "Cancel a whole reservation.", {"type": "object"}, ToolKind.WRITE),
    Tool("respond_to_user", "Send the customer a message.", {"type": "object"}, ToolKind.CONTROL),
)


@dataclass(frozen=True)
class Facts:
    """The model that the script stands for."""

    name: str = "nano"
    quant: str = "Q8_0"
    n_ctx: int = 4096


@dataclass(frozen=True)
class Agent:
    """Whom the script's customer talks to."""

    tools: tuple[Tool, ...] = TOOLS


@dataclass
class Script:
    """A session whose turns are written down."""

    turns: list[Turn] = field(default_factory=list)
    """One for each message, in order; the last one serves all that follow."""
    past: list[Event] = field(default_factory=list)
    session_id: str = "20260102-101500-ab12"
    scenario_name: str = "airline"
    title: str = "Airline customer desk"
    greeting: str = "Hello, this is the airline desk. How can I help?"
    examples: tuple[str, ...] = ("Where does my reservation 7KD2RM go?",)
    agent: Agent = field(default_factory=Agent)
    facts: Facts | None = field(default_factory=Facts)
    link: tuple[LinkState, str] = (LinkState.OFFLINE, "no larger model is configured")
    prefill: tuple[Prefilled, ...] = ()
    mended: tuple[Event, ...] = ()
    said: list[str] = field(default_factory=list)
    """What was sent, for the test to look at."""
    prepared: list[str] = field(default_factory=list)
    """What the model was given to read while it was typed."""
    is_closed: bool = False

    def link_state(self) -> tuple[LinkState, str]:
        return self.link

    def events(self) -> Sequence[Event]:
        return list(self.past)

    def recover(self) -> Sequence[Event]:
        self.past += self.mended
        return self.mended

    def warm(self, cancel: threading.Event) -> Iterator[Prefilled]:
        yield from self.prefill

    def prepare(self, typed: str, cancel: threading.Event) -> None:
        self.prepared.append(typed)

    def turn(self, text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        play = self.turns[min(len(self.said), len(self.turns) - 1)]
        self.said.append(text)
        for event in play(text, cancel, approve):
            if not isinstance(event, TRANSIENT):
                self.past.append(event)
            yield event

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Desk:
    """The outside of the app: opens scripts, and remembers what was asked for."""

    scripts: list[Script]
    opened: list[Choice] = field(default_factory=list)
    exported: list[str] = field(default_factory=list)

    def open(self, choice: Choice) -> Script:
        self.opened.append(choice)
        if choice.model == "missing":
            raise ModelNotFound(
                "no model is called 'missing'; `edgeagent models list` shows what is here"
            )
        return self.scripts[min(len(self.opened), len(self.scripts)) - 1]

    def export(self, session_id: str) -> str:
        self.exported.append(session_id)
        return f"{session_id}.json"

    def compare(self, folder: str) -> Comparison:
        if folder == "/nowhere":
            raise UsageError("there is no report in /nowhere")
        return COMPARISON

    def ports(self, **changes: object) -> Ports:
        given: dict[str, object] = {
            "open_session": self.open,
            "models": lambda: (
                Option("nano", ("nano", "Q8_0", "9 MB", "the embedded model")),
                Option("distil", ("distil", "Q4_K_M", "1.1 GB", "airline customer support")),
            ),
            "scenarios": lambda: (
                Option("airline", ("airline", "Airline customer desk")),
                Option("orders", ("orders", "Order desk")),
            ),
            "sessions": lambda: (
                Option(
                    "s2",
                    ("2 Jan 10:15", "Where is my reservation?", "4 turns", "airline"),
                    "airline",
                ),
                Option(
                    "s1", ("1 Jan 09:00", "I want to return a lamp", "1 turn", "orders"), "orders"
                ),
            ),
            "export": self.export,
            "comparisons": lambda: (Option("/r", ("2 Jan 10:15", "report", "/home")),),
            "comparison": self.compare,
            "settings": (("model.name", "nano"), ("remote.base_url", ""), ("offline", "False")),
            "config_path": "config.toml",
            **changes,
        }
        return Ports(**given)  # type: ignore[arg-type]  # a table of fields by name


COMPARISON = Comparison(
    title="Builds against F16",
    base="F16",
    columns=(
        ("build", "The file's weight type."),
        ("MB", "Size."),
        ("KLD calls", "Divergence."),
        *((f"score number {n}", "A score.") for n in range(8)),
    ),
    rows=(("F16", "17.1", "–", *["95.0 %"] * 8), ("Q2_K", "4.31", "0.0523", *["61.2 %"] * 8)),
    flips=(
        Flip("Q2_K", "tft 3/7", "lost, the tool", '{"name": "FindRestaurants"}',
             (("prompt's end", "customer: [bold]Italian[/bold], please"),
              ("should be", '{"name": "FindRestaurants"}'),
              ("F16, the base", '{"name": "FindRestaurants"}'),
              ("Q2_K", '{"name": "respond_to_user"}'))),
        Flip("Q2_K", "tft 4/1", "gained", '{"name": "respond_to_user"}', (("should be", "yes"),)),
    ),
    notes=("One passage was cut.",),
)  # fmt: skip


def call(name: str, arguments: dict[str, object], id: str = "call_1") -> ToolCalled:
    """A call of the local model."""
    verdict = Verdict(deferred=False, probability=0.03, reason="greedy")
    return ToolCalled(Call(id, name, arguments), Tier.LOCAL, verdict, USAGE, 310.0)


def ended(stop: Stop = Stop.ANSWERED, n_steps: int = 2) -> TurnEnded:
    return TurnEnded(stop, Stats(n_steps, 1240.0, USAGE))


def written(message: str) -> list[Event]:
    """The tokens of a reply, as a model writes its call."""
    raw = (
        '<tool_call>\n{"name": "respond_to_user", "arguments": {"message": '
        f'"{message}"' + "}}\n</tool_call>"
    )
    return [Token(raw[i : i + 7]) for i in range(0, len(raw), 7)]


def said(message: str, tier: Tier = Tier.LOCAL, id: str = "call_r") -> list[Event]:
    """A whole reply, from its call to the end of the turn."""
    return [
        ToolCalled(Call(id, "respond_to_user", {"message": message}), tier, None, USAGE, 400.0),
        ToolReturned(id, "respond_to_user", '{"ok": true}', False, 0.1),
        Answered(message, tier),
        ended(),
    ]


def reply(message: str) -> Turn:
    """A turn that only answers."""

    def play(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        yield StepStarted(1, Tier.LOCAL)
        yield from written(message)
        yield from said(message)

    return play


def lookup(
    content: str = RESERVATION,
    is_error: bool = False,
    arguments: dict[str, object] | None = None,
    message: str = "It goes from Dallas to Los Angeles.",
) -> Turn:
    """A turn that looks something up and answers."""

    def play(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        yield StepStarted(1, Tier.LOCAL)
        yield Prefilled(380, 1000)
        name = "get_reservation_details"
        yield call(name, arguments or {"reservation_id": "7KD2RM"})
        yield ToolReturned("call_1", name, content, is_error, 2.4)
        yield StepStarted(2, Tier.LOCAL)
        yield from written(message)
        yield from said(message)

    return play


def cancellation(decisions: list[Decision]) -> Turn:
    """A turn with a write; appends what the person answered to `decisions`."""

    def play(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        yield StepStarted(1, Tier.LOCAL)
        write = call("cancel_reservation", {"reservation_id": "7KD2RM"}, "call_w")
        yield write
        needed = ApprovalNeeded(write.call, Question.WRITE, "Cancel the whole reservation 7KD2RM.")
        yield needed
        decision = approve(needed)
        decisions.append(decision)
        yield ApprovalGiven("call_w", Question.WRITE, decision)
        is_refused = decision is Decision.REFUSE
        content = '{"error": "the person refused"}' if is_refused else '{"status": "cancelled"}'
        yield ToolReturned("call_w", "cancel_reservation", content, is_refused, 3.0)
        if cancel.is_set():
            yield ended(Stop.CANCELLED, 1)
        else:
            yield from said("It stays as it is." if is_refused else "It is cancelled.")

    return play


def hanging(after: Sequence[Event]) -> Turn:
    """A turn that plays `after` and then goes nowhere until it is cancelled."""

    def play(text: str, cancel: threading.Event, approve: Approve) -> Iterator[Event]:
        yield TurnStarted(text)
        yield from after
        cancel.wait(20)
        yield ended(Stop.CANCELLED, 1)

    return play


EVERYTHING: tuple[Event, ...] = (
    TurnStarted("Where does my reservation 7KD2RM go?\nAnd what does the bag cost?"),
    StepStarted(1, Tier.LOCAL),
    call("get_reservation_details", {"reservation_id": "7KD2RM"}),
    ToolReturned("call_1", "get_reservation_details", RESERVATION, False, 2.4),
    call("calculate", {"expression": "2 * (30 + x)"}, "call_2"),
    ToolReturned("call_2", "calculate", '{"error": "x is not a number"}', True, 0.3),
    call("think", {"thought": "The fare allows two bags, so nothing is due."}, "call_3"),
    ToolReturned("call_3", "think", "", False, 0.0),
    *said("From Dallas to Los Angeles, in business. Two bags are free."),
    TurnStarted("Please cancel it."),
    StepStarted(1, Tier.LOCAL),
    call("cancel_reservation", {"reservation_id": "7KD2RM"}, "call_w"),
    ApprovalNeeded(
        Call("call_w", "cancel_reservation", {"reservation_id": "7KD2RM"}),
        Question.WRITE,
        "Cancel the whole reservation 7KD2RM.",
    ),
    ApprovalGiven("call_w", Question.WRITE, Decision.ONCE),
    ToolReturned("call_w", "cancel_reservation", '{"status": "cancelled"}', False, 3.1),
    *said("It is cancelled."),
    TurnStarted("I want my money back in three currencies."),
    EngineRestarted("the worker was killed by signal 9; the step is tried once more"),
    ContextTrimmed(3),
    Deferred("several refund rules apply at once", "gpt-large", "requested"),
    RemoteFailed("RemoteTimeout", "no first byte within 10 s"),
    Deferred("several refund rules apply at once", "outbox", "offline"),
    *said("I can refund to the card that was used.", Tier.OFFLINE),
    TurnStarted("Then explain the rule."),
    Deferred("the customer asks for a legal text", "gpt-large", "requested"),
    *said("Refunds follow the form of payment.", Tier.REMOTE),
)
"""A conversation in which everything happens that can happen to one."""
