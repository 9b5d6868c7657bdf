"""What runs in worker threads: opening a session, and one turn.

Touches no widget: everything goes out through `post`, which must be safe to call from a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TypeAlias

from textual.message import Message

from edgeagent.errors import EdgeAgentError
from edgeagent.events import ApprovalNeeded, Decision, Event, Prefilled, Token, TurnFailed
from edgeagent.tui.ports import Choice, Ports, SessionLike
from edgeagent.tui.posts import Happened, OpeningFailed, SessionOpened, Work, WorkOver

Post: TypeAlias = Callable[[Message], object]

PERIOD_S = 0.1
"""Progress reaches the screen this often at most: drawing takes the cores that decode."""


def open_session(
    ports: Ports, choice: Choice, left: SessionLike | None, work: Work, post: Post
) -> None:
    """Close the session that is left, open the chosen one and warm it up."""
    try:
        if left is not None:
            left.close()
        session = ports.open_session(choice)
        n_recovered = len(session.recover())
        post(SessionOpened(session, session.events(), n_recovered))
        for progress in throttled(session.warm(work.cancel)):
            post(Happened(work, progress))
    except EdgeAgentError as error:
        post(OpeningFailed(str(error)))
    post(WorkOver(work))


def run_turn(session: SessionLike, text: str, work: Work, post: Post) -> None:
    """Post every event of one turn, asking through the slot that `ApprovalNeeded` carries."""

    def approve(needed: ApprovalNeeded) -> Decision:
        if work.cancel.is_set() or work.slot is None:
            return Decision.REFUSE
        return work.slot.get()

    try:
        for event in throttled(session.turn(text, work.cancel, approve)):
            if isinstance(event, ApprovalNeeded):
                work.slot = SimpleQueue()
                post(Happened(work, event, work.slot))
            else:
                post(Happened(work, event))
    except EdgeAgentError as error:
        post(Happened(work, TurnFailed(str(error))))
    post(WorkOver(work))


def throttled(events: Iterable[Event], period_s: float = PERIOD_S) -> Iterator[Event]:
    """Yield `events` with progress thinned out: tokens joined, overtaken prefill reports left out.

    Order is kept, no text is lost, and whatever is not progress is yielded at once.
    """
    held: Token | Prefilled | None = None
    shown_at = float("-inf")
    for event in events:
        if isinstance(event, Token) and isinstance(held, Token):
            held = Token(held.text + event.text)
        elif isinstance(event, Prefilled) and isinstance(held, Prefilled):
            held = event
        else:
            if held is not None:
                yield held
            held = None
            if not isinstance(event, Token | Prefilled):
                yield event
                continue
            held = event
        if time.monotonic() - shown_at >= period_s:
            yield held
            held, shown_at = None, time.monotonic()
    if held is not None:
        yield held
