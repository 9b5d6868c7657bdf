"""The report as one JSON document, from which page, table and screen are made.

`{"base", "suites", "material", "builds": [{"label", …, "text", "calls", "suites", "refused",
"failures"}], "flips", "prompts", "table", "notes", "record"}`; numbers are None where there are
none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeagent.engine.readings import Kind
from edgeagent.evals.compare import divergence, pairing, table
from edgeagent.evals.compare.material import Material
from edgeagent.evals.compare.pairing import Pairing
from edgeagent.evals.compare.run import CALLS, TEXT, Comparison, Found
from edgeagent.evals.record import machine
from edgeagent.evals.rows import Row, Suite
from edgeagent.messages import Json

BUSY = 1.5
"""Load per CPU from which speeds are not to be trusted; the engine itself makes up to 1."""
DECIDING = (Kind.NAME, Kind.ARGUMENTS)
"""The places that decide a tool call; the words of a reply are given beside them."""


def of(comparison: Comparison, record: Mapping[str, Json]) -> dict[str, Any]:
    """Return the report of a comparison that was carried out."""
    plan = comparison.plan
    base, *others = comparison.found
    pairings = {
        suite.name: {
            found.build.label: pairing.paired(
                base.rows[suite.name], found.rows[suite.name], plan.seed
            )
            for found in others
            if suite.name in found.rows and suite.name in base.rows
        }
        for suite, _ in plan.suites
    }
    suites = [suite for suite, _ in plan.suites]
    builds = [_build(found, base, suites, pairings) for found in comparison.found]
    report: dict[str, Any] = {
        "base": base.build.label,
        "suites": [suite.name for suite in suites],
        "material": {"texts": plan.material.text_source, "n_calls": len(plan.material.calls)},
        "builds": builds,
        "flips": _flips(pairings),
        "prompts": _prompts(comparison.found, pairings),
        "notes": _notes(comparison.found, plan.material),
        "record": dict(record),
    }
    return {**report, "table": table.of(report)}


def _build(
    found: Found,
    base: Found,
    suites: Sequence[Suite],
    pairings: Mapping[str, Mapping[str, Pairing]],
) -> dict[str, Any]:
    build = found.build
    is_base = found is base
    speed = found.speed or {}
    return {
        "label": build.label,
        "is_base": is_base,
        "file": build.model.path.name,
        "manifest": build.model.manifest.name,
        "quant": build.quant,
        "sha256": build.sha256,
        "size_bytes": build.size_bytes,
        "n_params": build.n_params,
        "bits_per_weight": build.bits_per_weight,
        **{
            key: speed.get(key)
            for key in ("load_ms", "peak_bytes", "prefill_per_s", "decode_per_s",
                        "prefill_cpu_ms", "decode_cpu_ms", "n_ctx", "busy")
        },
        TEXT: _divergence(found, TEXT, list(Kind), is_base),
        CALLS: _calls(found, is_base),
        "suites": {
            suite.name: _suite(found, suite, pairings[suite.name])
            for suite in suites
            if suite.name in found.rows
        },
        "refused": found.refused,
        "failures": found.failures,
    }  # fmt: skip


def _divergence(
    found: Found, part: str, kinds: Sequence[Kind], is_base: bool
) -> dict[str, Json] | None:
    if part not in found.places:
        return None
    has_base = not is_base and part not in found.refused
    return divergence.summary(divergence.of_kinds(found.places[part], kinds), has_base=has_base)


def _calls(found: Found, is_base: bool) -> dict[str, Json] | None:
    summary = _divergence(found, CALLS, DECIDING, is_base)
    if summary is None:
        return None
    kinds = {
        kind.name.lower(): _divergence(found, CALLS, [kind], is_base)
        for kind in (*DECIDING, Kind.WORDS)
    }
    return {**summary, "n_passages_cut": found.n_cut[CALLS], "by_kind": kinds}


def _suite(found: Found, suite: Suite, pairings: Mapping[str, Pairing]) -> dict[str, Json]:
    rows = found.rows[suite.name]
    return {
        "n_tokens": sum(row.n_tokens for row in rows) / len(rows) if rows else None,
        "ms": sum(row.ms for row in rows) / len(rows) if rows else None,
        **suite.summarize(rows),
        "versus_base": _versus_base(found.build.label, pairings),
    }


def _versus_base(label: str, pairings: Mapping[str, Pairing]) -> dict[str, Json] | None:
    paired = pairings.get(label)
    if paired is None:
        return None
    tests = {}
    for score, test in paired.tests.items():
        of_all = {name: other.tests[score].p for name, other in pairings.items()
                  if score in other.tests}  # fmt: skip
        tests[score] = {
            "n": test.n,
            "lost": test.n_lost,
            "gained": test.n_gained,
            "p": test.p,
            "p_holm": pairing.holm(of_all)[label],
        }
    return {
        "n": paired.n,
        "changed": paired.n_changed,
        "tests": tests,
        "deltas": dict(paired.deltas),
    }


def _flips(pairings: Mapping[str, Mapping[str, Pairing]]) -> list[dict[str, Json]]:
    return [
        {
            "suite": suite,
            "build": label,
            "id": flip.build.id,
            "score": flip.score,
            "is_lost": flip.is_lost,
            "reference": flip.build.reference,
            "base": flip.base.prediction,
            "prediction": flip.build.prediction,
        }
        for suite, by_build in pairings.items()
        for label, paired in by_build.items()
        for flip in paired.flips
    ]


def _prompts(
    found: Sequence[Found], pairings: Mapping[str, Mapping[str, Pairing]]
) -> dict[str, dict[str, str]]:
    """Return the prompt of every row that flipped in some build, once."""
    prompts: dict[str, dict[str, str]] = {}
    for suite, by_build in pairings.items():
        flipped = {flip.build.id for paired in by_build.values() for flip in paired.flips}
        rows: Sequence[Row] = found[0].rows.get(suite, ())
        prompts[suite] = {row.id: row.prompt for row in rows if row.id in flipped}
    return prompts


def _notes(found: Sequence[Found], material: Material) -> list[str]:
    """Return what a reader has to know about this run, in sentences."""
    notes = []
    base = found[0]
    if not material.texts:
        notes.append(
            "No text was read: give --text FILE, or a suite with reference calls such as tft."
        )
    if base.n_cut.get(CALLS):
        notes.append(
            f"{base.n_cut[CALLS]} of {len(material.calls)} reference calls were read in part or "
            "not at all: longer than the context, or not allowed by their tool's schema."
        )
    busiest = max(((each.speed or {}).get("busy") or 0 for each in found), default=0)
    n_cpus = machine()["n_cpus"]
    if busiest > BUSY * n_cpus:
        notes.append(
            f"The machine was busy while speeds were measured (load {busiest:.1f} on {n_cpus} "
            "CPUs): read them and the times as what was left for them."
        )
    for each in found:
        for part, reason in each.refused.items():
            notes.append(f"{each.build.label}, divergence on {part}: {reason}.")
        for part, reason in each.failures.items():
            notes.append(f"{each.build.label}, {part} failed: {reason}")
    return notes
