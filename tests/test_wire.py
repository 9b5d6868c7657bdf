"""What comes from a server is bounded and complete before it is believed; no socket needed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent import wire
from edgeagent.calls import partial_reply
from edgeagent.errors import RemoteBroken
from edgeagent.messages import RESPOND, Call, Json
from tests.scripted import TOOLS


def chunk(content: str | None = None, arguments: str | None = None, **choice: Json) -> bytes:
    """One streamed document: some text, or some arguments of a reply."""
    delta: dict[str, Json] = {"content": content}
    if arguments is not None:
        function = {"name": RESPOND, "arguments": arguments}
        delta["tool_calls"] = [{"index": 0, "function": function}]
    return json.dumps({"choices": [{"delta": delta, **choice}]}).encode()


def read(*documents: bytes) -> tuple[str, tuple[Call, ...]]:
    answer = wire.Answer()
    text = "".join(piece for document in documents for piece in answer.feed(document))
    return text, answer.calls(TOOLS)


def test_an_answer_that_never_said_it_was_finished_is_not_believed() -> None:
    with pytest.raises(RemoteBroken, match="broke off"):
        read(chunk("All of it is booked"))
    _, (call,) = read(chunk("All of it is booked"), b"[DONE]")
    assert call.arguments == {"message": "All of it is booked"}


@pytest.mark.parametrize(
    ("piece", "n", "said"),
    [
        ({"content": "x" * 10_000}, 30, "answer is too long"),
        ({"arguments": "x" * 10_000}, 10, "arguments are too long"),
    ],
)
def test_an_answer_ends_where_it_cannot_be_one(piece: dict[str, str], n: int, said: str) -> None:
    with pytest.raises(RemoteBroken, match=said):
        read(*[chunk(**piece)] * n)


@pytest.mark.parametrize("beginning", ["data: ", "{"])
def test_one_document_is_no_longer_than_an_answer(beginning: str) -> None:
    def endless() -> Iterable[bytes]:
        yield beginning.encode()
        while True:
            yield b"x" * 10_000

    with pytest.raises(RemoteBroken, match="too long"):
        list(wire.payloads(iter(endless())))


def test_words_before_a_call_are_no_part_of_it() -> None:
    raw, (call,) = read(
        chunk("Let me see."), chunk(arguments='{"message": "Hi"}', finish_reason="tool_calls")
    )
    assert call.arguments == {"message": "Hi"}
    assert partial_reply(raw) == "Let me see."


STREAM = (
    b": a comment\r\nid: 1\r\nevent: delta\r\ndata: " + chunk("Grüß ") + b"\r\n\r\n"
    b"data:" + chunk("dich") + b"\n\n"
    b'data: {"choices": [{"delta": {},\ndata: "finish_reason": "stop"}]}\n\n'
    b"data: [DONE]"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_reads_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(places)]
    _, (call,) = read(*wire.payloads(iter(pieces)))
    assert call.arguments == {"message": "Grüß dich"}


@given(st.text(max_size=60))
def test_any_reply_survives_the_way_here(message: str) -> None:
    text = json.dumps({"message": message})
    parts = [chunk(arguments=text[at : at + 5]) for at in range(0, len(text), 5)]
    raw, (call,) = read(*parts, b"[DONE]")
    assert call.arguments == {"message": message}
    assert partial_reply(raw) == message


@given(st.text(max_size=60).filter(str.strip))
def test_any_plain_words_survive_the_way_here(message: str) -> None:
    raw, (call,) = read(*(chunk(letter) for letter in message), b"[DONE]")
    assert call.arguments == {"message": message.strip()}
    assert partial_reply(raw) == message


@given(st.binary(max_size=200))
def test_noise_is_an_error_of_ours_or_nothing(noise: bytes) -> None:
    answer = wire.Answer()
    try:
        for payload in wire.payloads(iter([noise])):
            list(answer.feed(payload))
        answer.calls(TOOLS)
    except RemoteBroken:
        return
    raise AssertionError("noise is no answer")
