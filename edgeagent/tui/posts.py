"""What goes between the worker threads and the app.

Events wait in the queue of their work; a message wakes the app when one should be shown at once.
Progress wakes nobody: drawing takes the cores that decode, so the app looks ten times a second.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeAlias

from textual.message import Message

from edgeagent.events import Decision, Event
from edgeagent.tui.ports import SessionLike

Slot: TypeAlias = SimpleQueue[Decision]
"""Where the answer to one question goes; the worker thread waits on it."""


@dataclass(frozen=True, slots=True)
class Happening:
    """An event, and with `ApprovalNeeded` the slot for the answer."""

    event: Event
    slot: Slot | None = None


class Work:
    """What a worker thread is busy with, and the way to stop it."""

    def __init__(self, is_turn: bool) -> None:
        self.is_turn = is_turn
        """False while a session is being opened and warmed up."""
        self.cancel = threading.Event()
        self.happened: SimpleQueue[Happening] = SimpleQueue()
        self.slot: Slot | None = None
        """Of the question asked last."""

    def stop(self) -> None:
        """Cancel the work; a question that is open is answered with a refusal."""
        self.cancel.set()
        if self.slot is not None:
            self.slot.put(Decision.REFUSE)


@dataclass
class SessionOpened(Message):
    """A session is there and its history is read; the model may still be reading the policy."""

    session: SessionLike
    history: Sequence[Event]
    n_recovered: int
    """Events that closed what a crash had left open."""


@dataclass
class OpeningFailed(Message):
    """No session could be opened, or its model cannot run."""

    error: str


@dataclass
class Woken(Message):
    """Something happened that should be shown at once."""

    work: Work


class Prepared(Message):
    """The model has read what is certain of the next message, or was stopped."""


class WorkOver(Message):
    """The worker thread has come to its end; there is one at a time."""
