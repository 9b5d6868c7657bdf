"""`edgeagent chat`: hands the app what it needs from outside, and says how to come back."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from edgeagent import catalog, paths, wiring
from edgeagent.commands import comparisons, opening
from edgeagent.commands.config import flat
from edgeagent.commands.terminal import can_ask
from edgeagent.config import Config
from edgeagent.errors import StoreError, UsageError
from edgeagent.scenarios import library
from edgeagent.session import Session
from edgeagent.tui.ports import Choice, Comparison, Flip, Option, Ports


@click.command("chat")
@opening.options
def command(
    model: str | None,
    scenario: str | None,
    is_continued: bool,
    resume: str | None,
    offline: bool | None,
    defer: str | None,
) -> int:
    """Open the app; `edgeagent` alone does the same."""
    if not (can_ask() and sys.stdout is not None and sys.stdout.isatty()):
        raise click.UsageError(
            "the app needs a terminal; without one use: edgeagent run -p TEXT (see run --help)"
        )
    flags: dict[str, object] = {"offline": offline, "defer.mode": defer}
    chosen = opening.choose(model, scenario, is_continued, resume, flags)
    from edgeagent.tui import app  # 350 ms of Textual, wasted where there is no terminal

    choice = Choice(
        chosen.settings.model.name, chosen.scenario, chosen.resume, chosen.settings.offline
    )
    left = app.run(ports(chosen.settings), choice)
    if left.session_id:
        click.echo(f"Go on with: edgeagent --resume {left.session_id}")
    return left.exit_code


def ports(settings: Config) -> Ports:
    """Return the app's collaborators."""
    return Ports(
        open_session=_opener(settings),
        models=_models,
        scenarios=_scenarios,
        sessions=_sessions,
        export=_export,
        comparisons=_comparisons,
        comparison=_comparison,
        settings=tuple((key, json.dumps(value)) for key, value in flat(settings)),
        config_path=str(paths.config_file()),
        theme=settings.ui.theme,
        keymap=settings.ui.keymap,
    )


def _opener(settings: Config) -> Callable[[Choice], Session]:
    def open_session(choice: Choice) -> Session:
        chosen = settings.model_copy(
            update={
                "model": settings.model.model_copy(update={"name": choice.model}),
                "offline": choice.offline,
            }
        )
        session = opening.open_session(
            opening.Opening(chosen, choice.scenario, choice.resume), is_parking=True
        )
        try:
            session.start()
        except BaseException:
            session.close()
            raise
        return session

    return open_session


def _models() -> Sequence[Option]:
    return [
        Option(row.name, (row.name, row.quant, row.title if row.path else f"fetch: {row.fetch}"))
        for row in catalog.listing()
    ]


def _scenarios() -> Sequence[Option]:
    return [Option(name, (name,)) for name in library.names()]


def _sessions() -> Sequence[Option]:
    with closing(wiring.open_store()) as store:
        rows = [row for row in store.sessions() if row.n_turns]
    return [
        Option(
            row.id,
            (
                time.strftime("%Y-%m-%d %H:%M", time.localtime(row.used_at)),
                row.title,
                "1 turn" if row.n_turns == 1 else f"{row.n_turns} turns",
                Path(row.scenario).name,
                row.model,
            ),
            row.scenario,
        )
        for row in rows
    ]


def _comparisons() -> Sequence[Option]:
    made = []
    for folder in comparisons.folders():
        when = (folder / comparisons.REPORT).stat().st_mtime
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
        made.append(Option(str(folder), (day, folder.name, str(folder.parent))))
    return made


def _comparison(folder: str) -> Comparison:
    found = comparisons.read(Path(folder).expanduser())
    try:
        return _as_shown(found)
    except (KeyError, TypeError, AttributeError) as exc:
        raise UsageError(f"{folder} holds a report that cannot be shown: {exc!r}") from exc


def _as_shown(found: Mapping[str, Any]) -> Comparison:
    return Comparison(
        title=f"Builds against {found['base']}",
        base=found["base"],
        columns=tuple((one["title"], one["about"]) for one in found["table"]["columns"]),
        rows=tuple(tuple(row) for row in found["table"]["rows"]),
        flips=tuple(_flip(flip, found) for flip in found["flips"]),
        notes=tuple(found["notes"]),
    )


def _flip(flip: Mapping[str, Any], found: Mapping[str, Any]) -> Flip:
    is_tool = flip["score"] == "name"
    prompt = found["prompts"].get(flip["suite"], {}).get(flip["id"], "")
    return Flip(
        flip["build"],
        f"{flip['suite']} {flip['id']}",
        ("lost" if flip["is_lost"] else "gained") + (", the tool" if is_tool else ""),
        prompt.strip().rpartition("\n")[2] or flip["reference"],
        (
            ("prompt's end", prompt),
            ("should be", flip["reference"]),
            (f"{found['base']}, the base", flip["base"]),
            (flip["build"], flip["prediction"]),
        ),
    )


def _export(session_id: str) -> str:
    file = Path.cwd() / f"edgeagent-{session_id}.json"
    with closing(wiring.open_store()) as store:
        text = json.dumps(store.export(session_id), indent=2)
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as exc:
        raise StoreError(f"cannot write {file}: {exc.strerror}; start in another folder") from exc
    return str(file)
