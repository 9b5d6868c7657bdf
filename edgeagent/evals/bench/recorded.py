"""A recorded conversation as the steps to replay: what was asked, and the call that answered.

Reads what `edgeagent sessions export` writes, and OpenAI's chat messages as a JSON list, as an
object with `messages`, or one per line. Knows no engine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edgeagent import calls, history
from edgeagent.errors import EvaluationError
from edgeagent.evals import distil, jsonl, transcripts
from edgeagent.events import from_json
from edgeagent.messages import RESPOND, Call, CallMessage, Conversation, Json, Tool
from edgeagent.scenarios import job, library
from edgeagent.scenarios.airline import backend

OURS = Path(__file__).with_name("airline.json")
"""A search and a booking at the airline desk, made by our simulator."""
DESK = "airline"
"""Whose policy and tools hold where neither the file nor the person names others."""


@dataclass(frozen=True, slots=True)
class Step:
    """One answer of the record."""

    conversation: Conversation
    """All before it."""
    call: Call


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is replayed."""

    policy: str
    tools: tuple[Tool, ...]
    steps: tuple[Step, ...]


def read(path: Path, tools: Path | None = None) -> Recorded:
    """Return the conversation in the file; `tools` is a `job_description.json`.

    Of several calls made at once the first is the step's.

    Raises:
        EvaluationError: it is no conversation, or a call in it is not one of the tools.
        ScenarioError: the tools, or the scenario that the file names, cannot be used.
    """
    found = _document(path)
    policy = ""
    if "events" in found:
        steps = tuple(_of_events(found["events"], str(path)))
    else:
        pairs = list(transcripts.pairs(_without_receipts(found.get("messages")), str(path), "1"))
        policy = pairs[0].policy if pairs else ""
        steps = tuple(_of_pair(pair) for pair in pairs)
    if not steps:
        raise EvaluationError(f"{path} has no call of the assistant to replay")
    described = job.read(tools) if tools is not None else _desk(found.get("scenario", DESK))
    for number, step in enumerate(steps, start=1):
        problem = calls.validate(step.call.name, step.call.arguments, described.tools)
        if problem is not None:
            raise EvaluationError(
                f"{path}: call {number} does not fit the tools: {problem}; "
                "name those that were recorded with --tools"
            )
    return Recorded(policy or described.policy, described.tools, steps)


def _document(path: Path) -> Mapping[str, Json]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise EvaluationError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError):
        # One document per line, or nothing that can be read; that is told by line.
        return {"messages": [row for _, row in jsonl.rows(path)]}
    if isinstance(found, list):
        return {"messages": found}
    if isinstance(found, dict) and ("messages" in found or "events" in found):
        return found
    raise EvaluationError(f"{path} holds neither a session's export nor a list of messages")


def _of_events(events: Json, where: str) -> Iterator[Step]:
    if not isinstance(events, list):
        raise EvaluationError(f"{where}: the events are not a list")
    told = []
    for number, event in enumerate(events, start=1):
        try:
            fields = {key: value for key, value in event.items() if key not in ("seq", "at")}
            told.append(from_json(fields))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise EvaluationError(f"{where}: event {number} is none of ours") from exc
    conversation = history.without_deferrals(history.conversation_of(told))
    for at, message in enumerate(conversation):
        if isinstance(message, CallMessage):
            yield Step(conversation[:at], message.calls[0])


def _without_receipts(messages: Json) -> Json:
    """Leave out what a message to the customer came to: it is always the same."""
    if not isinstance(messages, list):
        return messages
    replies = {
        str(call.get("id"))
        for message in messages
        if isinstance(message, dict) and isinstance(message.get("tool_calls"), list)
        for call in message["tool_calls"]
        if isinstance(call, dict) and call.get("id") is not None and _name(call) == RESPOND
    }
    return [
        message
        for message in messages
        if not isinstance(message, dict)
        or message.get("role") != "tool"
        or str(message.get("tool_call_id")) not in replies
    ]


def _name(call: dict[str, Json]) -> Json:
    function = call.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _of_pair(pair: transcripts.Pair) -> Step:
    written = distil.read_call(pair.reference)
    assert written is not None, "pairs have calls as references"
    return Step(pair.conversation, Call(calls.new_id(), written.name, written.arguments))


def _desk(scenario: Json) -> job.Job:
    if scenario == DESK:
        return backend.description()
    # The person's own data is none of our business here.
    with tempfile.TemporaryDirectory(prefix="edgeagent-") as folder:
        found = library.load(str(scenario), Path(folder))
        with closing(found.backend):
            return job.Job(found.policy, found.tools)
