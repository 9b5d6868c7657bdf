"""Screens over the conversation: a list to choose from, and a page of rows to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option as Row

from edgeagent.tui.plain import literal, one_line
from edgeagent.tui.ports import Option

COLUMN_WIDTH = 40
TERM_WIDTH = 28
TERM_WIDTH_MIN = 20


class PickScreen(ModalScreen[Option | None]):
    """A list; the result is the chosen row, None if the person left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", "Close", id="screen.close"),
        Binding("j", "cursor(1)", show=False),
        Binding("k", "cursor(-1)", show=False),
    ]

    def __init__(self, title: str, options: Sequence[Option], empty: str, current: str) -> None:
        super().__init__()
        self._title = title
        self._options = options
        self._empty = empty
        """Said when there is nothing to choose from."""
        self._current = current

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet"):
            yield Static(self._title, classes="sheet-title", markup=False)
            if self._options:
                rows = [Row(text) for text in _aligned(self._options)]
                yield OptionList(*rows, markup=False)
            else:
                yield Static(literal(self._empty), markup=False)
            yield Static("Enter chooses   Esc closes", classes="sheet-keys", markup=False)

    def on_mount(self) -> None:
        for rows in self.query(OptionList):
            values = [option.value for option in self._options]
            rows.highlighted = values.index(self._current) if self._current in values else 0

    def action_cursor(self, step: int) -> None:
        """Move through the list as in the transcript."""
        for rows in self.query(OptionList):
            rows.action_cursor_down() if step > 0 else rows.action_cursor_up()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._options[event.option_index])


def _aligned(options: Sequence[Option]) -> list[Content]:
    n_columns = max(len(option.columns) for option in options)
    cells = [[one_line(literal(text), COLUMN_WIDTH) for text in option.columns]
             + [""] * (n_columns - len(option.columns)) for option in options]  # fmt: skip
    widths = [max(len(row[i]) for row in cells) for i in range(n_columns)]
    return [
        Content("   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)))
        for row in cells
    ]


@dataclass(frozen=True, slots=True)
class Section:
    """A headed list of (term, explanation)."""

    title: str
    rows: tuple[tuple[str, str], ...]


class Rows(Widget):
    """Terms with their explanations beside them, drawn by one widget: a page has many."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"rows--term"}

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._rows = [(literal(term), literal(text)) for term, text in rows]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return how many lines the explanations take at `width`."""
        return len(self._lines(width))

    def render(self) -> Content:
        return Content("\n").join(self._lines(self.content_size.width))

    def _lines(self, width: int) -> list[Content]:
        style = self.get_visual_style("rows--term")
        longest = max((len(term) for term, _ in self._rows), default=0)
        begun = min(max(longest, TERM_WIDTH_MIN), TERM_WIDTH) + 2
        lines = []
        for term, text in self._rows:
            lead = Content.styled(f"{term:{begun}}", style)
            if len(term) >= begun:  # too long to stand beside its explanation
                lines.append(lead)
                lead = Content(" " * begun)
            for line in Content(text).wrap(max(width - begun, 1)):
                lines.append(lead.append(line))
                lead = Content(" " * begun)
        return lines


class PageScreen(ModalScreen[None]):
    """Sections of rows to read."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1,f2", "dismiss", "Close", id="screen.close"),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
    ]

    def __init__(self, title: str, sections: Sequence[Section]) -> None:
        super().__init__()
        self._title = title
        self._sections = sections

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet wide"):
            yield Static(self._title, classes="sheet-title", markup=False)
            with VerticalScroll():
                for section in self._sections:
                    yield Static(literal(section.title), classes="sheet-section", markup=False)
                    yield Rows(section.rows)
            yield Static("Esc closes", classes="sheet-keys", markup=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_scroll(self, step: int) -> None:
        """Scroll as in the transcript."""
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)
