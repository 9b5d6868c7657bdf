"""What the engine's tests share: a few tools, a loaded tiny model, a step taken to its end."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llguidance import LLMatcher

from edgeagent.engine import library
from edgeagent.engine.client import Engine, EngineOptions, Prompt, StepDone, StepRule
from edgeagent.engine.closing import is_complete
from edgeagent.engine.costs import MAX_PASS
from edgeagent.engine.library import Opened
from edgeagent.engine.tables import Setting, untuned
from edgeagent.manifest import Dialect
from edgeagent.messages import (
    CONTROL_NAMES,
    DEFER,
    RESPOND,
    Call,
    CallMessage,
    Conversation,
    ResultMessage,
    Tool,
    ToolKind,
    UserMessage,
)
from tests.tiny_gguf import write_tiny

POLICY = "Be polite. Book nothing without a yes."


def tool(name: str, **properties: Any) -> Tool:
    """Return a tool whose arguments are all required, but for those named `maybe_...`."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": [key for key in properties if not key.startswith("maybe_")],
    }
    kind = ToolKind.CONTROL if name in CONTROL_NAMES else ToolKind.READ
    return Tool(name, f"Does {name}.", parameters, kind)


STRING = {"type": "string"}
TOOLS = (
    tool(RESPOND, message=STRING),
    tool(DEFER, reason=STRING),
    tool("get_reservation_details", reservation_id=STRING),
    tool("search_flights", origin=STRING, maybe_date=STRING),
    tool(
        "book",
        cabin={"type": "string", "enum": ["basic_economy", "economy", "business"]},
        flights={
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {"number": STRING, "price": {"type": "number"}},
                "required": ["number", "price"],
            },
        },
        bags={"type": "integer", "minimum": 0, "maximum": 9},
    ),
)
NAMES = frozenset(tool.name for tool in TOOLS)
CONVERSATION: Conversation = (
    UserMessage("I want to see my booking ABC123."),
    CallMessage((Call("call_0123456789ab", "get_reservation_details", {"reservation_id": "ABC"}),)),
    ResultMessage("call_0123456789ab", "get_reservation_details", '{"user": "ann"}'),
    CallMessage((Call("call_0123456789ac", RESPOND, {"message": 'It is "yours".'}),)),
    ResultMessage("call_0123456789ac", RESPOND, '{"ok": true}'),
    UserMessage("Thanks.\nAnd now?"),
)


def rule(
    max_tokens: int = 60,
    *,
    offered: Iterable[str] = NAMES,
    threshold: float | None = None,
    on_defer: Iterable[str] | None = None,
) -> StepRule:
    """Return a rule with everything offered unless told otherwise."""
    names = None if on_defer is None else frozenset(on_defer)
    return StepRule(frozenset(offered), threshold, names, max_tokens)


def prompt(*texts: str) -> Prompt:
    """Return a prompt with one customer message per text, or the sample conversation."""
    conversation = tuple(UserMessage(text) for text in texts) or CONVERSATION
    return Prompt(POLICY, TOOLS, conversation)


def opened(folder: Path, **settings: Any) -> Opened:
    """Load a tiny model into this process, on one thread."""
    return opened_file(write_tiny(folder / "tiny.gguf", **settings))


def opened_file(path: Path, setting: Setting | None = None) -> Opened:
    """Load a model into this process, on one thread, with room for guesses."""
    flag = mmap.mmap(-1, 2)
    address = ctypes.addressof(ctypes.c_char.from_buffer(flag))
    model = library.open_model(
        path, None, 1, address, MAX_PASS, lambda one: untuned(setting or one.default, "a test")
    )
    flags.append(flag)
    return model


flags: list[mmap.mmap] = []
"""Abort flags of the models opened so far, mapped for as long as one may look at them."""


@contextmanager
def engine(path: Path, dialect: Dialect | None = None, **settings: Any) -> Iterator[Engine]:
    """Yield an engine that is closed afterwards; it logs beside the model."""
    options = EngineOptions(
        path, dialect or Dialect(), n_threads=1, log_file=path.with_suffix(".log"), **settings
    )
    made = Engine(options)
    try:
        yield made
    finally:
        made.close()


def take(made: Engine, what: Prompt, how: StepRule | None = None) -> StepDone:
    """Return how a step ended."""
    *_, done = made.step(what, how or rule(), threading.Event())
    assert isinstance(done, StepDone)
    return done


def forced(matcher: LLMatcher) -> list[int]:
    """Consume and return the tokens that the grammar leaves no choice about."""
    run = [] if matcher.is_stopped() else matcher.compute_ff_tokens()
    assert matcher.consume_tokens(run)
    return run


def completes(matcher: LLMatcher, tokens: Sequence[int]) -> bool:
    """Tell whether the tokens lead to a complete answer, by consuming every one of them."""
    state = matcher.deep_copy()
    return state.try_consume_tokens(list(tokens)) == len(tokens) and is_complete(state)
