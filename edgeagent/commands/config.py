"""`edgeagent config`: the settings in force, and which source each one came from."""

from __future__ import annotations

import json
from typing import Any

import click
from pydantic import SecretStr

from edgeagent import config, paths


@click.group("config")
def command() -> None:
    """Show the settings and where they come from."""


@command.command("path")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def path(as_json: bool) -> None:
    """Print the settings file, which need not exist, and the folders in use."""
    folders = {
        "config": str(paths.config_file()),
        "data": str(paths.data_dir()),
        "cache": str(paths.cache_dir()),
        "state": str(paths.state_dir()),
    }
    if as_json:
        click.echo(json.dumps(folders))
    else:
        for name, folder in folders.items():
            click.echo(f"{name:<7} {folder}")


@command.command("show")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(as_json: bool) -> None:
    """Print every setting, its value and its source; secrets stay hidden."""
    stack = config.layers({})
    rows = [(key, value, config.origin(key, stack)) for key, value in flat(config.resolve(stack))]
    if as_json:
        table = {key: {"value": value, "source": source} for key, value, source in rows}
        click.echo(json.dumps(table))
    else:
        for key, value, source in rows:
            click.echo(f"{key} = {json.dumps(value, ensure_ascii=False)}  # {source}")


def flat(settings: config.Config) -> list[tuple[str, Any]]:
    """Return every setting by its dotted key, secrets as asterisks."""
    rows: list[tuple[str, Any]] = []
    for name, value in settings:
        pairs = (
            [(f"{name}.{key}", inner) for key, inner in value]
            if hasattr(value, "model_fields_set")
            else [(name, value)]
        )
        rows += [(key, str(v) if isinstance(v, SecretStr) else v) for key, v in pairs]
    return rows
