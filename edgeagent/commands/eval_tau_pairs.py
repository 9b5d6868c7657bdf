"""`edgeagent eval tau-pairs`: a model's next calls in tau-bench conversations that worked.

edgeagent eval tau-pairs --data trajectories.jsonl.gz --model nano --limit 100
"""

from __future__ import annotations

from pathlib import Path

import click

from edgeagent.commands import evaluating
from edgeagent.evals.rows import Options
from edgeagent.evals.tau_pairs import TauPairs


@click.command("tau-pairs")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Trajectories, one per line, with reward and messages; .gz is unpacked.",
)
@click.option(
    "--tools",
    type=click.Path(path_type=Path),
    help="A job_description.json in place of the desk's tools and the record's policy.",
)
@click.option("-m", "--model", help="Name, name:QUANT, a file, or http://host/v1.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N pairs.")
@click.option(
    "--rows",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep every row there; the same command then goes on where it stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, every row in it.")
def command(
    data: Path,
    tools: Path | None,
    model: str | None,
    limit: int | None,
    rows: Path | None,
    as_json: bool,
) -> int:
    """Score a model's next call at every step of recorded airline conversations.

    Only trajectories with reward 1 count. A model that defers is scored as having called that
    tool, and staged_when_kept leaves those pairs out.
    """  # fmt: skip
    options = Options(data=data, tools=tools, limit=limit)
    return evaluating.evaluate(TauPairs(), model, options, as_json=as_json, keep_in=rows)
