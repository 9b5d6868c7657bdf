"""One step: prefill the prompt, decode one answer under the grammar, read the verdict.

Knows tokens, grammars and the context; renders nothing and starts no process.
"""

from __future__ import annotations

import codecs
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeagent import calls
from edgeagent.engine.ahead import Ahead, Cancelled
from edgeagent.engine.answer import Allowed, Answer, is_stuck
from edgeagent.engine.branch import AGAIN, DeferralReader
from edgeagent.engine.client import StepDone, StepRule
from edgeagent.engine.context import N_BATCH, Context
from edgeagent.engine.copying import Copying
from edgeagent.engine.costs import Costs
from edgeagent.engine.grammar import Grammars
from edgeagent.engine.prefix import PrefixStore
from edgeagent.engine.prompt import n_shared
from edgeagent.engine.wire import Wire, read_calls
from edgeagent.errors import ContextFull, EngineError
from edgeagent.events import Prefilled, Token
from edgeagent.messages import DEFER, Call, Tool, Usage, Verdict

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Step:
    """What is known of the step under way."""

    prompt: list[int]
    rule: StepRule
    answer: Answer
    reader: DeferralReader | None
    verdict: Verdict | None
    copying: Copying | None = None
    n_reused: int = 0
    n_sampled: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    n_shown: int = 0
    first_row: NDArray[np.float32] | None = None
    n_first: int = 0
    """Tokens of the answer before `first_row`."""
    decoder: codecs.IncrementalDecoder = field(
        default_factory=codecs.getincrementaldecoder("utf-8")
    )


GROUP = 4
"""Kernels read rows four at a time and what is left over by itself, which rounds differently. Read
ahead in whole groups, a prompt gives the same bits as read at once."""


