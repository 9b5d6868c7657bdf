"""The link: what opens it, what closes it, and that nothing is opened when it may not be."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from pydantic import SecretStr

from edgeagent import link as links
from edgeagent.config import RemoteConfig
from edgeagent.errors import (
    RemoteBroken,
    RemoteError,
    RemoteLimited,
    RemoteOffline,
    RemoteRefused,
    RemoteTimeout,
)
from edgeagent.link import Breaker, Link, LinkState
from tests import loopback
from tests.loopback import Loopback

OFFLINE = RemoteOffline("connection refused by 127.0.0.1:9")
UP = links.after_success("host", now=100.0)


def fail(breaker: Breaker, *errors: RemoteError, now: float = 100.0) -> Breaker:
    for error in errors:
        breaker = links.after_failure(breaker, error, now)
    return breaker


def test_a_server_that_was_never_asked_gets_its_chance() -> None:
    breaker = links.untried(5.0)
    assert breaker.is_up
    assert breaker.retry_at == 5.0


@pytest.mark.parametrize(
    ("error", "retry_at", "reason"),
    [
        (OFFLINE, 102.0, "offline: connection refused by 127.0.0.1:9"),
        (RemoteTimeout("host went silent"), 102.0, "host went silent"),
        (RemoteLimited("429: wait 20 s", 20.0), 120.0, "429: wait 20 s"),
        (RemoteRefused("401: check DEFER_API_KEY"), math.inf, "401: check DEFER_API_KEY"),
    ],
)
def test_what_opens_the_link_at_once(error: RemoteError, retry_at: float, reason: str) -> None:
    breaker = fail(UP, error)
    assert not breaker.is_up
    assert breaker.state is LinkState.OFFLINE
    assert breaker.retry_at == retry_at
    assert breaker.reason == reason


def test_one_bad_answer_opens_nothing_and_two_in_a_row_do() -> None:
    bad = RemoteBroken("the larger model called 'launch_rocket': there is no such tool")
    assert fail(UP, bad).is_up
    assert not fail(UP, bad, bad).is_up
    assert fail(links.untried(100.0), bad).is_up, "it was there, after all"


def test_a_dead_network_is_asked_more_and_more_rarely_but_soon_enough() -> None:
    waits = [fail(UP, *[OFFLINE] * n).retry_at - 100.0 for n in (1, 2, 3, 4, 5, 50)]
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_server_that_lists_its_models_and_fails_every_step_costs_ever_fewer_turns() -> None:
    breaker, waits = UP, []
    for _ in range(4):
        breaker = fail(breaker, RemoteTimeout("slow"))
        waits.append(breaker.retry_at - 100.0)
        breaker = links.after_answer(breaker, "host", 100.0)
        assert breaker.is_up
    assert waits == [2.0, 4.0, 8.0, 16.0]


def test_half_open_is_not_up() -> None:
    assert not Breaker(LinkState.PROBING, "x", 0.0, n_failures=1).is_up


Watch = Callable[..., Link]


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Make links that are closed when the test is over."""
    with ExitStack() as made:

        def make(url: str | None, offline: bool = False) -> Link:
            config = RemoteConfig(base_url=url, api_key=SecretStr("k"), model="big", connect_s=1.0)
            link = Link(config, offline)
            made.callback(link.close)
            link.start()
            return link

        yield make


def settle(link: Link, wanted: LinkState) -> str:
    """Wait for the state, and return the reason it came with."""
    for _ in range(1000):
        if link.state is wanted:
            return link.reason
        time.sleep(0.01)
    raise AssertionError(f"{link.state}: {link.reason}")


def test_a_server_that_answers_is_up_before_any_turn(watch: Watch) -> None:
    with Loopback(loopback.replies("ok")) as server:
        link = watch(server.url)
        settle(link, LinkState.ONLINE)
        assert link.is_up
    probe = server.probes[0]
    assert (probe.method, probe.path, probe.n_bytes) == ("GET", "/v1/models", 0)
    assert probe.headers["authorization"] == "Bearer k"
    assert server.requests == []


