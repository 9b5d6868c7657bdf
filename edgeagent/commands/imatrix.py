"""`edgeagent imatrix`: how strongly texts drive each weight of a model, for a better build."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from edgeagent import catalog, gguf_header
from edgeagent.commands.terminal import plain
from edgeagent.engine.observer import Activations, Advanced, Plan
from edgeagent.errors import ConversionError


@click.command("imatrix")
@click.argument("model")
@click.argument(
    "texts",
    metavar="TEXT...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.",
)
@click.option(
    "--chunk",
    type=click.IntRange(2, 1 << 20),
    help="Tokens of plain text read in one context: 512, or as many as the model knows.",
)
@click.option("--chunks", type=click.IntRange(min=1), help="Read no more chunks than this.")
@click.option(
    "--call-weight",
    type=click.FloatRange(0, 1e6),
    default=1.0,
    show_default=True,
    help="How often a token between <tool_call> and </tool_call> of the model's answers counts.",
)
@click.option("--parse-special", is_flag=True, help="Read control tokens spelled in plain text.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["gguf", "dat"]),
    default="gguf",
    show_default=True,
    help="dat is llama.cpp's form from before 2025.",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document about what was read.")
def command(
    model: str,
    texts: tuple[Path, ...],
    out: Path,
    chunk: int | None,
    chunks: int | None,
    call_weight: float,
    parse_special: bool,
    form: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Read TEXT through MODEL and write an importance matrix for `convert` and `quantize`.

    MODEL is a path or a model's name. TEXT is plain text, or JSON Lines with one conversation
    each, {"messages": [...], "tools": [...]}, which the model's own template renders.
    """
    from convert import imatrix, importance  # 150 ms: gguf and numpy

    if out.is_dir() or not out.parent.is_dir():
        raise ConversionError(f"{out} cannot be written: name a file in a folder that exists")
    plan = Plan(
        catalog.resolve(model).path,
        tuple(part for path in texts for part in imatrix.read(path)),
        n_chunk=chunk,
        max_chunks=chunks,
        parse_special=parse_special,
        call_weight=call_weight,
        n_threads=threads,
    )
    seen: Activations | None = None
    for said in imatrix.collect(plan, [path.name for path in texts]):
        match said:
            case Advanced(done, total):
                _draw(done, total)
            case Activations():
                seen = said
            case importance.Importance():
                write = importance.write if form == "gguf" else importance.write_dat
                write(said, out)
                _note_left_out(imatrix.left_out(said, gguf_header.read(plan.path)))
    assert seen is not None
    if call_weight != 1 and not seen.n_call_tokens:
        click.echo("note: no tool call of the model was found to weight", err=True)
    if not as_json:
        click.echo(str(out))
        return
    record = {
        "path": str(out),
        "n_weights": len(seen.sums),
        "n_chunks": seen.n_chunks,
        "n_tokens": seen.n_tokens,
        "n_call_tokens": seen.n_call_tokens,
        "cpu_s": round(seen.cpu_s, 3),
    }
    click.echo(json.dumps(record))


def _note_left_out(names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        click.echo(plain(f"note: nothing was collected for {names[0]}{more}"), err=True)


def _draw(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        click.echo(f"\r{done:,} of {total:,} tokens", err=True, nl=bool(end))
