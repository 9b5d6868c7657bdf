"""Hard turns: handed over, refused, failing half-way, and answered here when nobody is there."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack

import pytest
from pydantic import SecretStr

from edgeagent import ledger
from edgeagent.cascade import Grants
from edgeagent.config import Config, DeferConfig, RemoteConfig
from edgeagent.errors import EngineDied, RemoteOffline, RemoteRefused
from edgeagent.events import (
    Answered,
    ApprovalGiven,
    ApprovalNeeded,
    Decision,
    Deferred,
    Event,
    Question,
    RemoteFailed,
    StepStarted,
    Stop,
    Tier,
    Token,
    ToolCalled,
    ToolReturned,
    TurnEnded,
)
from edgeagent.link import Link, LinkState
from edgeagent.messages import DEFER, RESPOND, THINK, TRANSFER, Call, Verdict
from edgeagent.remote import Remote
from tests import loopback
from tests.loopback import Loopback
from tests.scripted import Desk, Scripted, agent, call, cut_short, defer, done, reply
from tests.test_cascade import Turns, of, result_of, stop_of

HARMLESS = {"get_user", THINK, RESPOND, TRANSFER}
HARD = "Rebook all five of us and split the payment."


class Rig:
    """Turns with a real larger model on loopback."""

    def __init__(self, *answers: loopback.Answer) -> None:
        self.server = Loopback(*answers)
        self.resources = ExitStack()
        self.desk = Desk()
        self.asked: list[ApprovalNeeded] = []

    def __enter__(self) -> Rig:
        self.resources.enter_context(self.server)
        return self

    def __exit__(self, *args: object) -> None:
        self.resources.close()

    def turns(self, *script: object, **changes: object) -> Turns:
        """Return turns of the script; changes are fields of the settings, by section."""
        sections: dict[str, dict[str, object]] = {"remote": {}, "defer": {}}
        for name, value in changes.items():
            sections["defer" if name in ("mode", "scope") else "remote"][name] = value
        remote = {
            "base_url": self.server.url, "api_key": SecretStr("k"), "model": "big",
            "connect_s": 5.0, **sections["remote"],
        }  # fmt: skip
        config = Config(
            remote=RemoteConfig.model_validate(remote),
            defer=DeferConfig.model_validate(sections["defer"]),
        )
        client, link = Remote(config.remote), Link(config.remote)
        self.resources.callback(client.close)
        self.resources.callback(link.close)
        return Turns(
            Scripted(*script),  # type: ignore[arg-type]  # the script's items, passed on
            agent(self.desk),
            config,
            self._approve,
            client,
            link,
        )

    def _approve(self, needed: ApprovalNeeded) -> Decision:
        self.asked.append(needed)
        return Decision.ONCE

    @property
    def sent(self) -> list[str]:
        return [json.dumps(request.body) for request in self.server.requests]


def tiers(events: list[Event]) -> list[Tier]:
    return [event.tier for event in events if isinstance(event, StepStarted)]


def deferrals(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.to, event.cause) for event in events if isinstance(event, Deferred)]


def test_a_hard_turn_goes_to_the_larger_model_and_ends_there() -> None:
    answers = (loopback.calls(("get_user", {"user_id": "mia"})), loopback.replies("All rebooked."))
    with Rig(*answers) as rig:
        turns = rig.turns(defer(reply("?")))
        events = turns.turn(HARD)
    assert turns.local.rules[0].on_defer is None, "in reach: the call itself is decoded"
    assert tiers(events) == [Tier.LOCAL, Tier.REMOTE, Tier.REMOTE]
    assert deferrals(events) == [("big", "requested")]
    assert events[-2] == Answered("All rebooked.", Tier.REMOTE)
    assert stop_of(events) is Stop.ANSWERED
    assert HARD in rig.sent[0]
    assert DEFER not in rig.sent[0] + rig.sent[1]
    assert turns.link.state is LinkState.ONLINE


def test_the_next_turn_is_local_again() -> None:
    with Rig(loopback.replies("Done.")) as rig:
        turns = rig.turns(defer(reply("?")), reply("Yes."))
        turns.turn(HARD)
        events = turns.turn("Thanks, and my seat?")
    assert tiers(events) == [Tier.LOCAL]
    assert len(rig.sent) == 1
    assert DEFER not in str(turns.local.prompts[-1].conversation)
    assert "Done." in str(turns.local.prompts[-1].conversation)


def test_what_left_the_machine_is_on_the_account() -> None:
    with Rig(loopback.replies("Done.")) as rig:
        events = rig.turns(defer(reply("?")), usd_per_mtok_in=10.0).turn(HARD)
    end = events[-1]
    assert isinstance(end, TurnEnded)
    assert end.stats.usage.bytes_sent == rig.server.requests[0].n_bytes
    assert end.stats.usage.cost_usd == pytest.approx(100 * 10.0 / 1e6)
    first, second = ledger.rows(events)
    assert (first.tier, first.names, first.usage.bytes_sent) == (Tier.LOCAL, (DEFER,), 0)
    assert first.verdict is not None
    assert first.verdict.probability == 0.9
    assert (second.tier, second.names, second.reason) == (Tier.REMOTE, (RESPOND,), "too hard")
    assert second.usage.bytes_sent == rig.server.requests[0].n_bytes


def test_out_of_reach_the_answer_is_local_marked_and_harmless() -> None:
    turns = Turns(Scripted(defer(call("get_user", user_id="a")), reply("I can only look.")))
    events = turns.turn(HARD)
    assert turns.local.rules[0].on_defer == HARMLESS, "the same logits, read with writes masked"
    assert turns.local.rules[1].offered == HARMLESS
    assert turns.local.rules[1].on_defer is None
    assert deferrals(events) == [("outbox", "not configured")]
    assert tiers(events) == [Tier.LOCAL, Tier.OFFLINE]
    assert all(e.tier is Tier.OFFLINE for e in events if isinstance(e, ToolCalled))
    assert events[-2] == Answered("I can only look.", Tier.OFFLINE)
    assert DEFER not in str(turns.conversation), "the deferral was never decoded"


@pytest.mark.parametrize("n_harmless", [0, 1])
def test_a_write_on_a_turn_that_the_model_did_not_trust_itself_with_is_not_done(
    n_harmless: int,
) -> None:
    """The rule masks it; a local tier that ignores the rule is stopped all the same."""
    desk = Desk()
    hard = Verdict(True, 0.9, "greedy")
    write = done(Call("call_1", "book", {"flight": "a"}), verdict=hard)
    first = [defer(call(THINK, thought="hm"))] * n_harmless
    turns = Turns(Scripted(*first, write, reply("no")), agent(desk))
    events = turns.turn(HARD)
    assert desk.did == []
    assert "not available" in result_of(events, "book").content


def test_the_next_turn_after_an_offline_one_may_write_again() -> None:
    turns = Turns(Scripted(defer(reply("Later.")), call("book", flight="a"), reply("Booked.")))
    turns.turn(HARD)
    events = turns.turn("Just book flight a.")
    assert tiers(events) == [Tier.LOCAL, Tier.LOCAL]
    assert stop_of(events) is Stop.ANSWERED


@pytest.mark.parametrize(
    ("down", "cause"),
    [
        (RemoteOffline("connection refused by host"), "offline: connection refused by host"),
        (RemoteRefused("401: check DEFER_API_KEY"), "401: check DEFER_API_KEY"),
    ],
)
def test_a_link_that_is_known_to_be_down_costs_nothing(down: RemoteOffline, cause: str) -> None:
    with Rig(loopback.replies("ok")) as rig:
        turns = rig.turns(defer(reply("Not now.")))
        turns.link.record_failure(down)
        events = turns.turn(HARD)
    assert rig.sent == []
    assert deferrals(events) == [("outbox", cause)]
    assert len(of(events, StepStarted)) == 1, "no step was spent on the deferral"


def test_never_stays_here_although_the_larger_model_is_up() -> None:
    with Rig(loopback.replies("ok")) as rig:
        events = rig.turns(defer(reply("Not now.")), mode="never").turn(HARD)
    assert rig.sent == []
    assert deferrals(events) == [("outbox", "never")]
    assert events[-2] == Answered("Not now.", Tier.OFFLINE)


def test_ask_shows_exactly_what_would_leave_and_waits_for_it() -> None:
    with Rig(loopback.replies("Done.")) as rig:
        events = rig.turns(defer(reply("?")), mode="ask").turn(HARD)
    assert [needed.question for needed in rig.asked] == [Question.DEFER]
    host = rig.server.url.split("/")[2]
    n_bytes = rig.server.requests[0].n_bytes
    assert rig.asked[0].detail == f"2 messages, {n_bytes} bytes, to big at {host}"
    assert deferrals(events) == [("big", "requested")]
    assert stop_of(events) is Stop.ANSWERED


def test_ask_and_a_refusal_keeps_the_turn_here_and_harmless() -> None:
    with Rig(loopback.replies("ok")) as rig:
        turns = rig.turns(defer(reply("?")), reply("I can only look."), mode="ask")
        turns.approve = lambda needed: Decision.REFUSE
        events = turns.turn(HARD)
    assert rig.sent == []
    assert deferrals(events) == [("outbox", "refused")]
    assert turns.local.rules[1].offered == HARMLESS
    assert turns.local.prompts[0] == turns.local.prompts[1], "the deferral leaves no trace"
    assert events[-2] == Answered("I can only look.", Tier.OFFLINE)


def test_ask_and_always_does_not_ask_again() -> None:
    with Rig(loopback.replies("Done.")) as rig:
        turns = rig.turns(defer(reply("?")), defer(reply("?")), mode="ask")
        turns.approve = lambda needed: Decision.ALWAYS
        turns.turn(HARD)
        events = turns.turn(HARD)
    assert of(events, ApprovalNeeded) == []
    assert len(rig.sent) == 2


def test_ask_and_a_cancel_sends_nothing() -> None:
    with Rig(loopback.replies("ok")) as rig:
        turns = rig.turns(defer(reply("?")), mode="ask")

        def cancel(needed: ApprovalNeeded) -> Decision:
            turns.cancel.set()
            return Decision.ONCE

        turns.approve = cancel
        events = turns.turn(HARD)
    assert rig.sent == []
    assert stop_of(events) is Stop.CANCELLED


def test_the_rest_of_the_conversation_can_be_handed_over() -> None:
    with Rig(loopback.replies("Done.")) as rig:
        turns = rig.turns(defer(reply("?")), reply("Local."), scope="conversation", mode="ask")
        turns.turn(HARD)
        events = turns.turn("And my seat?")
        assert tiers(events) == [Tier.REMOTE]
        assert rig.asked[0].detail.endswith(", and the rest of the conversation")
        assert len(rig.asked) == 1
        turns.link.record_failure(RemoteOffline("gone"))
        assert tiers(turns.turn("And my bag?")) == [Tier.LOCAL], "down: served here meanwhile"
        turns.link.record_success()
        assert tiers(turns.turn("And my dog?")) == [Tier.REMOTE]


def test_a_failed_hand_over_hands_nothing_over_for_good() -> None:
    with Rig(loopback.status(401)) as rig:
        turns = rig.turns(defer(reply("?")), reply("Local."), scope="conversation")
        turns.turn(HARD)
        assert not turns.grants.is_handed_over


def test_the_larger_model_needs_permission_to_write_too() -> None:
    answers = (loopback.calls(("book", {"flight": "HAT1"})), loopback.replies("Booked."))
    with Rig(*answers) as rig:
        events = rig.turns(defer(reply("?"))).turn(HARD)
    assert [needed.question for needed in rig.asked] == [Question.WRITE]
    assert [made.name for made in rig.desk.did] == ["book"]
    assert stop_of(events) is Stop.ANSWERED


def test_several_calls_of_the_larger_model_run_in_order() -> None:
    both = loopback.calls(("get_user", {"user_id": "a"}), ("book", {"flight": "b"}))
    with Rig(both, loopback.replies("ok")) as rig:
        rig.turns(defer(reply("?"))).turn(HARD)
    assert [made.name for made in rig.desk.did] == ["get_user", "book"]
    assert len({made.id for made in rig.desk.did}) == 2
    roles = [message["role"] for message in rig.server.requests[1].body["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "tool"]


FAILURES = {
    "401": (loopback.status(401), "RemoteRefused"),
    "402": (loopback.status(402), "RemoteRefused"),
    "403": (loopback.status(403), "RemoteRefused"),
    "404": (loopback.status(404), "RemoteRefused"),
    "429": (loopback.status(429, Retry_After="20"), "RemoteLimited"),
    "500": (loopback.status(500), "RemoteBroken"),
    "a web page": (loopback.page(), "RemoteBroken"),
    "half a stream": (loopback.half(), "RemoteBroken"),
    "no word": (loopback.hang_up(), "RemoteBroken"),
    "stalls": (loopback.stall(), "RemoteTimeout"),
    "stalls in the middle": (loopback.stall_midway(), "RemoteTimeout"),
    "drips": (loopback.drip(), "RemoteTimeout"),
    "floods": (loopback.flood(), "RemoteBroken"),
    "an unknown tool": (loopback.UNKNOWN_TOOL, "RemoteBroken"),
    "arguments that do not fit": (loopback.UNFIT, "RemoteBroken"),
    "arguments that are not JSON": (loopback.BAD_JSON, "RemoteBroken"),
    "defers itself": (loopback.calls((DEFER, {"reason": "no, you"})), "RemoteBroken"),
    "says nothing": (loopback.says(""), "RemoteBroken"),
}


@pytest.mark.parametrize(("answer", "kind"), FAILURES.values(), ids=FAILURES.keys())
def test_a_larger_model_that_fails_leaves_the_turn_with_a_local_answer(
    answer: loopback.Answer, kind: str
) -> None:
    with Rig(answer) as rig:
        turn_s = 0.5 if kind == "RemoteTimeout" else 30.0
        turns = rig.turns(defer(reply("?")), reply("I can only look."), turn_s=turn_s)
        events = turns.turn(HARD)
        sent = sum(request.n_bytes for request in rig.server.requests)
    failed = of(events, RemoteFailed)
    assert [e.kind for e in failed if isinstance(e, RemoteFailed)] == [kind]
    assert [e.bytes_sent for e in failed if isinstance(e, RemoteFailed)] == [sent]
    assert deferrals(events)[0] == ("big", "requested")
    assert deferrals(events)[1][0] == "outbox"
    assert tiers(events) == [Tier.LOCAL, Tier.REMOTE, Tier.OFFLINE]
    assert turns.local.rules[1].offered == HARMLESS
    assert turns.local.prompts[0] == turns.local.prompts[1]
    assert events[-2] == Answered("I can only look.", Tier.OFFLINE)
    assert stop_of(events) is Stop.ANSWERED
    assert rig.desk.did == []


def test_nobody_listening_leaves_the_turn_with_a_local_answer_and_opens_the_link() -> None:
    with Rig(loopback.replies("ok")) as rig:
        turns = rig.turns(
            defer(reply("?")), reply("Here."), defer(reply("Free.")), base_url=loopback.nobody()
        )
        events = turns.turn(HARD)
        assert [e.kind for e in events if isinstance(e, RemoteFailed)] == ["RemoteOffline"]
        assert turns.link.state is LinkState.OFFLINE
        events = turns.turn(HARD)
        assert of(events, RemoteFailed) == [], "the second turn knows it before it begins"
        assert events[-2] == Answered("Free.", Tier.OFFLINE)


def test_a_larger_model_that_fails_after_it_acted_loses_nothing() -> None:
    answers = (loopback.calls(("book", {"flight": "a"})), loopback.status(500))
    with Rig(*answers) as rig:
        turns = rig.turns(defer(reply("?")), reply("It is booked."))
        events = turns.turn(HARD)
    assert [made.name for made in rig.desk.did] == ["book"]
    assert tiers(events) == [Tier.LOCAL, Tier.REMOTE, Tier.REMOTE, Tier.OFFLINE]
    assert '"did": "book"' in str(turns.local.prompts[-1].conversation)
    assert events[-2] == Answered("It is booked.", Tier.OFFLINE)


def test_the_time_of_a_turn_is_for_all_its_remote_steps_together() -> None:
    """Each step alone would fit; the third one meets the end of the turn's time."""

    def slow(reply: loopback.Reply) -> None:
        reply.server.is_closing.wait(0.3)
        loopback.calls(("get_user", {"user_id": str(len(reply.server.requests))}))(reply)

    with Rig(slow) as rig:
        events = rig.turns(defer(reply("?")), reply("Enough."), turn_s=0.7).turn(HARD)
    assert [e.kind for e in events if isinstance(e, RemoteFailed)] == ["RemoteTimeout"]
    assert tiers(events).count(Tier.REMOTE) <= 3
    assert stop_of(events) is Stop.ANSWERED


