"""Which session a verb opens: the options that `chat` and `run` share, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from edgeagent import config, paths, wiring
from edgeagent.config import Config
from edgeagent.scenarios import library
from edgeagent.session import Session
from edgeagent.store import SessionRow

DEFAULT_SCENARIO = "airline"
Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Opening:
    """Everything that decides which session is opened, and how."""

    settings: Config
    scenario: str
    """Name, or absolute path of a folder."""
    resume: str | None = None
    """Whole id of the session to continue; None begins a new one."""


def options(function: Function) -> Function:
    """Add the options that choose model, scenario and session."""
    for option in reversed(
        [
            click.option("-m", "--model", help="Name, name:QUANT, a file, or http://host/v1."),
            click.option("--scenario", help="A scenario's name, or a folder of one's own."),
            click.option("-c", "--continue", "is_continued", is_flag=True,
                         help="Go on with the session used last."),
            click.option("--resume", metavar="ID", help="Go on with that session."),
            click.option("--offline", is_flag=True, default=None, help="Open no socket at all."),
            click.option("--defer", type=click.Choice(["auto", "ask", "never"]),
                         help="Whether hard turns may go to the larger model."),
        ]
    ):  # fmt: skip
        function = option(function)
    return function


def choose(
    model: str | None,
    scenario: str | None,
    is_continued: bool,
    resume: str | None,
    flags: dict[str, object],
) -> Opening:
    """Return what the options amount to; `flags` are further settings by their dotted keys.

    A resumed session keeps its scenario, and its model unless `-m` names another.

    Raises:
        UsageError: there is no such session, or it belongs to another scenario.
    """
    ref = _ref(scenario) if scenario else None
    row = _past(ref, is_continued, resume)
    if row is not None and ref is not None and ref != row.scenario:
        raise click.UsageError(f"session {row.id} serves {row.scenario!r}, not {ref!r}")
    flags["model.name"] = model or (row.model if row else None)
    return Opening(
        config.load(flags),
        row.scenario if row else ref or DEFAULT_SCENARIO,
        row.id if row else None,
    )


def open_session(opening: Opening, *, is_parking: bool = False) -> Session:
    """Return the session, nothing loaded yet; `wiring.open_session` says the rest."""
    scenario = library.load(opening.scenario, paths.data_dir())
    return wiring.open_session(
        opening.settings, scenario, opening.scenario, opening.resume, is_parking=is_parking
    )


def _ref(scenario: str) -> str:
    is_folder = scenario not in library.names() and Path(scenario).is_dir()
    return str(Path(scenario).resolve()) if is_folder else scenario


def _past(ref: str | None, is_continued: bool, resume: str | None) -> SessionRow | None:
    if resume is None and not is_continued:
        return None
    if resume is not None and is_continued:
        raise click.UsageError("-c and --resume both name a session; give one of them")
    with closing(wiring.open_store()) as store:
        if resume is not None:
            return store.session(resume)
        used = (row for row in store.sessions() if row.n_turns and ref in (None, row.scenario))
        row = next(used, None)
    if row is None:
        raise click.UsageError("there is no session to go on with; start without -c")
    return row
