"""The larger model's client against a loopback server that refuses, stalls, floods and lies."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeAlias

import httpx2
import openai
import pytest
from pydantic import SecretStr

from edgeagent import reach, remote
from edgeagent.calls import partial_reply
from edgeagent.config import RemoteConfig
from edgeagent.errors import (
    RemoteBroken,
    RemoteError,
    RemoteLimited,
    RemoteOffline,
    RemoteRefused,
    RemoteTimeout,
)
from edgeagent.events import Token
from edgeagent.link import Link
from edgeagent.messages import (
    DEFER,
    RESPOND,
    Call,
    CallMessage,
    Conversation,
    ResultMessage,
    TextMessage,
    Tool,
    ToolKind,
    UserMessage,
)
from edgeagent.remote import Remote, RemoteDone
from tests import loopback
from tests.loopback import Loopback

KEY = "sk-a-secret-that-nobody-sees"
MESSAGE = {
    "type": "object",
    "properties": {"message": {"type": "string"}},
    "required": ["message"],
    "additionalProperties": False,
}
TOOLS = (
    Tool(
        "get_user",
        "Look up a user.",
        {
            "type": "object",
            "properties": {"user_id": {"type": "string"}},
            "required": ["user_id"],
            "additionalProperties": False,
        },
        ToolKind.READ,
    ),
    Tool(RESPOND, "Talk to the customer.", MESSAGE, ToolKind.CONTROL),
)
HELLO: Conversation = (UserMessage("Where is my seat?"),)
LOOK_UP = ("get_user", {"user_id": "ana_ro_5127"})


def config_for(server: Loopback | str, **changes: object) -> RemoteConfig:
    fields: dict[str, object] = {
        "base_url": server if isinstance(server, str) else server.url,
        "api_key": SecretStr(KEY),
        "model": "big",
        "connect_s": 5.0,
        "first_byte_s": 5.0,
    }
    return RemoteConfig.model_validate(fields | changes)


Connect: TypeAlias = Callable[..., Remote]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make clients that are closed when the test is over."""
    with ExitStack() as clients:

        def make(server: Loopback | str, **changes: object) -> Remote:
            client = Remote(config_for(server, **changes))
            clients.callback(client.close)
            return client

        yield make


def step(
    client: Remote,
    conversation: Conversation = HELLO,
    deadline_s: float = 10.0,
    cancel: threading.Event | None = None,
) -> tuple[str, RemoteDone]:
    cancel = cancel or threading.Event()
    *tokens, done = client.step("Be kind.", TOOLS, conversation, deadline_s, cancel)
    assert isinstance(done, RemoteDone)
    return "".join(token.text for token in tokens if isinstance(token, Token)), done


def ask(*answers: loopback.Answer, deadline_s: float = 10.0, **changes: object) -> RemoteDone:
    with Loopback(*answers) as server:
        client = Remote(config_for(server, **changes))
        try:
            return step(client, deadline_s=deadline_s)[1]
        finally:
            client.close()


def test_a_streamed_call_arrives_whole_and_under_an_id_of_ours() -> None:
    done = ask(loopback.calls(LOOK_UP))
    assert [(call.name, call.arguments) for call in done.calls] == [LOOK_UP]
    # The server says call_0 every time; a backend runs one id at most once.
    assert done.calls[0].id != "call_0"
    assert done.usage.n_prompt == 100
    assert done.usage.n_decoded == 20


def test_the_reply_can_be_read_while_it_is_written(connect: Connect) -> None:
    with Loopback(loopback.replies('He said "hi" – ok')) as server:
        raw, done = step(connect(server))
    assert partial_reply(raw) == 'He said "hi" – ok'
    assert done.calls[0].arguments == {"message": 'He said "hi" – ok'}


def test_plain_words_are_a_reply(connect: Connect) -> None:
    with Loopback(loopback.says('Your seat is "12A".\nAnything else?')) as server:
        raw, done = step(connect(server))
    assert done.calls[0].name == RESPOND
    assert done.calls[0].arguments == {"message": 'Your seat is "12A".\nAnything else?'}
    assert partial_reply(raw) == 'Your seat is "12A".\nAnything else?'


def test_several_calls_keep_their_order() -> None:
    second = ("get_user", {"user_id": "b"})
    assert [call.arguments for call in ask(loopback.calls(LOOK_UP, second)).calls] == [
        LOOK_UP[1],
        second[1],
    ]


