"""Ask a model for the next call of recorded conversations, and score each answer on its own.

The conversation before every step is the record's, never the model's own. Prompt, grammar and
what happens when the context is full are the product's. Knows distil's metrics; refuses to know
where the record came from.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from edgeagent import history
from edgeagent.calls import validate
from edgeagent.engine.client import Prompt, StepDone, StepRule
from edgeagent.errors import (
    ContextFull,
    EngineDied,
    EngineError,
    EvaluationError,
    TemplateError,
)
from edgeagent.evals import distil
from edgeagent.evals.rows import EXACT, Options, Progress, Row
from edgeagent.evals.transcripts import Pair, as_text
from edgeagent.messages import DEFER, Conversation, Tool
from edgeagent.wiring import Local

FAILED = "failed: "
TRIMMED = "without the oldest "
OUT_OF_REACH = "no valid call equals the reference: "
"""How notes begin: of a step that failed, of one whose conversation did not fit, and of a
reference that the grammar cannot write."""
Judge: TypeAlias = Callable[[Pair, str], tuple[float | None, str]]
"""Returns a score, or None, and a note for an answer."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the model is told besides the conversation."""

    policy: str
    tools: tuple[Tool, ...]


def run(
    local: Local,
    options: Options,
    pairs: Sequence[Pair],
    desk_of: Callable[[Pair], Desk],
    judge: Judge | None = None,
) -> Iterator[Progress | Row]:
    """Yield a row for each pair that is not done yet.

    `pairs` come conversation by conversation, so that one prompt begins with the one before it
    and only what is new is read.

    Raises:
        EvaluationError: there is nothing to ask.
        SchemaRefused: the grammar cannot enforce a tool's schema.
    """
    if not pairs:
        raise EvaluationError(f"{options.data} has no call of the assistant to ask for")
    asker = _Asker(local)
    for n_done, pair in enumerate(pairs, start=1):
        if pair.id not in options.done:
            desk = desk_of(pair)
            row = asker.ask(pair, desk)
            if judge is not None:
                verdict, note = judge(pair, row.prediction)
                notes = "; ".join(filter(None, (row.note, note)))
                row = replace(row, scores={**row.scores, "judge": verdict}, note=notes)
            yield row
        yield Progress(n_done, len(pairs))


class _Asker:
    """A model and how much of the current conversation no longer fits in it."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self.desk: Desk | None = None
        self.conversation_id = ""
        self.n_trimmed = 0
        self.never = threading.Event()

    def ask(self, pair: Pair, desk: Desk) -> Row:
        """Return the model's answer to a pair and its scores; a step that fails scores nothing."""
        self._prepare(pair, desk)
        started = time.monotonic()
        notes: list[str] = []
        done = self._answer(pair.conversation, desk, notes)
        ms = (time.monotonic() - started) * 1000
        return _row(pair, desk, done, notes, ms)

    def _prepare(self, pair: Pair, desk: Desk) -> None:
        conversation_id = pair.id.rpartition("/")[0]
        if conversation_id != self.conversation_id:
            self.conversation_id, self.n_trimmed = conversation_id, 0
        if desk == self.desk:
            return
        if self.desk is None or desk.tools != self.desk.tools:
            self.local.tier.check_tools(desk.tools)
        self.desk = desk
        for _ in self.local.tier.warm(desk.policy, desk.tools, self.never):
            pass

    def _answer(self, conversation: Conversation, desk: Desk, notes: list[str]) -> StepDone | None:
        """Return the step, the engine started again once if it died; None where it failed."""
        for may_restart in (True, False):
            try:
                return self._step(conversation, desk, notes)
            except EngineDied as died:
                if may_restart:
                    notes.append(f"started again: {died}")
                    self.local.tier.start()
                else:
                    notes.append(f"{FAILED}{died}")
            except (EngineError, TemplateError) as error:
                notes.append(f"{FAILED}{error}")
                break
        return None

    def _step(self, conversation: Conversation, desk: Desk, notes: list[str]) -> StepDone:
        """Take one step, the oldest turns left out where the context is full, as in a session."""
        names = frozenset(tool.name for tool in desk.tools)
        threshold = self.local.manifest.defer_threshold if DEFER in names else None
        rule = StepRule(names, threshold, None, self.local.max_tokens)
        while True:
            shown = history.without_deferrals(history.without_oldest(conversation, self.n_trimmed))
            try:
                for item in self.local.tier.step(
                    Prompt(desk.policy, desk.tools, shown), rule, self.never
                ):
                    if isinstance(item, StepDone):
                        if self.n_trimmed:
                            notes.append(f"{TRIMMED}{self.n_trimmed} turns")
                        return item
            except ContextFull as full:
                if history.n_turns(shown) <= 1:
                    raise
                excess = full.n_prompt + full.n_reserve - full.n_ctx * 7 // 8
                self.n_trimmed += history.n_oldest(shown, excess / max(1, full.n_prompt))
            else:
                raise EngineError("the step ended without an answer")


def _row(pair: Pair, desk: Desk, done: StepDone | None, notes: list[str], ms: float) -> Row:
    wanted = distil.read_call(pair.reference)
    assert wanted is not None, "pairs have calls as references"
    names = {tool.name for tool in desk.tools}
    if problem := validate(wanted.name, wanted.arguments, desk.tools):
        notes.append(f"{OUT_OF_REACH}{problem}")
    prediction = _written(done, notes)
    scores = distil.score(pair.reference, prediction, distil.defaults_of(desk.tools))
    found = distil.read_call(prediction)
    name = found.name if found else ""
    return Row(
        id=pair.id,
        scores={
            EXACT: scores["binary_tool_call"],
            **scores,
            "name": float(name == wanted.name),
            "deferred": float(name == DEFER) if DEFER in names else None,
        },
        prediction=prediction,
        reference=pair.reference,
        prompt=as_text(pair.conversation),
        n_tokens=done.usage.n_decoded if done else 0,
        ms=ms,
        note="; ".join(notes),
    )


def _written(done: StepDone | None, notes: list[str]) -> str:
    """Return the first call as text, or the model's words; empty where there was neither."""
    if done is None:
        return ""
    if not done.calls:
        return done.text
    if len(done.calls) > 1:
        notes.append(f"{len(done.calls)} calls, the first counts")
    return distil.write_call(done.calls[0].name, done.calls[0].arguments)
