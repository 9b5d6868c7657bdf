"""What each step cost and where it was taken: the turn's account, derived from its events.

Nothing is counted twice and nothing is kept: the events are the truth. Knows no storage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgeagent.events import (
    Deferred,
    Event,
    RemoteFailed,
    StepStarted,
    TextSaid,
    Tier,
    ToolCalled,
    TurnStarted,
)
from edgeagent.messages import Usage, Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """One step, or one attempt of the larger model that gave nothing."""

    turn: int
    """Counted from 1."""
    step: int
    tier: Tier
    names: tuple[str, ...]
    """What was called; empty for plain words and for a failure."""
    reason: str
    """Why the turn was deferred, once it was."""
    verdict: Verdict | None
    usage: Usage
    ms: float
    failure: str = ""
    """What the larger model's attempt ended with."""


def rows(events: Iterable[Event]) -> list[Row]:
    """Return the account of the events, oldest step first."""
    account: list[Row] = []
    turn = step = 0
    reason = ""
    is_same_step = False
    for event in events:
        match event:
            case TurnStarted():
                turn, step, reason = turn + 1, 0, ""
            case StepStarted(step):
                is_same_step = False
            case Deferred(reason):
                pass
            case RemoteFailed(kind, detail, bytes_sent):
                usage = Usage(bytes_sent=bytes_sent)
                failure = f"{kind}: {detail}"
                account.append(Row(turn, step, Tier.REMOTE, (), reason, None, usage, 0.0, failure))
            case ToolCalled(call, tier, verdict, usage, ms) if is_same_step:
                last = account.pop()
                account.append(replace(last, names=(*last.names, call.name)))
            case ToolCalled(call, tier, verdict, usage, ms):
                account.append(Row(turn, step, tier, (call.name,), reason, verdict, usage, ms))
                is_same_step = True
            case TextSaid(_, tier, usage, ms):
                account.append(Row(turn, step, tier, (), reason, None, usage, ms))
            case _:
                pass
    return account


def added(total: Usage, step: Usage) -> Usage:
    """Return the sums; what a prompt holds is that of the last local step, which has `n_ctx`."""
    is_local = step.n_ctx > 0
    return Usage(
        n_prompt=step.n_prompt if is_local else total.n_prompt,
        n_reused=total.n_reused + step.n_reused,
        n_decoded=total.n_decoded + step.n_decoded,
        n_sampled=total.n_sampled + step.n_sampled,
        n_drafted=total.n_drafted + step.n_drafted,
        n_accepted=total.n_accepted + step.n_accepted,
        prefill_ms=total.prefill_ms + step.prefill_ms,
        decode_ms=total.decode_ms + step.decode_ms,
        n_ctx=step.n_ctx if is_local else total.n_ctx,
        bytes_sent=total.bytes_sent + step.bytes_sent,
        cost_usd=total.cost_usd + step.cost_usd,
    )
