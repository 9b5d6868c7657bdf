"""The ways of answering that are measured side by side, each a process or a server of its own.

A lane is opened, brought to where it is ready to answer, and replays every step of the record.
Knows no ratios and no tables.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from edgeagent.engine import replay
from edgeagent.engine.client import Engine, EngineOptions, Prompt
from edgeagent.engine.replay import Cost, Loop
from edgeagent.errors import ContextFull, EvaluationError
from edgeagent.evals.bench.recorded import Recorded, Step
from edgeagent.evals.bench.server import Served
from edgeagent.messages import Conversation, UserMessage

Script: TypeAlias = Sequence[Cost]
"""What our engine wrote at each step, and what it took; it grows while ours goes first."""
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


Run: TypeAlias = Generator[Cost, None, Ran]


class Lane(Protocol):
    """One way of answering."""

    @property
    def name(self) -> str:
        """As a person tells it from the others."""
        ...

    def run(self, recorded: Recorded, script: Script) -> Run:
        """Replay the record from a fresh start; yield what each step cost."""
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

    def run(self, recorded: Recorded, script: Script) -> Run:
        """Replay the record in a fresh process; ours starts twice, cold and then warm.

        What a device's first start measures is measured before.

        Raises:
            EvaluationError: a step does not fit into the context.
            ModelLoadError, TemplateError, SchemaRefused, EngineError: as the engine says.
        """
        if self.loop is Loop.BINDING:
            own = replace(self.options, cache_dir=None)
            start, costs = yield from self._replayed(recorded, script, own)
            return Ran(start, None, costs)
        folder = self.options.cache_dir
        assert folder is not None, "the product keeps what it has measured"
        if not (folder / "costs").exists():
            with closing(replay.opened(self.options, self.loop)) as engine:
                engine.start()
        if not self.forgets:
            start, costs = yield from self._replayed(recorded, script, self.options)
            return _ran(start, costs)
        if self.loop is Loop.PLAIN:
            own = replace(self.options, cache_bytes=0)
            start, costs = yield from self._replayed(recorded, script, own)
            return Ran(start, None, costs)
        shutil.rmtree(folder / "prefixes", ignore_errors=True)
        cold = self._start(replace(recorded, steps=recorded.steps[:1]), script)
        warm, costs = yield from self._replayed(recorded, script, self.options)
        return Ran(cold, warm, costs)

    def _start(self, recorded: Recorded, script: Script) -> Start:
        replaying = self._replayed(recorded, script, self.options)
        while True:
            try:
                next(replaying)
            except StopIteration as ended:
                start: Start = ended.value[0]
                return start

    def _replayed(
        self, recorded: Recorded, script: Script, options: EngineOptions
    ) -> Generator[Cost, None, tuple[Start, tuple[Cost, ...]]]:
        begun = time.perf_counter()
        with closing(replay.opened(options, self.loop)) as engine:
            engine.start()
            loaded = time.perf_counter()
            for _ in engine.warm(recorded.policy, recorded.tools, threading.Event()):
                pass
            warmed = time.perf_counter()
            source = engine.facts.prefix_source if engine.facts else "none"
            costs: list[Cost] = []
            for step in recorded.steps:
                costs.append(self._cost(engine, recorded, step, len(costs), script))
                yield costs[-1]
        start = Start(
            (loaded - begun) * 1000, (warmed - loaded) * 1000, costs[0].first_token_ms, source
        )
        return start, tuple(costs)

    def _cost(
        self, engine: Engine, recorded: Recorded, step: Step, number: int, script: Script
    ) -> Cost:
        prompt = Prompt(recorded.policy, recorded.tools, step.conversation)
        tokens = script[number].tokens if number < len(script) else ()
        try:
            return replay.replay(engine, self.loop, prompt, step.call, tokens)
        except ContextFull as full:
            raise EvaluationError(
                f"step {number + 1} of the conversation does not fit: {full.n_prompt} "
                f"tokens and {full.n_reserve} for the answer, but the context holds "
                f"{full.n_ctx}; give a shorter conversation or raise model.n_ctx"
            ) from full


@dataclass(frozen=True, slots=True)
class ServerLane:
    """A running server under one set of request settings."""

    name: str
    served: Served
    is_best: bool

    def run(self, recorded: Recorded, script: Script) -> Run:
        """Ask the server for every step; what it had read before is the server's own affair.

        The first message ends with the number of the run: a server that keeps what it has read
        on the side would else have the whole conversation from the last time.

        Raises:
            RemoteError: it does not answer, or not as it should.
        """
        self.served.n_runs += 1
        prompts = [
            Prompt(recorded.policy, recorded.tools, self._marked(step.conversation))
            for step in recorded.steps
        ]
        self.served.patience_s = _patience_s(script)
        begun = time.perf_counter()
        opening = replace(prompts[0], conversation=(UserMessage("a"),))
        warmed = self.served.ask(opening, 1, is_best=self.is_best)
        prefix_ms = (time.perf_counter() - begun) * 1000
        costs: list[Cost] = []
        for number, prompt in enumerate(prompts):
            self.served.patience_s = _patience_s(script)
            if number:
                self.served.lead(prompts[number - 1], script[number - 1].text, is_best=self.is_best)
            n_tokens = len(script[number].tokens)
            costs.append(self.served.ask(prompt, n_tokens, is_best=self.is_best))
            yield costs[-1]
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
