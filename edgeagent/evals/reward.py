"""The reward that ContextboxAI trained its function-calling model with, as far as its card says.

Four parts, weighted and added: format, correctness, refusal, efficiency. The card leaves the
likeness of arguments open and gives two sets of weights for its first stage, so the weights are a
parameter, are printed with every result, and the likeness below is ours.
Source: model card of contextboxai/Qwen3-1.7B-FC, "Reward Function Design".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from edgeagent.errors import EvaluationError
from edgeagent.evals.distil import WrittenCall, read_call
from edgeagent.messages import DEFER, RESPOND, Json

PARTS = ("format", "correctness", "refusal", "efficiency")
DIRECT = 0.1
"""Efficiency of an answer that is nothing but calls."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What each part counts."""

    format: float
    correctness: float
    refusal: float
    efficiency: float
    thinking: float
    """Efficiency of an answer that thinks aloud; the card has -0.3 first, then -1."""


STAGES = {
    "stage1": Weights(0.2, 1.0, 0.3, 0.2, -0.3),
    "stage1-prose": Weights(0.1, 1.0, 0.3, 0.3, -0.3),
    "stage2": Weights(0.1, 0.5, 0.3, 1.0, -1.0),
}
"""The card's sets; its code and its prose differ on the first stage."""

_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)


def weights_of(text: str) -> Weights:
    """Return the weights of `stage2`, or of `stage1,correctness=0.5,thinking=-1`.

    Raises:
        EvaluationError: there is no such set or part, or a weight is not a number.
    """
    first, *changes = text.split(",")
    if "=" in first:
        first, changes = "stage1", [first, *changes]
    if first not in STAGES:
        raise EvaluationError(f"no weights {first!r}; known: {', '.join(STAGES)}")
    found = STAGES[first]
    for change in changes:
        part, _, value = change.partition("=")
        try:
            number = float(value)
        except ValueError as exc:
            raise EvaluationError(f"the weight {change!r} should look like format=0.1") from exc
        if part not in asdict(found) or not -1e6 < number < 1e6:
            raise EvaluationError(f"no weight {change!r}; parts: {', '.join(asdict(found))}")
        found = replace(found, **{part: number})
    return found


def score(wanted: Sequence[WrittenCall], prediction: str, weights: Weights) -> dict[str, float]:
    """Return the four parts and their weighted sum, `reward`.

    `wanted` empty: no tool fits, and the answer should say so in words.
    """
    words = _THOUGHT.sub("", prediction)
    blocks = [match[1] for match in _BLOCK.finditer(words)]
    read = [read_call(block.strip()) for block in blocks] or [read_call(words.strip())]
    calls = [call for call in read if call is not None and call.name]
    is_direct = bool(blocks) and not _BLOCK.sub("", words).strip()
    has_thought = any(match[1].strip() for match in _THOUGHT.finditer(prediction))
    parts = {
        "format": _format(words, blocks, is_wanted=bool(wanted)),
        "correctness": likeness(wanted, calls) if wanted else 0.0,
        "refusal": _refusal(calls) if not wanted else 0.0,
        "efficiency": weights.thinking if has_thought else DIRECT * is_direct,
    }
    total = sum(parts[part] * getattr(weights, part) for part in PARTS)
    return {**parts, "reward": total}


def likeness(wanted: Sequence[WrittenCall], found: Sequence[WrittenCall]) -> float:
    """Return 0..1: half for each right name, half for its arguments; order does not matter.

    Ours: the card says "tool name match + argument similarity" and no more. Calls too many or
    too few count as wrong ones.
    """
    left = list(found)
    total = 0.0
    for call in wanted:
        best = max(left, key=lambda other: _pair(call, other), default=None)
        if best is not None:
            total += _pair(call, best)
            left.remove(best)
    return total / max(len(wanted), len(found))


def wanted_of(answer: Json) -> list[WrittenCall] | None:
    """Return the calls of a reference: a call, a list of them, or nothing; None if it is neither.

    Text is taken as JSON; empty text and `[]` mean that no tool fits.
    """
    if isinstance(answer, str):
        if not answer.strip():
            return []
        if (call := read_call(answer)) is not None:
            return [call]
        try:
            answer = json.loads(answer)
        except (ValueError, RecursionError):
            return None
    listed = [answer] if isinstance(answer, Mapping) else answer
    if not isinstance(listed, list):
        return None
    calls = [read_call(json.dumps(item)) for item in listed]
    return None if None in calls else [call for call in calls if call is not None]


def token_efficiency(n_tokens: float, n_base: float) -> float:
    """Return how much longer answers are than the base's: -0.36 for 36 % fewer tokens."""
    return n_tokens / n_base - 1


def _format(words: str, blocks: Sequence[str], *, is_wanted: bool) -> float:
    """Return the share of blocks that are closed and hold a call; no block is right for no tool."""
    if not blocks:
        return float(not is_wanted and bool(words.strip()))
    n_closed = words.count("</tool_call>")
    right = [call for block in blocks if (call := read_call(block.strip())) and call.name]
    return min(len(right), n_closed) / len(blocks)


def _refusal(calls: Sequence[WrittenCall]) -> float:
    """Return 1 for words, a reply included, -1 for a call; handing over is neither."""
    names = {call.name for call in calls} - {RESPOND}
    if not names:
        return 1.0
    return 0.0 if names == {DEFER} else -1.0


def _pair(wanted: WrittenCall, found: WrittenCall) -> float:
    if wanted.name != found.name:
        return 0.0
    ours, theirs = wanted.arguments, found.arguments
    keys = {*ours, *theirs}
    equal = sum(key in ours and key in theirs and ours[key] == theirs[key] for key in keys)
    return 0.5 + 0.5 * (equal / len(keys) if keys else 1.0)
