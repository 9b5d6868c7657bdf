"""`edgeagent eval tau-replay`: recorded actions on tau-bench's rules, and the database they end in.

edgeagent eval tau-replay --db tau-data --tasks tasks.json --json
"""

from __future__ import annotations

from pathlib import Path

import click

from edgeagent.commands import evaluating
from edgeagent.evals import record, tau_tasks


@click.command("tau-replay")
@click.option(
    "--db",
    "db_dir",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder with tau-bench's users, flights and reservations, .json or .json.gz.",
)
@click.option(
    "--tasks",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="A list of tasks, each with its actions.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(db_dir: Path, tasks: Path, as_json: bool) -> None:
    """Carry out each task's actions on fresh data and hash the database; no model is asked.

    Where the tasks file has `final_db_sha256`, the hashes are compared and differences told.
    """
    done = list(tau_tasks.replay(db_dir, tau_tasks.read(tasks)))
    known = [one for one in done if one.expected is not None]
    wrong = [one for one in known if one.expected != one.final_db_sha256]
    for one in wrong:
        click.echo(f"task {one.id}: {one.final_db_sha256}, expected {one.expected}", err=True)
    if as_json:
        rows = [{"id": one.id, "final_db_sha256": one.final_db_sha256} for one in done]
        made = record.make({"db": db_dir, "tasks": tasks}, seed=0)
        evaluating.print_json({"rows": rows, "record": made})
    else:
        for one in done:
            click.echo(f"{one.id} {one.final_db_sha256}")
        click.echo(f"{len(known) - len(wrong)} of {len(known)} known hashes match")
