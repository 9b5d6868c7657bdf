"""`edgeagent quantize`: a GGUF file to a GGUF file of another type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeagent import catalog
from edgeagent.commands.writing import (
    FILE,
    check_manifest,
    enter,
    manifest_option,
    type_options,
    write,
)


@click.command("quantize")
@click.argument("source", metavar="IN")
@click.argument("out", type=FILE)
@click.argument("kind", metavar="TYPE")
@type_options
@manifest_option
@click.option("--name", default="", help="What the new file calls the model.")
@click.option(
    "--allow-requantize", "may_requantize", is_flag=True,
    help="Quantize weights that are quantized already; they lose twice.",
)  # fmt: skip
def command(source: str, out: Path, kind: str, manifest_file: Path | None, **options: Any) -> None:
    """Write the GGUF file IN, a path or a model's name, to OUT in TYPE, such as q4_k_m.

    Metadata is carried over. OUT appears only when it is whole.
    """
    from convert.quantize import quantize  # 150 ms: gguf and numpy
    from convert.wish import wish

    check_manifest(manifest_file)
    path = catalog.resolve(source).path
    wished = wish(kind, **options)
    write(out, quantize(path, out, wished))
    enter(manifest_file, out, wished, path)
