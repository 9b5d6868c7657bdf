"""A question to the person, asked inside the transcript: a write, or a turn that would leave.

The question carries the slot for its answer. Keys count only after a moment, so that a letter
meant for the prompt cannot allow anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from edgeagent.events import ApprovalNeeded, Decision, Question
from edgeagent.messages import Json
from edgeagent.tui.plain import clipped, literal, pretty
from edgeagent.tui.posts import Slot

VALUE_CHARACTERS = 600

TITLES = {
    Question.WRITE: "Allow this change?",
    Question.DEFER: "Send this conversation to the larger model?",
}
_ALWAYS = {
    Question.WRITE: "always for this tool",
    Question.DEFER: "always in this session",
}
OUTCOMES = {
    Decision.ONCE: "allowed once",
    Decision.ALWAYS: "allowed until this session is closed",
    Decision.REFUSE: "refused",
}


class Ask(Widget, can_focus=True):
    """The question, its details, and once it is answered what was decided."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"ask--title", "ask--key", "ask--label", "ask--outcome"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "answer('once')", "Allow once", id="approve.once",
                tooltip="Allow it this time"),
        Binding("A", "answer('always')", "Allow always", id="approve.always",
                tooltip="Allow it until the session is closed"),
        Binding("r", "answer('refuse')", "Refuse", id="approve.refuse",
                tooltip="Refuse; the agent is told so"),
    ]  # fmt: skip

    ARM_S: ClassVar[float] = 0.4
    """Longer than the gap between two keys of someone who is typing."""

    @dataclass
    class Answered(Message):
        """The person decided."""

        ask: Ask
        decision: Decision

    decision: reactive[Decision | None] = reactive(None, layout=True)
    is_armed = reactive(False, toggle_class="-armed")

    def __init__(
        self, needed: ApprovalNeeded, slot: Slot | None, keymap: Mapping[str, str]
    ) -> None:
        super().__init__(classes="block ask")
        self.keymap = keymap
        self.needed = needed
        self.slot = slot
        """None when the question is shown from the history."""

    @property
    def is_open(self) -> bool:
        """The turn is waiting for this answer."""
        return self.slot is not None and self.decision is None

    @property
    def copied(self) -> str:
        """What was asked, in words."""
        return self.needed.detail

    @property
    def copied_code(self) -> str:
        """The call that was asked about."""
        return _arguments(self.needed.call.arguments)

    def on_mount(self) -> None:
        if self.is_open:
            self.set_timer(self.ARM_S, self._arm)

    def _arm(self) -> None:
        self.is_armed = True

    def watch_decision(self, decision: Decision | None) -> None:
        self.set_class(decision is not None, "-answered")
        self.can_focus = decision is None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the answers only while they are waited for."""
        return self.is_open if action == "answer" else True

    def action_answer(self, decision: str) -> None:
        """Give the answer to the turn that waits for it."""
        if self.is_armed and self.slot is not None and self.decision is None:
            self.decision = Decision(decision)
            self.slot.put(self.decision)
            self.post_message(self.Answered(self, self.decision))

    def render(self) -> Content:
        call = self.needed.call
        if self.decision is not None:
            outcome = Content.styled(OUTCOMES[self.decision], self.get_visual_style("ask--outcome"))
            return Content("· ").append(outcome).append(f": {literal(call.name)}")
        title = Content.styled(TITLES[self.needed.question], self.get_visual_style("ask--title"))
        lines = [title]
        if not self.needed.detail.startswith(call.name):  # else it only repeats the rows
            lines.append(Content(literal(clipped(self.needed.detail, VALUE_CHARACTERS * 4))))
        lines += [Content(""), *self._rows()]
        if self.slot is not None:
            lines += [Content(""), self._keys()]
        return Content("\n").join(lines)

    def _rows(self) -> list[Content]:
        label = self.get_visual_style("ask--label")
        arguments = self.needed.call.arguments
        width = max((len(key) for key in arguments), default=0)
        rows = [Content.styled(literal(self.needed.call.name), label)]
        for key, value in arguments.items():
            shown = value if isinstance(value, str) else _arguments(value)
            text = literal(clipped(shown, VALUE_CHARACTERS)).replace("\n", f"\n{'':{width + 4}}")
            head = Content.styled(f"  {literal(key):{width}}  ", label)
            rows.append(head.append(Content(text)))
        return rows

    def _keys(self) -> Content:
        key = self.get_visual_style("ask--key")
        offers = (
            (self.keymap.get("approve.once", "a"), "once"),
            (self.keymap.get("approve.always", "A"), _ALWAYS[self.needed.question]),
            (self.keymap.get("approve.refuse", "r"), "refuse"),
        )
        parts = [Content.styled(f" {k} ", key).append(f" {text}   ") for k, text in offers]
        return Content("").join(parts)


def _arguments(value: Json) -> str:
    return pretty(json.dumps(value, ensure_ascii=False))
