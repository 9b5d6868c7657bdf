"""What runs in worker threads: opening a session, and one turn.

Touches no widget: events go into the work's queue, and `post` must be safe to call from a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeAlias

from textual.message import Message

from edgeagent.errors import EdgeAgentError
from edgeagent.events import TRANSIENT, ApprovalNeeded, Decision, Prefilled, Token, TurnFailed
from edgeagent.tui.ports import Choice, Ports, SessionLike
from edgeagent.tui.posts import (
    Happening,
    OpeningFailed,
    Prepared,
    SessionOpened,
    Woken,
    Work,
    WorkOver,
)

Post: TypeAlias = Callable[[Message], object]


def open_session(
    ports: Ports, choice: Choice, left: SessionLike | None, work: Work, post: Post
) -> None:
    """Close the session that is left, open the chosen one and warm it up."""
    try:
        if left is not None:
            left.close()
        session = ports.open_session(choice)
        if work.cancel.is_set():  # the person left, or chose another one meanwhile
            session.close()
            post(OpeningFailed(f"loading {choice.model} was stopped"))
        else:
            _introduce(session, work, post)
    except EdgeAgentError as error:
        post(OpeningFailed(str(error)))
    post(WorkOver())


def _introduce(session: SessionLike, work: Work, post: Post) -> None:
    try:
        n_recovered = len(session.recover())
        history = session.events()
    except EdgeAgentError:
        session.close()
        raise
    post(SessionOpened(session, history, n_recovered))
    for progress in session.warm(work.cancel):
        work.happened.put(Happening(progress))


def run_turn(session: SessionLike, text: str, work: Work, post: Post) -> None:
    """Post every event of one turn, asking through the slot that `ApprovalNeeded` carries."""

    def approve(needed: ApprovalNeeded) -> Decision:
        if work.cancel.is_set() or work.slot is None:
            return Decision.REFUSE
        return work.slot.get()

    try:
        for event in session.turn(text, work.cancel, approve):
            if isinstance(event, ApprovalNeeded):
                work.slot = SimpleQueue()
                work.happened.put(Happening(event, work.slot))
            else:
                work.happened.put(Happening(event))
            if not isinstance(event, TRANSIENT):
                post(Woken(work))
    except EdgeAgentError as error:
        work.happened.put(Happening(TurnFailed(str(error))))
    post(WorkOver())


def prepare(session: SessionLike, typed: str, cancel: threading.Event, post: Post) -> None:
    """Have the model read what is certain of the next message."""
    session.prepare(typed, cancel)
    post(Prepared())


def caught_up(work: Work) -> Iterator[Happening]:
    """Yield what has happened since the last call: tokens joined, overtaken progress left out."""
    held: Happening | None = None
    for happening in _waiting(work.happened):
        match (held and held.event, happening.event):
            case (Token(begun), Token(text)):
                held = Happening(Token(begun + text))
            case (Prefilled(), Prefilled()):
                held = happening
            case _:
                if held is not None:
                    yield held
                held = happening
    if held is not None:
        yield held


def _waiting(queue: SimpleQueue[Happening]) -> Iterator[Happening]:
    while True:
        try:
            yield queue.get_nowait()
        except Empty:
            return
