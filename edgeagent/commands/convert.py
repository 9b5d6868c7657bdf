"""`edgeagent convert`: a Hugging Face checkpoint to one GGUF file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeagent import catalog, config, hub
from edgeagent.commands.models import shown
from edgeagent.commands.terminal import plain
from edgeagent.commands.writing import (
    FILE,
    check_manifest,
    enter,
    manifest_option,
    type_options,
    write,
)
from edgeagent.errors import ModelNotFound

if TYPE_CHECKING:
    from convert.wish import Wish

OWN_TYPES = ("kind", "tensor_types", "head_type", "embedding_type", "is_pure")
"""Options that say what `--for` is to find out."""


@click.command("convert")
@click.argument("source", metavar="SRC")
@click.argument("out", type=FILE, required=False)
@click.option(
    "--type", "kind", default="q8_0", show_default=True, metavar="TYPE",
    help="Any that llama.cpp has: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0, iq4_xs ….",
)  # fmt: skip
@type_options
@click.option(
    "--for",
    "target",
    type=click.Choice(["pi5", "pi4", "laptop"]),
    help="Choose the type for a device with --ram, and say why.",
)
@click.option("--ram", metavar="SIZE", help="Memory of that device: 2GB, 4G, 8192M.")
@click.option(
    "--context",
    "n_context",
    type=click.IntRange(min=256),
    metavar="N",
    help="Tokens that have to fit there too; else 8192, or fewer where that is too many.",
)
@manifest_option
@click.option(
    "--lora", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Adapter to merge into the weights on their way.",
)  # fmt: skip
@click.option("--name", default="", help="What the file calls the model; else its card does.")
@click.option("--offline", is_flag=True, default=None, help="Open no socket at all.")
@click.pass_context
def command(
    context: click.Context,
    /,
    source: str,
    out: Path | None,
    kind: str,
    offline: bool | None,
    target: str | None,
    ram: str | None,
    n_context: int | None,
    manifest_file: Path | None,
    **options: Any,
) -> None:
    """Convert SRC to the GGUF file OUT, in one pass and in any type.

    SRC is a checkpoint's folder, its OWNER/NAME[@REVISION] on the hub, or a model's name from
    `edgeagent models list`; for the last, OUT may be left out. OUT appears only when it is whole.
    """
    from convert.hf_to_gguf import convert  # 150 ms: gguf and numpy
    from convert.wish import wish

    known = catalog.find_manifest(source)
    if out is None and known is None:
        raise click.UsageError("name the file to write: edgeagent convert SRC OUT")
    _check_device(context, target, ram, n_context)
    check_manifest(manifest_file)
    wished = wish(kind, **options)
    name = source
    if known is not None and known.origin is not None:
        pinned = f"@{known.origin.revision}" if known.origin.revision else ""
        source = known.origin.repo + pinned
    folder = Path(source)
    if not folder.is_dir():
        folder = _fetched(source, is_offline=config.load({"offline": offline}).offline)
    if target is not None and ram is not None:
        wished = _chosen(folder, wished, target, ram, n_context)
    out = out or catalog.own_folder() / f"{name}-{wished.choice.kind}.gguf"
    write(out, convert(folder, out, wished))
    enter(manifest_file, out, wished, folder)


def _check_device(
    context: click.Context, target: str | None, ram: str | None, n_context: int | None
) -> None:
    """Return if the options for a device belong together."""
    if (target is None) != (ram is None) or (target is None and n_context is not None):
        raise click.UsageError("--for TARGET and --ram SIZE go together; --context needs both")
    given = [
        name
        for name in OWN_TYPES
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if target is not None and given:
        raise click.UsageError("--for chooses the types itself; leave out the options for types")


def _chosen(folder: Path, wished: Wish, target: str, ram: str, n_context: int | None) -> Wish:
    """Return the wish in the best type for the device; say why on stderr."""
    from convert import devices
    from convert.hf_to_gguf import sizes

    ram_bytes, device = devices.ram_size(ram), devices.Target(target)
    ranked = devices.choose(
        sizes(folder, wished.adapter), device, ram_bytes, n_context, wished.important
    )
    for line in devices.explanation(ranked, device, ram_bytes):
        click.echo(plain(line), err=True)
    return replace(wished, choice=ranked[0].choice)


def _fetched(source: str, is_offline: bool) -> Path:
    repo, _, revision = source.partition("@")
    if repo.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ModelNotFound(f"{source} is neither a folder nor OWNER/NAME on the hub")
    with shown(repo) as progress:
        return hub.pull_checkpoint(repo, revision or "main", progress, offline=is_offline)
