"""`edgeagent eval tft`: a model's next calls in distil's multi-turn test conversations.

edgeagent eval tft --data dev.jsonl --tools job_description.json --model nano --json
"""

from __future__ import annotations

from pathlib import Path

import click

from edgeagent.commands import evaluating
from edgeagent.evals.rows import Options
from edgeagent.evals.tft import Tft


@click.command("tft")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="The test file: one conversation per line.",
)
@click.option(
    "--tools",
    type=click.Path(path_type=Path),
    required=True,
    help="The job_description.json: policy and tools.",
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
    tools: Path,
    model: str | None,
    limit: int | None,
    rows: Path | None,
    as_json: bool,
) -> int:
    """Score a model's next call at every step of recorded conversations.

    Each call of the assistant makes one pair. Beside every score stands what always replying
    would get: of staged_tool_call that is 0.65.
    """  # fmt: skip
    options = Options(data=data, tools=tools, limit=limit)
    return evaluating.evaluate(Tft(), model, options, as_json=as_json, keep_in=rows)
