"""The lines around the prompt that say how things stand.

`Status` is a value folded from events; the widgets only draw it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.reactive import reactive
from textual.widgets import Static

from edgeagent.events import (
    Answered,
    ApprovalNeeded,
    Event,
    Prefilled,
    StepStarted,
    TextSaid,
    Tier,
    Token,
    ToolCalled,
    TurnEnded,
    TurnFailed,
)
from edgeagent.link import LinkState
from edgeagent.messages import Usage
from edgeagent.tui.plain import literal

WRITING = "writing"
WAITING = "waiting for your answer (tab moves to it)"
LINK_SIGNS = {LinkState.ONLINE: "●", LinkState.PROBING: "◐", LinkState.OFFLINE: "○"}


@dataclass(frozen=True, slots=True)
class Status:
    """How things stand."""

    model: str = ""
    """Name and quantization; empty without a model."""
    n_ctx: int = 0
    n_used: int = 0
    tokens_per_s: float = 0.0
    tier: Tier | None = None
    """Of the last reply."""
    link: LinkState = LinkState.OFFLINE
    reason: str = ""
    activity: str = ""
    """What the turn is doing right now; empty between turns."""

    def after(self, event: Event) -> Status:
        """Return the status once `event` has happened."""
        match event:
            case StepStarted(tier=tier):
                return replace(self, activity=f"{tier}: choosing the next step")
            case Prefilled(done, total):
                percent = 100 * done // total if total else 100
                return replace(self, activity=f"reading prompt {percent} %")
            case Token():
                return replace(self, activity=WRITING)
            case ToolCalled(call=call, tier=tier, usage=usage):
                return replace(self._spent(tier, usage), activity=f"running {call.name}")
            case ApprovalNeeded():
                return replace(self, activity=WAITING)
            case TextSaid(tier=tier, usage=usage):
                return replace(self._spent(tier, usage), tier=tier)
            case Answered(tier=tier):
                return replace(self, tier=tier)
            case TurnEnded() | TurnFailed():
                return replace(self, activity="")
            case _:
                return self

    def _spent(self, tier: Tier, usage: Usage) -> Status:
        if tier is Tier.REMOTE:
            return self
        speed = usage.n_decoded * 1000 / usage.decode_ms if usage.decode_ms else self.tokens_per_s
        return replace(
            self,
            n_used=usage.n_prompt + usage.n_decoded,
            n_ctx=usage.n_ctx or self.n_ctx,
            tokens_per_s=speed,
        )


class StatusLine(Horizontal):
    """One line under the prompt."""

    status = reactive(Status(), init=False)

    def compose(self) -> ComposeResult:
        for name in ("model", "context", "speed", "tier", "link", "reason"):
            yield Static(id=f"status-{name}", markup=False)

    def watch_status(self, status: Status) -> None:
        context = f"context {status.n_used}/{status.n_ctx}" if status.n_ctx else ""
        self._say("model", status.model or "no model")
        self._say("context", context)
        self._say("speed", f"{status.tokens_per_s:.0f} tok/s" if status.tokens_per_s else "")
        self._say("tier", f"last reply {status.tier.value}" if status.tier else "")
        self._say("link", f"{LINK_SIGNS[status.link]} {status.link.value}")
        self._say("reason", status.reason.removeprefix(f"{status.link}: "))
        for state in LinkState:
            self.set_class(status.link is state, f"-{state.value}")

    def _say(self, name: str, text: str) -> None:
        part = self.query_one(f"#status-{name}", Static)
        part.update(literal(text))
        part.set_class(not text, "-empty")
