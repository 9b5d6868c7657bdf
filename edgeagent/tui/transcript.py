"""The scrolling list of blocks and the cursor that moves through it.

Keeps the newest few hundred blocks: a turn only adds at the end, and the history itself is kept
elsewhere. Does not know what a block stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.message import Message

from edgeagent.tui.approval import Ask
from edgeagent.tui.blocks import Line, Said

Block: TypeAlias = Said | Line | Ask

N_BLOCKS = 200
"""Kept on the screen; older ones leave it."""
N_SLACK = 40
"""How many more there may be before any leave, so that not each block costs a removal."""
_CURSOR_ACTIONS = frozenset({"move", "open", "copy", "copy_code", "last", "leave"})


class Transcript(VerticalScroll):
    """Blocks of one session, with a cursor that moves from block to block."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "Next", id="message.next",
                tooltip="Go to the next message; after the last one to the prompt"),
        Binding("k,up", "move(-1)", "Previous", id="message.previous",
                tooltip="Go to the previous message"),
        Binding("enter,space", "open", "Open", id="message.open",
                tooltip="Open or close a tool call: arguments and result"),
        Binding("y", "copy", "Copy", id="message.copy", tooltip="Copy the message"),
        Binding("Y", "copy_code", "Copy result", id="message.copy_code",
                tooltip="Copy what the tool answered"),
        Binding("end,G", "last", "Last", id="message.last", show=False,
                tooltip="Go to the newest message"),
        Binding("i", "leave", "Write", id="message.leave", show=False,
                tooltip="Go back to the prompt"),
    ]  # fmt: skip

    @dataclass
    class Copied(Message):
        """The person wants this text in the clipboard."""

        text: str

    class Left(Message):
        """The person wants to write."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._blocks: list[Block] = []
        self._cursor: Block | None = None
        self._gathered: list[Block] | None = None
        """Blocks to mount together; None while each one is mounted at once."""

    def compose(self) -> ComposeResult:
        yield Vertical(id="blocks")

    def on_mount(self) -> None:
        self.anchor()

    @property
    def _column(self) -> Vertical:
        return self.query_one("#blocks", Vertical)

    def forget(self) -> None:
        """Empty the transcript for another session."""
        for block in self._blocks:
            block.remove()
        self._blocks.clear()
        self._cursor = None
        self.anchor()

    def add(self, block: Block) -> None:
        """Put a block at the end; the oldest ones leave when there are too many."""
        self._blocks.append(block)
        if self._gathered is not None:
            self._gathered.append(block)
            return
        self._column.mount(block)
        if len(self._blocks) > N_BLOCKS + N_SLACK:
            for old in self._blocks[:-N_BLOCKS]:
                old.remove()
            del self._blocks[:-N_BLOCKS]
            if self._cursor not in self._blocks:
                self._cursor = None

    def take_back(self, block: Block) -> None:
        """Remove a block that turned out not to have happened."""
        if self._cursor is block:
            self._cursor = None
        self._blocks.remove(block)
        block.remove()

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Mount everything that is added meanwhile in one go."""
        self._gathered = []
        yield
        blocks, self._gathered = self._gathered, None
        self._column.mount_all(blocks)

    @property
    def last_reply(self) -> str:
        """The newest message of the agent; empty before there is one."""
        said = (b for b in reversed(self._blocks) if isinstance(b, Said) and b.who == "agent")
        return next((block.text for block in said), "")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keep these keys out of the way of a question inside."""
        return self.has_focus if action in _CURSOR_ACTIONS else True

    def on_focus(self) -> None:
        if self._cursor is None and self._blocks:
            self._select(self._blocks[-1])

    def on_blur(self) -> None:
        if self._cursor is not None:
            self._cursor.remove_class("-current")
            self._cursor = None

    def _select(self, block: Block) -> None:
        if self._cursor is not None:
            self._cursor.remove_class("-current")
        self._cursor = block
        block.add_class("-current")
        self.scroll_to_widget(block, animate=False)

    def action_move(self, step: int) -> None:
        """Move the cursor; past the last block it returns to the prompt."""
        if not self._blocks:
            return
        if self._cursor is None:
            self._select(self._blocks[-1])
            return
        place = self._blocks.index(self._cursor) + step
        if place >= len(self._blocks):
            self.post_message(self.Left())
        else:
            self._select(self._blocks[max(place, 0)])

    def action_last(self) -> None:
        """Move the cursor to the newest block."""
        if self._blocks:
            self._select(self._blocks[-1])
            self.anchor()

    def action_open(self) -> None:
        """Open or close the line under the cursor."""
        if isinstance(self._cursor, Line):
            self._cursor.toggle()

    def action_copy(self) -> None:
        """Offer the block under the cursor to the clipboard."""
        if self._cursor is not None:
            self.post_message(self.Copied(self._cursor.copied))

    def action_copy_code(self) -> None:
        """Offer a tool's result under the cursor to the clipboard."""
        if self._cursor is not None:
            self.post_message(self.Copied(self._cursor.copied_code))

    def action_leave(self) -> None:
        """Go back to the prompt."""
        self.post_message(self.Left())
