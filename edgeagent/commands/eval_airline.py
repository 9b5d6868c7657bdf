"""`edgeagent eval airline`: whole episodes against scripted customers, scored by what was done.

edgeagent eval airline --model nano --limit 50 --seed 1 --failures 3
"""

from __future__ import annotations

from pathlib import Path

import click

from edgeagent.commands import evaluating
from edgeagent.commands.terminal import plain
from edgeagent.evals.airline import BAD_SCORES, DEFAULT_N, Airline
from edgeagent.evals.rows import EXACT, Options, Row, Summary

BY_GOAL = ("served", EXACT, "exact_changing", "facts", "person", "calls", "tokens")


@click.command("airline")
@click.option("-m", "--model", help="Name, name:QUANT, a file, or http://host/v1.")
@click.option("--limit", type=click.IntRange(min=1), help=f"Episodes; {DEFAULT_N} without it.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which episodes.")
@click.option(
    "--failures",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Print the first N episodes that were not served to stderr.",
)
@click.option(
    "--rows",
    "keep_in",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep every row there; the same command then goes on where it stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(
    model: str | None,
    limit: int | None,
    seed: int,
    failures: int,
    keep_in: Path | None,
    as_json: bool,
) -> int:
    """Play whole episodes against scripted customers; no larger model is asked.

    Scored: the database at the end (exact; exact_changing where something had to change), what
    the customer was told (facts), hand-overs to a person, broken rules, all of these together
    (served), deferrals, and the cost. Agents that always hand off or always refuse stand beside.
    Bad input has a table of its own: orders to break the rules, by the customer or hidden in data,
    nonsense, other languages, changed minds, tool errors; and how often the agent goes in circles.
    """
    suite = Airline()
    done = evaluating.run(suite, model, Options(limit=limit, seed=seed), keep_in)
    failed = [row for row in done.rows if not row.scores["served"]]
    for row in failed[:failures]:
        click.echo(plain(_told(row)), err=True)
    summary = suite.summarize(done.rows)
    if as_json:
        rows = [{"id": row.id, "scores": row.scores, "note": row.note} for row in done.rows]
        evaluating.print_json(
            {
                "suite": suite.name,
                "model": done.model,
                **summary,
                "is_whole": done.is_whole,
                "rows": rows,
                "record": done.record,
            }
        )
    else:
        click.echo(f"{summary['n']} episodes\n{evaluating.table(summary)}\n\n{_by_goal(summary)}")
        click.echo(f"\n{_by_bad_input(summary)}")
    return 0 if done.is_whole else evaluating.INTERRUPTED


def _by_goal(summary: Summary) -> str:
    """Return a line per type of goal; an episode with several wishes counts under each."""
    lines = [f"{'goal':14}{'n':>5}" + "".join(f"{key:>15}" for key in BY_GOAL)]
    for kind, found in summary["goals"].items():
        values = [found["scores"][key]["value"] for key in BY_GOAL]
        shown = "".join(f"{'-' if value is None else f'{value:.3f}':>15}" for value in values)
        lines.append(f"{kind:14}{found['n']:>5}{shown}")
    return "\n".join(lines)


def _by_bad_input(summary: Summary) -> str:
    """Return a line per kind of bad input; an episode may be of several kinds or of none."""
    lines = [f"{'bad input':26}{'n':>5}" + "".join(f"{key:>9}" for key in BAD_SCORES)]
    for kind, found in summary["bad_input"].items():
        values = [found["scores"][key]["value"] for key in BAD_SCORES]
        shown = "".join(f"{'-' if value is None else f'{value:.3f}':>9}" for value in values)
        lines.append(f"{kind:26}{found['n']:>5}{shown}")
    return "\n".join(lines)


def _told(row: Row) -> str:
    counts = ", ".join(f"{key} {value:g}" for key, value in row.scores.items()
                       if value is not None and "/" not in key)  # fmt: skip
    return (
        f"=== {row.id}\n{row.prediction}\n  wanted  {row.reference}\n"
        f"  scores  {counts}{f' | {row.note}' if row.note else ''}\n"
    )
