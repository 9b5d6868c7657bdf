"""Sum up answers to recorded conversations: distil's metrics, what they hide, and the floor.

`staged_tool_call` gives 0.65 to whoever always replies, so nothing here stands without that
floor. Works on rows alone; knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from edgeagent.evals import distil, reward
from edgeagent.evals.intervals import (
    Estimate,
    bootstrap,
    bootstrap_of,
    bootstrap_ratio,
    draws,
    share,
)
from edgeagent.evals.next_call import FAILED, OUT_OF_REACH, TRIMMED
from edgeagent.evals.reward import STAGES, Weights
from edgeagent.evals.rows import EXACT, Row, Summary, cluster
from edgeagent.messages import CONTROL_NAMES, RESPOND, Json

ALWAYS_RESPOND = distil.write_call(RESPOND, {"message": "x"})
FLOOR = f"always_{RESPOND}"


@dataclass(frozen=True, slots=True)
class _Compared:
    """One answer beside its reference."""

    conversation: str
    wanted: str
    """Name of the reference's tool."""
    found: str
    """Name of the prediction's; empty where it is not a call."""
    is_exact: bool
    n_equal: int
    """Arguments of a service call that the two have in common, key and value."""
    n_wanted: int
    n_found: int
    """Arguments of the prediction, where it is a service call."""

    @property
    def wants_service(self) -> bool:
        return self.wanted not in CONTROL_NAMES

    @property
    def is_service(self) -> bool:
        return bool(self.found) and self.found not in CONTROL_NAMES


def summarize(rows: Sequence[Row], weights: Weights = STAGES["stage1"]) -> Summary:
    """Return scores with 95 % intervals and the always-respond floor beside them.

    Shares have Wilson intervals; means and F scores are bootstrapped by conversation. `weights`
    are those of `reward`, and are in the summary.
    """
    estimates = _estimates(rows) | {"reward": _reward(rows, weights)}
    scores = {name: one.as_json() for name, one in estimates.items()}
    floors = {FLOOR: _floor(rows, weights)} if rows else {}
    return {
        "n": len(rows),
        "n_conversations": len({cluster(row) for row in rows}),
        "n_failed": sum(FAILED in row.note for row in rows),
        "n_out_of_reach": sum(OUT_OF_REACH in row.note for row in rows),
        "n_trimmed": sum(TRIMMED in row.note for row in rows),
        "mean": {metric: scores[metric]["value"] for metric in distil.METRICS},
        "scores": scores,
        "floors": floors,
        "reward_weights": asdict(weights),
        "by_tool": _by_tool([_compared(row) for row in rows]),
    }


def _estimates(rows: Sequence[Row]) -> dict[str, Estimate]:
    groups = [cluster(row) for row in rows]
    compared = [_compared(row) for row in rows]
    found = {metric: _mean(rows, metric) for metric in distil.METRICS}
    found |= _behaviour(compared)
    if any(row.scores.get("deferred") is not None for row in rows):
        found["deferred"] = _mean(rows, "deferred")
        kept = [row for row in rows if not row.scores.get("deferred")]
        found["staged_when_kept"] = _mean(kept, "staged_tool_call")
    found["response_tokens"] = bootstrap([row.n_tokens for row in rows], groups)
    found["ms"] = bootstrap([row.ms for row in rows], groups)
    judged = [row for row in rows if row.scores.get("judge") is not None]
    if judged:
        found["judge_advisory"] = _mean(judged, "judge")
    return found


_SHARES = distil.COUNTED | {EXACT, "name", "deferred", "judge"}


def _mean(rows: Sequence[Row], metric: str) -> Estimate:
    values = [float(row.scores[metric] or 0) for row in rows]
    if metric in _SHARES:
        return share(sum(value == 1 for value in values), len(values))
    return bootstrap(values, [cluster(row) for row in rows])


