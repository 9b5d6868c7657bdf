"""What the transcript is made of: things said, and one-line happenings that unfold.

A block is drawn by one widget, because a long transcript has hundreds of them. Each knows what
`y` and `Y` would copy, which is the text itself and not what is drawn of it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from textual.content import Content
from textual.geometry import Size
from textual.reactive import reactive
from textual.widget import Widget

from edgeagent.events import Tier
from edgeagent.tui.plain import clipped, literal

SAID_CHARACTERS = 2_000
DETAIL_CHARACTERS = 12_000
"""Longer texts are cut on the screen: laying out 100 kB takes a quarter of a second each time."""


class Said(Widget):
    """What the customer wrote, or what the agent answered."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"said--who", "said--badge", "said--note"}

    text = reactive("", layout=True)
    note = reactive("", layout=True)
    """What is to be known of the whole reply, after its badge."""
    tier: reactive[Tier | None] = reactive(None, layout=True)
    """Whose reply it is; None for the customer, and while it is not known."""

    def __init__(self, who: Literal["customer", "agent"], text: str = "") -> None:
        super().__init__(classes=f"block {who}")
        self.who = who
        self.set_reactive(Said.text, text)

    @property
    def copied(self) -> str:
        """The message."""
        return self.text

    @property
    def copied_code(self) -> str:
        """The message; nothing in it is code."""
        return self.text

    def watch_tier(self, tier: Tier | None) -> None:
        for each in Tier:
            self.set_class(tier is each, f"-{each.value}")

    def render(self) -> Content:
        head = Content.styled(self.who, self.get_visual_style("said--who"))
        if self.tier is not None:
            badge = Content.styled(f" {self.tier.value} ", self.get_visual_style("said--badge"))
            head = head.append("  ").append(badge)
        if self.note:
            note = Content.styled(f"  {literal(self.note)}", self.get_visual_style("said--note"))
            head = head.append(note)
        return head.append("\n").append(Content(literal(clipped(self.text, SAID_CHARACTERS))))


_INDENT = "  "
"""As wide as the sign at the start of a line."""

LineKind = Literal["tool", "notice", "deferral", "warning", "error"]


class Line(Widget):
    """Something that happened, on one line, with more beneath if it is opened."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "line--fold",
        "line--name",
        "line--state",
        "line--detail",
    }

    text = reactive("", layout=True)
    state = reactive("", layout=True)
    """How it went, in a word or two at the end of the line."""
    detail = reactive("", layout=True)
    """Shown when open; empty means that there is nothing to open."""
    is_open = reactive(False, layout=True)
    is_bad = reactive(False, toggle_class="-bad")

    def __init__(
        self, kind: LineKind, text: str, *, name: str = "", state: str = "", detail: str = ""
    ) -> None:
        super().__init__(classes=f"block line {kind}")
        self.kind = kind
        self.lead = name
        self.code = ""
        """What `Y` copies; the detail if it is empty."""
        self.set_reactive(Line.text, text)
        self.set_reactive(Line.state, state)
        self.set_reactive(Line.detail, detail)

    @property
    def copied(self) -> str:
        """The line and what is beneath it."""
        line = " ".join(part for part in (self.lead, self.text, self.state) if part)
        return f"{line}\n{self.detail}" if self.detail else line

    @property
    def copied_code(self) -> str:
        """A tool's result, or what else is beneath the line."""
        return self.code or self.detail or self.text

    def on_click(self) -> None:
        self.toggle()

    def toggle(self) -> None:
        """Show or hide the detail, if there is any."""
        self.is_open = bool(self.detail) and not self.is_open

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return the height with wrapped lines indented, as `render` draws them."""
        return len(self._drawn().wrap(max(width - len(_INDENT), 1))) if width else 0

    def render(self) -> Content:
        fold = ("▾ " if self.is_open else "▸ ") if self.detail else "· "
        begun = Content.styled(fold, self.get_visual_style("line--fold"))
        width = self.content_size.width - len(_INDENT)
        lines = self._drawn().wrap(width) if width > 0 else [self._drawn()]
        return begun.append(Content("\n" + _INDENT).join(lines))

    def _drawn(self) -> Content:
        parts = [
            Content.styled(literal(self.lead), self.get_visual_style("line--name")),
            Content(literal(self.text)),
            Content.styled(literal(self.state), self.get_visual_style("line--state")),
        ]
        drawn = Content("  ").join(part for part in parts if part)
        if self.is_open:
            text = literal(clipped(self.detail, DETAIL_CHARACTERS))
            detail = Content.styled(text, self.get_visual_style("line--detail"))
            drawn = drawn.append("\n").append(detail)
        return drawn
