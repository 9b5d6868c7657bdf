"""`edgeagent inspect`: what a GGUF file holds, and whether an agent can use it."""

from __future__ import annotations

import dataclasses
import json

import click

from edgeagent import catalog
from edgeagent.commands.terminal import plain


@click.command("inspect")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, every tensor in it.")
def command(file: str, as_json: bool) -> None:
    """Show sizes, types, metadata, template and tool tokens of FILE, a path or a model's name."""
    from convert import inspect  # 150 ms: gguf and numpy

    found = inspect.inspect(catalog.resolve(file).path)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
        return
    click.echo(plain("\n".join(inspect.lines(found))))