def test_a_person_who_thinks_long_does_not_use_up_the_larger_models_time() -> None:
    answers = (loopback.calls(("book", {"flight": "a"})), loopback.replies("Booked."))
    with Rig(*answers) as rig:
        turns = rig.turns(defer(reply("?")), turn_s=2.0)
        pause = threading.Event()

        def think(needed: ApprovalNeeded) -> Decision:
            pause.wait(2.1)
            return Decision.ONCE

        turns.approve = think
        events = turns.turn(HARD)
    assert events[-2] == Answered("Booked.", Tier.REMOTE)


def test_a_cancel_while_the_larger_model_writes_keeps_what_was_said() -> None:
    with Rig(loopback.stall_midway("Let me see")) as rig:
        turns = rig.turns(defer(reply("?")))
        events = turns.turn(
            HARD, watch=lambda e: turns.cancel.set() if isinstance(e, Token) else None
        )
        assert rig.server.hung_up.wait(5.0)
    assert stop_of(events) is Stop.CANCELLED
    assert of(events, RemoteFailed) == []
    answered = events[-2]
    assert isinstance(answered, Answered)
    assert "Let me see".startswith(answered.text)
    assert turns.link.is_up, "a cancel says nothing about the server"


def test_a_larger_model_that_repeats_itself_is_stopped() -> None:
    same = loopback.calls(("get_user", {"user_id": "a"}))
    with Rig(same, same, same, same, loopback.replies("I give up.")) as rig:
        events = rig.turns(defer(reply("?"))).turn(HARD)
    assert len(rig.desk.did) == 2
    names = [tool["function"]["name"] for tool in rig.server.requests[-1].body["tools"]]
    assert names == [RESPOND, TRANSFER]
    assert stop_of(events) is Stop.ANSWERED