PROBES = [
    (loopback.status(401), "401: check DEFER_API_KEY"),
    (loopback.status(402), "402"),
    (loopback.status(429, Retry_After="20"), "429: wait"),
    (loopback.status(503), "503"),
    (loopback.page(), "sign-in network"),
    (loopback.flood_line(500), "500"),
    (loopback.hang_up(), "broke off"),
    (loopback.stall(), "no answer from"),
]


@pytest.mark.parametrize(("answer", "said"), PROBES)
def test_a_probe_says_what_is_wrong(watch: Watch, answer: loopback.Answer, said: str) -> None:
    with Loopback(loopback.replies("ok")) as server:
        server.models = answer
        link = watch(server.url)
        assert said in settle(link, LinkState.OFFLINE)
        assert not link.is_up
        assert len(server.probes) == 1, "it is believed at once"


@pytest.mark.parametrize(
    "answer",
    [
        loopback.status(404),  # many servers have no such list
        loopback.status(403),  # a restricted key may not ask for it
        loopback.flood_line(),  # nobody reads it
    ],
)
def test_any_other_answer_means_that_it_is_there(watch: Watch, answer: loopback.Answer) -> None:
    with Loopback(loopback.replies("ok")) as server:
        server.models = answer
        settle(watch(server.url), LinkState.ONLINE)


def test_a_probe_follows_no_redirect(watch: Watch) -> None:
    """The key would go with it."""
    with Loopback(loopback.replies("ok")) as server, Loopback(loopback.replies("ok")) as other:
        server.models = loopback.status(307, Location=f"{other.url}/models")
        settle(watch(server.url), LinkState.ONLINE)
        assert other.probes == []


def test_nobody_listening_is_said_in_words(watch: Watch) -> None:
    url = loopback.nobody()
    reason = settle(watch(url), LinkState.OFFLINE)
    assert reason == f"offline: connection refused by {url.split('/')[2]}"


def test_a_network_that_returns_is_noticed(watch: Watch) -> None:
    with Loopback(loopback.replies("ok")) as server:
        server.models = loopback.status(503)
        link = watch(server.url)
        settle(link, LinkState.OFFLINE)
        server.models = loopback.document({"data": []})
        settle(link, LinkState.ONLINE)


def test_what_a_step_learned_outweighs_an_older_probe(watch: Watch) -> None:
    """A probe that was sent before the step failed says nothing about what came after."""
    may_answer = threading.Event()

    def late(reply: loopback.Reply) -> None:
        may_answer.wait(5.0)
        loopback.document({"data": []})(reply)

    with Loopback(loopback.replies("ok")) as server:
        server.models = late
        link = watch(server.url)
        while not server.probes:
            time.sleep(0.01)
        link.record_failure(RemoteRefused("401: check DEFER_API_KEY"))
        may_answer.set()
        time.sleep(0.2)
        assert link.state is LinkState.OFFLINE


def test_the_wait_after_429_is_counted_down() -> None:
    link = Link(RemoteConfig(base_url="http://127.0.0.1:9/v1"))
    link.record_failure(RemoteLimited("429: wait 90 s", 90.0))
    assert link.reason in {"429: wait 90 s", "429: wait 89 s"}


@pytest.mark.parametrize(
    ("url", "offline", "reason"),
    [
        (None, False, "not configured"),
        ("http://127.0.0.1:9/v1", True, "--offline"),
        (None, True, "--offline"),
    ],
)
def test_offline_or_unconfigured_opens_nothing_and_starts_nothing(
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    url: str | None,
    offline: bool,
    reason: str,
) -> None:
    def opened(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", opened)
    monkeypatch.setattr(threading.Thread, "start", opened)
    link = watch(url, offline)
    assert (link.state, link.reason, link.is_up) == (LinkState.OFFLINE, reason, False)


def test_closing_ends_the_thread(watch: Watch) -> None:
    with Loopback(loopback.replies("ok")) as server:
        link = watch(server.url)
        settle(link, LinkState.ONLINE)
        thread = link._thread
        link.close()
        assert thread is not None
        thread.join(5.0)
        assert not thread.is_alive()
