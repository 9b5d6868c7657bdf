"""Ids and names come from the conversation, letter for letter, whatever the weights would say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeagent.engine.client import Prompt
from edgeagent.engine.copying import Copying, Words
from edgeagent.engine.wire import HERMES
from edgeagent.manifest import Dialect
from edgeagent.messages import (
    DEFER,
    RESPOND,
    Call,
    CallMessage,
    Conversation,
    Json,
    ResultMessage,
    UserMessage,
)
from tests.engine_kit import POLICY, TOOLS, engine, rule, take
from tests.tiny_gguf import write_tiny

BYTES = [bytes((value,)) for value in range(256)]
"""A vocabulary of single bytes: a token is its byte."""
COPIED = Dialect(
    copied_ids=("user_id", "flight_number"), copied_words=("first_name", "restaurant_name")
)
CONVERSATION: Conversation = (
    UserMessage("Hi, I am mia_li_3668 and malik's friend"),
    CallMessage((Call("call_000000000001", "get_user_details", {"user_id": "zoe_no_1111"}),)),
    ResultMessage(
        "call_000000000001", "get_user_details",
        '{"flights": [{"flight_number": "HAT085"}, {"flight_number": "HAT152"}], "code": "FQGTHR"}',
    ),
    CallMessage((Call("call_000000000002", RESPOND, {"message": "Try Agave Grill & Cantina"}),)),
    ResultMessage("call_000000000002", RESPOND, '{"ok": true}'),
    UserMessage("k8ciq5"),
)  # fmt: skip


def call(arguments: Json) -> str:
    return f"{HERMES.before}some_tool{HERMES.between}{json.dumps(arguments)}"


def refused_at(text: str, conversation: Conversation = CONVERSATION) -> str | None:
    """Return the text up to the first byte that is no copy, or None if all of it may be written."""
    copying = Copying(conversation, COPIED, HERMES, BYTES)
    tokens = list(text.encode())
    for n, token in enumerate(tokens):
        copying.read(tokens[:n])
        if not copying.takes(token):
            return bytes(tokens[: n + 1]).decode()
    assert copying.has(tokens)
    return None


@pytest.mark.parametrize(
    "arguments",
    [
        {"user_id": "mia_li_3668"},
        {"user_id": "K8CIQ5"},
        {"user_id": "FQGTHR", "note": "anything 12 at all, ABC1?"},
        {"flights": [{"flight_number": "HAT152", "date": "2024-05-20"}]},
        {"passengers": [{"first_name": "Malik"}, {"first_name": "friend"}]},
        {"restaurant_name": "Agave Grill & Cantina"},
        {"message": 'HAT085, HAT152 or HATS, for $12; room B12 is free. "user_id": "nobody"'},
        {"count": 12, "user_id_of": "nobody_at_all_1234"},
    ],
)
def test_what_was_said_may_be_written(arguments: Json) -> None:
    assert refused_at(call(arguments)) is None


@pytest.mark.parametrize(
    ("arguments", "up_to"),
    [
        ({"user_id": "mea_li_3668"}, "me"),
        ({"user_id": "mia_li_3669"}, "mia_li_3669"),
        ({"user_id": "mia_li_36"}, 'mia_li_36"'),
        ({"user_id": "mia_li_36688"}, "mia_li_36688"),
        ({"user_id": ""}, '""'),
        ({"user_id": "zoe_no_1111"}, "z"),
        ({"flights": [{"flight_number": "HAT852"}]}, "HAT8"),
        ({"message": "I take HAT885"}, "HAT8"),
        ({"message": "I take HAT0859"}, "HAT0859"),
        ({"passengers": [{"first_name": "Mel"}]}, "Me"),
        ({"restaurant_name": "Agave Gril"}, 'Gril"'),
        ({"restaurant_name": "Agave Cellar"}, "Ce"),
    ],
)
def test_what_nobody_said_ends_where_it_departs(arguments: Json, up_to: str) -> None:
    found = refused_at(call(arguments))
    assert found is not None
    assert found.endswith(up_to)


SHOWN: Conversation = (
    UserMessage("mia_li_3668, about K8CIQ5 and FQGTHR, with gift_card_1111111"),
    ResultMessage(
        "call_000000000001", "get_reservation_details",
        '{"reservation_id": "K8CIQ5", "user_id": "mia_li_3668", "flights": [{"flight_number":'
        ' "HAT085"}], "paid": [{"payment_id": "credit_card_2222222"}], "seat": "B12"}',
    ),
    UserMessage("zoe_no_1111 comes along"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("key", "own", "others"),
    [
        ("user_id", ("mia_li_3668", "zoe_no_1111", "FQGTHR", "B12"),
         ("HAT085", "K8CIQ5", "credit_card_2222222", "gift_card_1111111")),
        ("payment_id", ("credit_card_2222222", "gift_card_1111111"), ("mia_li_3668", "HAT085")),
        ("reservation_id", ("K8CIQ5", "FQGTHR"), ("HAT085", "credit_card_2222222")),
    ],
)  # fmt: skip
def test_what_results_have_shown_under_one_key_is_no_value_of_another(
    key: str, own: tuple[str, ...], others: tuple[str, ...]
) -> None:
    dialect = Dialect(copied_ids=("user_id", "reservation_id", "payment_id", "flight_number"))
    copying = Copying(SHOWN, dialect, HERMES, BYTES)
    for word in own:
        assert copying.has(list(call({key: word}).encode())), word
    for word in others:
        assert not copying.has(list(call({key: word}).encode())), word


def test_an_id_that_belongs_elsewhere_is_better_than_none() -> None:
    shown = (ResultMessage("call_000000000001", "look", '{"flight_number": "HAT085"}'),)
    assert refused_at(call({"user_id": "HAT085"}), shown) is None
    assert refused_at(call({"user_id": "HAT086"}), shown) is not None


def test_where_nothing_was_said_nothing_has_to_be_copied() -> None:
    hello = (UserMessage("?"),)
    assert refused_at(call({"user_id": "anybody_1", "first_name": "Ann"}), hello) is None


def test_a_short_answer_may_be_a_code_in_small_letters() -> None:
    said = (UserMessage("ABC123, no wait"), UserMessage("it is fqgthr"))
    assert refused_at(call({"user_id": "FQGTHR"}), said) is None
    long = (UserMessage("ABC123 is a number and the letters fqgthr mean nothing"),)
    assert refused_at(call({"user_id": "FQGTHR"}), long) is not None


def test_tokens_of_many_letters_are_read_letter_by_letter() -> None:
    pieces = [*BYTES, b"HAT", b"085", b'152"}', b"885", b"mia_li", b'_3668", "x": "a']
    copying = Copying(CONVERSATION, COPIED, HERMES, pieces)
    tokens = list(call({"flight_number": ""})[:-2].encode())
    copying.read([*tokens, 256])
    assert [copying.takes(token) for token in (257, 258, 259)] == [True, True, False]
    copying.restart()
    copying.read([*list(call({"user_id": ""})[:-2].encode()), 260])
    assert copying.takes(261)


def test_words_are_found_by_their_beginnings() -> None:
    words = Words(["hat", "hats", "b"])
    assert len(words) == 3
    assert words.begin(b"")
    assert words.begin(b"hat")
    assert not words.begin(b"hatt")
    assert b"hat" in words
    assert b"ha" not in words
    assert not Words(()).begin(b"")


@pytest.mark.parametrize("seed", range(6))
def test_random_weights_look_up_only_what_was_said(tmp_path: Path, seed: int) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", seed=seed)
    said = (UserMessage("My bookings are ABC123 and ABD77X; my wife's is Q1."),)
    offered = frozenset({"get_reservation_details"})
    dialect = Dialect(copied_ids=("reservation_id",))
    found = []
    for one in (Dialect(), dialect):
        with engine(path, one) as made:
            made.start()
            done = take(made, Prompt(POLICY, TOOLS, said), rule(60, offered=offered))
        found.append(done.calls[0].arguments["reservation_id"])
    assert found[0] not in {"ABC123", "ABD77X"}
    assert found[1] in {"ABC123", "ABD77X"}


def test_a_verdict_that_is_read_again_copies_as_ever(tmp_path: Path) -> None:
    """Where deferring is told to look up instead, the answer begins anew."""
    path = write_tiny(tmp_path / "tiny.gguf", seed=3)
    said = (UserMessage("ABC123?"),)
    how = rule(60, offered={DEFER, RESPOND}, on_defer={"get_reservation_details"})
    with engine(path, Dialect(copied_ids=("reservation_id",))) as made:
        made.start()
        done = take(made, Prompt(POLICY, TOOLS, said), how)
    assert done.verdict is not None
    if done.verdict.deferred:
        assert done.calls[0].arguments == {"reservation_id": "ABC123"}