def test_a_deferral_beside_another_call_closes_both() -> None:
    step = done(
        Call("call_1", "get_user", {"user_id": "a"}),
        Call("call_2", DEFER, {"reason": "hard"}),
        Call("call_3", "book", {"flight": "a"}),
    )
    with Rig(loopback.replies("Done.")) as rig:
        events = rig.turns(step).turn(HARD)
    assert [made.name for made in rig.desk.did] == ["get_user"]
    assert result_of(events, "book").is_error
    assert events[-2] == Answered("Done.", Tier.REMOTE)


def test_a_worker_that_dies_on_an_offline_turn_comes_back_harmless() -> None:
    turns = Turns(
        Scripted(defer(call(THINK, thought="a")), EngineDied("killed"), reply("Only looking."))
    )
    events = turns.turn(HARD)
    assert [rule.offered for rule in turns.local.rules[1:]] == [HARMLESS, HARMLESS]
    assert events[-2] == Answered("Only looking.", Tier.OFFLINE)


def test_offline_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", opened)
    config = RemoteConfig(base_url="http://127.0.0.1:9/v1", api_key=SecretStr("k"), model="big")
    link = Link(config, offline=True)
    link.start()
    turns = Turns(
        Scripted(defer(reply("Only here."))),
        config=Config(remote=config, offline=True),
        remote=Remote(config),
        link=link,
    )
    events = turns.turn(HARD)
    assert deferrals(events) == [("outbox", "--offline")]
    assert events[-2] == Answered("Only here.", Tier.OFFLINE)


