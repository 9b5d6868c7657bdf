"""What the app needs from outside, as values and callables; whoever starts the app fills them in.

Knows no engine, store, catalogue or configuration file. Everything here may block: the app calls
it from a worker thread only, except `SessionLike.link_state` and the plain attributes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgeagent.events import ApprovalNeeded, Decision, Event, Prefilled
from edgeagent.link import LinkState
from edgeagent.messages import Tool


@dataclass(frozen=True, slots=True)
class Choice:
    """What a session is opened with."""

    model: str
    scenario: str
    resume: str | None = None
    """Session to continue; None begins a new one."""
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """One row of a list the person chooses from."""

    value: str
    columns: tuple[str, ...]
    """Texts shown side by side, the telling ones first: a narrow screen cuts the others."""
    scenario: str = ""
    """Of a session: what its scenario is opened by."""


@dataclass(frozen=True, slots=True)
class Flip:
    """An answer that is right in one of two builds."""

    build: str
    id: str
    kind: str
    """What happened to it, in two or three words."""
    told: str
    """What was asked last, for the list."""
    parts: tuple[tuple[str, str], ...]
    """Titles and texts: the prompt, what should be, what each build said."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished comparison of builds."""

    title: str
    base: str
    columns: tuple[tuple[str, str], ...]
    """Title and meaning of each."""
    rows: tuple[tuple[str, ...], ...]
    """A line per build, its label first."""
    flips: tuple[Flip, ...] = ()
    notes: tuple[str, ...] = ()


class Facts(Protocol):
    """What the status line says of a loaded model."""

    @property
    def name(self) -> str: ...
    @property
    def quant(self) -> str: ...
    @property
    def n_ctx(self) -> int: ...


class HasTools(Protocol):
    """Whom the customer talks to, as far as the app shows it."""

    @property
    def tools(self) -> tuple[Tool, ...]: ...


class SessionLike(Protocol):
    """A conversation with a model and a scenario behind it."""

    @property
    def session_id(self) -> str: ...
    @property
    def scenario_name(self) -> str: ...
    @property
    def title(self) -> str:
        """Of the scenario, for the head of the screen."""
        ...

    @property
    def greeting(self) -> str: ...
    @property
    def examples(self) -> tuple[str, ...]: ...
    @property
    def agent(self) -> HasTools: ...

    @property
    def facts(self) -> Facts | None: ...

    def link_state(self) -> tuple[LinkState, str]:
        """Return the link's state and its reason; never blocks."""
        ...

    def events(self) -> Sequence[Event]:
        """Return what is stored of the session, oldest first."""
        ...

    def recover(self) -> Sequence[Event]:
        """Close what a crash left open and return the events that did."""
        ...

    def warm(self, cancel: threading.Event) -> Iterator[Prefilled]:
        """Read the policy and tools into the context ahead of the first turn."""
        ...

    def prepare(self, typed: str, cancel: threading.Event) -> None:
        """Have the model read what is certain of the next message; blocks while it does."""
        ...

    def turn(
        self,
        text: str,
        cancel: threading.Event,
        approve: Callable[[ApprovalNeeded], Decision],
    ) -> Iterator[Event]:
        """Yield what happens until the turn is over."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """The app's collaborators."""

    open_session: Callable[[Choice], SessionLike]
    """Loads the model; seconds. Raises `EdgeAgentError` with what to do."""
    models: Callable[[], Sequence[Option]]
    scenarios: Callable[[], Sequence[Option]]
    sessions: Callable[[], Sequence[Option]]
    """Newest first."""
    export: Callable[[str], str]
    """Writes the session with that id to a file and returns its path."""
    comparisons: Callable[[], Sequence[Option]] = tuple
    """Finished comparisons of builds, newest first; the values are their folders."""
    comparison: Callable[[str], Comparison] | None = None
    """Reads the one in that folder. Raises `EdgeAgentError` where there is none."""
    settings: tuple[tuple[str, str], ...] = ()
    """Every setting in force and its value, secrets hidden."""
    config_path: str = ""
    theme: str = ""
    """Name of a theme; empty means ours."""
    keymap: Mapping[str, str] = field(default_factory=dict)
    """Binding id → keys, comma separated."""
