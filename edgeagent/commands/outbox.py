"""`edgeagent outbox`: hard turns that were asked while no larger model was in reach."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from contextlib import closing

import click

from edgeagent import config, reach, wiring
from edgeagent.commands import opening
from edgeagent.commands.run import approver, show
from edgeagent.commands.terminal import can_ask, plain
from edgeagent.config import Config
from edgeagent.errors import ConfigError, RemoteError, UsageError
from edgeagent.events import TurnEnded
from edgeagent.store import OutboxRow, Store, title_of


@click.group("outbox")
def command() -> None:
    """Turns that wait for the larger model."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_(as_json: bool) -> None:
    """Print the turns that wait, oldest first."""
    with closing(wiring.open_store()) as store:
        rows = store.outbox()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
        return
    for row in rows:
        added = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.added_at))
        line = f"{row.id:>3}  {added}  {row.session_id}  {row.cause}  {title_of(row.text)}"
        click.echo(plain(line))


@command.command("drop")
@click.argument("entries", metavar="ID…", type=int, nargs=-1, required=True)
def drop(entries: tuple[int, ...]) -> None:
    """Take turns out of the outbox without sending them."""
    with closing(wiring.open_store()) as store:
        for entry in entries:
            store.outbox_done(entry, "dropped")


@command.command("replay")
@click.argument("entries", metavar="[ID…]", type=int, nargs=-1)
@click.option("--yes", is_flag=True, help="Send without asking.")
@click.option("--allow-writes", is_flag=True, help="Let tools change things; refused otherwise.")
def replay(entries: tuple[int, ...], yes: bool, allow_writes: bool) -> int:
    """Ask the larger model what could not be asked before; all turns unless IDs are given.

    Each turn continues in a session of its own, copied from the moment the message was written,
    so the local answer and what followed it stay as they are.
    """
    settings = config.load({"defer.mode": "auto"})
    if settings.offline or settings.remote.base_url is None:
        raise ConfigError(
            "replaying needs the larger model: set DEFER_BASE_URL and leave --offline out"
        )
    with closing(wiring.open_store()) as store:
        rows = _wanted(store.outbox(), entries)
        if not rows:
            click.echo("the outbox is empty", err=True)
            return 0
        if not (yes or _is_allowed(rows, settings)):
            return 2
        if problem := _probe(settings):
            raise problem
        results = [_replay(store, row, settings, allow_writes) for row in rows]
    return 0 if all(results) else 1


def _wanted(rows: list[OutboxRow], entries: tuple[int, ...]) -> list[OutboxRow]:
    waiting = {row.id for row in rows}
    if missing := [entry for entry in entries if entry not in waiting]:
        raise UsageError(
            f"no outbox entry {missing[0]} is waiting; list them with: edgeagent outbox list"
        )
    return [row for row in rows if row.id in entries or not entries]


def _is_allowed(rows: list[OutboxRow], settings: Config) -> bool:
    for row in rows:
        click.echo(plain(f"{row.id:>3}  {row.session_id}  {title_of(row.text)}"), err=True)
    if not can_ask():
        click.echo("edgeagent: nobody can be asked here; --yes sends them", err=True)
        return False
    return click.confirm(
        f"Send these {len(rows)} conversations to {settings.remote.base_url}?", err=True
    )


def _probe(settings: Config) -> RemoteError | None:
    """Ask whether the server is there before a session is copied for nothing."""
    assert settings.remote.base_url is not None
    key = settings.remote.api_key.get_secret_value() if settings.remote.api_key else None
    url = settings.remote.base_url.rstrip("/") + "/models"
    return reach.probe(url, key, settings.remote.connect_s)


def _replay(store: Store, row: OutboxRow, settings: Config, allow_writes: bool) -> bool:
    origin = store.session(row.session_id)
    fork = store.fork(row.session_id, row.turn_seq)
    chosen = opening.Opening(
        settings.model_copy(
            update={"model": settings.model.model_copy(update={"name": origin.model})}
        ),
        origin.scenario,
        fork,
    )
    click.echo(plain(f"> {row.text}"), err=True)
    ended = False
    with closing(opening.open_session(chosen)) as session:
        for event in session.replay(row, threading.Event(), approver(allow_writes)):
            show(event)
            ended = isinstance(event, TurnEnded)
    if ended:
        click.echo(f"(go on with: edgeagent --resume {fork})", err=True)
    return ended
