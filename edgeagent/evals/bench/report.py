"""What came of a bench, as one document: costs per step, sums, starts, memory, and ratios.

Times are in milliseconds, every one as median, smallest and largest of the repetitions; a ratio
is ours divided by theirs, taken within each repetition.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeagent.engine.replay import Cost
from edgeagent.evals.bench import spread
from edgeagent.evals.bench.lanes import Ran, ServerLane, Start
from edgeagent.evals.bench.run import Bench
from edgeagent.evals.bench.spread import Spread
from edgeagent.messages import RESPOND, Json, UserMessage

NOISY = 0.1
"""Sums that spread wider than this share of their median carry a note."""
TOLERATED = 0.02
"""Prompts that differ by less are the same but for a marker that templates treat differently."""
BUSY = 0.25
"""Load per processor, before we began, from which other work is to be reckoned with."""
GROUPS = ("calls", "replies", "long_replies", "all")
LONG = 64
"""Tokens from which a reply is a long one."""


def of(bench: Bench, record: Mapping[str, Any]) -> dict[str, Json]:
    """Return the document, for `json.dumps`; `record` is of `evals.record`."""
    ours = bench.found[bench.lanes[0].name]
    lanes = [_lane(bench, lane.name, bench.found[lane.name], ours) for lane in bench.lanes]
    return {
        "repetitions": bench.n_repetitions,
        "steps": [
            {"step": number, "call": step.call.name, "n_tokens": len(wrote.tokens)}
            for number, (step, wrote) in enumerate(
                zip(bench.recorded.steps, bench.script, strict=True), start=1
            )
        ],
        "n_turns": _n_turns(bench),
        "lanes": lanes,
        "load_average": bench.load,
        "notes": [*_notes(bench, lanes), *_of_servers(bench)],
        "record": dict(record),
    }


def _lane(bench: Bench, name: str, ran: Sequence[Ran], ours: Sequence[Ran]) -> dict[str, Json]:
    peaks = [[cost.peak_bytes for cost in one.costs if cost.peak_bytes] for one in ran]
    return {
        "name": name,
        "cold": _start([one.cold for one in ran]),
        "warm": _start([one.warm for one in ran]),
        "warm_to_cold": _ratio(
            [one.warm.total_ms for one in ran if one.warm and one.cold],
            [one.cold.total_ms for one in ran if one.warm and one.cold],
        ),
        "peak_bytes": spread.of([max(peak) for peak in peaks]).as_json() if all(peaks) else None,
        "steps": [
            _step(number, bench, ran, None if ran is ours else ours)
            for number in range(len(bench.script))
        ],
        "sums": {
            group: _sum(_members(bench, group), bench, ran, None if ran is ours else ours)
            for group in GROUPS
        },
        "turn_ms": spread.of(
            [sum(_totals(bench, one)) / _n_turns(bench) for one in ran]
        ).as_json(),
    }  # fmt: skip


def _step(
    number: int, bench: Bench, ran: Sequence[Ran], ours: Sequence[Ran] | None
) -> dict[str, Json]:
    costs = [one.costs[number] for one in ran]
    last = costs[-1]

    def ms(of: Callable[[Cost], float]) -> Json:
        return spread.of([of(cost) for cost in costs]).as_json()

    totals = [_totals(bench, one)[number] for one in ran]
    return {
        "step": number + 1,
        "n_prompt": last.n_prompt,
        "n_prefilled": last.n_prefilled,
        "n_reread": _n_reread(number, ran[-1]),
        "n_decoded": last.n_decoded,
        "n_sampled": last.n_sampled,
        "n_forced": last.n_decoded - last.n_sampled,
        "n_drafted": last.n_drafted,
        "n_passes": last.n_passes,
        "prefill_ms": ms(lambda cost: cost.prefill_ms),
        "decode_ms": ms(lambda cost: cost.decode_ms),
        "first_token_ms": ms(lambda cost: cost.first_token_ms),
        "total_ms": spread.of(totals).as_json(),
        "cpu_ms": _cpu([number], ran, spread.of),
        "ratio": _ratio([_totals(bench, one)[number] for one in ours], totals) if ours else None,
    }


def _sum(
    members: Sequence[int], bench: Bench, ran: Sequence[Ran], ours: Sequence[Ran] | None
) -> dict[str, Json] | None:
    if not members:
        return None

    def sums(runs: Sequence[Ran]) -> list[float]:
        return [sum(_totals(bench, one)[number] for number in members) for one in runs]

    return {
        "n_steps": len(members),
        "n_prefilled": sum(ran[-1].costs[number].n_prefilled for number in members),
        "n_reread": sum(_n_reread(number, ran[-1]) for number in members),
        "total_ms": spread.of(sums(ran)).as_json(),
        "ratio": _ratio(sums(ours), sums(ran)) if ours else None,
        "decode_ms": spread.of(_decoding(members, bench, ran)).as_json(),
        "decode_ratio": ours and _ratio(
            _decoding(members, bench, ours), _decoding(members, bench, ran)
        ),
        "cpu_ms": _cpu(members, ran, spread.of),
        "cpu_ratio": ours and _cpu(
            members, ran, lambda theirs: spread.ratios(_cpu_sums(members, ours), theirs)
        ),
    }  # fmt: skip


def _cpu(
    members: Sequence[int], ran: Sequence[Ran], of: Callable[[Sequence[float]], Spread | None]
) -> dict[str, Json] | None:
    """Return what `of` makes of the processor times; None where a server spent them."""
    sums = _cpu_sums(members, ran)
    made = of(sums) if len(sums) == len(ran) else None
    return made.as_json() if made else None


def _cpu_sums(members: Sequence[int], ran: Sequence[Ran]) -> list[float]:
    spent = [[one.costs[number].cpu_ms for number in members] for one in ran]
    return [sum(filter(None, times)) for times in spent if None not in times]


def _totals(bench: Bench, ran: Ran) -> list[float]:
    """Return each step's time, writing as many tokens as the record has."""
    return [
        cost.prefill_ms + _written_ms(cost, wrote)
        for cost, wrote in zip(ran.costs, bench.script, strict=True)
    ]


