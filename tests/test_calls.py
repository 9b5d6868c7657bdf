"""Replies inside unfinished calls, and the second look at every call."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent import calls
from tests.engine_kit import TOOLS

HEAD = '<tool_call>\n{"name": "respond_to_user", "arguments": {"message": "'

PARTIAL = [
    ("", ""),
    ('<tool_call>\n{"name": "resp', ""),
    (HEAD, ""),
    (HEAD + "Hel", "Hel"),
    (HEAD + "Hello.", "Hello."),
    (HEAD + 'Hello."}}\n</tool_call>', "Hello."),
    (HEAD + "a\\", "a"),
    (HEAD + "a\\n", "a\n"),
    (HEAD + 'say \\"hi\\" ', 'say "hi" '),
    (HEAD + "\\\\", "\\"),
    (HEAD + "caf\\u00", "caf"),
    (HEAD + "caf\\u00e9", "café"),
    (HEAD + "\\ud83d", ""),  # the first half of a character
    (HEAD + "\\ud83d\\ude00", "😀"),
    (HEAD + "\\ud83d no", "\ufffd no"),  # a half that stays alone
    ('{"name": "respond_to_user", "parameters": {"message": "Llama', "Llama"),
    ('[TOOL_CALLS][{"name":"respond_to_user","arguments":{"message":"Mistral', "Mistral"),
    ('{"name": "think", "arguments": {"thought": "respond_to_user"', ""),
    ('{"name": "defer_to_larger_model", "arguments": {"message": "x', ""),
]


@pytest.mark.parametrize(("raw", "reply"), PARTIAL)
def test_reply_of_an_unfinished_call(raw: str, reply: str) -> None:
    assert calls.partial_reply(raw) == reply


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.booleans())
def test_reply_only_ever_grows(message: str, ascii_only: bool) -> None:
    call = {"name": "respond_to_user", "arguments": {"message": message}}
    raw = f"<tool_call>\n{json.dumps(call, ensure_ascii=ascii_only)}\n</tool_call>"
    seen = ""
    for end in range(len(raw) + 1):
        reply = calls.partial_reply(raw[:end])
        assert reply.startswith(seen)
        seen = reply
    assert seen == message


def test_ids_differ() -> None:
    made = {calls.new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(call_id) == len("call_") + 12 for call_id in made)


VALID = [
    ("respond_to_user", {"message": ""}),
    ("search_flights", {"origin": "JFK"}),
    ("book", {"cabin": "economy", "flights": [{"number": "A", "price": 1}], "bags": 0}),
]
INVALID = [
    ("nothing", {}, "there is no tool"),
    ("respond_to_user", [], "not an object"),
    ("respond_to_user", {}, "required"),
    ("respond_to_user", {"message": 1}, "message"),
    ("book", {"cabin": "first", "flights": [], "bags": 0}, "book"),
    ("book", {"cabin": "economy", "flights": [{"number": "A", "price": 1e999}], "bags": 0}, "JSON"),
]


@pytest.mark.parametrize(("name", "arguments"), VALID)
def test_valid_calls_pass(name: str, arguments: object) -> None:
    assert calls.validate(name, arguments, TOOLS) is None


@pytest.mark.parametrize(("name", "arguments", "reason"), INVALID)
def test_invalid_calls_say_why(name: str, arguments: object, reason: str) -> None:
    said = calls.validate(name, arguments, TOOLS)
    assert said is not None
    assert reason in said
    assert "\n" not in said
