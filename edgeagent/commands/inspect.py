"""`edgeagent inspect`: what a GGUF file holds, and whether an agent can use it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeagent import catalog
from edgeagent.commands.models import shown
from edgeagent.commands.terminal import plain

if TYPE_CHECKING:
    from convert.lint import Step


@click.command("inspect")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, every tensor in it.")
@click.option("--lint", is_flag=True, help="Check what breaks agents; exit code 1 if it is there.")
@click.option(
    "--source",
    type=click.Path(exists=True, path_type=Path),
    metavar="SRC",
    help="Checkpoint's folder or GGUF file that FILE was made of, to lint it against.",
)
@click.pass_context
def command(
    context: click.Context, /, file: str, as_json: bool, lint: bool, source: Path | None
) -> None:
    """Show sizes, types, metadata, template and tool tokens of FILE, a path or a model's name.

    With --lint, check template, ends, tool tokens, pre-tokenizer, tie and every weight; with
    --source also each tensor's error, the vocabulary, and tokens and logits on a sample.
    """
    from convert import inspect  # 150 ms: gguf and numpy

    path = catalog.resolve(file).path
    found = inspect.inspect(path)
    steps = _linted(path, source) if lint or source is not None else None
    if as_json:
        record = dataclasses.asdict(found)
        if steps is not None:
            record["lint"] = _record(steps)
        click.echo(json.dumps(record))
    else:
        click.echo(plain("\n".join(inspect.lines(found))))
        if steps is not None:
            click.echo(plain("\n".join(["", *_lines(steps)])))
    if steps is not None and not _is_sound(steps):
        context.exit(1)


def _linted(path: Path, source: Path | None) -> list[Step]:
    from convert.lint import Scanned, lint

    steps: list[Step] = []
    with shown(path.name) as progress:
        for step in lint(path, source):
            if isinstance(step, Scanned):
                progress(step.done_bytes, step.total_bytes)
            else:
                steps.append(step)
    return steps


def _is_sound(steps: list[Step]) -> bool:
    from convert.lint import Finding, Level

    return not any(isinstance(step, Finding) and step.level is Level.ERROR for step in steps)


def _lines(steps: list[Step]) -> list[str]:
    from convert import lint
    from convert.comparison import Weights

    compared: dict[str, list[float]] = {}
    for step in steps:
        if isinstance(step, Weights) and step.rel_rmse is not None:
            compared.setdefault(step.type.name, []).append(step.rel_rmse)
    errors = [
        f"{kind:<8} {len(found):>4} tensors, relative error {sum(found) / len(found):.2g} "
        f"on average, {max(found):.2g} at most"
        for kind, found in compared.items()
    ]
    return [*errors, *lint.lines(steps)]


def _record(steps: list[Step]) -> dict[str, Any]:
    from convert.comparison import Logits, Weights
    from convert.lint import Finding

    logits = next((step for step in steps if isinstance(step, Logits)), None)
    return {
        "ok": _is_sound(steps),
        "findings": [dataclasses.asdict(step) for step in steps if isinstance(step, Finding)],
        "tensors": [
            {**dataclasses.asdict(step), "type": step.type.name}
            for step in steps
            if isinstance(step, Weights)
        ],
        "logits": None if logits is None else dataclasses.asdict(logits),
    }
