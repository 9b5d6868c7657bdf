"""`edgeagent run`: turns without a screen, for scripts, services and pipes.

edgeagent run -p "Where is my bag?" --json
edgeagent run --allow-writes < messages.txt
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from types import FrameType

import click

from edgeagent import digest
from edgeagent.commands import opening
from edgeagent.commands.terminal import can_ask, plain
from edgeagent.errors import EdgeAgentError
from edgeagent.events import (
    Answered,
    ApprovalGiven,
    ApprovalNeeded,
    ContextTrimmed,
    Decision,
    Deferred,
    EngineRestarted,
    Event,
    Question,
    RemoteFailed,
    Stop,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnFailed,
)
from edgeagent.messages import RESPOND, Json
from edgeagent.session import Session

EXIT_CODES = {
    Stop.ANSWERED: 0,
    Stop.TRANSFERRED: 0,
    Stop.FAILED: 1,
    Stop.STEP_LIMIT: 3,
    Stop.CANCELLED: 130,
}
RESULT_LENGTH = 300
PAUSE_S = 0.1
"""Messages from a file follow each other faster; the model reads ahead when one is late."""


@click.command("run")
@click.option("-p", "--prompt", help="The message; without it, each line of stdin is one.")
@opening.options
@click.option("--json", "as_json", is_flag=True, help="One JSON document per turn on stdout.")
@click.option("--allow-writes", is_flag=True, help="Let tools change things; refused otherwise.")
@click.option("--max-steps", type=int, help="Calls in one turn.")
@click.option("--max-tokens", type=int, help="Tokens in one call.")
def command(
    prompt: str | None,
    model: str | None,
    scenario: str | None,
    is_continued: bool,
    resume: str | None,
    offline: bool | None,
    defer: str | None,
    as_json: bool,
    allow_writes: bool,
    max_steps: int | None,
    max_tokens: int | None,
) -> int:
    """Answer one message, or one per line of stdin, without a screen.

    Replies go to stdout, what the tools do goes to stderr. Exit codes: 0 done, 1 failed, 2 bad
    usage or configuration, 3 step limit, 130 interrupted.
    """
    texts = _texts(prompt)
    flags: dict[str, object] = {
        "offline": offline, "defer.mode": defer,
        "limits.max_steps": max_steps, "model.max_tokens": max_tokens,
    }  # fmt: skip
    chosen = opening.choose(model, scenario, is_continued, resume, flags)
    with closing(opening.open_session(chosen)) as session:
        for event in session.recover():
            _note_mended(event)
        session.start()
        interrupt = Interrupt()
        approve = approver(allow_writes)
        codes = [0]
        for text in _awaited(texts, session) if prompt is None else texts:
            stop = _take_turn(session, text, interrupt, approve, as_json)
            codes.append(EXIT_CODES[stop])
            if stop is Stop.CANCELLED:
                break
        if can_ask():
            click.echo(f"(go on with: edgeagent run --resume {session.session_id})", err=True)
    return next((code for code in (130, 1, 3) if code in codes), 0)


def _awaited(texts: Iterator[str], session: Session) -> Iterator[str]:
    """Yield the messages; while one is waited for, the model reads what is certain of it."""

    def prepare(stop: threading.Event) -> None:
        if not stop.wait(PAUSE_S):
            session.prepare("", stop)

    while True:
        stop = threading.Event()
        reader = threading.Thread(target=prepare, args=(stop,), daemon=True)
        reader.start()
        try:
            text = next(texts, None)
        finally:
            stop.set()
        reader.join()
        if text is None:
            return
        yield text


class Interrupt:
    """Ctrl-C: the first one ends the running turn and keeps what was said, the next the program."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self.is_in_turn = False
        signal.signal(signal.SIGINT, self._note)

    def _note(self, _: int, __: FrameType | None) -> None:
        if not self.is_in_turn or self.cancel.is_set():
            raise KeyboardInterrupt
        self.cancel.set()


