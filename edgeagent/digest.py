"""A finished turn as one record: the contract of `run --json`, which scripts and scorers read.

A pure function of the turn's events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from edgeagent.calls import validate
from edgeagent.events import (
    Answered,
    Deferred,
    Event,
    Stats,
    Stop,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnFailed,
)
from edgeagent.messages import Json, Tool


def of_turn(session_id: str, events: Iterable[Event], tools: Sequence[Tool]) -> dict[str, Json]:
    """Return the turn as a JSON object.

    `{"session", "reply", "steps": [{"tier", "name", "arguments", "result", "valid", "ms"}],
    "deferred", "deferred_to", "stop", "stats"}`, and `"error"` where the turn failed. `reply` is
    empty where the customer got none. `ms` is the time the model took for the call. `valid` says
    that the arguments fit the tool's schema, checked here once more.
    """
    steps: dict[str, dict[str, Json]] = {}
    turn: dict[str, Json] = {
        "session": session_id, "reply": "", "steps": [], "deferred": False, "deferred_to": None,
        "stop": Stop.FAILED.value, "stats": dataclasses.asdict(Stats()),
    }  # fmt: skip
    for event in events:
        match event:
            case ToolCalled(call, tier, _, _, ms):
                fault = validate(call.name, call.arguments, tools)
                steps[call.id] = {
                    "tier": tier.value, "name": call.name, "arguments": dict(call.arguments),
                    "result": None, "valid": fault is None, "ms": round(ms, 3),
                }  # fmt: skip
            case ToolReturned(call_id, _, content) if call_id in steps:
                steps[call_id]["result"] = content
            case Deferred(_, to):
                turn["deferred"], turn["deferred_to"] = True, to
            case Answered(text):
                turn["reply"] = text
            case TurnEnded(stop, stats):
                turn["stop"], turn["stats"] = stop.value, dataclasses.asdict(stats)
            case TurnFailed(error):
                turn["error"] = error
                turn["stats"] = dataclasses.asdict(Stats(n_steps=len(steps)))
            case _:
                pass
    turn["steps"] = list(steps.values())
    return turn
