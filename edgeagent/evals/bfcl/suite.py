"""Run a model through BFCL's single-turn categories, in one response and over several steps.

`exact` is the benchmark's own protocol: the calls of the first step. `accumulated` is not: each
call gets a neutral result and the model may go on, as the product's runtime works; the calls of
all steps are scored together.

    edgeagent eval bfcl --data bfcl-data --model nano --limit 50
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeagent.engine.client import Prompt, StepDone, StepRule
from edgeagent.errors import EngineDied, EngineError, EvaluationError, SchemaRefused, TemplateError
from edgeagent.evals.bfcl import entries, offering, scoring
from edgeagent.evals.bfcl.averages import averages
from edgeagent.evals.bfcl.categories import CATEGORIES, Category
from edgeagent.evals.bfcl.entries import Entry
from edgeagent.evals.bfcl.offering import Offer
from edgeagent.evals.intervals import bootstrap, share
from edgeagent.evals.rows import EXACT, Options, Progress, Row, Summary
from edgeagent.messages import (
    CONTROL_NAMES,
    Call,
    CallMessage,
    Conversation,
    Json,
    Message,
    ResultMessage,
)
from edgeagent.wiring import Local

MAX_CALLS = 10
NEUTRAL = '{"status": "ok"}'
ACCUMULATED = "accumulated"
SCORES = (EXACT, ACCUMULATED)


@dataclass(slots=True)
class _Said:
    """What a model did about one entry."""

    first: Json = ""
    """Its first response: calls, or words."""
    every: list[Json] = field(default_factory=list)
    """The calls of all its steps."""
    n_first_tokens: int = 0
    n_tokens: int = 0
    n_steps: int = 0
    note: str = ""


class Bfcl:
    """The suite; `options.data` is a folder with BFCL's files.

    Settings: `categories`, names of those to run (all that are there by default), and `deferral`,
    whether the model may leave a question to the larger model.
    """

    name = "bfcl"

    def run(self, local: Local, options: Options) -> Iterator[Progress | Row]:
        """Yield a row per entry, category by category; a limit takes a sample of each.

        Raises:
            EvaluationError: the folder has none of the categories, or a file in it is broken.
        """
        if options.data is None:
            raise EvaluationError("bfcl needs a folder with its files; give --data")
        chosen = options.settings.get("categories") or ()
        parts = sampled(load(options.data, chosen), options.limit, options.seed)
        total = sum(len(found) for _, found in parts)
        n_done = 0
        asker = _Asker(local, bool(options.settings.get("deferral")))
        for category, found in parts:
            for entry in found:
                row_id = f"{category.name}:{entry.id}/answer"
                if row_id not in options.done:
                    yield asker.ask(row_id, category, entry)
                n_done += 1
                yield Progress(n_done, total)

    def summarize(self, rows: Sequence[Row]) -> Summary:
        """Return accuracies over everything and by category, and the published averages of them."""
        parts: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            parts[row.id.partition(":")[0]].append(row)
        return {
            "n": len(rows),
            "scores": {
                **_estimates(rows),
                "tokens": bootstrap(_values(rows, "first_tokens")).as_json(),
                "seconds": bootstrap([row.ms / 1000 for row in rows]).as_json(),
            },
            "floors": {"never call": {key: _never_call(rows) for key in SCORES}},
            "categories": {
                name: {"n": len(found), "unavailable": _n_unavailable(found),
                       "scores": _estimates(found)}
                for name, found in parts.items()
            },
            "averages": {
                key: averages(*_accuracies(parts, key)) for key in SCORES
            },
        }  # fmt: skip


def load(folder: Path, names: Sequence[str] = ()) -> list[tuple[Category, list[Entry]]]:
    """Return the categories in the folder with their entries, those named or all.

    Raises:
        EvaluationError: a named category is not there, or there is none at all.
    """
    from_names = [one for one in CATEGORIES if not names or set(names) & set(one.names)]
    files = {one.name: entries.find(folder, one) for one in from_names}
    missing = [name for name, found in files.items() if found is None]
    if names and missing:
        raise EvaluationError(f"{folder} has no BFCL file for {', '.join(missing)}")
    parts = [
        (one, entries.read(one, *found))
        for one in from_names
        if (found := files[one.name]) is not None
    ]
    if not parts:
        raise EvaluationError(f"{folder} has no BFCL_v3_*.json or BFCL_v4_*.json of one turn")
    return parts


def sampled(
    parts: Sequence[tuple[Category, list[Entry]]], limit: int | None, seed: int
) -> list[tuple[Category, list[Entry]]]:
    """Return as many entries as the limit in all, each category by its share, one at least."""
    total = sum(len(found) for _, found in parts)
    if limit is None or limit >= total:
        return list(parts)
    kept = []
    for category, found in parts:
        n = min(len(found), max(1, round(limit * len(found) / total)))
        places = random.Random(f"{seed} {category.name}").sample(range(len(found)), n)
        kept.append((category, [found[place] for place in sorted(places)]))
    return kept


class _Asker:
    """A model that is asked one entry after the other."""

    def __init__(self, local: Local, with_deferral: bool) -> None:
        self.local = local
        # Models that may answer in words need no call for it.
        self.with_reply = local.manifest.dialect.calls != "parallel_or_text"
        self.with_deferral = with_deferral
        self.never = threading.Event()

    def ask(self, row_id: str, category: Category, entry: Entry) -> Row:
        """Return the row; what cannot be asked is wrong, with a note that says why."""
        shown = offering.offer(
            entry, category.language, with_reply=self.with_reply, with_deferral=self.with_deferral
        )
        started = time.monotonic()
        said = _Said()
        try:
            self.local.tier.check_tools(shown.tools)
            self._converse(shown, said)
        except EngineDied as died:
            said.note = f"failed: {died}"
            self.local.tier.start()
        except (EngineError, SchemaRefused, TemplateError) as error:
            said.note = f"failed: {error}"
        ms = (time.monotonic() - started) * 1000
        return _row(row_id, category, entry, said, ms)

    def _converse(self, shown: Offer, said: _Said) -> None:
        offered = frozenset(tool.name for tool in shown.tools)
        rule = StepRule(offered, None, None, self.local.max_tokens)
        conversation: Conversation = shown.conversation
        while len(said.every) < MAX_CALLS:
            done = self._step(Prompt(shown.policy, shown.tools, conversation), rule)
            calls = [_plain(call, shown.names) for call in done.calls]
            if said.n_steps == 0:
                said.first = calls if done.calls else done.text
                said.n_first_tokens = done.usage.n_decoded
            said.n_steps += 1
            said.n_tokens += done.usage.n_decoded
            said.every += calls
            if not done.calls or any(_is_control(call, shown.names) for call in done.calls):
                return
            conversation = (*conversation, *_with_results(done.calls))

    def _step(self, prompt: Prompt, rule: StepRule) -> StepDone:
        for item in self.local.tier.step(prompt, rule, self.never):
            if isinstance(item, StepDone):
                return item
        raise EngineError("the model ended without an answer")


def _is_control(call: Call, names: Mapping[str, str]) -> bool:
    return call.name in CONTROL_NAMES and call.name not in names


def _plain(call: Call, names: Mapping[str, str]) -> dict[str, Json]:
    return {names.get(call.name, call.name): dict(call.arguments)}


def _with_results(calls: Sequence[Call]) -> Iterator[Message]:
    yield CallMessage(tuple(calls))
    for call in calls:
        yield ResultMessage(call.id, call.name, NEUTRAL)


def _row(row_id: str, category: Category, entry: Entry, said: _Said, ms: float) -> Row:
    one = scoring.judge(category, entry, said.first)
    every = scoring.judge(category, entry, said.every or said.first)
    known = {True: 1.0, False: 0.0, None: None}
    if said.note:
        known[True] = 0.0  # nothing was asked, which is no refusal
    return Row(
        id=row_id,
        scores={
            EXACT: known[one.valid],
            ACCUMULATED: known[every.valid],
            "deferred": float(every.is_deferred),
            "irrelevant": float(category.judging == "irrelevance"),
            "calls": float(len(said.every)),
            "first_tokens": float(said.n_first_tokens),
        },
        prediction=json.dumps({"first": said.first, ACCUMULATED: said.every}, ensure_ascii=False),
        reference=json.dumps(entry.answers, ensure_ascii=False),
        prompt="\n".join(str(message["content"]) for message in entry.messages),
        n_tokens=said.n_tokens,
        ms=ms,
        note=said.note or one.error or "",
    )


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [one for row in rows if (one := row.scores.get(key)) is not None]


def _estimates(rows: Sequence[Row]) -> dict[str, Json]:
    return {
        key: share(int(sum(_values(rows, key))), len(_values(rows, key))).as_json()
        for key in (*SCORES, "deferred")
    }


def _n_unavailable(rows: Sequence[Row]) -> int:
    return sum(row.scores[EXACT] is None for row in rows)


def _never_call(rows: Sequence[Row]) -> float | None:
    """Return what a model that never calls anything would get: the share of irrelevant ones."""
    counted = [row for row in rows if row.scores[EXACT] is not None]
    if not counted:
        return None
    return sum(_values(counted, "irrelevant")) / len(counted)


def _accuracies(
    parts: Mapping[str, Sequence[Row]], key: str
) -> tuple[dict[str, float], dict[str, int]]:
    """Return accuracy and number of scored entries by category; what has no score is left out."""
    values = {name: _values(rows, key) for name, rows in parts.items()}
    scored = {name: found for name, found in values.items() if found}
    return (
        {name: sum(found) / len(found) for name, found in scored.items()},
        {name: len(found) for name, found in scored.items()},
    )
