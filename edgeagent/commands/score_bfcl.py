"""`edgeagent score bfcl`: BFCL's verdict on calls that somebody else's model made.

edgeagent score bfcl --category simple --questions Q --answers A --predictions P --json
"""

from __future__ import annotations

from pathlib import Path

import click

from edgeagent.commands import evaluating
from edgeagent.commands.terminal import plain
from edgeagent.evals.bfcl import categories, entries, scoring
from edgeagent.evals.intervals import share


@click.command("bfcl")
@click.option("--category", "name", required=True, help="For instance simple or live_multiple.")
@click.option("--questions", type=click.Path(path_type=Path), required=True, metavar="FILE")
@click.option(
    "--answers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The category's file of possible answers; irrelevance needs none.",
)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help='JSON lines {"id", "result": [{"name": {…}}, …] or text}.',
)
@click.option(
    "--underscores", is_flag=True, help="Names were asked for with _ where the functions have dots."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document: every row, accuracy.")
def command(
    name: str,
    questions: Path,
    answers: Path | None,
    predictions: Path,
    underscores: bool,
    as_json: bool,
) -> None:
    """Score predictions for one single-turn category, V3 or V4, row by row.

    Files are JSON lines, gzipped or not. A row that nothing can be said of offline has no
    verdict (null) and is not counted.
    """
    category = categories.by_name(name)
    known = entries.read(category, questions, answers)
    verdicts = list(scoring.score(category, known, predictions, underscores=underscores))
    counted = [verdict.valid for _, verdict in verdicts if verdict.valid is not None]
    found = share(sum(counted), len(counted))
    if len(verdicts) < len(known):
        click.echo(f"{len(known) - len(verdicts)} questions have no prediction", err=True)
    if as_json:
        rows = [{"id": row_id, "valid": verdict.valid, "error": verdict.error}
                for row_id, verdict in verdicts]  # fmt: skip
        evaluating.print_json({"n": len(counted), "accuracy": found.value, "rows": rows})
        return
    for row_id, verdict in verdicts:
        if verdict.error:
            click.echo(plain(f"{row_id}: {verdict.error}"))
    click.echo(f"{sum(counted)} of {len(counted)} right" + (
        f": {found.value:.4f} [{found.low:.4f}, {found.high:.4f}]" if counted else ""
    ))  # fmt: skip
