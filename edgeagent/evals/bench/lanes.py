"""The ways of answering that are measured side by side, each a process or a server of its own.

A lane is opened, brought to where it is ready to answer, and replays every step of the record.
Knows no ratios and no tables.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from edgeagent.engine import replay
from edgeagent.engine.client import EngineOptions, Prompt
from edgeagent.engine.replay import Cost, Loop
from edgeagent.errors import ContextFull, EvaluationError
from edgeagent.evals.bench.recorded import Recorded
from edgeagent.evals.bench.server import Served
from edgeagent.messages import Conversation, UserMessage

Script: TypeAlias = Sequence[Cost]
"""What our engine wrote at each step, and what it took; empty before it has."""
PATIENCE = 5
MIN_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Start:
    """From nothing to the first token of the first answer."""

    load_ms: float | None
    """Start of the process and loading the model; None for a server, which is running."""
    prefix_ms: float
    """Bringing policy and tools into the context."""
    first_token_ms: float
    """Of the first step, after that."""
    source: str
    """Where the prefix came from: `prefilled`, `disk`, or `context` on a server that had it."""

    @property
    def total_ms(self) -> float:
        """All of it."""
        return (self.load_ms or 0.0) + self.prefix_ms + self.first_token_ms


@dataclass(frozen=True, slots=True)
class Ran:
    """One pass of a lane through the record."""

    cold: Start | None
    """With nothing on disk but the model; None where the prefix was there already."""
    warm: Start | None
    """With the prefix on disk, or in a server's memory; None where it had to be read."""
    costs: tuple[Cost, ...]


class Lane(Protocol):
    """One way of answering."""

    @property
    def name(self) -> str:
        """As a person tells it from the others."""
        ...

    def run(self, recorded: Recorded, script: Script) -> Ran:
        """Replay the record from a fresh start."""
        ...


@dataclass(frozen=True, slots=True)
class OwnLane:
    """An engine on this machine, in a process of its own."""

    loop: Loop
    options: EngineOptions
    """`cache_dir` is where prefixes are kept, and what passes cost here."""
    forgets: bool = True
    """Whether to start cold each time, which deletes the prefixes that are kept."""

    @property
    def name(self) -> str:
        """The loop's."""
        return self.loop.value

    def run(self, recorded: Recorded, script: Script) -> Ran:
        """Replay the record in a fresh process; ours starts twice, cold and then warm.

        What a device's first start measures is measured before.

        Raises:
            EvaluationError: a step does not fit into the context.
            ModelLoadError, TemplateError, SchemaRefused, EngineError: as the engine says.
        """
        if self.loop is Loop.BINDING:
            start, costs = self._replayed(recorded, script, replace(self.options, cache_dir=None))
            return Ran(start, None, costs)
        folder = self.options.cache_dir
        assert folder is not None, "the product keeps what it has measured"
        if not (folder / "costs").exists():
            with closing(replay.opened(self.options, self.loop)) as engine:
                engine.start()
        if not self.forgets:
            return _ran(*self._replayed(recorded, script, self.options))
        if self.loop is Loop.PLAIN:
            start, costs = self._replayed(recorded, script, replace(self.options, cache_bytes=0))
            return Ran(start, None, costs)
        shutil.rmtree(folder / "prefixes", ignore_errors=True)
        first = replace(recorded, steps=recorded.steps[:1])
        cold, _ = self._replayed(first, script, self.options)
        warm, costs = self._replayed(recorded, script, self.options)
        return Ran(cold, warm, costs)

    def _replayed(
        self, recorded: Recorded, script: Script, options: EngineOptions
    ) -> tuple[Start, tuple[Cost, ...]]:
        begun = time.perf_counter()
        with closing(replay.opened(options, self.loop)) as engine:
            engine.start()
            loaded = time.perf_counter()
            for _ in engine.warm(recorded.policy, recorded.tools, threading.Event()):
                pass
            warmed = time.perf_counter()
            source = engine.facts.prefix_source if engine.facts else "none"
            costs = []
            for number, step in enumerate(recorded.steps):
                prompt = Prompt(recorded.policy, recorded.tools, step.conversation)
                tokens = script[number].tokens if script else ()
                try:
                    costs.append(replay.replay(engine, self.loop, prompt, step.call, tokens))
                except ContextFull as full:
                    raise EvaluationError(
                        f"step {number + 1} of the conversation does not fit: {full.n_prompt} "
                        f"tokens and {full.n_reserve} for the answer, but the context holds "
                        f"{full.n_ctx}; give a shorter conversation or raise model.n_ctx"
                    ) from full
        start = Start(
            (loaded - begun) * 1000, (warmed - loaded) * 1000, costs[0].first_token_ms, source
        )
        return start, tuple(costs)


@dataclass(frozen=True, slots=True)
class ServerLane:
    """A running server under one set of request settings."""

    name: str
    served: Served
    is_best: bool

    def run(self, recorded: Recorded, script: Script) -> Ran:
        """Ask the server for every step; what it had read before is the server's own affair.

        The first message ends with the number of the run: a server that keeps what it has read
        on the side would else have the whole conversation from the last time.

        Raises:
            RemoteError: it does not answer, or not as it should.
        """
        self.served.patience_s = _patience_s(script)
        self.served.n_runs += 1
        prompts = [
            Prompt(recorded.policy, recorded.tools, self._marked(step.conversation))
            for step in recorded.steps
        ]
        begun = time.perf_counter()
        opening = replace(prompts[0], conversation=(UserMessage("a"),))
        warmed = self.served.ask(opening, 1, is_best=self.is_best)
        prefix_ms = (time.perf_counter() - begun) * 1000
        costs: list[Cost] = []
        for number, (prompt, wrote) in enumerate(zip(prompts, script, strict=True)):
            if number:
                self.served.lead(prompts[number - 1], script[number - 1].text, is_best=self.is_best)
            costs.append(self.served.ask(prompt, len(wrote.tokens), is_best=self.is_best))
        source = "prefilled" if warmed.n_prefilled > warmed.n_reused else "context"
        return _ran(Start(None, prefix_ms, costs[0].first_token_ms, source), tuple(costs))

    def _marked(self, conversation: Conversation) -> Conversation:
        first, *rest = conversation
        if isinstance(first, UserMessage):
            first = UserMessage(f"{first.text} ({self.served.n_runs})")
        return (first, *rest)


def _patience_s(script: Script) -> float:
    """Return how long a server that is well cannot take.

    Reading a token costs less than writing one, and its whole prompt it reads but once.
    """
    slowest_ms = max(
        cost.n_prompt * cost.decode_ms / max(1, cost.n_decoded) + cost.total_ms for cost in script
    )
    return max(MIN_PATIENCE_S, PATIENCE * slowest_ms / 1000)


def _ran(start: Start, costs: tuple[Cost, ...]) -> Ran:
    is_cold = start.source == "prefilled"
    return Ran(start if is_cold else None, None if is_cold else start, costs)
