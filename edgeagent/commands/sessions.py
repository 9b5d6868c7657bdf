"""`edgeagent sessions`: what was said and done, as a list, as text, as JSON."""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import closing
from pathlib import Path

import click

from edgeagent import ledger, wiring
from edgeagent.commands.terminal import plain
from edgeagent.errors import UsageError
from edgeagent.events import (
    Answered,
    Deferred,
    Event,
    RemoteFailed,
    Tier,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnFailed,
    TurnStarted,
)
from edgeagent.messages import RESPOND


@click.group("sessions")
def command() -> None:
    """List, show and export conversations."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_(as_json: bool) -> None:
    """Print the sessions in which something was said, the one used last first."""
    with closing(wiring.open_store()) as store:
        rows = [row for row in store.sessions() if row.n_turns]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
        return
    for row in rows:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.used_at))
        turns = f"{row.n_turns} turn{'' if row.n_turns == 1 else 's'}"
        name = f"{Path(row.scenario).name}, {row.model}"
        click.echo(plain(f"{row.id}  {used}  {turns:>9}  {name}  {row.title}"))


@command.command("show")
@click.argument("session", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON document: the session's events.")
def show(session: str, as_json: bool) -> None:
    """Print a session as it was told; the beginning of its ID is enough."""
    with closing(wiring.open_store()) as store:
        row = store.session(session)
        if as_json:
            click.echo(json.dumps(store.export(row.id)))
            return
        events = store.events(row.id)
    for event in events:
        if line := _line(event):
            click.echo(plain(line))
    click.echo(f"\n{_account(ledger.rows(events))}")


@command.command("export")
@click.argument("session", metavar="ID")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file; else stdout.")
@click.option("--json", "as_json", is_flag=True, help="Without line breaks.")
def export(session: str, output: Path | None, as_json: bool) -> None:
    """Write everything that is stored of a session as JSON."""
    with closing(wiring.open_store()) as store:
        text = json.dumps(store.export(session), indent=None if as_json else 2) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"cannot write the session to {output}: {exc.strerror}") from exc
    click.echo(f"wrote {output}", err=True)


def _account(steps: list[ledger.Row]) -> str:
    """Return what the session cost, in a line."""
    n_remote = sum(step.tier is Tier.REMOTE for step in steps)
    sent = sum(step.usage.bytes_sent for step in steps)
    cost = sum(step.usage.cost_usd for step in steps)
    seconds = sum(step.ms for step in steps) / 1000
    return (
        f"{len(steps)} steps in {seconds:.1f} s, {n_remote} of them by the larger model: "
        f"{sent} bytes sent, {cost:.4f} US dollars"
    )


def _line(event: Event) -> str:
    match event:
        case TurnStarted(text):
            return f"\n> {text}"
        case ToolCalled(call, tier) if call.name != RESPOND:
            return f"  [{tier.value}] {call.name} {json.dumps(dict(call.arguments))}"
        case ToolReturned(_, name, content, is_error) if name != RESPOND:
            return f"    {'failed' if is_error else 'gave'} {content}"
        case Deferred(reason, to, cause):
            return f"  deferred to {to} ({cause}): {reason}"
        case RemoteFailed(kind, detail):
            return f"  the larger model failed, {kind}: {detail}"
        case Answered(text, tier):
            return f"[{tier.value}] {text}"
        case TurnEnded(stop) if stop.value != "answered":
            return f"  ({stop.value})"
        case TurnFailed(error):
            return f"  (failed: {error})"
        case _:
            return ""
