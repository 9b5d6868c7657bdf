"""`edgeagent convert`: a Hugging Face checkpoint to one GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from edgeagent import config, hub
from edgeagent.commands.models import shown
from edgeagent.errors import ModelNotFound

TYPES = ("f32", "f16", "bf16", "q8_0")


@click.command("convert")
@click.argument("source", metavar="SRC")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
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
def command(source: str, out: Path, kind: str, name: str, offline: bool | None) -> None:
    """Convert SRC, a checkpoint's folder or its OWNER/NAME[@REVISION] on the hub, to OUT.

    Reads safetensors and writes the file in one pass. OUT appears only when it is whole.
    """  # fmt: skip
    from convert import hf_to_gguf  # 150 ms: gguf and numpy

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
