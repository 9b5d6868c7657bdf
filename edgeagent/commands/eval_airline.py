"""`edgeagent eval airline`: whole episodes against scripted customers, scored by what was done.

edgeagent eval airline --model nano --limit 50 --seed 1 --failures 3
"""

from __future__ import annotations

from collections.abc import Sequence
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

    Scored: the database at the end (exact; exact_clean without a broken rule on the way;
    exact_changing where something had to change), what the customer was told (facts), hand-overs
    to a person, broken rules, all of these together (served), deferrals, and the cost. Agents
    that always hand off or always refuse stand beside.
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
        click.echo(f"{summary['n']} episodes\n{evaluating.table(summary)}\n")
        click.echo(_by_kind("goal", summary["goals"], BY_GOAL, (14, 15)) + "\n")
        click.echo(_by_kind("bad input", summary["bad_input"], BAD_SCORES, (26, 9)))
    return 0 if done.is_whole else evaluating.INTERRUPTED


def _by_kind(title: str, found: Summary, scores: Sequence[str], widths: tuple[int, int]) -> str:
    """Return a line per kind; an episode may be of several, and counts under each.

    `widths` are those of the kind's name and of a score.
    """
    name, score = widths
    lines = [f"{title:{name}}{'n':>5}" + "".join(f"{key:>{score}}" for key in scores)]
    for kind, one in found.items():
        values = [one["scores"][key]["value"] for key in scores]
        shown = "".join(f"{'-' if v is None else f'{v:.3f}':>{score}}" for v in values)
        lines.append(f"{kind:{name}}{one['n']:>5}{shown}")
    return "\n".join(lines)


def _told(row: Row) -> str:
    counts = ", ".join(f"{key} {value:g}" for key, value in row.scores.items()
                       if value is not None and "/" not in key)  # fmt: skip
    return (
        f"=== {row.id}\n{row.prediction}\n  wanted  {row.reference}\n"
        f"  scores  {counts}{f' | {row.note}' if row.note else ''}\n"
    )