def _texts(prompt: str | None) -> Iterator[str]:
    if prompt is not None:
        if not prompt.strip():
            raise click.UsageError("-p is empty; give it the customer's message")
        return iter([prompt])
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("no message: give -p TEXT, or one message per line on stdin")
    first = next(lines := _lines(), None)
    if first is None:
        raise click.UsageError("no message: -p is not given and stdin is empty")
    return _after(first, lines)


def _lines() -> Iterator[str]:
    for raw in sys.stdin.buffer:
        if line := raw.decode("utf-8", "replace").strip():
            yield line


def _after(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def approver(allow_writes: bool) -> Callable[[ApprovalNeeded], Decision]:
    """Return who answers in place of a person: writes only by flag, deferrals on a terminal."""

    def approve(asked: ApprovalNeeded) -> Decision:
        if asked.question is Question.WRITE:
            return Decision.ONCE if allow_writes else Decision.REFUSE
        if not can_ask():
            return Decision.REFUSE
        is_allowed = click.confirm(f"{plain(asked.detail)}\nSend it?", err=True)
        return Decision.ONCE if is_allowed else Decision.REFUSE

    return approve


def _take_turn(
    session: Session,
    text: str,
    interrupt: Interrupt,
    approve: Callable[[ApprovalNeeded], Decision],
    as_json: bool,
) -> Stop:
    seen: list[Event] = []
    interrupt.is_in_turn = True
    try:
        for event in session.turn(text, interrupt.cancel, approve):
            seen.append(event)
            if not as_json:
                show(event)
    except EdgeAgentError as exc:
        seen.append(TurnFailed(str(exc)))
        if as_json:
            _print(digest.of_turn(session.session_id, seen, session.agent.tools))
        raise
    finally:
        interrupt.is_in_turn = False
    if as_json:
        _print(digest.of_turn(session.session_id, seen, session.agent.tools))
    last = seen[-1]
    return last.stop if isinstance(last, TurnEnded) else Stop.FAILED


def _print(turn: Json) -> None:
    click.echo(json.dumps(turn))


def show(event: Event) -> None:
    """Print a reply to stdout and everything else that a person may want to know to stderr."""
    match event:
        case Answered(text):
            click.echo(plain(text))
        case ToolCalled(call) if call.name != RESPOND:
            _note(f"{call.name} {json.dumps(dict(call.arguments), ensure_ascii=False)}")
        case ToolReturned(_, name, content, is_error, ms) if name != RESPOND:
            shown = content if len(content) <= RESULT_LENGTH else content[:RESULT_LENGTH] + "…"
            _note(f"  {'failed' if is_error else 'gave'} {shown} ({ms:.0f} ms)")
        case ApprovalGiven(_, question, Decision.REFUSE):
            _note(
                "  refused: writes need --allow-writes"
                if question is Question.WRITE
                else "  refused: the turn stays on this machine"
            )
        case Deferred(reason, to, cause):
            _note(f"deferred to {to} ({cause}): {reason}")
        case RemoteFailed(kind, detail):
            _note(f"the larger model failed, {kind}: {detail}")
        case EngineRestarted(detail):
            _note(f"the engine was started again: {detail}")
        case ContextTrimmed(n_turns):
            _note(f"the oldest {n_turns} turns no longer fit and were left out")
        case TurnEnded(Stop.CANCELLED | Stop.STEP_LIMIT as stop):
            _note(f"the turn ended early: {stop.value}")
        case TurnFailed(error):
            _note(f"edgeagent: {error}")
        case _:
            pass


def _note_mended(event: Event) -> None:
    """Tell on stderr what an interrupted turn came to; stdout is for the turns asked for."""
    match event:
        case Answered(text):
            _note(f"the interrupted turn was answered: {text}")
        case ToolReturned(_, name, content) if name != RESPOND:
            _note(f"the interrupted {name} gave {content}")
        case TurnFailed(error):
            _note(error)
        case _:
            pass


def _note(line: str) -> None:
    click.echo(plain(line), err=True)
