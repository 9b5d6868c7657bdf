"""The parent's side of the engine: owns the worker process and speaks with it.

Refuses to know llama.cpp: nothing of it is imported into this process, so that an abort, an
exhausted memory or a print to the terminal stays in the worker.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from edgeagent.errors import EngineDied
from edgeagent.events import Prefilled, Token
from edgeagent.manifest import Dialect
from edgeagent.messages import Call, Conversation, Tool, Usage, Verdict

Cancel: TypeAlias = threading.Event
"""Set from any thread; polled at least every 20 ms."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Which model to run, and how."""

    path: Path
    dialect: Dialect
    n_ctx: int | None = None
    """Tokens of context; None takes the model's own, at most 8192."""
    n_threads: int | None = None
    """None takes the physical cores this process may use."""
    cache_dir: Path | None = None
    """Where prefilled prefixes are kept; None keeps none."""
    log_file: Path = Path("/dev/null")
    """Gets everything that llama.cpp prints."""
    context_limit: int | None = None
    """Most tokens of prompt and answer, where a model was trained on less than n_ctx."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What was loaded."""

    name: str
    quant: str
    n_ctx: int
    n_params: int
    size_bytes: int
    load_ms: float
    prefix_source: str
    """Where the warm prefix came from: `none`, `context`, `disk` or `prefilled`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is shown."""

    policy: str
    tools: tuple[Tool, ...]
    """All tools, always the same, so that the prefix never changes."""
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class StepRule:
    """What one step may do."""

    offered: frozenset[str]
    """Names that the grammar offers at the branch."""
    defer_threshold: float | None
    """Probability at which the verdict is to defer; None lets greedy decide."""
    on_defer: frozenset[str] | None
    """None: decode the deferral call. A set: on that verdict read the same logits again and
    offer only these names."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """What the model did in one step."""

    calls: tuple[Call, ...]
    text: str
    """Plain words, only in the dialect `parallel_or_text`; else empty."""
    verdict: Verdict | None
    usage: Usage
    stop: Literal["complete", "cancelled"]


class Engine:
    """A local model in its own process.

    Used from one thread at a time; a second one waits for the lock.
    """

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.facts: ModelFacts | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the worker runs and has its model loaded."""
        return False

    def start(self) -> ModelFacts:
        """Load the model, or say at once what is loaded; starts a dead worker again.

        Blocks for the load, 0.3 to 3 s.

        Raises:
            ModelLoadError: the file cannot be run on this machine.
            TemplateError: its chat template is missing or cannot carry tools.
        """
        raise EngineDied("the engine is being built")

    def check_tools(self, tools: Sequence[Tool]) -> None:
        """Return if every tool's schema can be enforced.

        Raises:
            SchemaRefused: the grammar cannot enforce a tool's schema.
        """
        raise EngineDied("the engine is being built")

    def warm(self, policy: str, tools: Sequence[Tool], cancel: Cancel) -> Iterator[Prefilled]:
        """Bring the prefix of every prompt, system and tools, into the context."""
        raise EngineDied("the engine is being built")

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: Cancel
    ) -> Iterator[Prefilled | Token | StepDone]:
        """Yield progress, then pieces of one step's answer, then the step itself."""
        raise EngineDied("the engine is being built")

    def close(self) -> None:
        """End the worker; takes at most 2 s."""
