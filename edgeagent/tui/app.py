"""The Textual app: themes, keys and commands around the one screen that holds the conversation.

Everything from outside comes through `ports`; see `chat` for sessions and turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.theme import Theme

from edgeagent.errors import EdgeAgentError
from edgeagent.tui import pages
from edgeagent.tui.chat import ChatScreen
from edgeagent.tui.comparison import NO_COMPARISONS, ComparisonScreen
from edgeagent.tui.plain import one_line
from edgeagent.tui.ports import Choice, Option, Ports
from edgeagent.tui.screens import PageScreen, PickScreen
from edgeagent.tui.themes import DARK, THEMES
from edgeagent.tui.transcript import Transcript
from edgeagent.tui.verbs import VERBS, named

TWICE_S = 2.0
"""Two ctrl+c within this time leave the app."""


@dataclass(frozen=True, slots=True)
class Left:
    """What the app was left with."""

    session_id: str | None
    """To resume with; None if nothing was said."""
    exit_code: int


class EdgeAgentApp(App[int]):
    """Commands and looks; the conversation is the chat screen's."""

    TITLE = "edgeagent"
    CSS_PATH = "app.tcss"
    COMMAND_PALETTE_BINDING = "ctrl+p"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", "Stop", id="turn.interrupt", show=False, priority=True,
                tooltip="Copy a selection, or stop the turn; twice in a row: quit"),
        Binding("ctrl+n", "new_session", "New", id="session.new", tooltip="Begin a new session"),
        Binding("ctrl+r", "sessions", "Sessions", id="session.list",
                tooltip="Continue an earlier session"),
        Binding("f1", "help", "Help", id="app.help", tooltip="Show this page"),
        Binding("f2", "settings", "Settings", id="app.settings", show=False,
                tooltip="Show every setting and where it is kept"),
        Binding("ctrl+q", "quit", "Quit", id="app.quit", show=False, priority=True,
                tooltip="Quit; the conversation is kept"),
    ]  # fmt: skip

    def __init__(self, ports: Ports, choice: Choice) -> None:
        super().__init__()
        self.ports = ports
        self.chat = ChatScreen(ports, choice)
        self._interrupted_at = float("-inf")

    def get_default_screen(self) -> Screen[None]:
        """Begin with the conversation."""
        return self.chat

    def on_mount(self) -> None:
        for theme in THEMES:
            self.register_theme(theme)
        is_known = self.ports.theme in self.available_themes
        self.theme = self.ports.theme if is_known else DARK.name
        if self.ports.theme and not is_known:
            self.chat.tell(f"there is no theme {self.ports.theme!r} (ui.theme)", "warning")
        self._kept_theme = self.theme
        self.theme_changed_signal.subscribe(self, self._tell_theme)
        self.set_keymap(dict(self.ports.keymap))
        for name in pages.unknown_keys(self._keys(), self.ports.keymap):
            self.chat.tell(f"no key is called {name!r} (ui.keymap); F1 lists them", "warning")

    def _tell_theme(self, theme: Theme) -> None:
        if theme.name != self._kept_theme:
            self.chat.tell(
                f'to keep it: theme = "{theme.name}" under [ui] in {self.ports.config_path}'
            )

    def _keys(self) -> list[BindingType]:
        return [*ChatScreen.BINDINGS, *self.BINDINGS]

    def action_interrupt(self) -> None:
        """Copy a selection if there is one; else stop the turn; twice in a row: quit."""
        selected = self.screen.get_selected_text() or self.chat.prompt.selected_text
        now = time.monotonic()
        if selected:
            self.copy(selected)
        elif now - self._interrupted_at < TWICE_S:
            self.exit(130)
        else:
            self._interrupted_at = now
            self.chat.action_cancel()
            self.chat.tell("ctrl+c once more quits")

    async def action_quit(self) -> None:
        """Leave the app."""
        self.exit(0)

    def on_prompt_box_quit_asked(self) -> None:
        self.exit(0)

    def on_transcript_copied(self, message: Transcript.Copied) -> None:
        self.copy(message.text)

    def copy(self, text: str) -> None:
        """Hand `text` to the terminal's clipboard and say so."""
        self.copy_to_clipboard(text)
        self.chat.tell(f"{len(text):,} characters handed to the terminal's clipboard (OSC 52)")

    # Commands

    async def on_chat_screen_commanded(self, message: ChatScreen.Commanded) -> None:
        line = message.line
        word, _, argument = line.strip().partition(" ")
        verb = named(word)
        if verb is None:
            self.chat.prompt.put_back(f"/{line}")
            self.chat.tell(
                f"there is no command /{one_line(word, 40)}; /help lists them", "warning"
            )
        elif argument and verb.name == "model":
            self.chat.open(replace(self.chat.choice, model=argument.strip()))
        elif argument and verb.name == "scenario":
            self.chat.open(replace(self.chat.choice, scenario=argument.strip(), resume=None))
        elif argument and verb.name == "compare":
            self.run_worker(self._show_comparison(argument.strip()), group="pick", exclusive=True)
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
        self.chat.open(replace(self.chat.choice, resume=None))

    def action_toggle_offline(self) -> None:
        """Open the session again, without or with the network."""
        choice = replace(self.chat.choice, offline=not self.chat.choice.offline)
        self.chat.tell(
            "offline: nothing opens a socket" if choice.offline else "the network is used"
        )
        self.chat.open(choice)

    def action_copy_last(self) -> None:
        """Copy the agent's newest message."""
        self.copy(self.chat.transcript.last_reply)

    def action_help(self) -> None:
        """Show keys and commands."""
        sections = pages.help_sections(self._keys(), self.ports.keymap)
        self.push_screen(PageScreen("Keys and commands", sections))

    def action_settings(self) -> None:
        """Show every setting in force."""
        self.push_screen(PageScreen("Settings", pages.settings_sections(self.ports)))

    def action_tools(self) -> None:
        """List the scenario's tools."""
        tools = self.chat.session.agent.tools if self.chat.session is not None else ()
        self.push_screen(PageScreen("Tools", pages.tool_sections(tools)))

    def action_model(self) -> None:
        """Let the person choose a model; the conversation stays."""

        def chosen(row: Option) -> Choice:
            return replace(self.chat.choice, model=row.value)

        current = self.chat.choice.model
        self._pick("Switch model", self.ports.models, current, pages.NO_MODELS, chosen)

    def action_scenario(self) -> None:
        """Let the person choose a scenario; a new conversation begins."""

        def chosen(row: Option) -> Choice:
            return replace(self.chat.choice, scenario=row.value, resume=None)

        current = self.chat.choice.scenario
        self._pick("Switch scenario", self.ports.scenarios, current, "", chosen)

    def action_sessions(self) -> None:
        """Let the person continue an earlier conversation."""

        def chosen(row: Option) -> Choice:
            return replace(self.chat.choice, resume=row.value, scenario=row.scenario)

        current = self.chat.choice.resume or ""
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
                self.chat.tell(str(error), "warning")
                return
            row = await self.push_screen_wait(PickScreen(title, options, empty, current))
            if row is not None:
                self.chat.open(chosen(row))

        self.run_worker(ask(), group="pick", exclusive=True)

    def action_comparisons(self) -> None:
        """Let the person choose a finished comparison of builds, and show it."""

        async def ask() -> None:
            options = await asyncio.to_thread(self.ports.comparisons)
            screen = PickScreen("Comparisons", options, NO_COMPARISONS, "")
            row = await self.push_screen_wait(screen)
            if row is not None:
                await self._show_comparison(row.value)

        self.run_worker(ask(), group="pick", exclusive=True)

    async def _show_comparison(self, folder: str) -> None:
        if self.ports.comparison is None:
            return
        try:
            found = await asyncio.to_thread(self.ports.comparison, folder)
        except EdgeAgentError as error:
            self.chat.tell(str(error), "warning")
        else:
            self.push_screen(ComparisonScreen(found))

    def action_export(self) -> None:
        """Write the session to a file and say where it is."""

        async def export(session_id: str) -> None:
            try:
                path = await asyncio.to_thread(self.ports.export, session_id)
            except EdgeAgentError as error:
                self.chat.tell(str(error), "warning")
            else:
                self.chat.narration.note("notice", f"exported to {path}")

        if self.chat.session is not None:
            self.run_worker(export(self.chat.session.session_id), group="export")


def run(ports: Ports, choice: Choice) -> Left:
    """Show the app until the person leaves it, and return what it was left with."""
    app = EdgeAgentApp(ports, choice)
    code = app.run()
    session = app.chat.session
    if session is None:
        return Left(None, code or app.return_code or 0)
    session.close()
    return Left(session.session_id if app.chat.has_turns else None, code or app.return_code or 0)
