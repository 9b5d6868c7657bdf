"""A server in the engine's place, below the same cascade."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeAlias

import pytest

from edgeagent.cascade import LocalTier
from edgeagent.engine.client import Prompt, StepDone, StepRule
from edgeagent.errors import ContextFull, EngineError, ModelLoadError
from edgeagent.events import Answered, Deferred, Stop, Tier, Token, ToolCalled, TurnFailed
from edgeagent.messages import DEFER, RESPOND, THINK, TRANSFER, UserMessage
from edgeagent.served import N_CTX, Served
from tests import loopback
from tests.loopback import Loopback
from tests.scripted import TOOLS, Desk, agent
from tests.test_cascade import Turns, of, stop_of

PROMPT = Prompt("Be kind.", TOOLS, (UserMessage("hello"),))
RULE = StepRule(frozenset(tool.name for tool in TOOLS), None, None, 512)
HARMLESS = frozenset({"get_user", THINK, RESPOND, TRANSFER})
LISTING = loopback.document({"data": [{"id": "qwen", "meta": {"n_ctx": 8192, "n_params": 17}}]})

Connect: TypeAlias = Callable[..., Served]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make local tiers that are closed when the test is over."""
    with ExitStack() as made:

        def make(server: Loopback, listing: loopback.Answer = LISTING, **options: int) -> Served:
            server.models = listing
            served = Served(server.url, **options)
            made.callback(served.close)
            return served

        yield make


def step(
    served: LocalTier, rule: StepRule = RULE, cancel: threading.Event | None = None
) -> StepDone:
    *_, done = served.step(PROMPT, rule, cancel or threading.Event())
    assert isinstance(done, StepDone)
    return done


def names_of(asked: loopback.Asked) -> set[str]:
    return {tool["function"]["name"] for tool in asked.body["tools"]}


def test_it_serves_what_the_server_lists_first(connect: Connect) -> None:
    with Loopback(loopback.replies("hi")) as server:
        served = connect(server)
        facts = served.start()
        done = step(served)
    assert (facts.name, facts.n_ctx, facts.n_params) == ("qwen", 8192, 17)
    assert server.requests[0].body["model"] == "qwen"
    assert names_of(server.requests[0]) == RULE.offered
    assert done.calls[0].arguments == {"message": "hi"}
    assert done.usage.n_ctx == 8192
    assert done.verdict is not None
    assert not done.verdict.deferred


@pytest.mark.parametrize(
    ("listing", "options", "n_ctx"),
    [
        ({"data": [{"id": "m", "max_model_len": 2048}]}, {}, 2048),
        ({"data": [{"id": "m", "meta": None}]}, {}, N_CTX),
        ({"data": [{"id": "m", "max_model_len": 2048}]}, {"n_ctx": 1024}, 1024),
    ],
)
def test_the_context_is_the_persons_the_servers_or_an_assumption(
    connect: Connect, listing: object, options: dict[str, int], n_ctx: int
) -> None:
    with Loopback(loopback.replies("hi")) as server:
        assert connect(server, loopback.document(listing), **options).start().n_ctx == n_ctx


@pytest.mark.parametrize(
    "listing",
    [
        loopback.status(401),
        loopback.status(404),
        loopback.page(),
        loopback.flood_line(),
        loopback.document({"data": []}),
        loopback.document({"models": "none"}),
    ],
)
def test_a_server_that_serves_nothing_is_a_model_that_cannot_be_loaded(
    connect: Connect, listing: loopback.Answer
) -> None:
    with Loopback(loopback.replies("hi")) as server, pytest.raises(ModelLoadError, match="-m"):
        connect(server, listing).start()


def test_nobody_listening_is_a_model_that_cannot_be_loaded() -> None:
    with pytest.raises(ModelLoadError, match="connection refused"):
        Served(loopback.nobody()).start()


def test_a_call_that_is_not_valid_is_asked_for_once_more(connect: Connect) -> None:
    with Loopback(loopback.UNFIT, loopback.replies("better")) as server:
        assert step(connect(server)).calls[0].arguments == {"message": "better"}


@pytest.mark.parametrize("answer", [loopback.UNFIT, loopback.UNKNOWN_TOOL, loopback.status(401)])
def test_no_valid_call_is_the_engines_error(connect: Connect, answer: loopback.Answer) -> None:
    with Loopback(answer) as server, pytest.raises(EngineError, match="model server at 127"):
        step(connect(server))


@pytest.mark.parametrize(
    "said", ["the request exceeds the available context size", "maximum context length is 4096"]
)
def test_a_prompt_that_is_too_long_is_a_full_context(connect: Connect, said: str) -> None:
    with Loopback(loopback.status(400, said)) as server, pytest.raises(ContextFull):
        step(connect(server))


def test_a_deferral_that_may_not_leave_is_asked_again_without_it(connect: Connect) -> None:
    rule = StepRule(RULE.offered, None, HARMLESS, 512)
    with Loopback(loopback.calls((DEFER, {"reason": "hard"})), loopback.replies("ok")) as server:
        done = step(connect(server), rule)
    assert names_of(server.requests[1]) == HARMLESS
    assert done.verdict is not None
    assert done.verdict.deferred
    assert done.calls[0].name == RESPOND
    assert done.usage.n_decoded == 40, "both answers are counted"


def test_a_cancel_ends_the_step(connect: Connect) -> None:
    cancel = threading.Event()
    with Loopback(loopback.stall_midway()) as server:
        for item in connect(server).step(PROMPT, RULE, cancel):
            if isinstance(item, Token):
                cancel.set()
        assert isinstance(item, StepDone)
        assert item.stop == "cancelled"
        assert server.hung_up.wait(5.0)


def test_the_cascade_above_it_is_the_same(connect: Connect) -> None:
    answers = (
        loopback.calls((DEFER, {"reason": "hard"})),
        loopback.calls(("get_user", {"user_id": "mia"})),
        loopback.replies("I can only look."),
    )
    desk = Desk()
    with Loopback(*answers) as server:
        turns = Turns(connect(server), agent(desk))  # type: ignore[arg-type]  # another local tier
        events = turns.turn("Rebook all of us.")
    assert [made.name for made in desk.did] == ["get_user"]
    assert [e.to for e in events if isinstance(e, Deferred)] == ["outbox"]
    assert {e.tier for e in events if isinstance(e, ToolCalled)} == {Tier.OFFLINE}
    assert events[-2] == Answered("I can only look.", Tier.OFFLINE)
    assert stop_of(events) is Stop.ANSWERED


def test_a_server_that_goes_away_fails_the_turn_in_words(connect: Connect) -> None:
    with Loopback(loopback.replies("hi")) as server:
        served = connect(server)
        served.start()
    events = Turns(served, agent()).turn()  # type: ignore[arg-type]  # another local tier
    (failed,) = of(events, TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "connection refused" in failed.error