def test_a_server_that_does_not_stream_is_understood() -> None:
    done = ask(loopback.unstreamed(LOOK_UP))
    assert [(call.name, call.arguments) for call in done.calls] == [LOOK_UP]
    assert done.usage.n_decoded == 20


ARGUMENTS = '{"user_id": "a"}'


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        (ARGUMENTS, "delta"),  # no index: each part is a whole call
        ({"user_id": "a"}, "message"),  # arguments as an object, not as text
        (ARGUMENTS, "message with words"),  # text beside the call is thinking aloud
    ],
)
def test_dialects_of_other_servers_are_understood(arguments: object, shape: str) -> None:
    key, *words = shape.split(" with ")
    made: dict[str, object] = {
        "tool_calls": [{"function": {"name": "get_user", "arguments": arguments}}],
        "content": "Let me see." if words else None,
    }
    done = ask(loopback.document({"choices": [{key: made, "finish_reason": "stop"}]}))
    assert [(call.name, call.arguments) for call in done.calls] == [("get_user", {"user_id": "a"})]


def test_every_call_in_the_history_is_followed_by_its_result(
    connect: Connect,
) -> None:
    """OpenAI refuses a history with an open call, for ever (notes/peers.md, S5)."""
    conversation: Conversation = (
        UserMessage("hello"),
        CallMessage((Call("c1", RESPOND, {"message": "hi"}),)),
        ResultMessage("c1", RESPOND, '{"ok": true}'),
        TextMessage("as I said"),
        UserMessage("hard one"),
    )
    with Loopback(loopback.replies("ok")) as server:
        step(connect(server), conversation)
    body = server.requests[0].body
    assert [message["role"] for message in body["messages"]] == [
        "system", "user", "assistant", "tool", "assistant", "user",
    ]  # fmt: skip
    assert body["messages"][3]["tool_call_id"] == "c1"
    assert [tool["function"]["name"] for tool in body["tools"]] == ["get_user", RESPOND]
    assert body["tool_choice"] == "required"


def test_only_the_request_leaves_the_machine(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client library adds system facts and what it finds in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: 1")
    with Loopback(loopback.replies("ok")) as server:
        step(connect(server))
        step(connect(server, api_key=None))
    with_key, without = (request.headers for request in server.requests)
    assert with_key["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in without
    assert set(with_key) <= remote.SENT_HEADERS
    assert with_key["user-agent"] == "edgeagent"


def test_what_is_counted_is_what_was_sent_and_what_was_announced(connect: Connect) -> None:
    with Loopback(loopback.replies("grüezi")) as server:
        client = connect(server, usd_per_mtok_in=1.0, usd_per_mtok_out=10.0)
        preview = client.preview("Be kind.", TOOLS, HELLO)
        _, done = step(client)
    assert done.usage.bytes_sent == server.requests[0].n_bytes == client.bytes_sent
    assert preview.n_bytes == server.requests[0].n_bytes
    assert preview.n_messages == 2
    assert done.usage.cost_usd == pytest.approx((100 * 1.0 + 20 * 10.0) / 1e6)


STATUSES = [
    (401, RemoteRefused, "DEFER_API_KEY"),
    (402, RemoteRefused, "account"),
    (403, RemoteRefused, "DEFER_MODEL"),
    (404, RemoteRefused, "DEFER_BASE_URL"),
    (307, RemoteRefused, "elsewhere"),
    (400, RemoteBroken, "did not take"),
    (413, RemoteBroken, "did not take"),
    (500, RemoteBroken, "failed"),
    (503, RemoteBroken, "failed"),
    (504, RemoteTimeout, "gave up"),
]


@pytest.mark.parametrize(("code", "kind", "said"), STATUSES)
def test_each_status_has_its_kind_and_says_what_to_do(
    code: int, kind: type[RemoteError], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        ask(loopback.status(code, f"your key {KEY} is\nbad"))
    assert str(caught.value).startswith(str(code))
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_redirect_is_not_followed() -> None:
    """It could carry the conversation to another host."""
    with Loopback(loopback.replies("gotcha")) as other:
        with pytest.raises(RemoteRefused, match="elsewhere"):
            ask(loopback.status(307, Location=f"{other.url}/chat/completions"))
        assert other.requests == []


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ({"Retry_After": "20"}, 20.0),
        ({}, reach.RETRY_AFTER_S),
        ({"Retry_After": "soon"}, reach.RETRY_AFTER_S),
        ({"Retry_After": "-5"}, 1.0),
        ({"Retry_After": "1e400"}, reach.RETRY_AFTER_S),
        ({"Retry_After": "9999999"}, reach.RETRY_AFTER_CAP_S),
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1.0),
    ],
)
def test_too_many_requests_says_how_long_to_wait(header: dict[str, str], wait_s: float) -> None:
    with pytest.raises(RemoteLimited) as caught:
        ask(loopback.status(429, **header))
    assert caught.value.retry_after_s == wait_s


