"""`edgeagent convert`: a Hugging Face checkpoint to one GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from edgeagent import catalog, config, hub
from edgeagent.commands.models import shown
from edgeagent.errors import ModelNotFound

TYPES = ("f32", "f16", "bf16", "q8_0")


@click.command("convert")
@click.argument("source", metavar="SRC")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--type",
    "kind",
    type=click.Choice(TYPES),
    default="q8_0",
    show_default=True,
    help="Type of the large tensors.",
)
@click.option("--name", default="", help="What the file calls the model; else its card does.")
@click.option("--offline", is_flag=True, default=None, help="Open no socket at all.")
def command(source: str, out: Path | None, kind: str, name: str, offline: bool | None) -> None:
    """Convert SRC to the GGUF file OUT.

    SRC is a checkpoint's folder, its OWNER/NAME[@REVISION] on the hub, or a model's name from
    `edgeagent models list`; for the last, OUT may be left out. OUT appears only when it is whole.
    """
    from convert import hf_to_gguf  # 150 ms: gguf and numpy

    known = catalog.find_manifest(source)
    if out is None and known is None:
        raise click.UsageError("name the file to write: edgeagent convert SRC OUT")
    out = out or catalog.own_folder() / f"{source}-{kind}.gguf"
    if known is not None and known.origin is not None:
        source = known.origin.repo
    folder = Path(source)
    if not folder.is_dir():
        folder = _fetched(source, is_offline=config.load({"offline": offline}).offline)
    out.parent.mkdir(parents=True, exist_ok=True)
    with shown(out.name) as progress:
        for step in hf_to_gguf.convert(folder, out, hf_to_gguf.Type(kind), name):
            match step:
                case hf_to_gguf.Noted(text=note):
                    click.echo(f"note: {note}", err=True)
                case hf_to_gguf.Converted(done_bytes=done, total_bytes=total):
                    progress(done, total)
    click.echo(str(out))


def _fetched(source: str, is_offline: bool) -> Path:
    repo, _, revision = source.partition("@")
    if repo.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ModelNotFound(f"{source} is neither a folder nor OWNER/NAME on the hub")
    with shown(repo) as progress:
        return hub.pull_checkpoint(repo, revision or "main", progress, offline=is_offline)
