"""Do calls come to the same results as the answer's calls: BFCL's executable categories.

Only functions that run offline are known; an entry that needs another one has no verdict.
Source: gorilla 4d05b53f, executable checker; re-implemented from a description of its rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeagent.evals.bfcl import decoding
from edgeagent.evals.bfcl.checker import Calls, Fault, Matching
from edgeagent.evals.bfcl.decoding import NotCalls
from edgeagent.evals.bfcl.functions import FUNCTIONS
from edgeagent.messages import Json

TOLERANCE = 0.2
"""Of results that change with the day."""
MISMATCH = "executable_checker:wrong_result"


class NotOffline(Exception):
    """An answer's function asks a server, or is not known."""


class _Raised(Exception):
    """The function refused its arguments."""


def check(
    calls: Calls, answers: Sequence[str], kinds: Sequence[str], matching: Matching
) -> Fault | None:
    """Return why the calls are wrong; None when they are right.

    `answers` are calls in Python; `kinds` say how each result is compared.

    Raises:
        NotOffline: an answer cannot be executed here.
    """
    wanted = [_expected(answer) for answer in answers]
    if len(calls) != len(answers):
        detail = f"{len(answers)} expected, {len(calls)} made"
        return Fault("executable_checker:wrong_count", detail)
    left = list(calls)
    for place, (expected, kind) in enumerate(zip(wanted, kinds, strict=True)):
        faults = [_one(call, expected, kind) for call in left]
        fitting = next((at for at, fault in enumerate(faults) if fault is None), None)
        if fitting is None:
            shown = "; ".join(map(str, faults))
            if matching == "simple":
                return faults[0]
            return Fault("executable_checker:cannot_find_match", f"answer {place} ({shown})")
        del left[fitting]
    return None


def _expected(answer: str) -> Json:
    try:
        (call,) = decoding.calls_of(answer)
        return _result(call)
    except (NotCalls, _Raised, ValueError) as exc:
        raise NotOffline(f"{answer} cannot be executed here") from exc


def _one(call: Mapping[str, Mapping[str, Json]], expected: Json, kind: str) -> Fault | None:
    try:
        found = _result(call)
    except (NotOffline, _Raised) as exc:
        return Fault("executable_checker:execution_error", str(exc))
    if _agree(found, expected, kind):
        return None
    suffix = {"real_time_match": "_real_time", "structural_match": "_structure"}.get(kind, "")
    return Fault(MISMATCH + suffix, f"{_shown(found)} in place of {_shown(expected)}")


def _shown(value: Json) -> str:
    try:
        return repr(value)[:200]
    except ValueError:  # Python refuses to print integers of more than 4,300 digits
        return "a number too long to print"


def _result(call: Mapping[str, Mapping[str, Json]]) -> Json:
    ((name, arguments),) = call.items()
    function = FUNCTIONS.get(name)
    if function is None:
        raise NotOffline(f"{name} does not run offline")
    try:
        return function(**arguments)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError,
            SyntaxError, MemoryError, RecursionError) as exc:  # fmt: skip
        raise _Raised(f"{name} raised {type(exc).__name__}: {exc}") from exc


def _agree(found: Json, expected: Json, kind: str) -> bool:
    match kind:
        case "real_time_match":
            if type(found) not in (int, float) or type(expected) not in (int, float):
                return False
            ends = sorted((expected * (1 - TOLERANCE), expected * (1 + TOLERANCE)))
            return bool(ends[0] <= found <= ends[1])
        case "structural_match":
            if type(found) is not type(expected):
                return False
            if isinstance(found, dict):
                return bool(found.keys() == expected.keys())
            return not isinstance(found, list) or len(found) == len(expected)
    return bool(found == expected)
