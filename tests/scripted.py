"""A local model with a script and a backend with a memory: what the cascade's tests stand on.

    local = Scripted(call("get_user", user_id="ana_ro_5127"), reply("Your seat is 12A."))

Each step takes the next item of the script; `local.rules` and `local.prompts` have what was asked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from edgeagent.calls import new_id
from edgeagent.cascade import Agent, ToolOutcome
from edgeagent.engine.client import ModelFacts, Prompt, StepDone, StepRule
from edgeagent.events import Prefilled, Token
from edgeagent.messages import (
    DEFER,
    RESPOND,
    THINK,
    TRANSFER,
    Call,
    Json,
    Tool,
    ToolKind,
    Usage,
    Verdict,
)

FACTS = ModelFacts(
    name="scripted", quant="none", n_ctx=4096, n_params=0, size_bytes=0, load_ms=0.0,
    prefix_source="none",
)  # fmt: skip
USAGE = Usage(n_prompt=100, n_reused=80, n_decoded=20, n_sampled=5, n_ctx=4096)

Step: TypeAlias = Callable[
    [Prompt, StepRule, threading.Event], Iterator[Prefilled | Token | StepDone]
]


def schema(*required: str) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in required},
        "required": list(required),
        "additionalProperties": False,
    }


TOOLS = (
    Tool("get_user", "Look up a user.", schema("user_id"), ToolKind.READ),
    Tool("cancel", "Cancel a reservation.", schema("reservation_id"), ToolKind.WRITE),
    Tool("book", "Book a flight.", schema("flight"), ToolKind.WRITE),
    Tool(THINK, "Think.", schema("thought"), ToolKind.CONTROL),
    Tool(RESPOND, "Talk to the customer.", schema("message"), ToolKind.CONTROL),
    Tool(TRANSFER, "Hand over to a person.", schema("summary"), ToolKind.CONTROL),
    Tool(DEFER, "Hand over to a larger model.", schema("reason"), ToolKind.CONTROL),
)


def done(*calls: Call, text: str = "", verdict: Verdict | None = None) -> StepDone:
    return StepDone(calls, text, verdict or Verdict(False, 0.01, "greedy"), USAGE, "complete")


def call(name: str, **arguments: Json) -> StepDone:
    """A step that makes one call."""
    return done(Call(new_id(), name, arguments))


def reply(message: str) -> StepDone:
    """A step that talks to the customer."""
    return call(RESPOND, message=message)


def defer(otherwise: StepDone, reason: str = "too hard") -> Step:
    """A step that wants to hand over; where it cannot, the masked row gives `otherwise`."""

    def step(
        prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]:
        verdict = Verdict(True, 0.9, "greedy")
        if rule.on_defer is None:
            yield done(Call(new_id(), DEFER, {"reason": reason}), verdict=verdict)
        else:
            assert all(made.name in rule.on_defer for made in otherwise.calls)
            yield done(*otherwise.calls, verdict=verdict)

    return step


def cut_short(*pieces: str) -> Step:
    """A step that writes some text until the person cancels."""

    def step(
        prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]:
        yield from (Token(piece) for piece in pieces)
        assert cancel.is_set(), "the test cancels while it reads the tokens"
        yield StepDone((), "", None, USAGE, "cancelled")

    return step


class Scripted:
    """The local tier."""

    def __init__(self, *script: StepDone | Exception | Step) -> None:
        self.script = list(script)
        self.prompts: list[Prompt] = []
        self.prepared: list[Prompt] = []
        self.rules: list[StepRule] = []
        self.n_starts = 0
        self.facts: ModelFacts | None = FACTS
        self.is_alive = True

    def start(self) -> ModelFacts:
        self.n_starts += 1
        return FACTS

    def check_tools(self, tools: Sequence[Tool]) -> None:
        """Take any tool."""

    def warm(
        self, policy: str, tools: Sequence[Tool], cancel: threading.Event
    ) -> Iterator[Prefilled]:
        yield from ()

    def prepare(self, prompt: Prompt, cancel: threading.Event) -> None:
        self.prepared.append(prompt)

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]:
        self.prompts.append(prompt)
        self.rules.append(rule)
        item = self.script.pop(0)
        if isinstance(item, Exception):
            raise item
        if isinstance(item, StepDone):
            yield item
        else:
            yield from item(prompt, rule, cancel)

    def close(self) -> None:
        self.is_alive = False


class Desk:
    """The backend: remembers what it did, and fails where it is told to."""

    is_own = True

    def __init__(self, **behaviours: Callable[[Call], str]) -> None:
        self.did: list[Call] = []
        self._behaviours = behaviours

    def call(self, call: Call, timeout_s: float) -> ToolOutcome:
        self.did.append(call)
        if call.name in self._behaviours:
            return ToolOutcome(self._behaviours[call.name](call))
        return ToolOutcome(json.dumps({"did": call.name}))

    def receipt(self, call_id: str) -> ToolOutcome | None:
        return next((ToolOutcome("{}") for call in self.did if call.id == call_id), None)


def agent(desk: Desk | None = None, tools: tuple[Tool, ...] = TOOLS) -> Agent:
    return Agent("Be kind.", tools, desk or Desk())
