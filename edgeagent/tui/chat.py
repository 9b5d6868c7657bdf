"""The screen of one conversation: holds the session and the running turn, hands values down.

Whatever can block runs in a worker thread (`work`); events become blocks in `narration`. Knows no
engine, store or configuration (see `ports`), and leaves commands to the app.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.reactive import var
from textual.screen import Screen
from textual.widgets import Footer, Static

from edgeagent.events import TRANSIENT, StepStarted
from edgeagent.tui.approval import Ask
from edgeagent.tui.narration import Narration
from edgeagent.tui.plain import literal, one_line, whole_words
from edgeagent.tui.ports import Choice, Ports, SessionLike
from edgeagent.tui.posts import OpeningFailed, SessionOpened, Woken, Work
from edgeagent.tui.prompt import PromptBox
from edgeagent.tui.status import WAITING, WRITING, Status, StatusLine
from edgeagent.tui.transcript import Transcript
from edgeagent.tui.work import caught_up, open_session, prepare, run_turn

LINK_PERIOD_S = 1.0
PERIOD_S = 0.1
"""Progress is drawn this often; facts are drawn at once."""
PAUSE_S = 0.25
"""Who types a word takes longer; the model reads when the fingers rest for so long."""
PATIENCE_S = 3
"""Work that takes longer shows for how long it has been going on."""
NEXT_STEPS = """\
ctrl+p, Switch model       another model for this conversation
ctrl+p, Switch scenario    another scenario, in a new conversation
edgeagent models pull …    fetch a model, in another terminal
edgeagent doctor           what is missing on this machine"""


class ChatScreen(Screen[None]):
    """Transcript, prompt and status of one session at a time."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (90, "-wide")]  # noqa: RUF012  as Textual types it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="turn.cancel", tooltip="Stop the turn at once"),
    ]

    @dataclass
    class Commanded(Message):
        """The person wrote a slash command; the slash is gone."""

        line: str

    status: var[Status] = var(Status, init=False)
    activity: var[str] = var("", init=False)
    """What the running work does, and for how long if that is long."""

    def __init__(self, ports: Ports, choice: Choice) -> None:
        super().__init__(id="chat")
        self.ports = ports
        self.choice = choice
        self.session: SessionLike | None = None
        self.work: Work | None = None
        """What a worker thread is busy with; None when a message would be sent at once."""
        self.has_turns = False
        self.waiting = ""
        """A message that is sent when the running turn is over."""
        self._chosen: Choice | None = None
        """What is opened when the session that is being opened has let go."""
        self._begun_at = 0.0
        """When the running work began, on the monotonic clock."""
        self._reading: threading.Event | None = None
        """Stops the model's reading of the message that is being typed, while it reads."""
        self._read: str | None = None
        """As much of that message as it was given last."""

    def compose(self) -> ComposeResult:
        with Horizontal(id="head"):
            yield Static("edgeagent", id="head-title", markup=False)
            yield Static(id="head-session", markup=False)
        yield Transcript(id="transcript")
        yield Static(id="activity", markup=False)
        yield Static(id="waiting", markup=False)
        yield PromptBox(id="prompt")
        yield StatusLine(id="status")
        yield Footer()

    def on_mount(self) -> None:
        self.narration = Narration(self.transcript, self.ports.keymap)
        self.prompt.focus()
        self.set_interval(LINK_PERIOD_S, self.look_at_link)
        self._ticker = self.set_interval(PERIOD_S, self.catch_up, pause=True)
        self._pause = self.set_interval(PAUSE_S, self.prepare, pause=True)
        self.open(self.choice)

    @property
    def transcript(self) -> Transcript:
        """The conversation on the screen."""
        return self.query_one("#transcript", Transcript)

    @property
    def prompt(self) -> PromptBox:
        """Where the customer's words are typed."""
        return self.query_one("#prompt", PromptBox)

    def tell(self, text: str, severity: str = "information") -> None:
        """Show a short notice that goes away by itself."""
        if severity == "warning":
            self.notify(literal(text), severity="warning", markup=False)
        else:
            self.notify(literal(text), markup=False)

    # Sessions

    def open(self, choice: Choice) -> None:
        """Leave the session and open another one in a thread."""
        if self.work is not None and self.work.is_turn:
            self.tell("a turn is running; Esc stops it")
            return
        if self.work is not None:
            self.work.stop()
            self._chosen = choice
            return
        self._stop_reading()
        left, self.session, self.choice = self.session, None, choice
        self.has_turns = False
        self.query_one("#head-session", Static).update("")
        self.work, self._begun_at = Work(is_turn=False), time.monotonic()
        self.status = Status(
            link=self.status.link, reason=self.status.reason, activity=f"loading {choice.model}"
        )
        self._run(partial(open_session, self.ports, choice, left, self.work, self.post_message))

    def _run(self, job: Callable[[], None]) -> None:
        self._ticker.resume()
        self.run_worker(job, thread=True, group="work")

    def on_session_opened(self, message: SessionOpened) -> None:
        session = self.session = message.session
        self.choice = replace(self.choice, resume=session.session_id)
        self.narration = Narration(self.transcript, self.ports.keymap)
        self.transcript.forget()
        self.has_turns = bool(message.history)
        if message.history:
            self.narration.show_history(message.history)
        else:
            self._greet(session)
        if message.n_recovered:
            self.narration.note("notice", "the last turn was interrupted and has been closed")
        facts = session.facts
        status = self.status
        for event in message.history:
            status = status.after(event)
        self.status = replace(
            status,
            model=f"{facts.name} {facts.quant}".strip() if facts else self.choice.model,
            n_ctx=facts.n_ctx if facts else 0,
            activity="",
        )
        head = f"{session.title}   {session.session_id}"
        self.query_one("#head-session", Static).update(literal(head))
        self.look_at_link()

    def _greet(self, session: SessionLike) -> None:
        if session.greeting:
            self.narration.greet(session.greeting)
        if session.examples:
            examples = "\n".join(one_line(text, 96) for text in session.examples)
            self.narration.note("notice", "for instance:", detail=examples).is_open = True

    def on_opening_failed(self, message: OpeningFailed) -> None:
        if self.session is None:
            self.transcript.forget()
            name = "no session"
        else:
            name = "the model is not ready"
        self.narration.note("error", message.error, name=name)
        self.narration.note("notice", "next:", detail=NEXT_STEPS).is_open = True

    def look_at_link(self) -> None:
        """Show whether the larger model is in reach."""
        if self.session is not None:
            link, reason = self.session.link_state()
            self.status = replace(self.status, link=link, reason=reason)

    # Turns

    def on_text_area_changed(self) -> None:
        self._pause.reset()
        self._pause.resume()

    def prepare(self) -> None:
        """Have the model read the whole words of what is being typed, a pause at a time."""
        self._pause.pause()
        if self.session is None or self.work is not None or self.prompt.text.startswith("/"):
            return
        words = whole_words(self.prompt.words)
        if self._reading is not None:
            if not words.startswith(self._read or ""):
                self._reading.set()
        elif words != self._read:
            self._reading, self._read = threading.Event(), words
            job = partial(prepare, self.session, words, self._reading, self.post_message)
            self.run_worker(job, thread=True, group="prepare")

    def on_prepared(self) -> None:
        """Go on where more was typed meanwhile."""
        self._reading = None
        self.prepare()

    def _stop_reading(self) -> None:
        self._read = None
        if self._reading is not None:
            self._reading.set()

    def on_prompt_box_submitted(self, message: PromptBox.Submitted) -> None:
        text = message.text
        if text.startswith("/"):
            self.post_message(self.Commanded(text[1:]))
        elif self.work is not None:
            if self.waiting:
                self.prompt.put_back(text)
                self.tell("one message is waiting already; Esc takes it back")
            else:
                self._wait_with(text)
        elif self.session is None:
            self.prompt.put_back(text)
            self.tell("there is no model to answer: ctrl+p, then switch model", "warning")
        else:
            self._send(text)

    def _send(self, text: str) -> None:
        assert self.session is not None
        self._stop_reading()
        self.has_turns = True
        self.work, self._begun_at = Work(is_turn=True), time.monotonic()
        self.transcript.anchor()
        self._run(partial(run_turn, self.session, text, self.work, self.post_message))

    def _wait_with(self, text: str) -> None:
        self.waiting = text
        line = self.query_one("#waiting", Static)
        line.update(f"next: {one_line(literal(text), 200)}" if text else "")
        line.set_class(bool(text), "-shown")

    def on_woken(self, message: Woken) -> None:
        if message.work is self.work:
            self.catch_up()

    def catch_up(self) -> None:
        """Show what the worker thread has reported since the last time."""
        work = self.work
        if work is None:
            return
        for happening in caught_up(work):
            event = happening.event
            # After a cancel what happened is still shown, since it did; what was about to is not.
            if work.cancel.is_set() and isinstance(event, (*TRANSIENT, StepStarted)):
                continue
            self.narration.show(event, happening.slot)
            self.status = self.status.after(event)
            if happening.slot is not None and not self.prompt.text:
                self._focus_question()
        self._show_activity()

    def on_work_over(self) -> None:
        """Go on with what the person asked for meanwhile: another session, or a message."""
        self.catch_up()
        self._ticker.pause()
        self.work = None
        self.status = replace(self.status, activity="")
        chosen, self._chosen = self._chosen, None
        if chosen is not None:
            self.open(chosen)
            return
        text = self.waiting
        self._wait_with("")
        if text and self.session is not None:
            self._send(text)
        elif text:
            self.prompt.put_back(text)
        else:
            self.prepare()

    def on_ask_answered(self, message: Ask.Answered) -> None:
        message.stop()
        self.prompt.focus()

    def _focus_question(self) -> bool:
        """Move to the question that the turn waits for, if there is one."""
        asks = [ask for ask in self.query(Ask) if ask.is_open]
        if asks:
            self.call_after_refresh(asks[-1].focus)
        return bool(asks)

    def action_cancel(self) -> None:
        """Stop the turn at once; return a waiting message to the prompt."""
        work = self.work
        if work is None:
            self.prompt.focus()
            return
        if not work.cancel.is_set():
            work.stop()
            if work.is_turn:
                self.narration.cancel()
            self.status = replace(self.status, activity="stopping")
        text = self.waiting
        self._wait_with("")
        if text:
            self.prompt.put_back(text)
        self.prompt.focus()

    def watch_status(self, status: Status) -> None:
        self.query_one(StatusLine).status = status
        self._show_activity()

    def _show_activity(self) -> None:
        text = self.status.activity
        if text == WRITING and self.narration.written_name:
            text = f"{text} {self.narration.written_name}"
        seconds = int(time.monotonic() - self._begun_at)
        if text and text != WAITING and seconds >= PATIENCE_S:
            text = f"{text}   {seconds} s"
        self.activity = text

    def watch_activity(self, text: str) -> None:
        self.query_one("#activity", Static).update(literal(text))

    def on_unmount(self) -> None:
        self._stop_reading()
        if self.work is not None:
            self.work.stop()

    def on_prompt_box_left(self) -> None:
        if not self._focus_question():
            self.transcript.focus()

    def on_prompt_box_paged(self, message: PromptBox.Paged) -> None:
        if message.pages < 0:
            self.transcript.scroll_page_up(animate=False)
        else:
            self.transcript.scroll_page_down(animate=False)

    def on_transcript_left(self) -> None:
        self.prompt.focus()