def _behaviour(compared: Sequence[_Compared]) -> dict[str, Estimate]:
    """Return what distil's metrics hide: which tool, the services, and when they are called."""
    service = [one for one in compared if one.wants_service]
    control = [one for one in compared if not one.wants_service]
    return {
        "name_accuracy": share(sum(one.found == one.wanted for one in compared), len(compared)),
        "macro_f1": _macro_f1(compared),
        "service_exact": share(sum(one.is_exact for one in service), len(service)),
        "argument_f1": bootstrap_ratio(
            [2.0 * one.n_equal for one in service],
            [float(one.n_wanted + one.n_found) for one in service],
            [one.conversation for one in service],
        ),
        "premature_service": share(sum(one.is_service for one in control), len(control)),
        "missed_service": share(sum(not one.is_service for one in service), len(service)),
    }


def _macro_f1(compared: Sequence[_Compared]) -> Estimate:
    """Return the mean F1 over the tools that the references use."""
    tools = sorted({one.wanted for one in compared})
    places = {tool: place for place, tool in enumerate(tools)}
    labels = draws([one.conversation for one in compared])
    line_of = {label: place for place, label in enumerate(dict.fromkeys(labels))}
    # Per conversation and tool: wanted and found, then wanted or found, added up.
    sums = np.zeros((len(line_of), 2 * len(tools)))
    for one, label in zip(compared, labels, strict=True):
        line = sums[line_of[label]]
        line[places[one.wanted]] += 2.0 * (one.found == one.wanted)
        line[len(tools) + places[one.wanted]] += 1
        if one.found in places:
            line[len(tools) + places[one.found]] += 1

    def macro(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        above, below = totals[:, : len(tools)], totals[:, len(tools) :]
        # A resample without a tool leaves it out of the mean instead of counting it as 0.
        each = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        return np.asarray(each.sum(axis=1) / np.maximum((below > 0).sum(axis=1), 1))

    return bootstrap_of(macro, sums, len(compared))


def _reward(rows: Sequence[Row], weights: Weights) -> Estimate:
    """Return the mean reward of the calls, each in the wrapper that the model put it in."""
    values = [_rewarded(row.reference, row.prediction, weights) for row in rows]
    return bootstrap(values, [cluster(row) for row in rows])


def _rewarded(reference: str, prediction: str, weights: Weights) -> float:
    wanted = distil.read_call(reference)
    assert wanted is not None, "rows have calls as references"
    is_call = distil.read_call(prediction) is not None
    written = f"<tool_call>\n{prediction}\n</tool_call>" if is_call else prediction
    return reward.score([wanted], written, weights)["reward"]


def _floor(rows: Sequence[Row], weights: Weights) -> dict[str, float | None]:
    """Return what always replying would score on the same pairs."""
    replied = [distil.score(row.reference, ALWAYS_RESPOND, {}) for row in rows]
    floor: dict[str, float | None] = {
        metric: fmean(scores[metric] for scores in replied) for metric in distil.METRICS
    }
    floor["reward"] = fmean(_rewarded(row.reference, ALWAYS_RESPOND, weights) for row in rows)
    compared = [_against(row.id, row.reference, ALWAYS_RESPOND) for row in rows]
    return floor | {name: one.value for name, one in _behaviour(compared).items()}


def _by_tool(compared: Sequence[_Compared]) -> dict[str, dict[str, Json]]:
    """Return for each tool of the references how often it was wanted, named and exact."""
    return {
        tool: {
            "n": sum(one.wanted == tool for one in compared),
            "named": sum(one.wanted == tool == one.found for one in compared),
            "exact": sum(one.wanted == tool and one.is_exact for one in compared),
        }
        for tool in sorted({one.wanted for one in compared})
    }


def _compared(row: Row) -> _Compared:
    return _against(row.id, row.reference, row.prediction)


def _against(row_id: str, reference: str, prediction: str) -> _Compared:
    wanted, found = distil.read_call(reference), distil.read_call(prediction)
    assert wanted is not None, "rows have calls as references"
    name = found.name if found else ""
    is_service = bool(name) and name not in CONTROL_NAMES
    ours: Mapping[str, Json] = found.arguments if found and is_service else {}
    equal = [
        key for key, value in ours.items() if key in wanted.arguments
        and wanted.arguments[key] == value
    ]  # fmt: skip
    return _Compared(
        conversation=row_id.rpartition("/")[0],
        wanted=wanted.name,
        found=name,
        is_exact=found is not None and found.fields == wanted.fields,
        n_equal=len(equal) if name == wanted.name else 0,
        n_wanted=len(wanted.arguments),
        n_found=len(ours),
    )
