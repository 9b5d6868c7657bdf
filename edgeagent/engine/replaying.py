"""Our engine made to write recorded calls, by the product's own loop or one token per pass.

The product's decoder runs unchanged; its context bends each row of logits towards the recorded
token after the real pass has computed it. Runs as a worker process.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeagent.engine import playing, reference
from edgeagent.engine.client import EngineOptions, Prompt, StepDone, StepRule
from edgeagent.engine.context import N_BATCH, Context
from edgeagent.engine.copying import Copying
from edgeagent.engine.memory import peak_bytes
from edgeagent.engine.prompt import n_shared
from edgeagent.engine.replay import Cost, Loop
from edgeagent.engine.worker import Worker
from edgeagent.errors import ContextFull, EngineError
from edgeagent.events import Token
from edgeagent.messages import Call

CERTAIN = 1e4
"""Logit that no model gives."""
RESERVE = 64
"""Tokens beyond the recorded ones that the budget leaves, so that it never closes a call."""
Row: TypeAlias = NDArray[np.float32]


class Scripted(Context):
    """A context whose logits say what comes next in a script."""

    def __init__(self, under: Context) -> None:
        """Take the memory of `under`, which must not be used any more."""
        super().__init__(under._pointer, under.vocabulary, under.n_ctx, under._waiting)
        self.script: list[int] = []
        """What the log is to become; the turn ends behind it."""
        self._start = 0

    def decode(self, tokens: Sequence[int], *, logits: bool, rows: Collection[int] = ()) -> bool:
        """Read more tokens, as any context."""
        self._start = len(self.log)
        return super().decode(tokens, logits=logits, rows=rows)

    def logits(self, place: int = -1) -> Row:
        """Return the real row with the script's token on top; costs nothing."""
        row = super().logits(place)
        at = len(self.log) if place < 0 else self._start + place + 1
        row[self.script[at] if at < len(self.script) else self.vocabulary.end] = CERTAIN
        return row


class Replayer(Worker):
    """A loaded model that writes what it is told."""

    def __init__(self, options: EngineOptions, flag: mmap.mmap) -> None:
        """Load the model.

        Raises:
            ModelLoadError: the file cannot be run on this machine.
            TemplateError: its chat template is missing or cannot carry tools.
        """
        self._scripted: Scripted
        self._n_asked = 0
        super().__init__(options, flag, self._under_script)

    def _under_script(self, context: Context) -> Context:
        self._scripted = Scripted(context)
        return self._scripted

    def copying(self, prompt: Prompt) -> Copying | None:
        """Return what has to be copied; None too where the record itself invents a value."""
        made = super().copying(prompt)
        written = self._scripted.script[self._n_asked :]
        return made if made is not None and made.has(written) else None

    def replay(self, loop: Loop, prompt: Prompt, call: Call, _: tuple[int, ...]) -> Cost:
        """Answer the prompt with the call, and say what it took.

        Raises:
            ContextFull: prompt and call do not fit.
            EngineError: the grammar cannot write the call, or something else was written.
        """
        self._grammars.use(prompt.tools)
        names = frozenset(tool.name for tool in prompt.tools)
        text = reference.text_of(self._wire, call, prompt.tools)
        matcher = self._grammars.matcher(names)
        path = reference.trace(matcher, self._scripted.vocabulary, text)
        if not path.is_whole:
            raise EngineError(f"the grammar cannot write the recorded call of {call.name}")
        before = self._scripted.n_passes
        if loop is Loop.PLAIN:
            cost = self._plain(prompt, path.tokens, names)
        else:
            cost = self._product(prompt, call, path.tokens, names)
        return replace(
            cost,
            n_passes=self._scripted.n_passes - before,
            peak_bytes=peak_bytes(),
            n_held=len(self._scripted.log),
            tokens=tuple(path.tokens),
            text=text,
        )

    def _product(
        self, prompt: Prompt, call: Call, tokens: list[int], names: frozenset[str]
    ) -> Cost:
        asked = self._writer.tokens(prompt)
        self._scripted.script = asked + tokens
        self._n_asked = len(asked)
        rule = StepRule(names, None, None, len(tokens) + RESERVE)
        cpu, started = time.process_time(), time.perf_counter()
        first = 0.0
        done: StepDone | None = None
        for said in self.step(prompt, rule):
            match said:
                case Token() if not first:
                    first = time.perf_counter() - started
                case StepDone():
                    done = said
                    ended = time.perf_counter() - started
                    cpu = time.process_time() - cpu
                case _:
                    pass
        assert done is not None, "a step ends with StepDone"
        made = [(one.name, one.arguments) for one in done.calls]
        if made != [(call.name, call.arguments)] or done.usage.n_decoded != len(tokens):
            raise EngineError(f"the engine did not write the recorded call of {call.name}")
        usage = done.usage
        # What rendering and tokenizing cost is part of the step, and stands before its clock.
        return Cost(
            n_prompt=usage.n_prompt,
            n_prefilled=usage.n_prompt - usage.n_reused,
            prefill_ms=ended * 1000 - usage.decode_ms,
            n_decoded=usage.n_decoded,
            n_sampled=usage.n_sampled,
            n_drafted=usage.n_drafted,
            decode_ms=usage.decode_ms,
            first_token_ms=first * 1000,
            cpu_ms=cpu * 1000,
        )

    def _plain(self, prompt: Prompt, tokens: list[int], names: frozenset[str]) -> Cost:
        """Write the call one token per pass, every token chosen under the grammar's mask."""
        context = self._scripted
        cpu, started = time.process_time(), time.perf_counter()
        asked = self._writer.tokens(prompt)
        context.script = asked + tokens
        if len(asked) + len(tokens) + RESERVE > context.n_ctx:
            raise ContextFull(len(asked), len(tokens) + RESERVE, context.n_ctx)
        at = first = context.keep(min(n_shared(context.log, asked), len(asked) - 1))
        while at < len(asked):
            end = min(at + N_BATCH, len(asked))
            self._pass(asked[at:end], logits=end == len(asked))
            at = end
        prefilled = chosen = time.perf_counter()
        matcher = self._grammars.matcher(names)
        written: list[int] = []
        while not matcher.is_stopped():
            token = _chosen(context.logits(), matcher.compute_bitmask())
            if token in context.vocabulary.ends or not matcher.consume_token(token):
                break
            written.append(token)
            if len(written) == 1:
                chosen = time.perf_counter()
            if not matcher.is_stopped():
                self._pass([token], logits=True)
        ended = time.perf_counter()
        cpu = time.process_time() - cpu
        if written != tokens:
            raise EngineError("the plain loop did not write the recorded call")
        return Cost(
            n_prompt=len(asked),
            n_prefilled=len(asked) - first,
            prefill_ms=(prefilled - started) * 1000,
            n_decoded=len(written),
            n_sampled=len(written),
            n_drafted=0,
            decode_ms=(ended - prefilled) * 1000,
            first_token_ms=(chosen - started) * 1000,
            cpu_ms=cpu * 1000,
        )

    def _pass(self, tokens: Sequence[int], *, logits: bool) -> None:
        if not self._scripted.decode(tokens, logits=logits):
            raise EngineError("the replay was stopped")


def _chosen(row: Row, mask: bytes) -> int:
    """Return the likeliest token that the grammar allows."""
    best = int(row.argmax())
    if mask[best >> 3] >> (best & 7) & 1:
        return best
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")[: len(row)]
    return int(np.where(bits, row, -np.inf).argmax())


if __name__ == "__main__":
    playing.run(Replayer)
