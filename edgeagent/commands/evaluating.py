"""Run a suite on a model for a verb: open it, show how far it is, stop on Ctrl-C, print scores."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from edgeagent import config, wiring
from edgeagent.evals import kept, record
from edgeagent.evals.rows import Options, Progress, Row, Suite, Summary

SHOWN_EVERY_S = 0.5
LOGGED_EVERY_S = 30.0
"""Where stderr is no terminal."""
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run."""

    model: str
    rows: list[Row]
    is_whole: bool
    """False: the person stopped it, and the rows are what was done by then."""
    record: Mapping[str, Any]


def run(suite: Suite, model: str | None, options: Options, keep_in: Path | None = None) -> Run:
    """Return the suite's rows on the model; progress goes to stderr.

    `keep_in` is a file that gets every row as it is made; rows that it holds are not made again.

    Raises:
        UsageError: the model, the data or the file cannot be used.
    """
    # A score is the model's: no device's choice of K or attention may move it.
    local = wiring.open_local(config.load({"model.name": model}), "none")
    made = _record(local, options)
    rows: list[Row] = []
    is_whole = True
    with closing(local.tier):
        local.tier.start()
        items = suite.run(local, options)
        if keep_in is not None:
            of = {key: made[key] for key in ("files", "seed", "settings", "versions")}
            of |= {"suite": suite.name, "model": local.name}
            rows = kept.read(keep_in, of)
            left = replace(options, done=options.done | {row.id for row in rows})
            items = kept.keep(suite.run(local, left), keep_in, of)
        try:
            for row in followed(items):
                rows.append(row)
        except KeyboardInterrupt:
            is_whole = False
            click.echo("interrupted: what is done is summed up", err=True)
    made["prompts_sha256"] = record.hash_of(row.prompt for row in rows)
    return Run(local.name, rows, is_whole, made)


def evaluate(
    suite: Suite,
    model: str | None,
    options: Options,
    *,
    as_json: bool,
    keep_in: Path | None = None,
    more: Callable[[Summary], str] | None = None,
) -> int:
    """Run the suite and print its summary, as JSON with every row; return the exit code.

    `more` writes what a person should see below the scores.
    """
    done = run(suite, model, options, keep_in)
    summary = suite.summarize(done.rows)
    if as_json:
        print_json({
            "suite": suite.name,
            "model": done.model,
            "is_whole": done.is_whole,
            **summary,
            "rows": [_shown(row) for row in done.rows],
            "record": done.record,
        })  # fmt: skip
    else:
        click.echo(f"{suite.name}, {done.model}: {summary['n']} rows")
        click.echo(table(summary))
        if more is not None:
            click.echo(f"\n{more(summary)}")
    return 0 if done.is_whole else INTERRUPTED


def _record(local: wiring.Local, options: Options) -> dict[str, Any]:
    files = {"model": local.path, "data": options.data, "tools": options.tools}
    return record.make(
        {role: path for role, path in files.items() if path is not None},
        seed=options.seed,
        settings={"limit": options.limit, **options.settings},
    )


def _shown(row: Row) -> dict[str, Any]:
    shown = asdict(row)
    del shown["prompt"]  # the data has it
    return shown


def followed(items: Iterable[Progress | Row]) -> Iterable[Row]:
    """Yield the rows and tell on stderr how far it is, in place on a terminal."""
    is_terminal = sys.stderr.isatty()
    shown_at = time.monotonic()
    was_shown = False
    try:
        for item in items:
            if isinstance(item, Row):
                yield item
            elif time.monotonic() - shown_at > (SHOWN_EVERY_S if is_terminal else LOGGED_EVERY_S):
                shown_at, was_shown = time.monotonic(), True
                line = f"{item.done} of {item.total}"
                click.echo(f"\r{line}" if is_terminal else line, nl=not is_terminal, err=True)
    finally:
        if is_terminal and was_shown:
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
