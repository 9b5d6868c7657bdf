"""`edgeagent eval bfcl`: a model's calls for BFCL's single-turn questions, V3 or V4.

edgeagent eval bfcl --data bfcl-data --model nano --category simple --limit 50
"""

from __future__ import annotations

from pathlib import Path

import click

from edgeagent.commands import evaluating
from edgeagent.evals.bfcl import categories
from edgeagent.evals.bfcl.suite import SCORES, Bfcl
from edgeagent.evals.rows import Options, Summary

FILE = click.Path(path_type=Path)


@click.command("bfcl")
@click.option(
    "--data",
    type=FILE,
    required=True,
    metavar="DIR",
    help="Folder with BFCL_v3_*.json (or v4, or .gz) and possible_answer/.",
)
@click.option("-m", "--model", help="Name, name:QUANT, a file, or http://host/v1.")
@click.option(
    "--category",
    "names",
    multiple=True,
    help="Only this one; may be given several times. All that are there without it.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="About N entries in all, every category by its share; the same for a seed.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample.")
@click.option(
    "--defer",
    "deferral",
    is_flag=True,
    help="Let the model leave questions to a larger one; counted apart.",
)
@click.option(
    "--rows",
    type=FILE,
    metavar="FILE",
    help="Keep every row there; the same command then goes on where it stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, every row in it.")
def command(
    data: Path,
    model: str | None,
    names: tuple[str, ...],
    limit: int | None,
    seed: int,
    deferral: bool,
    rows: Path | None,
    as_json: bool,
) -> int:
    """Ask for calls and judge them: in one response (exact), and over several steps (accumulated).

    The second is not the leaderboard's protocol: every call is answered with a neutral result and
    the model goes on until it has nothing more to call. Multi-turn categories are not run and
    count 0 in the published averages; executable ones count where no network is needed.
    """
    chosen = sorted({categories.by_name(name).name for name in names})
    settings = {"categories": chosen, "deferral": deferral}
    options = Options(data=data, limit=limit, seed=seed, settings=settings)
    return evaluating.evaluate(
        Bfcl(), model, options, as_json=as_json, keep_in=rows, more=_by_category
    )


def _by_category(summary: Summary) -> str:
    """Return a line per category, and the averages by each formula."""
    lines = [f"{'category':26}{'n':>6}{'exact':>10}{'accumulated':>13}{'deferred':>10}{'n/a':>6}"]
    for name, found in summary["categories"].items():
        exact, accumulated, deferred = (
            _number(found["scores"][key]["value"]) for key in (*SCORES, "deferred")
        )
        lines.append(f"{name:26}{found['n']:>6}{exact:>10}{accumulated:>13}{deferred:>10}"
                     f"{found['unavailable']:>6}")  # fmt: skip
    for mode, found in summary["averages"].items():
        for formula in ("since_2025_04", "before_2025_04"):
            parts = ", ".join(f"{key} {value:.4f}" for key, value in found[formula].items())
            lines.append(f"{mode}, {formula}: {parts}")
        lines.append(f"{mode}: micro {_number(found['micro'])}, macro {_number(found['macro'])}")
    missing = ", ".join(summary["averages"][SCORES[0]]["missing"])
    lines.append(f"counted as 0: multi_turn{f', {missing}' if missing else ''}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
