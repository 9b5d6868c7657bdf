"""A finished comparison of builds: its table, and the answers that flipped in each build."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Static

from edgeagent.tui.plain import literal, one_line
from edgeagent.tui.ports import Comparison, Flip, Option
from edgeagent.tui.screens import PageScreen, PickScreen, Section

NO_COMPARISONS = "No comparison is here yet: `edgeagent compare BUILD… --out DIR` makes one."
TITLE_WIDTH = 11
"""Of a column; longer titles break between words."""


class ComparisonScreen(ModalScreen[None]):
    """The table; Enter lists the answers of a build that flipped, Enter again shows one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Close", id="screen.close"),
        Binding("j", "cursor(1)", show=False),
        Binding("k", "cursor(-1)", show=False),
        Binding("question_mark", "meanings", "Meanings", show=False),
    ]

    def __init__(self, comparison: Comparison) -> None:
        super().__init__()
        self.comparison = comparison

    def compose(self) -> ComposeResult:
        with Vertical(classes="sheet full"):
            yield Static(literal(self.comparison.title), classes="sheet-title", markup=False)
            yield DataTable(cursor_type="row", fixed_columns=1, zebra_stripes=False)
            yield Static(
                "Enter shows what flipped   ←→ more columns   ? what they mean   Esc closes",
                classes="sheet-keys",
                markup=False,
            )

    def on_mount(self) -> None:
        found = self._table()
        titles = [_broken(title) for title, _ in self.comparison.columns]
        found.header_height = max((len(lines) for lines in titles), default=1)
        for lines in titles:
            found.add_column(Text("\n".join(lines)))
        for label, *cells in self.comparison.rows:
            numbers = (Text(literal(cell), justify="right") for cell in cells)
            found.add_row(Text(literal(label)), *numbers)
        found.focus()

    def _table(self) -> DataTable[Text]:
        return self.query_one(DataTable)

    def action_cursor(self, step: int) -> None:
        """Move through the builds as in the transcript."""
        found = self._table()
        found.action_cursor_down() if step > 0 else found.action_cursor_up()

    def action_meanings(self) -> None:
        """Say what the columns mean, and what else a reader has to know."""
        sections = [Section("Columns", self.comparison.columns)]
        if self.comparison.notes:
            notes = tuple((str(n), note) for n, note in enumerate(self.comparison.notes, start=1))
            sections.append(Section("Notes", notes))
        self.app.push_screen(PageScreen("What the table says", sections))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        label = self.comparison.rows[event.cursor_row][0]
        flips = [flip for flip in self.comparison.flips if flip.build == label]
        options = [
            Option(str(number), (flip.kind, flip.id, one_line(flip.told, 80)))
            for number, flip in enumerate(flips)
        ]
        empty = f"No answer of {label} flipped."
        if label == self.comparison.base:
            empty = f"{label} is what the others are held against."

        def chosen(row: Option | None) -> None:
            if row is not None:
                self.app.push_screen(_page(flips[int(row.value)]))

        self.app.push_screen(PickScreen(f"{label}: what flipped", options, empty, ""), chosen)


def _page(flip: Flip) -> PageScreen:
    title = f"{flip.build}, {flip.kind}: {flip.id}"
    return PageScreen(title, [Section("What was asked and said", flip.parts)])


def _broken(title: str) -> list[str]:
    """Return the title in lines of about `TITLE_WIDTH`."""
    lines = [""]
    for word in literal(title).split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > TITLE_WIDTH:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
