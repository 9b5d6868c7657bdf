"""Messages from the worker threads to the app.

Each message of a turn carries the work it belongs to, so that what still arrives from work that
was cancelled or left behind can be told apart.
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


class Work:
    """What a worker thread is busy with, and the way to stop it."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
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
class Happened(Message):
    """Something happened in the turn, or while the session was warming up."""

    work: Work
    event: Event
    slot: Slot | None = None
    """Set with `ApprovalNeeded`."""


@dataclass
class WorkOver(Message):
    """The worker thread has come to its end."""

    work: Work
