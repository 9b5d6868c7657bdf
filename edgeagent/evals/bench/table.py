"""A bench's document as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeagent.messages import Json

STEP_HEAD = (
    "step", "call", "engine", "prefill", "again", "ms", "decode", "sampled", "forced", "drafted",
    "ms", "first ms", "total ms", "low", "high", "ours/this",
)  # fmt: skip
SUM_HEAD = (
    "engine", "cold ms", "warm ms", "warm/cold", "peak MB", "again", "turn ms", "calls ms",
    "replies ms", "long ms", "all ms", "ours/calls", "ours/replies", "ours/long", "ours/all",
    "low", "high", "ours/decode", "cpu ms", "ours/cpu",
)  # fmt: skip


KINDS = ("calls", "replies", "long_replies", "all")


def text(made: Mapping[str, Any]) -> str:
    """Return the steps and below them the sums, every time a median."""
    steps = [
        _step(step["call"], lane["name"], lane["steps"][number])
        for number, step in enumerate(made["steps"])
        for lane in made["lanes"]
    ]
    sums = [_sums(lane) for lane in made["lanes"]]
    n = made["repetitions"]
    times = "once" if n == 1 else f"{n} times, medians"
    return (
        f"{_laid_out([STEP_HEAD, *steps], 3)}\n\n{_laid_out([SUM_HEAD, *sums], 1)}\n\n"
        f"{len(made['steps'])} steps in {made['n_turns']} turns, {times}"
    )


def _step(call: str, lane: str, step: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(step["step"]), call, lane, str(step["n_prefilled"]), str(step["n_reread"]),
        _ms(step["prefill_ms"]),
        str(step["n_decoded"]), str(step["n_sampled"]), str(step["n_forced"]),
        str(step["n_drafted"]), _ms(step["decode_ms"]), _ms(step["first_token_ms"]),
        _ms(step["total_ms"]), _ms(step["total_ms"], "low"), _ms(step["total_ms"], "high"),
        _ratio(step["ratio"]),
    )  # fmt: skip


def _sums(lane: Mapping[str, Any]) -> tuple[str, ...]:
    sums = lane["sums"]
    ratio = {key: (found or {}).get("ratio") for key, found in sums.items()}
    peak = lane["peak_bytes"]
    return (
        lane["name"],
        *(_ms(lane[start] and lane[start]["total_ms"]) for start in ("cold", "warm")),
        _ratio(lane["warm_to_cold"]),
        f"{peak['median'] / 1e6:.0f}" if peak else "-",
        str(sums["all"]["n_reread"]),
        _ms(lane["turn_ms"]),
        *(_ms(sums[key] and sums[key]["total_ms"]) for key in KINDS),
        *(_ratio(ratio[key]) for key in KINDS),
        _ratio(ratio["all"], "low"),
        _ratio(ratio["all"], "high"),
        _ratio(sums["all"]["decode_ratio"]),
        _ms(sums["all"]["cpu_ms"]),
        _ratio(sums["all"]["cpu_ratio"]),
    )


def _ms(spread: Json, which: str = "median") -> str:
    return f"{spread[which]:.1f}" if spread else "-"


def _ratio(spread: Json, which: str = "median") -> str:
    return f"{spread[which]:.2f}" if spread else "-"


def _laid_out(rows: Sequence[Sequence[str]], n_left: int) -> str:
    """Return rows with the first `n_left` columns flush left and numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < n_left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
