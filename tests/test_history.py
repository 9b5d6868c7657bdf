"""Events in, conversation out; every call with exactly one result."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeagent import history
from edgeagent.events import (
    Answered,
    Deferred,
    Event,
    Stats,
    StepStarted,
    Stop,
    TextSaid,
    Tier,
    Token,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnStarted,
)
from edgeagent.messages import (
    DEFER,
    RESPOND,
    Call,
    CallMessage,
    Conversation,
    ResultMessage,
    TextMessage,
    Usage,
    UserMessage,
)


def called(id: str, name: str = "get_user") -> ToolCalled:
    return ToolCalled(Call(id, name, {}), Tier.LOCAL, None, Usage(), 0.0)


def returned(id: str, name: str = "get_user", content: str = "{}") -> ToolReturned:
    return ToolReturned(id, name, content, is_error=False, ms=0.0)


TURN: list[Event] = [
    TurnStarted("hello"),
    StepStarted(1, Tier.LOCAL),
    Token("<tool_call>"),
    called("a"),
    returned("a"),
    StepStarted(2, Tier.LOCAL),
    called("b", RESPOND),
    returned("b", RESPOND),
    Answered("hi", Tier.LOCAL),
    TurnEnded(Stop.ANSWERED, Stats()),
]


def is_valid(conversation: Conversation) -> bool:
    """Whether each call is followed by its one result before anything else is said."""
    owed: list[str] = []
    for message in conversation:
        if isinstance(message, ResultMessage):
            if message.call_id not in owed:
                return False
            owed.remove(message.call_id)
        elif owed:
            return False
        elif isinstance(message, CallMessage):
            owed = [call.id for call in message.calls]
    return not owed


def test_a_turn_becomes_what_was_said_and_done() -> None:
    assert history.conversation_of(TURN) == (
        UserMessage("hello"),
        CallMessage((Call("a", "get_user", {}),)),
        ResultMessage("a", "get_user", "{}"),
        CallMessage((Call("b", RESPOND, {}),)),
        ResultMessage("b", RESPOND, "{}"),
    )


def test_calls_of_one_step_share_a_message() -> None:
    events = [TurnStarted("x"), called("a"), called("b"), returned("a"), returned("b")]
    _, calls, *results = history.conversation_of(events)
    assert isinstance(calls, CallMessage)
    assert [call.id for call in calls.calls] == ["a", "b"]
    assert len(results) == 2


def test_plain_words_are_kept() -> None:
    events = [TurnStarted("x"), TextSaid("None of the tools fits.", Tier.LOCAL, Usage(), 0.0)]
    assert history.conversation_of(events)[1] == TextMessage("None of the tools fits.")


def test_a_result_counts_once_and_only_for_an_open_call() -> None:
    events = [TurnStarted("x"), called("a"), returned("a"), returned("a"), returned("zz")]
    assert len(history.conversation_of(events)) == 3


def test_a_new_message_closes_what_a_crash_left_open() -> None:
    conversation = history.conversation_of([TurnStarted("x"), called("a"), TurnStarted("y")])
    assert conversation[2] == ResultMessage("a", "get_user", history.LOST, is_error=True)
    assert is_valid(conversation)


def test_open_calls_are_those_of_the_last_step() -> None:
    half = history.conversation_of([TurnStarted("x"), called("a"), called("b"), returned("a")])
    assert [call.id for call in history.open_calls(half)] == ["b"]
    assert history.open_calls(history.conversation_of(TURN)) == ()


def test_only_whole_turns_leave_and_the_rest_stays_valid() -> None:
    two = history.conversation_of([*TURN, *TURN])
    assert history.n_turns(two) == 2
    assert history.without_oldest(two, 0) == two
    assert history.without_oldest(two, 1) == history.conversation_of(TURN)
    assert history.without_oldest(two, 2) == ()


def test_the_oldest_turns_that_make_room_are_never_all() -> None:
    turns = tuple(UserMessage("x" * size) for size in (50, 10, 10, 30))
    # share of the text → turns that hold it
    for share, n in ((0.0, 1), (0.5, 1), (0.51, 2), (0.7, 3), (0.9, 3), (5.0, 3)):
        assert history.n_oldest(turns, share) == n, share


def test_a_model_is_never_shown_a_deferral() -> None:
    events = [
        TurnStarted("x"),
        called("a"),
        called("d", DEFER),
        returned("a"),
        returned("d", DEFER),
        Deferred("hard", "big", "requested"),
        called("b", RESPOND),
        returned("b", RESPOND),
    ]
    shown = history.without_deferrals(history.conversation_of(events))
    assert is_valid(shown)
    assert DEFER not in str(shown)
    assert len(shown) == 5


STEPS = st.one_of(
    st.just(TurnStarted("x")),
    st.sampled_from("abc").map(called),
    st.sampled_from("abc").map(lambda id: called(id, DEFER)),
    st.sampled_from("abcz").map(returned),
    st.just(TextSaid("y", Tier.LOCAL, Usage(), 0.0)),
)


@given(st.lists(STEPS, max_size=30))
def test_any_order_of_events_can_be_closed_into_a_valid_history(events: list[Event]) -> None:
    """Ids repeat and results come for nothing: a damaged log must not lock a session."""
    conversation = history.fold(history.conversation_of(events), TurnStarted("next"))
    assert is_valid(conversation)
    assert is_valid(history.without_deferrals(conversation))
