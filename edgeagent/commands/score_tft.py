"""`edgeagent score tft`: distil's metrics for predictions that somebody else made.

edgeagent score tft --predictions rows.jsonl --tools job_description.json --json
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from edgeagent.commands.terminal import plain
from edgeagent.evals import distil, predictions
from edgeagent.evals.intervals import bootstrap, share
from edgeagent.messages import RESPOND
from edgeagent.scenarios import job


@click.command("tft")
@click.option(
    "--predictions",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    help='JSON lines with "answer" and "prediction".',
)
@click.option(
    "--tools",
    type=click.Path(path_type=Path),
    help="A job_description.json: its schemas' defaults count in the equivalence.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document: every row, and means.")
def command(path: Path, tools: Path | None, as_json: bool) -> None:
    """Score predictions with distil's four metrics, row by row.

    A call is bare JSON or wrapped in <tool_call>, with "parameters" or "arguments".
    """  # fmt: skip
    defaults = distil.defaults_of(job.read(tools).tools) if tools else {}
    given = list(predictions.read(path))
    rows = [predictions.score(row, defaults) for row in given]
    if as_json:
        click.echo(json.dumps({"n": len(rows), "rows": rows, "mean": _means(rows)}))
        return
    floor = distil.write_call(RESPOND, {"message": "x"})
    floors = _means([distil.score(row.answer, floor, defaults) for row in given])
    click.echo(f"{len(rows)} rows of {plain(str(path))}")
    click.echo(f"{'':24} mean   95 % interval      always {RESPOND}")
    for metric in distil.METRICS:
        values = [row[metric] for row in rows]
        is_counted = metric in distil.COUNTED
        found = share(int(sum(values)), len(values)) if is_counted else bootstrap(values)
        click.echo(
            f"{metric:24} {found.value:.4f} [{found.low:.4f}, {found.high:.4f}]   "
            f"{floors[metric]:.4f}"
        )


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {metric: sum(row[metric] for row in rows) / len(rows) for metric in distil.METRICS}