def _decoding(members: Sequence[int], bench: Bench, runs: Sequence[Ran]) -> list[float]:
    """Return what writing took of these steps, without reading what was new."""
    return [
        sum(_written_ms(ran.costs[number], bench.script[number]) for number in members)
        for ran in runs
    ]


def _written_ms(cost: Cost, wrote: Cost) -> float:
    """Return the time of decoding; a server that wrote another number is scaled from that."""
    return cost.decode_ms * (len(wrote.tokens) / cost.n_decoded if cost.n_decoded else 1)


def _n_reread(number: int, ran: Ran) -> int:
    """Return how many tokens the context held before the step and had to give up for it.

    They are read again, or something else in their place.
    """
    return max(0, ran.costs[number - 1].n_held - ran.costs[number].n_reused) if number else 0


def _members(bench: Bench, group: str) -> list[int]:
    return [
        number
        for number, (step, wrote) in enumerate(zip(bench.recorded.steps, bench.script, strict=True))
        if group == "all" or _is_in(group, step.call.name == RESPOND, len(wrote.tokens))
    ]


def _is_in(group: str, is_reply: bool, n_tokens: int) -> bool:
    if group == "calls":
        return not is_reply
    return is_reply and (group == "replies" or n_tokens >= LONG)


def _start(starts: Sequence[Start | None]) -> dict[str, Json] | None:
    there = [start for start in starts if start is not None]
    if not there:
        return None
    loads = [start.load_ms for start in there if start.load_ms is not None]
    return {
        "source": there[-1].source,
        "load_ms": spread.of(loads).as_json() if loads else None,
        "prefix_ms": spread.of([start.prefix_ms for start in there]).as_json(),
        "first_token_ms": spread.of([start.first_token_ms for start in there]).as_json(),
        "total_ms": spread.of([start.total_ms for start in there]).as_json(),
    }


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Json] | None:
    found: Spread | None = spread.ratios(ours, theirs) if theirs else None
    return found.as_json() if found else None


def _n_turns(bench: Bench) -> int:
    last = bench.recorded.steps[-1].conversation
    return max(1, sum(isinstance(message, UserMessage) for message in last))


def _notes(bench: Bench, lanes: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    before = bench.load[0] if bench.load else None
    if before is not None and before > BUSY * (n_cpus or 1):
        notes.append(
            f"the machine had other work: load average {before:.2f} on {n_cpus} processors "
            "before the first run; these times are not those of a quiet machine"
        )
    for lane in lanes:
        total = Spread(**lane["sums"]["all"]["total_ms"])
        if total.width > NOISY:
            notes.append(
                f"{lane['name']}: the sum of all steps spreads over {total.width:.0%} of its median"
            )
    if bench.n_repetitions == 1:
        notes.append("one repetition has no spread; --repetitions 3 or more shows the noise")
    return notes


def _of_servers(bench: Bench) -> list[str]:
    """Return where a server did not do the same work, which nothing can make it do."""
    notes = []
    ours = bench.script
    for lane in bench.lanes:
        costs = bench.found[lane.name][-1].costs
        written = sum(cost.n_decoded for cost in costs)
        wanted = sum(len(wrote.tokens) for wrote in ours)
        if written != wanted:
            notes.append(
                f"{lane.name} wrote {written} tokens of its own where the record has {wanted}; "
                "its totals and ratios are scaled to the record's, step by step"
            )
        read, meant = (sum(cost.n_prompt for cost in steps) for steps in (costs, ours))
        if abs(read - meant) > TOLERATED * meant:
            notes.append(
                f"{lane.name} was given prompts of {read} tokens where ours have {meant}; "
                "is it the same model, with the same chat template?"
            )
        if isinstance(lane, ServerLane):
            notes += _of_server(lane)
    return notes


def _of_server(lane: ServerLane) -> list[str]:
    notes = []
    if not lane.served.can_be_led:
        notes.append(
            f"{lane.name} cannot be shown the recorded answers as its own; it has to read each "
            "of them at the next step, which it would not have to in a conversation of its own"
        )
    if not lane.served.offer.n_params:
        notes.append(f"{lane.name} does not tell its model's size; is it the same file?")
    return notes
