"""One turn on the local model: acting, permission, limits, and an end in every case."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from edgeagent import cascade, history
from edgeagent.acting import CANCELLED, DECLINED, REPEATED
from edgeagent.cascade import Agent, Grants
from edgeagent.config import Config, DeferConfig, LimitsConfig, RemoteConfig
from edgeagent.errors import ContextFull, EngineDied, EngineError, ModelLoadError
from edgeagent.events import (
    Answered,
    ApprovalGiven,
    ApprovalNeeded,
    ContextTrimmed,
    Decision,
    EngineRestarted,
    Event,
    Question,
    StepStarted,
    Stop,
    TextSaid,
    Tier,
    Token,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnFailed,
    TurnStarted,
    from_json,
    to_json,
)
from edgeagent.link import Link
from edgeagent.messages import (
    DEFER,
    RESPOND,
    THINK,
    TRANSFER,
    Call,
    CallMessage,
    Conversation,
    ResultMessage,
    UserMessage,
)
from edgeagent.remote import Remote
from tests.scripted import (
    TOOLS,
    USAGE,
    Desk,
    Scripted,
    agent,
    call,
    cut_short,
    done,
    reply,
)
from tests.test_history import is_valid

NO_REMOTE = RemoteConfig()


def allow(needed: ApprovalNeeded) -> Decision:
    return Decision.ONCE


@dataclass
class Turns:
    """Turns of one conversation, each checked for what holds of every turn."""

    local: Scripted
    agent: Agent = field(default_factory=agent)
    config: Config = field(default_factory=Config)
    approve: Callable[[ApprovalNeeded], Decision] = allow
    remote: Remote | None = None
    link: Link = field(default_factory=lambda: Link(NO_REMOTE))
    threshold: float | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    grants: Grants = field(default_factory=Grants)
    conversation: Conversation = ()

    def turn(
        self, text: str = "hello", watch: Callable[[Event], None] = lambda _: None
    ) -> list[Event]:
        events: list[Event] = []
        for event in cascade.run_turn(
            self.conversation,
            text,
            agent=self.agent,
            local=self.local,
            remote=self.remote,
            link=self.link,
            config=self.config,
            defer_threshold=self.threshold,
            approve=self.approve,
            cancel=self.cancel,
            grants=self.grants,
        ):
            events.append(event)
            self.conversation = history.fold(self.conversation, event)
            watch(event)
        check(events)
        assert is_valid(self.conversation)
        return events


def check(events: list[Event]) -> None:
    """What holds of every turn, however it went."""
    assert isinstance(events[0], TurnStarted)
    ends = [event for event in events if isinstance(event, TurnEnded | TurnFailed)]
    assert ends == events[-1:], "exactly one end, and it is last"
    called = [event.call.id for event in events if isinstance(event, ToolCalled)]
    returned = [event.call_id for event in events if isinstance(event, ToolReturned)]
    assert sorted(called) == sorted(returned), "one result for each call"
    assert len(set(called)) == len(called)
    assert [from_json(json.loads(json.dumps(to_json(event)))) for event in events] == events


def stop_of(events: list[Event]) -> Stop:
    assert isinstance(events[-1], TurnEnded), events[-1]
    return events[-1].stop


def of(events: list[Event], *kinds: type) -> list[Event]:
    return [event for event in events if isinstance(event, kinds)]


def result_of(events: list[Event], name: str) -> ToolReturned:
    return next(e for e in events if isinstance(e, ToolReturned) and e.name == name)


def test_a_turn_looks_up_and_answers() -> None:
    turns = Turns(Scripted(call("get_user", user_id="mia"), reply("Hi Mia.")))
    events = turns.turn("Who am I?")
    assert [type(event).__name__ for event in events] == [
        "TurnStarted", "StepStarted", "ToolCalled", "ToolReturned",
        "StepStarted", "ToolCalled", "ToolReturned", "Answered", "TurnEnded",
    ]  # fmt: skip
    assert events[-2] == Answered("Hi Mia.", Tier.LOCAL)
    assert stop_of(events) is Stop.ANSWERED
    assert turns.local.prompts[1].conversation[-1] == ResultMessage(
        turns.local.prompts[1].conversation[-2].calls[0].id,  # type: ignore[union-attr]  # a call
        "get_user",
        '{"did": "get_user"}',
    )


def test_the_prompt_always_has_all_tools() -> None:
    """The prefix never changes; what is not allowed is masked in the rule."""
    turns = Turns(Scripted(reply("a"), reply("b")))
    turns.turn()
    turns.turn()
    assert all(prompt.tools == TOOLS for prompt in turns.local.prompts)


def test_the_turn_costs_what_its_steps_cost() -> None:
    turns = Turns(Scripted(call("get_user", user_id="mia"), reply("Hi.")))
    end = turns.turn()[-1]
    assert isinstance(end, TurnEnded)
    assert end.stats.n_steps == 2
    assert end.stats.usage.n_decoded == 2 * USAGE.n_decoded
    assert end.stats.usage.n_prompt == USAGE.n_prompt, "that of the last step"


def test_thinking_goes_on_and_a_hand_over_ends_the_turn() -> None:
    turns = Turns(Scripted(call(THINK, thought="hm"), call(TRANSFER, summary="angry")))
    events = turns.turn()
    assert result_of(events, THINK).content == ""
    assert events[-2] == Answered(cascade.TRANSFERRED, Tier.LOCAL)
    assert stop_of(events) is Stop.TRANSFERRED


def test_plain_words_end_the_turn() -> None:
    events = Turns(Scripted(done(text="None of the tools fits."))).turn()
    assert isinstance(of(events, TextSaid)[0], TextSaid)
    assert events[-2] == Answered("None of the tools fits.", Tier.LOCAL)


def test_several_calls_of_a_step_are_one_message_and_run_in_order() -> None:
    desk = Desk()
    first, second = call("get_user", user_id="a").calls + call("book", flight="b").calls
    turns = Turns(Scripted(done(first, second), reply("ok")), agent(desk))
    events = turns.turn()
    assert desk.did == [first, second]
    costs = [e.usage.n_decoded for e in events if isinstance(e, ToolCalled)]
    assert costs == [USAGE.n_decoded, 0, USAGE.n_decoded], "a step is counted once"
    assert turns.conversation[1] == CallMessage((first, second))


def test_what_comes_after_the_reply_in_the_same_step_is_not_done() -> None:
    desk = Desk()
    step = done(Call("call_1", RESPOND, {"message": "ok"}), Call("call_2", "book", {"flight": "b"}))
    events = Turns(Scripted(step), agent(desk)).turn()
    assert stop_of(events) is Stop.ANSWERED
    assert desk.did == []
    assert result_of(events, "book").is_error


@pytest.mark.parametrize("decision", [Decision.ONCE, Decision.ALWAYS])
def test_a_write_happens_once_it_is_allowed(decision: Decision) -> None:
    desk = Desk()
    turns = Turns(
        Scripted(call("cancel", reservation_id="7KD2RM"), reply("Done.")),
        agent(desk),
        approve=lambda needed: decision,
    )
    events = turns.turn()
    asked, given = of(events, ApprovalNeeded, ApprovalGiven)
    assert isinstance(asked, ApprovalNeeded)
    assert asked.question is Question.WRITE
    assert asked.detail == 'cancel {"reservation_id": "7KD2RM"}'
    assert given == ApprovalGiven(asked.call.id, Question.WRITE, decision)
    assert [made.name for made in desk.did] == ["cancel"]


def test_always_is_remembered_for_that_tool_and_for_the_session() -> None:
    """Each call is on record as allowed: after a crash only such a one is carried out."""
    answers = [Decision.ALWAYS, Decision.REFUSE]
    desk = Desk()
    turns = Turns(
        Scripted(
            call("cancel", reservation_id="a"), reply("ok"),
            call("cancel", reservation_id="b"), call("book", flight="c"), reply("ok"),
        ),
        agent(desk),
        approve=lambda needed: answers.pop(0),
    )  # fmt: skip
    turns.turn()
    events = turns.turn()
    assert [made.arguments for made in desk.did] == [
        {"reservation_id": "a"},
        {"reservation_id": "b"},
    ]
    assert [e.decision for e in events if isinstance(e, ApprovalGiven)] == [
        Decision.ALWAYS,
        Decision.REFUSE,
    ]


def test_what_the_person_takes_to_answer_is_no_part_of_the_turns_time() -> None:
    def approve(needed: ApprovalNeeded) -> Decision:
        time.sleep(1)
        return Decision.ONCE

    turns = Turns(
        Scripted(call("cancel", reservation_id="a"), reply("Done.")), agent(Desk()), approve=approve
    )
    end = turns.turn()[-1]
    assert isinstance(end, TurnEnded)
    assert 0 < end.stats.ms < 900


def test_a_refused_write_is_told_to_the_model_and_the_turn_goes_on() -> None:
    desk = Desk()
    turns = Turns(
        Scripted(call("cancel", reservation_id="a"), reply("I left it.")),
        agent(desk),
        approve=lambda needed: Decision.REFUSE,
    )
    events = turns.turn()
    assert desk.did == []
    assert DECLINED in result_of(events, "cancel").content
    assert stop_of(events) is Stop.ANSWERED


def test_a_call_that_does_not_fit_is_not_carried_out() -> None:
    desk = Desk()
    turns = Turns(Scripted(call("get_user", user_id=3), call("teleport"), reply("ok")), agent(desk))
    events = turns.turn()
    assert desk.did == []
    assert result_of(events, "get_user").is_error
    assert "not available" in result_of(events, "teleport").content
    assert stop_of(events) is Stop.ANSWERED


def test_a_tool_that_raises_becomes_a_result() -> None:
    def broken(call: Call) -> str:
        raise KeyError("seat")

    turns = Turns(
        Scripted(call("get_user", user_id="a"), reply("ok")), agent(Desk(get_user=broken))
    )
    returned = result_of(turns.turn(), "get_user")
    assert returned.is_error
    assert json.loads(returned.content) == {"error": "KeyError: 'seat'"}


@pytest.mark.parametrize(
    ("name", "argument", "said"),
    [("get_user", "user_id", "no answer within"), ("book", "flight", "may still take effect")],
)
def test_a_tool_that_hangs_becomes_a_result(name: str, argument: str, said: str) -> None:
    release = threading.Event()

    def hung(call: Call) -> str:
        release.wait(10.0)
        return "{}"

    turns = Turns(
        Scripted(call(name, **{argument: "a"}), reply("ok")),
        agent(Desk(**{name: hung})),
        Config(limits=LimitsConfig(tool_timeout_s=0.1)),
    )
    events = turns.turn()
    release.set()
    assert said in result_of(events, name).content
    assert stop_of(events) is Stop.ANSWERED


def test_the_same_call_three_times_is_stopped_and_a_fourth_leaves_only_the_answer() -> None:
    desk = Desk()
    same = [call("get_user", user_id="a") for _ in range(4)]
    turns = Turns(Scripted(*same, reply("I could not find out.")), agent(desk))
    events = turns.turn()
    assert len(desk.did) == 2
    results = [e for e in events if isinstance(e, ToolReturned) and e.name == "get_user"]
    assert [REPEATED in e.content for e in results] == [False, False, True, True]
    assert turns.local.rules[3].offered == {tool.name for tool in TOOLS}
    assert turns.local.rules[4].offered == {RESPOND, TRANSFER, DEFER}
    assert turns.local.rules[4].on_defer == {RESPOND, TRANSFER}
    assert stop_of(events) is Stop.ANSWERED


def test_different_arguments_are_no_loop() -> None:
    desk = Desk()
    script = [call("get_user", user_id=str(n)) for n in range(6)]
    Turns(Scripted(*script, reply("ok")), agent(desk)).turn()
    assert len(desk.did) == 6


def test_the_step_limit_ends_the_turn() -> None:
    script = [call(THINK, thought=str(n)) for n in range(5)]
    turns = Turns(Scripted(*script), config=Config(limits=LimitsConfig(max_steps=3)))
    events = turns.turn()
    assert stop_of(events) is Stop.STEP_LIMIT
    assert len(of(events, StepStarted)) == 3


def test_the_oldest_turns_leave_when_the_context_is_full() -> None:
    full = ContextFull(4200, 512, 4096)
    turns = Turns(Scripted(reply("a"), reply("b"), full, full, reply("c")))
    turns.turn("one" * 100)
    turns.turn("two" * 100)
    events = turns.turn("three" * 100)
    assert of(events, ContextTrimmed) == [ContextTrimmed(1), ContextTrimmed(2)]
    shown = turns.local.prompts[-1].conversation
    assert shown == (UserMessage("three" * 100),)
    assert history.n_turns(turns.conversation) == 3, "the history keeps them"


def test_what_was_trimmed_stays_trimmed_in_the_next_turn() -> None:
    turns = Turns(Scripted(reply("a"), ContextFull(4200, 512, 4096), reply("b"), reply("c")))
    for text in ("one", "two", "three"):
        turns.turn(text)
    assert history.n_turns(turns.local.prompts[-1].conversation) == 2
    assert turns.grants.n_trimmed == 1


def test_one_message_that_does_not_fit_fails_the_turn_and_loses_nothing() -> None:
    full = ContextFull(40_000, 512, 4096)
    turns = Turns(Scripted(reply("a"), full, full, reply("fine")))
    turns.turn("one")
    events = turns.turn("x" * 100_000)
    assert isinstance(events[-1], TurnFailed)
    assert "shorten the message" in events[-1].error
    assert history.n_turns(turns.conversation) == 2
    assert turns.grants.n_trimmed == 1, "the last turn never leaves"
    assert stop_of(turns.turn("short")) is Stop.ANSWERED


def test_a_worker_that_dies_is_started_again_and_the_step_repeated() -> None:
    turns = Turns(Scripted(EngineDied("killed by signal 9"), reply("still here")))
    events = turns.turn()
    assert of(events, EngineRestarted) == [EngineRestarted("killed by signal 9")]
    assert turns.local.n_starts == 1
    assert turns.local.prompts[0] == turns.local.prompts[1]
    assert stop_of(events) is Stop.ANSWERED


def test_a_worker_that_dies_twice_fails_the_turn() -> None:
    turns = Turns(Scripted(EngineDied("one"), EngineDied("two"), reply("later")))
    events = turns.turn()
    assert events[-1] == TurnFailed("two")
    assert stop_of(turns.turn()) is Stop.ANSWERED


def test_a_worker_that_cannot_be_started_again_fails_the_turn() -> None:
    class Gone(Scripted):
        def start(self) -> object:  # type: ignore[override]  # it never returns
            raise ModelLoadError("the file is gone")

    assert Turns(Gone(EngineDied("one"))).turn()[-1] == TurnFailed("the file is gone")


@pytest.mark.parametrize("item", [EngineError("out of memory"), done()])
def test_a_local_model_that_fails_fails_the_turn(item: EngineError) -> None:
    assert isinstance(Turns(Scripted(item)).turn()[-1], TurnFailed)


def test_a_cancel_keeps_what_was_said() -> None:
    raw = f'<tool_call>\n{{"name": "{RESPOND}", "arguments": {{"message": "Let me lo'
    turns = Turns(Scripted(cut_short(raw), reply("again")))
    events = turns.turn(watch=lambda e: turns.cancel.set() if isinstance(e, Token) else None)
    assert stop_of(events) is Stop.CANCELLED
    assert events[-2] == Answered("Let me lo", Tier.LOCAL)
    turns.cancel.clear()
    turns.turn("go on")
    assert "Let me lo" in str(turns.local.prompts[-1].conversation)


def test_a_cancel_in_the_middle_of_another_call_leaves_nothing_open() -> None:
    turns = Turns(Scripted(cut_short('<tool_call>\n{"name": "cancel", "arg')))
    events = turns.turn(watch=lambda e: turns.cancel.set() if isinstance(e, Token) else None)
    assert of(events, ToolCalled) == []
    assert stop_of(events) is Stop.CANCELLED


def test_a_cancel_before_a_call_is_carried_out_closes_it() -> None:
    desk = Desk()
    calls = [Call("call_1", "get_user", {"user_id": "a"}), Call("call_2", "book", {"flight": "b"})]
    turns = Turns(Scripted(done(*calls)), agent(desk))
    events = turns.turn(watch=lambda e: turns.cancel.set() if isinstance(e, ToolCalled) else None)
    assert desk.did == []
    assert all(CANCELLED in e.content for e in events if isinstance(e, ToolReturned))
    assert stop_of(events) is Stop.CANCELLED


def test_a_cancel_while_a_look_up_hangs_ends_the_turn() -> None:
    release = threading.Event()

    def hung(call: Call) -> str:
        turns.cancel.set()
        release.wait(10.0)
        return "{}"

    turns = Turns(Scripted(call("get_user", user_id="a")), agent(Desk(get_user=hung)))
    events = turns.turn()
    release.set()
    assert CANCELLED in result_of(events, "get_user").content
    assert stop_of(events) is Stop.CANCELLED


def test_a_cancel_while_a_write_runs_waits_for_its_result() -> None:
    def slow(call: Call) -> str:
        turns.cancel.set()
        threading.Event().wait(0.2)
        return '{"booked": true}'

    turns = Turns(Scripted(call("book", flight="a")), agent(Desk(book=slow)))
    events = turns.turn()
    assert result_of(events, "book").content == '{"booked": true}'
    assert stop_of(events) is Stop.CANCELLED


def test_whoever_cancels_instead_of_answering_has_not_agreed() -> None:
    desk = Desk()

    def approve(needed: ApprovalNeeded) -> Decision:
        turns.cancel.set()
        return Decision.ONCE

    turns = Turns(Scripted(call("book", flight="a")), agent(desk), approve=approve)
    events = turns.turn()
    assert desk.did == []
    assert CANCELLED in result_of(events, "book").content
    assert [e.decision for e in events if isinstance(e, ApprovalGiven)] == [Decision.REFUSE]
    assert stop_of(events) is Stop.CANCELLED


def test_a_complete_reply_counts_even_if_the_person_cancels_at_its_end() -> None:
    turns = Turns(Scripted(reply("All of it.")))
    events = turns.turn(watch=lambda e: turns.cancel.set() if isinstance(e, ToolCalled) else None)
    assert events[-2] == Answered("All of it.", Tier.LOCAL)


def test_a_turn_that_is_dropped_by_its_consumer_acts_no_more() -> None:
    desk = Desk()
    events = cascade.run_turn(
        (), "hello", agent=agent(desk), local=Scripted(call("book", flight="a")), remote=None,
        link=Link(NO_REMOTE), config=Config(), defer_threshold=None, approve=allow,
        cancel=threading.Event(), grants=Grants(),
    )  # fmt: skip
    for event in events:
        if isinstance(event, ApprovalNeeded):
            break
    events.close()  # type: ignore[attr-defined]  # an iterator to its callers, a generator here
    assert desk.did == []


def test_the_threshold_reaches_the_rule_only_where_a_deferral_is_offered() -> None:
    plain = tuple(tool for tool in TOOLS if tool.name != DEFER)
    for tools, threshold in ((TOOLS, 0.3), (plain, None)):
        turns = Turns(Scripted(reply("a")), agent(tools=tools), threshold=0.3)
        turns.turn()
        assert turns.local.rules[0].defer_threshold == threshold


def test_without_anything_harmless_a_deferral_that_cannot_leave_fails_the_turn() -> None:
    tools = tuple(tool for tool in TOOLS if tool.name in {"book", DEFER})
    turns = Turns(Scripted(call(DEFER, reason="hard")), agent(tools=tools))
    events = turns.turn()
    assert turns.local.rules[0].on_defer is None
    assert isinstance(events[-1], TurnFailed)
    assert "not configured" in events[-1].error


def test_never_means_that_the_larger_model_is_not_even_looked_at() -> None:
    config = Config(defer=DeferConfig(mode="never"))
    turns = Turns(Scripted(reply("a")), config=config)
    turns.turn()
    assert turns.local.rules[0].on_defer == {"get_user", THINK, RESPOND, TRANSFER}
