"""The box the customer's words are typed into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from edgeagent.tui.plain import literal

PASTE_CHARACTERS = 4_000
"""A longer paste is held aside: with 100 kB in the box each key takes a fifth of a second."""


class PromptBox(TextArea):
    """Several lines of text, sent with Enter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="prompt.send", priority=True,
                tooltip="Send the message"),
        Binding("shift+enter,ctrl+j", "newline", "New line", id="prompt.newline", show=False,
                priority=True, tooltip="Begin another line"),
        Binding("ctrl+d", "delete_or_quit", "Delete", id="prompt.quit", show=False,
                priority=True, tooltip="Delete a character; quit if there is none"),
        Binding("up", "up_or_leave", "Up", id="prompt.up", show=False, priority=True,
                tooltip="Go up a line; to the messages if there is none"),
        Binding("tab", "leave", "Messages", id="prompt.leave", priority=True,
                tooltip="Go to the messages, or to an open question"),
        Binding("pageup", "scroll_transcript(-1)", "Page up", id="prompt.page_up", show=False,
                priority=True, tooltip="Show earlier messages"),
        Binding("pagedown", "scroll_transcript(1)", "Page down", id="prompt.page_down",
                show=False, priority=True, tooltip="Show later messages"),
    ]  # fmt: skip

    @dataclass
    class Submitted(Message):
        """The person pressed Enter on this text."""

        text: str

    class QuitAsked(Message):
        """The person asked to leave from an empty prompt."""

    class Left(Message):
        """The person moved up out of the box."""

    @dataclass
    class Paged(Message):
        """The person wants to see other messages without leaving the box."""

        pages: int

    def __init__(self, *, id: str) -> None:
        super().__init__(
            id=id,
            compact=True,
            soft_wrap=True,
            highlight_cursor_line=False,
            placeholder="Write as the customer; Enter sends, / for commands, F1 for help",
        )
        self._pasted: dict[str, str] = {}
        """Long pastes by the words that stand for them in the box."""

    @property
    def words(self) -> str:
        """What would be sent now."""
        text = self.text
        for mark, pasted in self._pasted.items():
            text = text.replace(mark, pasted, 1)
        return text.strip("\n")

    def put_back(self, text: str) -> None:
        """Return unsent words to the box, before whatever is being typed."""
        held = self._marked(text) if len(text) > PASTE_CHARACTERS else text
        self.text = f"{held}\n{self.text}" if self.text else held
        self.move_cursor(self.document.end)

    async def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        text = literal(event.text)
        if len(text) > PASTE_CHARACTERS:
            text = self._marked(text)
        if result := self._replace_via_keyboard(text, *self.selection):
            self.move_cursor(result.end_location)

    def _marked(self, text: str) -> str:
        mark = f"[paste {len(self._pasted) + 1}: {len(text):,} characters]"
        self._pasted[mark] = text
        return mark

    # A binding acts ahead of the letters that wait in this box's own queue, so that a fast typist's
    # Enter would send nothing; `call_later` puts the action behind them.

    def action_send(self) -> None:
        """Hand the text over and empty the box."""
        self.call_later(self._send)

    def action_newline(self) -> None:
        """Begin another line."""
        self.call_later(self.insert, "\n")

    def action_delete_or_quit(self) -> None:
        """Delete the next character; leave when there is no text at all."""
        self.call_later(self._delete_or_quit)

    def action_up_or_leave(self) -> None:
        """Move up a line; from an empty box move to the messages."""
        self.call_later(self._up_or_leave)

    def action_leave(self) -> None:
        """Move to the messages."""
        self.post_message(self.Left())

    def action_scroll_transcript(self, pages: int) -> None:
        """Scroll the messages while the cursor stays here."""
        self.post_message(self.Paged(pages))

    def _send(self) -> None:
        text = self.words
        if text.strip():
            self.clear()
            self._pasted.clear()
            self.post_message(self.Submitted(text))

    def _delete_or_quit(self) -> None:
        if self.text:
            self.action_delete_right()
        else:
            self.post_message(self.QuitAsked())

    def _up_or_leave(self) -> None:
        if self.text:
            self.action_cursor_up()
        else:
            self.post_message(self.Left())
