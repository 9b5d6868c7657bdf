"""The verdict on each prediction, whatever its category, and the calls that are none of BFCL's.

Our runtime talks to the customer and hands over through calls: a message to the customer is no
call here, and a deferral is counted apart, never as a refusal that was right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeagent.errors import EvaluationError
from edgeagent.evals import jsonl
from edgeagent.evals.bfcl import checker, decoding, execution
from edgeagent.evals.bfcl.categories import Category
from edgeagent.evals.bfcl.checker import Calls, Fault
from edgeagent.evals.bfcl.decoding import NotCalls
from edgeagent.evals.bfcl.entries import Entry
from edgeagent.evals.bfcl.execution import NotOffline
from edgeagent.messages import CONTROL_NAMES, DEFER, Json

DEFERRED = "deferred"
UNAVAILABLE = "not_available_offline"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of one prediction."""

    valid: bool | None
    """None where there is no telling offline."""
    fault: Fault | None = None

    @property
    def error(self) -> str | None:
        """The fault in one line; None where there is none."""
        return None if self.fault is None else " ".join(str(self.fault).split())

    @property
    def is_deferred(self) -> bool:
        """Whether the prediction left the question to a larger model."""
        return self.fault is not None and self.fault.kind == DEFERRED


def judge(category: Category, entry: Entry, result: Json, *, underscores: bool = False) -> Verdict:
    """Return the verdict on a prediction.

    Raises:
        EvaluationError: the entry has no answer to hold it against.
    """
    try:
        calls = decoding.calls_of(result)
    except NotCalls as exc:
        # Words and broken calls alike pass as a refusal in the original.
        is_right = category.judging == "irrelevance"
        return Verdict(is_right, None if is_right else exc.fault)
    own = {function["name"] for function in entry.functions}
    names = [next(iter(call)) for call in calls]
    if DEFER in names and DEFER not in own:
        return Verdict(valid=False, fault=Fault(DEFERRED, "left to the larger model"))
    calls = [call for call, name in zip(calls, names, strict=True)
             if name in own or name not in CONTROL_NAMES]  # fmt: skip
    if category.judging in ("irrelevance", "relevance"):
        return _refusal(category, calls)
    if category.judging == "network":
        return Verdict(None, Fault(UNAVAILABLE, "its calls go to servers"))
    if entry.answers is None:
        raise EvaluationError(f"there is no possible answer for {entry.id!r}")
    return _calls(category, entry, calls, underscores=underscores)


def _refusal(category: Category, calls: Calls) -> Verdict:
    if category.judging == "irrelevance":
        fault = Fault("irrelevance_error:decoder_success", f"{len(calls)} calls, none expected")
        return Verdict(valid=not calls, fault=fault if calls else None)
    fault = Fault("relevance_error:decoder_failed", "a call is expected")
    return Verdict(valid=bool(calls), fault=None if calls else fault)


def _calls(category: Category, entry: Entry, calls: Calls, *, underscores: bool) -> Verdict:
    assert entry.answers is not None
    if category.judging == "exec":
        try:
            fault = execution.check(calls, entry.answers, entry.kinds, category.matching)
        except NotOffline as exc:
            return Verdict(None, Fault(UNAVAILABLE, str(exc)))
    elif not entry.functions:
        raise EvaluationError(f"{entry.id!r} offers no function")
    else:
        fault = checker.check(
            entry.functions, calls, entry.answers, category.matching, category.language,
            underscores=underscores,
        )  # fmt: skip
    return Verdict(fault is None, fault)


def score(
    category: Category, entries: Sequence[Entry], predictions: Path, *, underscores: bool = False
) -> Iterator[tuple[str, Verdict]]:
    """Yield id and verdict of each prediction in a file, in the file's order.

    Raises:
        EvaluationError: a row is not JSON, is nobody's answer, or answers a question again.
    """
    by_id = {entry.answer_id: entry for entry in entries if entry.answer_id}
    by_id.update({entry.id: entry for entry in entries})
    seen: set[str] = set()
    for where, row in jsonl.rows(predictions):
        name = jsonl.value(row, "id", where)
        result = jsonl.value(row, "result", where)
        if not isinstance(name, str) or name not in by_id:
            raise EvaluationError(f"{where}: there is no question {name!r}")
        entry = by_id[name]
        if entry.id in seen:
            raise EvaluationError(f"{where}: {name!r} was answered before")
        seen.add(entry.id)
        yield name, judge(category, entry, result, underscores=underscores)
