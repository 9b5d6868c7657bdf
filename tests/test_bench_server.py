"""What `bench` asks a server for: the record's work, and no more time than it can need."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edgeagent.engine.client import Prompt
from edgeagent.engine.replay import Cost
from edgeagent.errors import RemoteError, RemoteTimeout
from edgeagent.evals.bench import process
from edgeagent.evals.bench.lanes import Ran, Run, ServerLane
from edgeagent.evals.bench.server import BEST, Served, shows_policy
from edgeagent.manifest import Dialect
from edgeagent.messages import RESPOND, CallMessage, ResultMessage, UserMessage
from tests import loopback
from tests.bench_kit import CALLS, PROMPT, listed, recording, timed
from tests.engine_kit import POLICY, TOOLS
from tests.loopback import Loopback
from tests.tiny_gguf import HERMES_TEMPLATE, LLAMA_TEMPLATE, NANO_TEMPLATE


def test_a_server_writes_as_many_tokens_as_the_record_has_and_does_not_stop() -> None:
    with listed(Loopback(timed())) as server, Served(server.url) as served:
        for is_best in (False, True):
            cost = served.ask(PROMPT, 33, is_best=is_best)
            assert (cost.n_prompt, cost.n_prefilled, cost.n_decoded) == (102, 12, 7)
            assert (cost.n_drafted, cost.decode_ms, cost.n_held) == (2, 70.0, 108)
        plain, best = (request.body for request in server.requests)
    assert plain["max_tokens"] == best["max_tokens"] == 33
    assert plain["messages"][0] == {"role": "system", "content": POLICY}
    # No grammar and no end of turn can make it write fewer tokens.
    assert (plain["tool_choice"], plain["ignore_eos"]) == ("none", True)
    assert [tool["function"]["name"] for tool in plain["tools"]] == [tool.name for tool in TOOLS]
    added = {key: best[key] for key in best.keys() - plain.keys()}
    assert added == BEST | {"chat_template_kwargs": {"enable_thinking": False}}


def test_a_server_is_asked_with_the_messages_that_our_own_prompt_is_made_of() -> None:
    """Its dialect's wrapper, results as the customer's, no receipts, no policy nobody shows."""
    talk = Prompt(POLICY, TOOLS, (
        UserMessage("Hello."),
        CallMessage((CALLS[0],)), ResultMessage("call_1", CALLS[0].name, "{}"),
        CallMessage((CALLS[1],)), ResultMessage("call_2", RESPOND, '{"ok": true}'),
        UserMessage("Thanks."),
    ))  # fmt: skip
    dialect = Dialect(system="Do: {task_description}", tool_results="user")
    with listed(Loopback(timed())) as server:
        for shows in (True, False):
            with Served(server.url, dialect=dialect, shows_policy=shows) as served:
                served.ask(talk, 1, is_best=False)
        first, second = (request.body["messages"] for request in server.requests)
    assert first[0] == {"role": "system", "content": f"Do: {POLICY}"}
    assert [message["role"] for message in first[1:]] == [
        "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    assert second == first[1:]


@pytest.mark.parametrize(
    ("template", "shows"),
    [(NANO_TEMPLATE, False), (HERMES_TEMPLATE, True), (LLAMA_TEMPLATE, True), ("{{", True)],
)
def test_a_template_that_leaves_the_policy_out_is_known(template: str, shows: bool) -> None:
    assert shows_policy(template) is shows


def wrote(n: int, text: str) -> Cost:
    return Cost(
        n_prompt=90, n_prefilled=9, prefill_ms=1.0, n_decoded=n, n_sampled=n, n_drafted=0,
        decode_ms=1.0, first_token_ms=1.0, tokens=tuple(range(n)), text=text,
    )  # fmt: skip


def ended(run: Run) -> Ran:
    while True:
        try:
            next(run)
        except StopIteration as stop:
            ran: Ran = stop.value
            return ran


def test_a_server_holds_the_recorded_answers_as_if_it_had_written_them() -> None:
    rendered = loopback.document({"prompt": "<|im_start|>assistant\n"})
    read = loopback.document({"content": ""})
    answers = (timed(cache_n=0, prompt_n=100), timed(), rendered, read, timed(cache_n=108))
    with listed(Loopback(*answers)) as server, Served(server.url) as served:
        lane = ServerLane("x", served, is_best=True)
        ran = ended(
            lane.run(recording("think", "think"), (wrote(7, "<tool_call>1"), wrote(8, "2")))
        )
        asked = [(request.path, request.body) for request in server.requests]
        again = ended(lane.run(recording("think"), (wrote(7, "<tool_call>1"),)))
        later = server.requests[-1].body["messages"]
    paths = [path for path, _ in asked]
    assert paths == [
        "/v1/chat/completions", "/v1/chat/completions", "/apply-template", "/completion",
        "/v1/chat/completions",
    ]  # fmt: skip
    first, second = asked[1][1], asked[4][1]
    assert asked[2][1]["messages"] == first["messages"]
    assert asked[3][1]["prompt"] == "<|im_start|>assistant\n<tool_call>1"
    assert (asked[3][1]["n_predict"], asked[3][1]["cache_prompt"]) == (0, True)
    assert (first["max_tokens"], second["max_tokens"]) == (7, 8)
    assert ran.warm is None
    assert ran.cold is not None
    assert ran.costs[0].n_held == ran.costs[1].n_reused == 108
    # What it had read before is nothing it started cold with, and the words are new ones.
    assert again.cold is None
    assert again.warm is not None
    assert later[1]["content"] != first["messages"][1]["content"]


def test_a_server_that_cannot_be_led_is_asked_all_the_same() -> None:
    answers = (timed(), timed(), loopback.status(404), timed())
    with listed(Loopback(*answers)) as server, Served(server.url) as served:
        script = [wrote(7, "")] * 3
        lane = ServerLane("x", served, is_best=False)
        ran = ended(lane.run(recording("think", "think", "think"), script))
        assert not served.can_be_led
        assert len(ran.costs) == 3
        # Asked for once, and never again.
        assert [request.path for request in server.requests].count("/apply-template") == 1


def test_a_server_that_hangs_or_never_ends_is_given_up() -> None:
    def trickles(reply: loopback.Reply) -> None:
        reply.head(200, "text/event-stream")
        while not reply.server.is_closing.is_set():
            reply.event({"choices": []})
            time.sleep(0.01)

    for answer in (trickles, lambda reply: reply.hold()):
        with listed(Loopback(answer)) as server, Served(server.url) as served:
            served.patience_s = 0.2
            with pytest.raises(RemoteTimeout):
                served.ask(PROMPT, 5, is_best=False)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's /proc")
def test_the_process_behind_a_loopback_address_is_known() -> None:
    with Loopback(loopback.says("Hi.")) as server:
        found = process.behind(server.url)
        assert found == process.Process(os.getpid())
        peak, spent = found.peak_bytes(), found.cpu_ms()
        assert peak is not None
        assert spent is not None
        assert peak > 1 << 20
        assert 0 < spent < 1000 * (time.process_time() + 60)
        assert process.behind(server.url.replace("127.0.0.1", "192.0.2.1")) is None
    assert process.behind(loopback.nobody()) is None
    assert process.Process(2**22 + 1).peak_bytes() is None


@pytest.mark.parametrize(
    "answer",
    [
        loopback.status(500), loopback.status(401), loopback.page(), loopback.hang_up(),
        loopback.document({"choices": [{"message": {"content": "Hi."}}]}),  # no counts
        loopback.document({"choices": 3}), loopback.document({"error": {"message": "full"}}),
    ],
)  # fmt: skip
def test_a_server_that_does_not_answer_is_an_error_of_ours(answer: loopback.Answer) -> None:
    with (
        listed(Loopback(answer)) as server,
        Served(server.url) as served,
        pytest.raises(RemoteError) as failed,
    ):
        served.ask(PROMPT, 5, is_best=False)
    assert "\n" not in str(failed.value)