class Decoder:
    """Takes steps with one context."""

    def __init__(
        self,
        context: Context,
        grammars: Grammars,
        wire: Wire,
        prefixes: PrefixStore,
        cancelled: Callable[[], bool],
        costs: Costs | None = None,
    ) -> None:
        """Read into `context`; `costs` None guesses no token ahead."""
        self._context = context
        self._grammars = grammars
        self._wire = wire
        self._prefixes = prefixes
        self._cancelled = cancelled
        self._ahead = Ahead(context, costs, cancelled)
        self._pieces = context.vocabulary.pieces
        self.written: list[int] = []
        """Tokens of the last whole answer."""
        self._begun: int | None = None
        """From where the next step would have read, had nothing been read ahead of it."""

    def warm(self, tokens: list[int], n_prefix: int) -> Generator[Prefilled, None, str]:
        """Bring the tokens into the context; return where they came from.

        The first `n_prefix` of them are those that every prompt begins with. Nothing is dropped
        where the context holds them all.
        """
        shared = n_shared(self._context.log, tokens)
        is_ahead = len(tokens) > n_prefix
        if is_ahead:
            begun = max(n_prefix, shared if self._begun is None else min(self._begun, shared))
            tokens = tokens[: len(tokens) - (len(tokens) - begun) % GROUP]
        if shared >= len(tokens):
            return "context"
        try:
            n_read = yield from self._prefill(tokens, n_prefix, len(tokens), logits=False)
        except Cancelled:
            return "none"
        finally:
            self._begun = self._begun if is_ahead else None
        return "disk" if n_read == 0 else "prefilled"

    def park(self, n_prefix: int) -> None:
        """Keep the conversation for a later process; costs the writing of its part of the state."""
        if self._context.can_go_back:
            self._prefixes.park(self._context, n_prefix)

    def step(
        self,
        prompt: list[int],
        n_prefix: int,
        tools: Sequence[Tool],
        rule: StepRule,
        copying: Copying | None = None,
    ) -> Iterator[Prefilled | Token | StepDone]:
        """Yield progress, pieces of the answer, and the step; the context holds what was read.

        The first `n_prefix` tokens of `prompt` are those that every prompt begins with; `copying`
        knows what else than the grammar has to be kept to.

        Raises:
            ContextFull: prompt and budget do not fit; nothing was read.
        """
        step = self._begin(prompt, rule)
        step.copying = copying
        if len(prompt) + step.answer.budget > self._context.n_ctx:
            raise ContextFull(len(prompt), step.answer.budget, self._context.n_ctx)
        started = time.perf_counter()
        prefilled = started
        try:
            target = prompt + step.answer.tokens
            n_read = yield from self._prefill(target, n_prefix, len(prompt), logits=True)
            step.n_reused = len(prompt) - n_read
            prefilled = time.perf_counter()
            try:
                yield from self._decode(step)
            finally:
                step.n_drafted, step.n_accepted = self._ahead.end()
                self._begun = None
        except Cancelled:
            yield self._done(step, (), "", started, prefilled, is_complete=False)
            return
        self.written = step.answer.tokens
        text = b"".join(self._pieces[token] for token in step.answer.tokens).decode()
        made, words = self._read(text, tools, rule)
        yield self._done(step, made, words, started, prefilled, is_complete=True)

    def _begin(self, prompt: list[int], rule: StepRule) -> _Step:
        offered = rule.offered
        state = self._grammars.state(offered)
        tokens = state.force()
        # A budget that is too small must not turn into a deferral that nobody decided on.
        ways = [offered - {DEFER} or offered]
        if DEFER in offered:
            ways.append(_when_deferred(rule))
        openings = [self._opening(names, tokens) for names in ways]
        # Only where even the shortest call is longer does it set the budget.
        budget = max(rule.max_tokens, len(tokens) + max(map(len, openings)))
        answer = Answer(
            state, tokens, openings[0], budget, self._grammars.closer,
            self._context.vocabulary.ends,
        )  # fmt: skip
        if DEFER not in offered:
            return _Step(prompt, rule, answer, None, Verdict(False, 0.0, "not offered"))
        heads = self._grammars.heads(offered)
        reader = DeferralReader(heads, self._pieces, rule.defer_threshold)
        return _Step(prompt, rule, answer, reader, None)

    def _opening(self, names: frozenset[str], written: list[int]) -> list[int]:
        opening = self._grammars.opening(names, written)
        if opening is None:
            raise EngineError(f"no short call of {', '.join(sorted(names))} satisfies its schema")
        return opening

    def _prefill(
        self, target: list[int], n_prefix: int, n_prompt: int, *, logits: bool
    ) -> Generator[Prefilled, None, int]:
        """Read what the context lacks of `target`; return how many prompt tokens were read."""
        context = self._context
        shared = n_shared(context.log, target)
        if n_prefix > shared and self._prefixes.load(context, target[:n_prefix]):
            shared = n_prefix
        if 0 < n_prefix <= shared and self._context.can_go_back:
            shared = self._prefixes.resume(context, target, n_prefix)
        if self._begun is None or shared < self._begun:
            self._begun = max(shared, n_prefix)
        else:
            shared -= (shared - self._begun) % GROUP
        # The row after the last token has to be computed, so that one is read again.
        at = first = context.keep(min(shared, len(target) - 1) if logits else shared)
        saves = at < n_prefix
        total = max(n_prompt - first, 0)
        if total:
            yield Prefilled(0, total)
        while at < len(target):
            end = min(at + N_BATCH, len(target))
            if at < n_prefix < end and saves:
                end = n_prefix
            self._read_in(target[at:end], logits=logits and end == len(target))
            at = end
            if saves and at == n_prefix:
                self._prefixes.save(context)
            if total:
                yield Prefilled(min(at, n_prompt) - first, total)
        return total

    def _read_in(self, tokens: list[int], *, logits: bool) -> None:
        for at in range(0, len(tokens), N_BATCH):
            part = tokens[at : at + N_BATCH]
            wants = logits and at + N_BATCH >= len(tokens)
            if self._cancelled() or not self._context.decode(part, logits=wants):
                raise Cancelled

    def _decode(self, step: _Step) -> Iterator[Token]:
        """Write the answer; its last run is not read, it rides on the next prefill."""
        ahead = self._ahead
        ahead.follow(step.prompt + step.answer.tokens, len(step.prompt))
        row = None if step.answer.is_done else self._context.logits()
        while row is not None:
            if step.copying is not None:
                step.copying.read(step.answer.tokens)
            allowed = Allowed(step.answer.state, len(row), step.copying)
            token = allowed.best(row)
            if not ahead.is_exact and allowed.is_close(row, token, ahead.close):
                row = ahead.exact_row()
                token = allowed.best(row)
            if step.reader is not None and step.verdict is None:
                token = self._consult(step, step.reader, row, allowed)
                if token == AGAIN:
                    row = yield from self._again(step)
                    continue
            step.n_sampled += 1
            ahead.write(step.answer.take(token))
            if is_stuck(step.answer.tokens):
                log.warning(
                    "closed a call that repeated itself, n_tokens=%d", len(step.answer.tokens)
                )
                ahead.write(step.answer.close())
            if step.verdict is not None:
                yield from self._show(step)
            if step.answer.is_done:
                break
            # Names are told apart row by row, so nothing is guessed before the verdict.
            row = ahead.row(step.answer.state if step.verdict is not None else None)
        yield from self._show(step)

    def _consult(
        self, step: _Step, reader: DeferralReader, row: NDArray[np.float32], allowed: Allowed
    ) -> int:
        """Return the model's token under the verdict, as far as the row settles it."""
        if step.first_row is None:
            step.first_row, step.n_first = row.copy(), len(step.answer.tokens)
        written = b"".join(self._pieces[token] for token in step.answer.tokens)
        reading = reader.read(row, allowed.tokens(), written)
        step.verdict = reading.verdict
        if step.verdict is None:
            return reading.token
        return AGAIN if step.verdict.deferred else reading.token

    def _again(self, step: _Step) -> Generator[Token, None, NDArray[np.float32] | None]:
        """Go back to the first row with fewer names; costs no pass unless names are forced."""
        assert step.verdict is not None
        assert step.first_row is not None
        rule, old = step.rule, step.answer
        names = _when_deferred(rule) if step.verdict.deferred else rule.offered - {DEFER}
        written = old.tokens[: step.n_first]
        state = self._grammars.state(names)
        if not state.take_all(written):
            raise EngineError("the grammars of one model begin with different tokens")
        run = state.force()
        plan = self._opening(names, written + run)
        budget = max(old.budget, len(written) + len(run) + len(plan))
        if step.copying is not None:
            step.copying.restart()
        step.answer = Answer(
            state, written + run, plan, budget, self._grammars.closer,
            self._context.vocabulary.ends,
        )  # fmt: skip
        yield from self._show(step)
        target = step.prompt + written
        self._context.keep(len(target))
        self._ahead.follow(target, len(step.prompt))
        self._ahead.write(run)
        if step.answer.is_done:
            return None
        # Where no name is forced, the row is the one that the verdict was read from.
        return self._ahead.row(step.answer.state) if run else step.first_row

    def _show(self, step: _Step) -> Iterator[Token]:
        tokens = step.answer.tokens
        raw = b"".join(self._pieces[token] for token in tokens[step.n_shown :])
        step.n_shown = len(tokens)
        if text := step.decoder.decode(raw):
            yield Token(text)

    def _read(
        self, text: str, tools: Sequence[Tool], rule: StepRule
    ) -> tuple[tuple[Call, ...], str]:
        """Parse and validate what was decoded; the grammar has promised that this succeeds."""
        if self._grammars.is_words(text):
            return (), text
        try:
            read = read_calls(self._wire, text, rule.offered | (rule.on_defer or frozenset()))
        except ValueError as exc:
            raise EngineError(f"the decoded call cannot be read: {exc}") from exc
        for name, arguments in read:
            if reason := calls.validate(name, arguments, tools):
                raise EngineError(f"the decoded call is not valid: {reason}")
        return tuple(Call(calls.new_id(), name, arguments) for name, arguments in read), ""

    def _done(
        self, step: _Step, made: tuple[Call, ...], words: str, started: float, prefilled: float,
        *, is_complete: bool,
    ) -> StepDone:  # fmt: skip
        now = time.perf_counter()
        usage = Usage(
            n_prompt=len(step.prompt),
            n_reused=step.n_reused,
            n_decoded=len(step.answer.tokens),
            n_sampled=step.n_sampled,
            n_drafted=step.n_drafted,
            n_accepted=step.n_accepted,
            prefill_ms=(prefilled - started) * 1000,
            decode_ms=(now - prefilled) * 1000,
            n_ctx=self._context.n_ctx,
        )
        return StepDone(
            made, words, step.verdict, usage, "complete" if is_complete else "cancelled"
        )


def _when_deferred(rule: StepRule) -> frozenset[str]:
    return frozenset({DEFER}) if rule.on_defer is None else rule.on_defer
