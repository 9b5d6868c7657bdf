"""The session: stored before shown, closed after a crash, exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from edgeagent import history, paths
from edgeagent.cascade import ToolOutcome
from edgeagent.config import Config, DeferConfig, RemoteConfig
from edgeagent.engine.client import ModelFacts, Prompt, StepDone, StepRule
from edgeagent.errors import EngineDied, StoreError
from edgeagent.events import (
    TRANSIENT,
    Answered,
    ApprovalGiven,
    ApprovalNeeded,
    Decision,
    Deferred,
    Event,
    Prefilled,
    Question,
    StepStarted,
    Stop,
    Tier,
    Token,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnFailed,
    TurnStarted,
)
from edgeagent.link import Link
from edgeagent.messages import (
    DEFER,
    RESPOND,
    THINK,
    TRANSFER,
    Call,
    ResultMessage,
    Tool,
    ToolKind,
    Usage,
    UserMessage,
    Verdict,
)
from edgeagent.session import INTERRUPTED, Session
from edgeagent.store import Store


def tool(name: str, kind: ToolKind, *arguments: str) -> Tool:
    schema = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in arguments},
        "required": list(arguments),
    }
    return Tool(name, "", schema, kind)


class Ledger:
    """A backend that counts: `add` writes, `look` reads; own ones leave receipts."""

    def __init__(self, is_own: bool = True) -> None:
        self.is_own = is_own
        self.executed: list[str] = []
        self.receipts: dict[str, ToolOutcome] = {}
        self.is_broken = False

    def call(self, call: Call, timeout_s: float) -> ToolOutcome:
        if self.is_broken:
            raise RuntimeError("the ledger burned")
        if call.id not in self.receipts:
            self.executed.append(call.id)
            self.receipts[call.id] = ToolOutcome(f'{{"n": {len(self.executed)}}}')
        return self.receipts[call.id]

    def receipt(self, call_id: str) -> ToolOutcome | None:
        return self.receipts.get(call_id) if self.is_own else None

    def close(self) -> None:
        pass


class Desk:
    """A scenario of three tools."""

    name = "desk"
    title = "A desk"
    policy = "Be brief."
    greeting = "Hello"
    examples = ("hi",)
    tools = (
        tool("add", ToolKind.WRITE, "what"),
        tool("look", ToolKind.READ, "what"),
        tool(RESPOND, ToolKind.CONTROL, "message"),
        tool(THINK, ToolKind.CONTROL, "thought"),
        tool(TRANSFER, ToolKind.CONTROL, "summary"),
        tool(DEFER, ToolKind.CONTROL, "reason"),
    )

    def __init__(self, is_own: bool = True) -> None:
        self.ledger = Ledger(is_own)

    @property
    def backend(self) -> Ledger:
        return self.ledger


class Scripted:
    """A local tier that makes the calls it is told to, whatever it is asked."""

    facts: ModelFacts | None = None
    is_alive = True

    def __init__(self, *calls: tuple[str, Mapping[str, str]]) -> None:
        self.calls = list(calls)
        self.prompts: list[Prompt] = []
        self.prepared: list[Prompt] = []

    def start(self) -> ModelFacts:
        self.facts = ModelFacts("scripted", "", 1024, 1, 1, 0.0, "none")
        return self.facts

    def check_tools(self, tools: Sequence[Tool]) -> None:
        pass

    def warm(
        self, policy: str, tools: Sequence[Tool], cancel: threading.Event
    ) -> Iterator[Prefilled]:
        yield Prefilled(1, 1)

    def prepare(self, prompt: Prompt, cancel: threading.Event) -> None:
        self.prepared.append(prompt)

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]:
        self.prompts.append(prompt)
        yield Token("…")
        name, arguments = self.calls.pop(0)
        verdict = None
        if name == DEFER and rule.on_defer is not None:
            verdict = Verdict(True, 0.9, "greedy")
            name, arguments = self.calls.pop(0)
        call = Call(f"call_{len(self.prompts)}_{id(self)}", name, arguments)
        yield StepDone((call,), "", verdict, Usage(n_prompt=10, n_ctx=1024), "complete")

    def close(self) -> None:
        pass


def reply(text: str = "Done.") -> tuple[str, Mapping[str, str]]:
    return RESPOND, {"message": text}


ADD = ("add", {"what": "tea"})
LOOK = ("look", {"what": "tea"})


@pytest.fixture
def store_path() -> Path:
    return paths.data_dir() / "sessions.db"


def opened(
    path: Path,
    desk: Desk,
    local: Scripted,
    session_id: str | None = None,
    config: Config | None = None,
) -> Session:
    store = Store(path)
    config = config or Config()
    return Session(
        store,
        session_id or store.create_session("desk", "scripted"),
        desk,
        local,
        None,
        Link(config.remote, config.offline),
        config,
    )


def allow(_: ApprovalNeeded) -> Decision:
    return Decision.ONCE


def refuse(_: ApprovalNeeded) -> Decision:
    return Decision.REFUSE


def take(
    session: Session, text: str, approve: Callable[[ApprovalNeeded], Decision] = allow
) -> list[Event]:
    return list(session.turn(text, threading.Event(), approve))


def test_every_event_is_stored_before_it_is_shown(store_path: Path) -> None:
    with closing(opened(store_path, Desk(), Scripted(ADD, reply()))) as session:
        shown: list[Event] = []
        for event in session.turn("one tea", threading.Event(), allow):
            if not isinstance(event, TRANSIENT):
                shown.append(event)
            assert session.events() == shown
        assert isinstance(shown[0], TurnStarted)
        assert isinstance(shown[-1], TurnEnded)


def test_a_resumed_session_goes_on_where_it_was(store_path: Path) -> None:
    desk = Desk()
    with closing(opened(store_path, desk, Scripted(LOOK, reply("Hello.")))) as session:
        take(session, "hello")
        before, session_id = session.conversation, session.session_id
    local = Scripted(reply("Again."))
    with closing(opened(store_path, desk, local, session_id)) as session:
        assert session.recover() == []
        assert session.conversation == before
        take(session, "and again")
    assert local.prompts[0].conversation == (*before, UserMessage("and again"))


def test_a_session_is_open_once(store_path: Path) -> None:
    session = opened(store_path, Desk(), Scripted())
    with closing(session), pytest.raises(StoreError, match="open in another"):
        opened(store_path, Desk(), Scripted(), session.session_id)
    opened(store_path, Desk(), Scripted(), session.session_id).close()


@pytest.mark.parametrize(
    ("last", "is_event_lost", "n_executed"),
    [
        (TurnStarted, False, 0),
        (StepStarted, False, 0),
        (ToolCalled, False, 0),
        (ApprovalNeeded, False, 0),
        (ApprovalGiven, False, 1),  # allowed and not yet begun: done at the next start
        (ToolReturned, True, 1),  # committed by the backend, and the event after it lost
        (ToolReturned, False, 1),
    ],
)
def test_an_allowed_write_happens_exactly_once_wherever_the_crash_was(
    store_path: Path, last: type[Event], is_event_lost: bool, n_executed: int
) -> None:
    desk = Desk()
    past: list[Event] = []
    with closing(opened(store_path, desk, Scripted(ADD, reply()))) as session:
        for event in session.turn("one tea", threading.Event(), allow):
            if not isinstance(event, TRANSIENT):
                past.append(event)
            if isinstance(event, last):
                break
    session_id = _copied(store_path, past[:-1] if is_event_lost else past)
    with closing(opened(store_path, desk, Scripted(reply()), session_id)) as session:
        mended = session.recover()
        assert mended[-1] == TurnFailed(INTERRUPTED)
        assert session.recover() == [], "mending is done once"
        results = [m for m in session.conversation if isinstance(m, ResultMessage)]
        assert [m.is_error for m in results] == (
            [] if last in (TurnStarted, StepStarted) else [n_executed == 0]
        )
        take(session, "and now?")
    assert len(desk.ledger.executed) == n_executed


def _copied(path: Path, events: Sequence[Event]) -> str:
    with closing(Store(path)) as store:
        session_id = store.create_session("desk", "scripted")
        for event in events:
            store.append(session_id, event)
        return session_id


def interrupted(path: Path, *events: Event) -> str:
    return _copied(path, [TurnStarted("go"), StepStarted(1, Tier.LOCAL), *events])


def called(name: str, **arguments: str) -> ToolCalled:
    return ToolCalled(Call("call_1", name, arguments), Tier.LOCAL, None, Usage(), 1.0)


def allowed(decision: Decision = Decision.ONCE) -> ApprovalGiven:
    return ApprovalGiven("call_1", Question.WRITE, decision)


def mended(path: Path, desk: Desk, session_id: str) -> list[Event]:
    with closing(opened(path, desk, Scripted(), session_id)) as session:
        events = session.recover()
        assert history.open_calls(session.conversation) == ()
        assert session.events()[-len(events) :] == events
        return events


def test_what_may_have_reached_the_outside_world_is_never_repeated(store_path: Path) -> None:
    desk = Desk(is_own=False)
    session_id = interrupted(store_path, called("add", what="tea"), allowed())
    returned, ended = mended(store_path, desk, session_id)
    assert desk.ledger.executed == []
    assert isinstance(returned, ToolReturned)
    assert returned.is_error
    assert "unknown" in returned.content
    assert ended == TurnFailed(INTERRUPTED)


def test_a_refused_write_stays_refused(store_path: Path) -> None:
    desk = Desk()
    session_id = interrupted(store_path, called("add", what="tea"), allowed(Decision.REFUSE))
    returned, _ = mended(store_path, desk, session_id)
    assert desk.ledger.executed == []
    assert isinstance(returned, ToolReturned)
    assert "not done" in returned.content


def test_leave_to_defer_is_no_leave_to_write(store_path: Path) -> None:
    desk = Desk()
    given = ApprovalGiven("call_1", Question.DEFER, Decision.ONCE)
    mended(store_path, desk, interrupted(store_path, called("add", what="tea"), given))
    assert desk.ledger.executed == []


def test_a_tool_that_breaks_while_mending_becomes_a_result(store_path: Path) -> None:
    desk = Desk()
    desk.ledger.is_broken = True
    session_id = interrupted(store_path, called("add", what="tea"), allowed())
    returned, _ = mended(store_path, desk, session_id)
    assert isinstance(returned, ToolReturned)
    assert returned.is_error
    assert "burned" in returned.content


@pytest.mark.parametrize(
    ("call", "stop"),
    [
        (called(RESPOND, message="Here you are."), Stop.ANSWERED),
        (called(TRANSFER, summary="An angry man."), Stop.TRANSFERRED),
    ],
)
def test_a_reply_that_was_decoded_reaches_the_customer_after_the_crash(
    store_path: Path, call: ToolCalled, stop: Stop
) -> None:
    returned, answered, ended = mended(store_path, Desk(), interrupted(store_path, call))
    assert isinstance(returned, ToolReturned)
    assert not returned.is_error
    assert isinstance(answered, Answered)
    assert answered.text
    assert isinstance(ended, TurnEnded)
    assert ended.stop is stop


def test_a_thought_and_a_lookup_are_closed_without_being_done(store_path: Path) -> None:
    desk = Desk()
    for call in (called(THINK, thought="hm"), called("look", what="tea")):
        returned, ended = mended(store_path, desk, interrupted(store_path, call))
        assert isinstance(returned, ToolReturned)
        assert ended == TurnFailed(INTERRUPTED)
    assert desk.ledger.executed == []


def test_a_turn_that_could_not_leave_waits_in_the_outbox(store_path: Path) -> None:
    with closing(opened(store_path, Desk(), Scripted((DEFER, {}), reply("As best I can.")))) as s:
        events = take(s, "a hard one")
        assert [e.to for e in events if isinstance(e, Deferred)] == ["outbox"]
        assert [e.tier for e in events if isinstance(e, Answered)] == [Tier.OFFLINE]
        (row,) = s.store.outbox()
        assert (row.session_id, row.text) == (s.session_id, "a hard one")
        assert s.store.fork(s.session_id, row.turn_seq) != s.session_id


def test_a_crash_between_deferring_and_queueing_loses_nothing(store_path: Path) -> None:
    session_id = interrupted(store_path, Deferred("hard", "outbox", "offline"))
    mended(store_path, Desk(), session_id)
    with closing(Store(store_path)) as store:
        assert [(row.text, row.reason) for row in store.outbox()] == [("go", "hard")]


def test_a_turn_that_its_consumer_dropped_is_closed_before_the_next(store_path: Path) -> None:
    desk = Desk()
    with closing(opened(store_path, desk, Scripted(ADD, reply()))) as session:
        for event in session.turn("one tea", threading.Event(), allow):
            if isinstance(event, ApprovalGiven):
                break
        take(session, "well?")
        kinds = [type(event) for event in session.events()]
        assert kinds.count(TurnStarted) == kinds.count(TurnEnded) + kinds.count(TurnFailed) == 2
        assert len(desk.ledger.executed) == 1


def test_half_a_character_in_a_message_does_no_harm(store_path: Path) -> None:
    with closing(opened(store_path, Desk(), Scripted(reply("ok \ud83d")))) as session:
        take(session, "caf\ud83d \x00")
        first = session.events()[0]
        assert isinstance(first, TurnStarted)
        assert first.text == "caf? \x00"
        assert session.store.sessions()[0].title.startswith("caf?")


def test_a_conversation_that_was_handed_over_stays_so(store_path: Path) -> None:
    session_id = _copied(
        store_path, [TurnStarted("go"), Deferred("hard", "glm", "requested"), TurnFailed("x")]
    )
    config = Config(defer=DeferConfig(scope="conversation"), remote=RemoteConfig())
    with closing(opened(store_path, Desk(), Scripted(), session_id, config)) as session:
        assert session.grants.is_handed_over
    with closing(opened(store_path, Desk(), Scripted(), session_id)) as session:
        assert not session.grants.is_handed_over


def test_a_write_that_is_refused_is_not_done(store_path: Path) -> None:
    desk = Desk()
    with closing(opened(store_path, desk, Scripted(ADD, reply()))) as session:
        events = take(session, "one tea", refuse)
        assert desk.ledger.executed == []
        assert [e.is_error for e in events if isinstance(e, ToolReturned)] == [True, False]


def typed(session: Session, text: str) -> None:
    session.prepare(text, threading.Event())


def test_what_is_typed_is_read_and_never_stored(store_path: Path) -> None:
    local = Scripted(LOOK, reply("Hello."), reply("Bye."))
    with closing(opened(store_path, Desk(), local)) as session:
        typed(session, "my ")
        take(session, "my tea")
        before, events = session.conversation, session.events()
        typed(session, "and \ud800")
        assert (session.conversation, session.events()) == (before, events)
        assert [prompt.conversation for prompt in local.prepared] == [
            (UserMessage("my "),),
            (*before, UserMessage("and ?")),
        ]
        take(session, "and")
        assert local.prompts[-1].conversation == (*before, UserMessage("and"))
        assert local.prompts[-1].tools == local.prepared[-1].tools
        assert local.prompts[-1].policy == local.prepared[-1].policy


def test_nothing_is_read_ahead_while_a_turn_is_open_or_the_larger_model_has_it(
    store_path: Path,
) -> None:
    local = Scripted(LOOK, reply(), reply())
    with closing(opened(store_path, Desk(), local)) as session:
        for event in session.turn("tea", threading.Event(), allow):
            typed(session, "more ")
            assert (local.prepared == []) != isinstance(event, TurnEnded)
        session.grants.is_handed_over = True
        local.prepared.clear()
        typed(session, "more ")
        assert local.prepared == []


def test_trimmed_turns_are_not_read_ahead(store_path: Path) -> None:
    local = Scripted(reply("One."), reply("Two."))
    with closing(opened(store_path, Desk(), local)) as session:
        take(session, "first")
        take(session, "second")
        session.grants.n_trimmed = 1
        typed(session, "third ")
        users = [m for m in local.prepared[-1].conversation if isinstance(m, UserMessage)]
        assert users == [UserMessage("second"), UserMessage("third ")]


def test_a_model_that_fails_while_the_customer_types_is_no_failure(store_path: Path) -> None:
    class Broken(Scripted):
        def prepare(self, prompt: Prompt, cancel: threading.Event) -> None:
            raise EngineDied("gone")

    with closing(opened(store_path, Desk(), Broken(reply()))) as session:
        typed(session, "hello ")
        assert isinstance(take(session, "hello there")[-1], TurnEnded)