def test_a_turn_that_is_replayed_begins_with_the_larger_model() -> None:
    with Rig(loopback.replies("Done.")) as rig:
        turns = rig.turns()
        turns.grants = Grants(is_handed_over=True)
        events = turns.turn(HARD)
    assert tiers(events) == [Tier.REMOTE]
    assert of(events, Deferred) == []
    assert stop_of(events) is Stop.ANSWERED


def test_the_account_has_a_row_for_what_failed() -> None:
    with Rig(loopback.status(401)) as rig:
        events = rig.turns(defer(reply("?")), reply("Here.")).turn(HARD)
    local, failed, offline = ledger.rows(events)
    assert (local.step, failed.step, offline.step) == (1, 2, 2)
    assert failed.failure.startswith("RemoteRefused: 401")
    assert failed.usage.bytes_sent == rig.server.requests[0].n_bytes
    assert (offline.tier, offline.names) == (Tier.OFFLINE, (RESPOND,))


def test_a_cut_reply_costs_what_it_cost() -> None:
    raw = f'<tool_call>\n{{"name": "{RESPOND}", "arguments": {{"message": "Let'
    turns = Turns(Scripted(cut_short(raw)))
    events = turns.turn(watch=lambda e: turns.cancel.set() if isinstance(e, Token) else None)
    (row,) = ledger.rows(events)
    assert row.usage.n_decoded == 20
    assert isinstance(of(events, ToolReturned)[0], ToolReturned)
    assert of(events, ApprovalGiven) == []