BROKEN = {
    "a web page": loopback.page(),
    "half an answer": loopback.half(),
    "no answer": loopback.hang_up(),
    "an unknown tool": loopback.UNKNOWN_TOOL,
    "arguments that are not JSON": loopback.BAD_JSON,
    "arguments that do not fit": loopback.UNFIT,
    "a deferral": loopback.calls((DEFER, {})),
    "arguments without end": loopback.flood(),
    "a line without end": loopback.flood_line(),
    "an error without end": loopback.flood_line(500),
    "comments without end": loopback.chatter(),
    "nothing said": loopback.says("  "),
    "no choices": loopback.document({"choices": []}),
    "an error inside 200": loopback.document({"error": {"message": "overloaded"}}),
    "another shape": loopback.document({"choices": [{"delta": "hello"}]}),
    "a list": loopback.document([1, 2]),
    "not a number": loopback.calls(("get_user", '{"user_id": NaN}')),
    "half a character": loopback.calls((RESPOND, '{"message": "\\ud800"}')),
    "a list for arguments": loopback.calls(("get_user", "[1]")),
    "depth": loopback.calls(("get_user", '{"user_id": ' + "[" * 500 + "]" * 500 + "}")),
    "bottomless depth": loopback.calls(("get_user", "[" * 3000)),
    "a crowd of calls": loopback.calls(*[LOOK_UP] * 40),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_answer_is_an_error_and_nothing_else(answer: loopback.Answer) -> None:
    with pytest.raises(RemoteBroken):
        ask(answer)


def test_a_flood_is_cut_off(connect: Connect) -> None:
    with Loopback(loopback.flood()) as server:
        with pytest.raises(RemoteBroken, match="too long"):
            step(connect(server))
        assert server.hung_up.wait(5.0)


def test_nobody_listening_is_offline_at_once(connect: Connect) -> None:
    url = loopback.nobody()
    with pytest.raises(RemoteOffline, match=f"connection refused by {reach.host_of(url)}"):
        step(connect(url))


def test_tls_to_a_server_without_it_is_offline(connect: Connect) -> None:
    with Loopback(loopback.replies("ok")) as server:
        client = connect(server.url.replace("http:", "https:"))
        with pytest.raises(RemoteOffline, match="TLS"):
            step(client)


@pytest.mark.parametrize("answer", [loopback.stall(), loopback.stall_midway(), loopback.drip()])
def test_a_server_that_stalls_ends_with_the_turns_budget(
    connect: Connect, answer: loopback.Answer
) -> None:
    with Loopback(answer) as server:
        client = connect(server, first_byte_s=60.0)
        with pytest.raises(RemoteTimeout):
            step(client, deadline_s=0.3)
        assert server.hung_up.wait(5.0)


def test_silence_ends_with_the_first_bytes_budget() -> None:
    with pytest.raises(RemoteTimeout, match="silent"):
        ask(loopback.stall(), first_byte_s=0.1)


def cancel_when_asked(server: Loopback, n: int, cancel: threading.Event) -> None:
    """Cancel as soon as the server has the n-th request."""

    def watch() -> None:
        while len(server.requests) < n and not server.is_closing.is_set():
            time.sleep(0.01)
        cancel.set()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize("answer", [loopback.stall(), loopback.stall_midway(), loopback.drip()])
def test_a_cancel_closes_the_connection_at_once(connect: Connect, answer: loopback.Answer) -> None:
    cancel = threading.Event()
    with Loopback(answer) as server:
        client = connect(server)
        cancel_when_asked(server, 1, cancel)
        _, done = step(client, deadline_s=60.0, cancel=cancel)
        assert done.calls == ()
        assert server.hung_up.wait(5.0)


def test_a_generator_that_is_closed_closes_the_connection(connect: Connect) -> None:
    with Loopback(loopback.stall_midway()) as server:
        items = connect(server).step("", TOOLS, HELLO, 60.0, threading.Event())
        next(items)
        assert isinstance(items, Iterator)
        items.close()  # type: ignore[attr-defined]  # an iterator to its callers, a generator here
        assert server.hung_up.wait(5.0)


def test_a_connection_that_serves_again_is_closed_by_a_cancel_too(connect: Connect) -> None:
    """Only its first request learns the socket from the transport."""
    cancel = threading.Event()
    with Loopback(loopback.unstreamed(LOOK_UP), loopback.stall()) as server:
        client = connect(server)
        step(client)
        cancel_when_asked(server, 2, cancel)
        step(client, deadline_s=60.0, cancel=cancel)
        assert server.requests[0].port == server.requests[1].port, "the same connection"
        assert server.hung_up.wait(5.0)


def test_a_step_that_is_cancelled_before_it_begins_sends_nothing(connect: Connect) -> None:
    cancel = threading.Event()
    cancel.set()
    with Loopback(loopback.replies("ok")) as server:
        client = connect(server)
        assert step(client, cancel=cancel)[1].calls == ()
        assert client.bytes_sent == 0
        assert server.requests == []


def test_a_step_without_time_sends_nothing(connect: Connect) -> None:
    with Loopback(loopback.replies("ok")) as server:
        client = connect(server)
        with pytest.raises(RemoteTimeout):
            step(client, deadline_s=0.0)
        assert client.bytes_sent == 0
        assert server.requests == []


def test_an_answer_that_is_done_is_not_waited_on(connect: Connect) -> None:
    with Loopback(loopback.done_and_open("ok")) as server:
        assert step(connect(server), deadline_s=60.0)[1].calls[0].arguments == {"message": "ok"}


@pytest.mark.parametrize("key", ["sk-line\nbreak", "sk-\u00fcber"])
def test_a_key_that_no_header_can_carry_is_said_without_showing_it(
    connect: Connect, key: str
) -> None:
    with Loopback(loopback.replies("ok")) as server:
        with pytest.raises(RemoteRefused, match="DEFER_API_KEY") as caught:
            step(connect(server, api_key=SecretStr(key)))
        link = Link(config_for(server, api_key=SecretStr(key)))
        error = link._probe()
    assert isinstance(error, RemoteRefused)
    assert "sk-" not in str(caught.value) + str(error)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "nonsense://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_configuration(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """Many shells set ALL_PROXY for other programs."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    with Loopback(loopback.replies("ok")) as server:
        with pytest.raises(RemoteRefused, match="proxy"):
            step(connect(server))
        assert isinstance(Link(config_for(server))._probe(), RemoteRefused)


def test_a_password_in_the_address_is_used_and_not_shown(connect: Connect) -> None:
    with Loopback(loopback.replies("ok")) as server:
        address = server.url.replace("http://", "http://mia:secret@")
        client = connect(address, api_key=None)
        step(client)
    assert server.requests[0].headers["authorization"].startswith("Basic ")
    assert "secret" not in client.host


def test_a_server_that_failed_is_asked_once_more(connect: Connect) -> None:
    with Loopback(loopback.status(500), loopback.replies("back")) as server:
        _, done = step(connect(server))
    assert done.calls[0].arguments == {"message": "back"}
    assert done.usage.bytes_sent == sum(request.n_bytes for request in server.requests)


@pytest.mark.parametrize(
    ("answer", "n"),
    [
        (loopback.status(500), 2),
        (loopback.hang_up(), 2),
        (loopback.status(401), 1),
        (loopback.status(429), 1),
        (loopback.status(400), 2),  # once as we like it, once in the plainest form
        (loopback.half(), 1),  # what was shown is not shown twice
        (loopback.UNKNOWN_TOOL, 1),
    ],
)
def test_how_often_a_failing_server_is_asked(
    connect: Connect, answer: loopback.Answer, n: int
) -> None:
    with Loopback(answer) as server:
        with pytest.raises(RemoteError):
            step(connect(server))
        assert len(server.requests) == n


def test_a_server_without_required_gets_auto_from_then_on(connect: Connect) -> None:
    with Loopback(loopback.status(400, "tool_choice"), loopback.replies("ok")) as server:
        client = connect(server)
        step(client)
        step(client)
    choices = [request.body["tool_choice"] for request in server.requests]
    assert choices == ["required", "auto", "auto"]
    assert "stream_options" not in server.requests[-1].body


def test_a_request_refused_for_another_reason_keeps_required(connect: Connect) -> None:
    with Loopback(
        loopback.status(400, "too long"), loopback.status(400, "too long"), loopback.replies("ok")
    ) as server:
        client = connect(server)
        with pytest.raises(RemoteBroken, match="too long"):
            step(client)
        step(client)
    assert server.requests[-1].body["tool_choice"] == "required"


def test_a_step_after_a_failed_one_works(connect: Connect) -> None:
    with Loopback(loopback.stall(), loopback.replies("ok")) as server:
        client = connect(server)
        with pytest.raises(RemoteTimeout):
            step(client, deadline_s=0.2)
        assert step(client)[1].calls[0].arguments == {"message": "ok"}


def test_the_key_is_in_no_text(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Loopback(loopback.status(401, f"bad key {KEY}")) as server:
        client = connect(server)
        with pytest.raises(RemoteRefused) as caught:
            step(client)
    assert KEY not in repr(client) + str(caught.value) + repr(caught.value) + caplog.text


def errors_of(module: object, root: type[Exception]) -> list[type[Exception]]:
    public: list[str] = module.__all__  # type: ignore[attr-defined]  # every module here has it
    found = [value for name in public if isinstance(value := getattr(module, name), type)]
    return sorted((cls for cls in found if issubclass(cls, root)), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", errors_of(openai, openai.OpenAIError), ids=lambda c: c.__name__)
def test_every_error_of_the_client_library_becomes_ours(cls: type[openai.OpenAIError]) -> None:
    error = cls.__new__(cls)
    error.__cause__ = None
    if isinstance(error, openai.APIStatusError):
        error.response = httpx2.Response(418)
        error.status_code = getattr(cls, "status_code", 418)
    ours = remote.translated(error, "host")
    expected: dict[type[Exception], type[RemoteError]] = {
        openai.AuthenticationError: RemoteRefused,
        openai.OAuthError: RemoteRefused,
        openai.PermissionDeniedError: RemoteRefused,
        openai.NotFoundError: RemoteRefused,
        openai.RateLimitError: RemoteLimited,
        openai.APIConnectionError: RemoteOffline,
        openai.APITimeoutError: RemoteTimeout,
    }
    assert type(ours) is expected.get(cls, RemoteBroken)


@pytest.mark.parametrize(
    "cls",
    [*errors_of(httpx2, httpx2.HTTPError), *errors_of(httpx2, httpx2.StreamError)],
    ids=lambda c: c.__name__,
)
def test_every_error_of_the_transport_becomes_ours(cls: type[Exception]) -> None:
    ours = reach.from_transport(cls.__new__(cls), "host")
    expected: dict[str, type[RemoteError]] = {
        "ConnectError": RemoteOffline,
        "ConnectTimeout": RemoteOffline,
        "PoolTimeout": RemoteOffline,
        "ProxyError": RemoteOffline,
        "TimeoutException": RemoteTimeout,
        "ReadTimeout": RemoteTimeout,
        "WriteTimeout": RemoteTimeout,
        "UnsupportedProtocol": RemoteRefused,
        "LocalProtocolError": RemoteRefused,
    }
    assert type(ours) is expected.get(cls.__name__, RemoteBroken)


def test_a_name_that_nobody_knows_is_offline(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver without a network may think for a minute; the turn does not."""

    def slow(*args: object, **kwargs: object) -> list[object]:
        time.sleep(0.5)
        return []

    monkeypatch.setattr("socket.getaddrinfo", slow)
    with pytest.raises(RemoteOffline, match=r"within 0\.1 s"):
        step(connect("http://nowhere.invalid/v1", connect_s=0.1))


def test_importing_the_cascade_imports_no_heavy_library() -> None:
    code = "import sys, edgeagent.cascade, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert loaded.isdisjoint({"openai", "httpx2", "llama_cpp"})
