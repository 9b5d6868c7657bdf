"""`edgeagent convert`: a Hugging Face checkpoint to one GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeagent import catalog, config, hub
from edgeagent.commands.models import shown
from edgeagent.commands.writing import FILE, type_options, write
from edgeagent.errors import ModelNotFound


@click.command("convert")
@click.argument("source", metavar="SRC")
@click.argument("out", type=FILE, required=False)
@click.option(
    "--type", "kind", default="q8_0", show_default=True, metavar="TYPE",
    help="Any that llama.cpp has: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0, iq4_xs ….",
)  # fmt: skip
@type_options
@click.option(
    "--lora", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Adapter to merge into the weights on their way.",
)  # fmt: skip
@click.option("--name", default="", help="What the file calls the model; else its card does.")
@click.option("--offline", is_flag=True, default=None, help="Open no socket at all.")
def command(source: str, out: Path | None, kind: str, offline: bool | None, **options: Any) -> None:
    """Convert SRC to the GGUF file OUT, in one pass and in any type.

    SRC is a checkpoint's folder, its OWNER/NAME[@REVISION] on the hub, or a model's name from
    `edgeagent models list`; for the last, OUT may be left out. OUT appears only when it is whole.
    """
    from convert.hf_to_gguf import convert  # 150 ms: gguf and numpy
    from convert.wish import wish

    known = catalog.find_manifest(source)
    if out is None and known is None:
        raise click.UsageError("name the file to write: edgeagent convert SRC OUT")
    wished = wish(kind, **options)
    out = out or catalog.own_folder() / f"{source}-{wished.choice.kind}.gguf"
    if known is not None and known.origin is not None:
        source = known.origin.repo
    folder = Path(source)
    if not folder.is_dir():
        folder = _fetched(source, is_offline=config.load({"offline": offline}).offline)
    write(out, convert(folder, out, wished))


def _fetched(source: str, is_offline: bool) -> Path:
    repo, _, revision = source.partition("@")
    if repo.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ModelNotFound(f"{source} is neither a folder nor OWNER/NAME on the hub")
    with shown(repo) as progress:
        return hub.pull_checkpoint(repo, revision or "main", progress, offline=is_offline)
