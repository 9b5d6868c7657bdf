"""Play one airline episode through the real cascade: a scripted customer, a model, a database.

Every approval is given, no larger model is asked, and nothing is kept but what happened. Knows
neither what the episode should come to nor how it is scored.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeagent import cascade, history, ledger
from edgeagent.cascade import Agent, Grants, LocalTier
from edgeagent.config import Config, ModelConfig
from edgeagent.evals.airline_cases import Changes, Followed, Snapshot, changes, snapshot
from edgeagent.events import (
    Answered,
    Decision,
    Deferred,
    Event,
    Stop,
    TextSaid,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnFailed,
    TurnStarted,
)
from edgeagent.link import Link
from edgeagent.messages import (
    DEFER,
    RESPOND,
    Call,
    Conversation,
    Tool,
    ToolKind,
    Usage,
)
from edgeagent.scenarios.airline import backend
from edgeagent.scenarios.airline.world import World

MAX_TURNS = 40
"""Turns after which a customer who is led in circles is taken to have hung up."""
MAX_SAME = 5
"""Times that a customer reads the very same reply."""


@dataclass(frozen=True, slots=True)
class Deed:
    """A call on the database that came through or was refused."""

    call: Call
    is_write: bool
    content: str
    is_error: bool
    is_confirmed: bool
    """The customer's last words were a yes."""


@dataclass(slots=True)
class Played:
    """What happened in an episode."""

    deeds: list[Deed] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    wishes: list[int] = field(default_factory=list)
    """The wish that each turn belonged to."""
    deferred: list[bool] = field(default_factory=list)
    """Whether each turn was deferred."""
    changes: Changes = field(default_factory=dict)
    touched: frozenset[str] = frozenset()
    """Users whose profile or reservations differ at the end."""
    is_handed_to_a_person: bool = False
    n_calls: int = 0
    usage: Usage = field(default_factory=Usage)
    ms: float = 0.0
    note: str = ""
    """Why the episode stopped where it should not have."""
    is_looping: bool = False
    """The customer hung up on an agent that went in circles, or a turn took too many steps."""
    lines: list[str] = field(default_factory=list)
    """The transcript."""


def play(
    customer: Followed,
    world: World,
    local: LocalTier,
    *,
    threshold: float | None = None,
    max_tokens: int = 512,
) -> Played:
    """Return what came of the conversation between the customer and the model.

    Costs what the model's steps cost; the rest is about 0.1 s.
    """
    config = Config(offline=True, model=ModelConfig(max_tokens=max_tokens))
    desk = backend.open_world(world)
    before = snapshot(desk.connection)
    described = backend.description()
    agent = Agent(described.policy, described.tools, desk)
    link = Link(config.remote, offline=True)
    grants = Grants()
    played = Played()
    taking = _Taking(played, described.tools)
    conversation: Conversation = ()
    text: str | None = customer.open()
    while text is not None and taking.goes_on:
        played.note = _why_hung_up(played)
        if played.note:
            played.is_looping = True
            break
        taking.is_confirmed = customer.last.told.get("confirm") is True
        played.wishes.append(customer.wishes[-1])
        played.deferred.append(False)
        for event in cascade.run_turn(
            conversation,
            text,
            agent=agent,
            local=local,
            remote=None,
            link=link,
            config=config,
            defer_threshold=threshold,
            approve=lambda _: Decision.ONCE,
            cancel=threading.Event(),
            grants=grants,
        ):
            conversation = history.fold(conversation, event)
            taking.take(event)
        if taking.goes_on:
            text = customer.reply(taking.answer)
    after = snapshot(desk.connection)
    played.changes = changes(before, after)
    played.touched = frozenset(_owner(key, before, after) for key in _documents(played.changes))
    desk.close()
    return played


def _why_hung_up(played: Played) -> str:
    """Return what no customer would put up with; empty while there is nothing."""
    if played.replies and played.replies.count(played.replies[-1]) >= MAX_SAME:
        return f"read the same reply {MAX_SAME} times"
    return f"not over after {MAX_TURNS} turns" if len(played.wishes) == MAX_TURNS else ""


def _documents(changed: Changes) -> set[str]:
    """Return `table/id` of what belongs to somebody; seats are everybody's."""
    keys = {"/".join(path.split("/")[:2]) for path in changed}
    return {key for key in keys if not key.startswith("flights/")}


def _owner(key: str, before: Snapshot, after: Snapshot) -> str:
    table, _, name = key.partition("/")
    if table == "users":
        return name
    return str(json.loads(before.get(key) or after[key])["user_id"])


class _Taking:
    """Takes the events of an episode, one after the other."""

    def __init__(self, played: Played, tools: Sequence[Tool]) -> None:
        self.goes_on = True
        self.is_confirmed = False
        self.answer = ""
        """What the customer read last."""
        self._played = played
        self._kinds = {tool.name: tool.kind for tool in tools}
        self._calls: dict[str, Call] = {}

    def take(self, event: Event) -> None:
        """Note what the event tells."""
        played = self._played
        match event:
            case TurnStarted(text):
                self.answer = ""
                played.lines.append(f"customer  {text}")
            case ToolCalled(call, usage=usage, ms=ms):
                self._calls[call.id] = call
                self._count(usage, ms)
                if call.name not in (RESPOND, DEFER):
                    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
                    played.lines.append(f"  call    {call.name} {arguments}")
            case TextSaid(usage=usage, ms=ms):
                self._count(usage, ms)
            case ToolReturned(call_id, _, content, is_error):
                self._note_result(self._calls[call_id], content, is_error)
            case Deferred(reason, _, _):
                played.deferred[-1] = True
                played.lines.append(f"  defer   {reason}")
            case Answered(text):
                self.answer = text
                played.replies.append(text)
                played.lines.append(f"agent     {text}")
            case TurnEnded(stop):
                self._end(stop)
            case TurnFailed(error):
                played.note = error
                played.lines.append(f"  failed  {error}")
                self.goes_on = False
            case _:
                pass

    def _count(self, usage: Usage, ms: float) -> None:
        self._played.n_calls += 1
        self._played.usage = ledger.added(self._played.usage, usage)
        self._played.ms += ms

    def _note_result(self, call: Call, content: str, is_error: bool) -> None:
        kind = self._kinds.get(call.name, ToolKind.READ)
        if kind is ToolKind.CONTROL:
            return
        is_write = kind is ToolKind.WRITE
        self._played.deeds.append(Deed(call, is_write, content, is_error, self.is_confirmed))
        self._played.lines.append(f"  {'error ' if is_error else 'result'}  {content[:300]}")

    def _end(self, stop: Stop) -> None:
        if stop is Stop.TRANSFERRED:
            self._played.is_handed_to_a_person = True
            self.goes_on = False
        elif stop is not Stop.ANSWERED:
            self._played.is_looping |= stop is Stop.STEP_LIMIT
            self._played.lines.append(f"  stopped {stop.value}")
