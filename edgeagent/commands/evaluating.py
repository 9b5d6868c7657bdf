"""Run a suite on a model for a verb: open it, show how far it is, stop on Ctrl-C, print scores."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import click

from edgeagent import config, wiring
from edgeagent.evals import record
from edgeagent.evals.rows import Options, Progress, Row, Suite, Summary

SHOWN_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run."""

    model: str
    rows: list[Row]
    is_whole: bool
    """False: the person stopped it, and the rows are what was done by then."""
    record: Mapping[str, Any]


def run(suite: Suite, model: str | None, options: Options) -> Run:
    """Return the suite's rows on the model; progress goes to stderr.

    Raises:
        UsageError: the model or the data cannot be used.
    """
    settings = config.load({"model.name": model})
    local = wiring.open_local(settings)
    rows: list[Row] = []
    is_whole = True
    with closing(local.tier):
        local.tier.start()
        try:
            rows.extend(followed(suite.run(local, options)))
        except KeyboardInterrupt:
            is_whole = False
            click.echo("interrupted: what is done is summed up", err=True)
    files = {"model": local.path, "data": options.data, "tools": options.tools}
    made = record.make(
        {role: path for role, path in files.items() if path is not None},
        seed=options.seed,
        prompts=(row.prompt for row in rows),
        settings={"limit": options.limit, **options.settings},
    )
    return Run(local.name, rows, is_whole, made)


def followed(items: Iterable[Progress | Row]) -> Iterable[Row]:
    """Yield the rows and tell on stderr how far it is, in place on a terminal."""
    shown_at = 0.0
    is_terminal = sys.stderr.isatty()
    try:
        for item in items:
            if isinstance(item, Row):
                yield item
            elif is_terminal and time.monotonic() - shown_at > SHOWN_EVERY_S:
                shown_at = time.monotonic()
                click.echo(f"\r{item.done} of {item.total}", nl=False, err=True)
    finally:
        if is_terminal and shown_at:
            click.echo("\r\033[K", nl=False, err=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document; a number that JSON cannot write is a defect, not a result."""
    click.echo(json.dumps(document, allow_nan=False))


def table(summary: Summary) -> str:
    """Return the scores, one per line, with their intervals and the floors beside them."""
    floors: Mapping[str, Mapping[str, float | None]] = summary["floors"]
    lines = []
    for name, found in summary["scores"].items():
        beside = [
            f"{agent}: {_number(scores[name])}"
            for agent, scores in floors.items()
            if name in scores
        ]
        note = f"   ({'; '.join(beside)})" if beside else ""
        if found["value"] is None:
            lines.append(f"{name:24} -{note}")
            continue
        interval = f"[{_number(found['low'])}, {_number(found['high'])}]"
        lines.append(f"{name:24} {_number(found['value']):>7} {interval:18} n={found['n']}{note}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
