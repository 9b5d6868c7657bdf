"""`edgeagent models`: which models there are, fetched, checked and removed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from edgeagent import catalog, config, hub, manifest
from edgeagent.commands.terminal import plain
from edgeagent.errors import ConfigError


@click.group("models")
def command() -> None:
    """List, fetch, show, check and remove models.

    A model is a name from the list, NAME:QUANT, a GGUF file, or OWNER/NAME[:QUANT] once fetched.
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_(as_json: bool) -> None:
    """Print every model that is known, those on this machine first."""
    rows = catalog.listing()
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], default=str))
        return
    for row in rows:
        size = f"{row.size_bytes / 1e6:,.1f} MB" if row.size_bytes else ""
        click.echo(plain(f"{row.name:<34} {row.quant:<7} {size:>12}  {row.title}"))
        if row.fetch:
            click.echo(f"    not here: {row.fetch}")


@command.command("pull")
@click.argument("repo", metavar="REPO[:QUANT]")
@click.option("--offline", is_flag=True, default=None, help="Refuse instead of fetching.")
def pull(repo: str, offline: bool | None) -> None:
    """Fetch a GGUF file from the hub; Q4_K_M, or the first, where no QUANT is given.

    REPO is OWNER/NAME, or the name of a model that the list gives a repository for. A download
    that broke off goes on where it stopped.
    """
    bare, _, quant = repo.partition(":")
    known = catalog.find_manifest(bare)
    if known is not None and known.origin is not None and known.origin.format == "gguf":
        bare = known.origin.repo
    is_offline = config.load({"offline": offline}).offline
    with shown(bare) as progress:
        path = hub.pull(bare, quant, progress, offline=is_offline)
    click.echo(str(path))


@command.command("show")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(model: str, as_json: bool) -> None:
    """Print what is known of a model: its file, licence, dialect and measured numbers."""
    found = catalog.resolve(model)
    if as_json:
        record = {
            "path": str(found.path),
            "quant": found.quant,
            "source": found.source,
            "manifest": found.manifest.model_dump(),
        }
        click.echo(json.dumps(record))
        return
    click.echo(plain(f"file = {found.path}\nfrom = {found.source}\nquant = {found.quant}"))
    click.echo(plain(manifest.to_toml(found.manifest)), nl=False)


@command.command("verify")
@click.argument("model")
def verify(model: str) -> None:
    """Check that a model's file is whole and is the one that was published."""
    found = catalog.resolve(model)
    held_against = catalog.verify(found)
    checked = f"sha256 {held_against}" if held_against else "whole; no published sha256 is known"
    click.echo(f"{found.path}: {checked}")


@command.command("rm")
@click.argument("model")
def rm(model: str) -> None:
    """Delete a model's file from this machine; a file that was added only loses its name."""
    found = catalog.resolve(model)
    freed = catalog.remove(found)
    click.echo(f"{found.path}: removed, {freed / 1e6:,.1f} MB freed")


@command.command("add")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="What `-m` will call it; may be one of the list.")
@click.option("--title", help="One line for the list.")
def add(file: Path, name: str, title: str | None) -> None:
    """Give a GGUF file a name: write its type, bytes and sha256 into a manifest of your own.

    A name from the list lends its prompt settings to the file.
    """
    from convert.manifest_entry import with_build  # 150 ms: gguf and numpy

    if Path(name).name != name or ":" in name:
        raise ConfigError(f"{name!r} cannot be a model's name: leave out slashes and colons")
    loose = manifest.DEFAULT.model_copy(update={"name": name, "title": file.stem})
    found = catalog.find_manifest(name) or loose
    if title is not None:
        found = found.model_copy(update={"title": title})
    target = catalog.own_folder() / f"{name}.toml"
    changed = with_build(found, file, str(file.resolve()))
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    manifest.write(changed, target)
    click.echo(str(target))


@contextmanager
def shown(label: str) -> Iterator[hub.Progress]:
    """Give a progress that a terminal shows as one line, and nothing else sees."""
    is_drawn = False

    def draw(done: int, total: int) -> None:
        nonlocal is_drawn
        if sys.stderr.isatty():
            is_drawn = True
            click.echo(f"\r{label}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", err=True, nl=False)

    try:
        yield draw
    finally:
        if is_drawn:
            click.echo(err=True)
