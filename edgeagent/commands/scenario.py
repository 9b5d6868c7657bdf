"""`edgeagent scenario`: the desks that can be served, and the data behind them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import click

from edgeagent import paths
from edgeagent.commands.terminal import can_ask
from edgeagent.errors import ScenarioError
from edgeagent.scenarios import library
from edgeagent.scenarios.airline import backend, tau
from edgeagent.scenarios.database import Database


@click.group("scenario")
def command() -> None:
    """List the desks to serve, start one over, bring in data."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_(as_json: bool) -> None:
    """Print the scenarios that ship with the package; a folder of one's own needs no listing."""
    rows = [
        {"name": name, "data": str(library.data_file(name, paths.data_dir()))}
        for name in library.names()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['name']:<12} {row['data']}")


@command.command("reset")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Without asking.")
def reset(name: str, yes: bool) -> None:
    """Throw the scenario's data away, changes and all, and make it afresh."""
    if name not in library.names():
        raise ScenarioError(f"no scenario {name!r} has data; choose {', '.join(library.names())}")
    _confirm(f"Throw away {library.data_file(name, paths.data_dir())}?", yes)
    database = library.load(name, paths.data_dir()).backend
    assert isinstance(database, Database), "every built-in scenario has a database"
    with closing(database):
        database.reset()
    click.echo(f"{name} is as new", err=True)


@command.command("import-tau")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--rules", type=click.Choice(["policy", "tau"]), default="policy", show_default=True,
    help="Which airline gets the data: ours, or the one that acts as tau-bench does.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Without asking.")
def import_tau(folder: Path, rules: library.Rules, yes: bool) -> None:
    """Replace the airline's data by tau-bench's: users.json, flights.json, reservations.json."""
    world = tau.import_tau(folder)
    file = library.data_file("airline", paths.data_dir(), rules)
    _confirm(f"Replace {file} by the data in {folder}?", yes)
    with closing(backend.open_world(world, rules, file)) as database:
        database.reset()
    click.echo(f"the airline ({rules}) has the data of {folder}", err=True)


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not can_ask():
        raise click.UsageError("nobody can be asked here; --yes goes ahead")
    click.confirm(question, abort=True, err=True)
