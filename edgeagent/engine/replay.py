"""Replaying recorded steps to see what they cost: the app's side, and the values of it.

Every loop is made to write the recorded call, token by token, so that all do the same work.
Refuses to know llama.cpp, as `client` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from edgeagent.engine.client import Engine, EngineOptions, Prompt
from edgeagent.messages import Call


class Loop(StrEnum):
    """Who decodes."""

    OURS = "edgeagent"
    """The engine as the product runs it."""
    PLAIN = "plain loop"
    """One token per pass under the same grammar, on the same engine and settings."""
    BINDING = "llama-cpp-python"
    """Its `create_chat_completion` with tools, greedy, without a grammar."""


WORKERS = {
    Loop.OURS: "edgeagent.engine.replaying",
    Loop.PLAIN: "edgeagent.engine.replaying",
    Loop.BINDING: "edgeagent.engine.binding",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step took."""

    n_prompt: int
    n_prefilled: int
    """Prompt tokens that were read in this step; the others were in the context."""
    prefill_ms: float
    n_decoded: int
    """Tokens of the answer, forced and drafted ones included."""
    n_sampled: int
    """Tokens that were chosen from a row of logits."""
    n_drafted: int
    """Tokens that were guessed and read before they were confirmed."""
    decode_ms: float
    first_token_ms: float
    """From the request to the first token that was chosen."""
    cpu_ms: float | None = None
    """Processor time of the step, all threads together; what other programs do changes it
    little. None where the engine is not on this machine."""
    n_passes: int | None = None
    """Forward passes; None where the engine does not tell."""
    peak_bytes: int | None = None
    """Most memory that the engine's process has had so far."""
    n_held: int = 0
    """Tokens that the context holds after the step: what the next one need not read again."""
    tokens: tuple[int, ...] = ()
    """What was written, where the engine tells."""
    text: str = ""
    """The same as text; told by our engine, which the others are made to follow."""

    @property
    def n_reused(self) -> int:
        """Prompt tokens that the context held already."""
        return self.n_prompt - self.n_prefilled

    @property
    def total_ms(self) -> float:
        """The whole step."""
        return self.prefill_ms + self.decode_ms


def opened(options: EngineOptions, loop: Loop) -> Engine:
    """Return an engine that can replay; nothing is loaded yet. Close it."""
    return Engine(options, WORKERS[loop])


def replay(
    engine: Engine, loop: Loop, prompt: Prompt, call: Call, tokens: Sequence[int] = ()
) -> Cost:
    """Return what it costs to answer the prompt with the call.

    `tokens` are the call as our engine wrote it; the binding is made to write the same.

    Raises:
        ContextFull: the step does not fit into the context.
        EngineError: the call cannot be written, or something else was.
        EngineDied: the worker is gone.
        TemplateError: the template refuses the conversation.
    """
    cost: Cost = engine.ask("replay", loop, prompt, call, tuple(tokens))
    return cost
