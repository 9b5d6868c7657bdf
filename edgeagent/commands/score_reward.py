"""`edgeagent score reward`: the reward of ContextboxAI's card for given predictions.

edgeagent score reward --predictions rows.jsonl --weights stage2 --json
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import click

from edgeagent.errors import EvaluationError
from edgeagent.evals import jsonl, reward
from edgeagent.evals.intervals import bootstrap
from edgeagent.messages import Json


@click.command("reward")
@click.option(
    "--predictions",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    help='JSON lines with "answer" (a call, several, or [] for none) and "prediction".',
)
@click.option(
    "--weights",
    "text",
    default="stage1",
    show_default=True,
    help="stage1, stage1-prose, stage2, or parts: stage2,correctness=1,thinking=-0.3.",
)
@click.option(
    "--base-tokens",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Tokens per answer of another model, to compare the rows' n_tokens with.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document: every row, and means.")
def command(path: Path, text: str, base_tokens: float | None, as_json: bool) -> None:
    """Score predictions by the card's reward: format, correctness, refusal, efficiency.

    The likeness of arguments, which the card leaves open, is the share of equal values among all
    keys of both calls. Rows may have n_tokens, the tokens of the answer.
    """  # fmt: skip
    weights = reward.weights_of(text)
    rows, n_tokens = _scored(path, weights)
    tokens: dict[str, Json] = {"n": len(n_tokens), "mean": fmean(n_tokens) if n_tokens else None}
    if base_tokens is not None:
        if not n_tokens:
            raise EvaluationError(f"{path} has no n_tokens to compare with --base-tokens")
        tokens["vs_base"] = reward.token_efficiency(tokens["mean"], base_tokens)
    means = {part: fmean(row[part] for row in rows) for part in (*reward.PARTS, "reward")}
    if as_json:
        click.echo(
            json.dumps(
                {
                    "n": len(rows),
                    "weights": asdict(weights),
                    "rows": rows,
                    "mean": means,
                    "response_tokens": tokens,
                }
            )
        )
        return
    click.echo(
        f"{len(rows)} rows, weights {', '.join(f'{k} {v:g}' for k, v in asdict(weights).items())}"
    )
    for part in means:
        found = bootstrap([row[part] for row in rows])
        click.echo(f"{part:12} {found.value:7.4f} [{found.low:.4f}, {found.high:.4f}]")
    if n_tokens:
        beside = f", {tokens['vs_base']:+.1%} against {base_tokens:g}" if base_tokens else ""
        click.echo(f"{'tokens':12} {tokens['mean']:7.1f} per answer{beside}")


def _scored(path: Path, weights: reward.Weights) -> tuple[list[dict[str, float]], list[int]]:
    rows, n_tokens = [], []
    for where, row in jsonl.rows(path):
        wanted = reward.wanted_of(jsonl.value(row, "answer", where))
        if wanted is None:
            raise EvaluationError(f"{where}: the answer is neither a call, nor a list of them")
        prediction = jsonl.value(row, "prediction", where)
        if not isinstance(prediction, str | None):
            raise EvaluationError(f"{where}: the prediction is not text")
        rows.append(reward.score(wanted, prediction or "", weights))
        if isinstance(count := row.get("n_tokens"), int):
            n_tokens.append(count)
    return rows, n_tokens
