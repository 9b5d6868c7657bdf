"""The Textual app: holds what is shared, hands values down to widgets, acts on their messages.

Everything that can block runs in a worker thread (`work`); events become widgets in `transcript`.
Knows no engine, store or configuration: see `ports`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.reactive import var
from textual.screen import Screen
from textual.widgets import Footer, Static

from edgeagent.errors import EdgeAgentError
from edgeagent.events import TRANSIENT, StepStarted
from edgeagent.tui import pages
from edgeagent.tui.approval import Ask
from edgeagent.tui.narration import Narration
from edgeagent.tui.plain import literal, one_line
from edgeagent.tui.ports import Choice, Option, Ports, SessionLike
from edgeagent.tui.posts import OpeningFailed, SessionOpened, Woken, Work, WorkOver
from edgeagent.tui.prompt import PromptBox
from edgeagent.tui.screens import PageScreen, PickScreen
from edgeagent.tui.status import Status, StatusLine
from edgeagent.tui.themes import DARK, THEMES
from edgeagent.tui.transcript import Transcript
from edgeagent.tui.verbs import VERBS, named
from edgeagent.tui.work import caught_up, open_session, run_turn

LINK_PERIOD_S = 1.0
PERIOD_S = 0.1
"""Progress is drawn this often; facts are drawn at once."""
TWICE_S = 2.0
"""Two ctrl+c within this time leave the app."""


@dataclass(frozen=True, slots=True)
class Left:
    """What the app was left with."""

    session_id: str | None
    """To resume with; None if nothing was said."""
    exit_code: int


class EdgeAgentApp(App[int]):
    """Chat with one session at a time."""

    TITLE = "edgeagent"
    CSS_PATH = "app.tcss"
    COMMAND_PALETTE_BINDING = "ctrl+p"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="turn.cancel"),
        Binding("ctrl+c", "interrupt", "Stop; twice: quit", id="turn.interrupt", show=False,
                priority=True),
        Binding("ctrl+n", "new_session", "New", id="session.new"),
        Binding("ctrl+r", "sessions", "Sessions", id="session.list"),
        Binding("f1", "help", "Help", id="app.help"),
        Binding("f2", "settings", "Settings", id="app.settings", show=False),
        Binding("ctrl+q", "quit", "Quit", id="app.quit", show=False, priority=True),
    ]  # fmt: skip

    status: var[Status] = var(Status, init=False)

    def __init__(self, ports: Ports, choice: Choice) -> None:
        super().__init__()
        self.ports = ports
        self.choice = choice
        self.session: SessionLike | None = None
        self.work: Work | None = None
        """What a worker thread is busy with; None when a message would be sent at once."""
        self.has_turns = False
        self.waiting = ""
        """A message that is sent when the running turn is over."""
        self._interrupted_at = float("-inf")

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
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = DARK.name
        if self.ports.theme in self.available_themes:
            self.theme = self.ports.theme
        elif self.ports.theme:
            self.tell(f"there is no theme {self.ports.theme!r} (ui.theme)", severity="warning")
        self.set_keymap(dict(self.ports.keymap))
        for name in pages.unknown_keys(self.BINDINGS, self.ports.keymap):
            self.tell(f"no key is called {name!r} (ui.keymap); F1 lists them", severity="warning")
        self.narration = Narration(self.transcript, self.ports.keymap)
        self.query_one(PromptBox).focus()
        self.set_interval(LINK_PERIOD_S, self.look_at_link)
        self._ticker = self.set_interval(PERIOD_S, self.catch_up, pause=True)
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
        if self.work is not None:
            self.tell("still busy; Esc stops it")
            return
        left, self.session, self.choice = self.session, None, choice
        self.has_turns = False
        self.work = Work()
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
            examples = "\n".join(f"  {one_line(text, 96)}" for text in session.examples)
            line = self.narration.note("notice", "for instance:", detail=examples)
            line.is_open = True

    def on_opening_failed(self, message: OpeningFailed) -> None:
        if self.session is None:
            self.transcript.forget()
            name = "no session"
        else:
            name = "the model is not ready"
        self.narration.note("error", message.error, name=name)
        self.narration.note("notice", pages.NEXT_STEPS)

    def look_at_link(self) -> None:
        """Show whether the larger model is in reach."""
        if self.session is not None:
            link, reason = self.session.link_state()
            self.status = replace(self.status, link=link, reason=reason)

    # Turns

    async def on_prompt_box_submitted(self, message: PromptBox.Submitted) -> None:
        text = message.text
        if text.startswith("/"):
            await self._obey(text[1:])
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
        self.has_turns = True
        self.work = Work()
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

    def on_work_over(self, message: WorkOver) -> None:
        """Send what waits, unless the turn was cancelled."""
        self.catch_up()
        self._ticker.pause()
        was_cancelled = message.work.cancel.is_set()
        self.work = None
        self.status = replace(self.status, activity="")
        text = self.waiting
        self._wait_with("")
        if text and self.session is not None and not was_cancelled:
            self._send(text)
        elif text:
            self.prompt.put_back(text)

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
            if self.session is not None:
                self.narration.cancel()
            self.status = replace(self.status, activity="stopping")
        text = self.waiting
        self._wait_with("")
        if text:
            self.prompt.put_back(text)
        self.prompt.focus()

    def action_interrupt(self) -> None:
        """Copy a selection if there is one; else stop the turn; twice in a row: quit."""
        selected = self.screen.get_selected_text() or self.prompt.selected_text
        now = time.monotonic()
        if selected:
            self.copy(selected)
        elif now - self._interrupted_at < TWICE_S:
            self.exit(130)
        else:
            self._interrupted_at = now
            if self.work is not None and not self.work.cancel.is_set():
                self.action_cancel()
            self.tell("ctrl+c once more quits")

    async def action_quit(self) -> None:
        """Leave the app."""
        self.exit(0)

    def on_unmount(self) -> None:
        if self.work is not None:
            self.work.stop()

    # What widgets ask for

    def on_prompt_box_quit_asked(self) -> None:
        self.exit(0)

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

    def on_transcript_copied(self, message: Transcript.Copied) -> None:
        self.copy(message.text)

    def copy(self, text: str) -> None:
        """Hand `text` to the terminal's clipboard and say so."""
        self.copy_to_clipboard(text)
        self.tell(f"{len(text):,} characters handed to the terminal's clipboard (OSC 52)")

    def watch_status(self, status: Status) -> None:
        self.query_one(StatusLine).status = status
        self.query_one("#activity", Static).update(literal(status.activity))

    # Commands

    async def _obey(self, line: str) -> None:
        word, _, argument = line.strip().partition(" ")
        verb = named(word)
        if verb is None:
            self.prompt.put_back(f"/{line}")
            self.tell(f"there is no command /{one_line(word, 40)}; /help lists them", "warning")
        elif argument and verb.name == "model":
            self.open(replace(self.choice, model=argument.strip()))
        elif argument and verb.name == "scenario":
            self.open(replace(self.choice, scenario=argument.strip(), resume=None))
        else:
            await self.run_action(verb.action)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Offer the same commands in the palette as after a slash."""
        for verb in VERBS:
            yield SystemCommand(verb.title, verb.about, partial(self._act, verb.action))

    async def _act(self, action: str) -> None:
        await self.run_action(action)

    def action_new_session(self) -> None:
        """Begin a new conversation with the same model and scenario."""
        self.open(replace(self.choice, resume=None))

    def action_toggle_offline(self) -> None:
        """Open the session again, without or with the network."""
        choice = replace(self.choice, offline=not self.choice.offline)
        self.tell("offline: nothing opens a socket" if choice.offline else "the network is used")
        self.open(choice)

    def action_copy_last(self) -> None:
        """Copy the agent's newest message."""
        self.copy(self.transcript.last_reply)

    def action_help(self) -> None:
        """Show keys and commands."""
        sections = pages.help_sections(self.BINDINGS, self.ports.keymap)
        self.push_screen(PageScreen("Keys and commands", sections))

    def action_settings(self) -> None:
        """Show every setting in force."""
        self.push_screen(PageScreen("Settings", pages.settings_sections(self.ports)))

    def action_tools(self) -> None:
        """List the scenario's tools."""
        tools = self.session.agent.tools if self.session is not None else ()
        self.push_screen(PageScreen("Tools", pages.tool_sections(tools)))

    def action_model(self) -> None:
        """Let the person choose a model; the conversation stays."""
        self._pick("Switch model", self.ports.models, self.choice.model, pages.NO_MODELS,
                   lambda row: replace(self.choice, model=row.value))  # fmt: skip

    def action_scenario(self) -> None:
        """Let the person choose a scenario; a new conversation begins."""
        self._pick("Switch scenario", self.ports.scenarios, self.choice.scenario, "",
                   lambda row: replace(self.choice, scenario=row.value, resume=None))  # fmt: skip

    def action_sessions(self) -> None:
        """Let the person continue an earlier conversation."""

        def chosen(row: Option) -> Choice:
            return replace(self.choice, resume=row.value, scenario=row.scenario)

        current = self.choice.resume or ""
        self._pick("Sessions", self.ports.sessions, current, pages.NO_SESSIONS, chosen)

    def _pick(
        self,
        title: str,
        offered: Callable[[], Sequence[Option]],
        current: str,
        empty: str,
        chosen: Callable[[Option], Choice],
    ) -> None:
        async def ask() -> None:
            try:
                options = await asyncio.to_thread(offered)
            except EdgeAgentError as error:
                self.tell(str(error), "warning")
                return
            row = await self.push_screen_wait(PickScreen(title, options, empty, current))
            if row is not None:
                self.open(chosen(row))

        self.run_worker(ask(), group="pick", exclusive=True)

    def action_export(self) -> None:
        """Write the session to a file and say where it is."""

        async def export(session_id: str) -> None:
            try:
                path = await asyncio.to_thread(self.ports.export, session_id)
            except EdgeAgentError as error:
                self.tell(str(error), "warning")
            else:
                self.narration.note("notice", f"exported to {path}")

        if self.session is not None:
            self.run_worker(export(self.session.session_id), group="export")


def run(ports: Ports, choice: Choice) -> Left:
    """Show the app until the person leaves it, and return what it was left with."""
    app = EdgeAgentApp(ports, choice)
    code = app.run()
    session = app.session
    if session is None:
        return Left(None, code or app.return_code or 0)
    session.close()
    return Left(session.session_id if app.has_turns else None, code or app.return_code or 0)
