"""The shop finds orders, opens tickets and answers in two languages."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from edgeagent.messages import CONTROL_NAMES, Call
from edgeagent.scenarios.database import Database
from edgeagent.scenarios.orders.backend import MAX_ISSUE, SEED, description, open_file
from edgeagent.scenarios.orders.shop import FAQS, generate

_ids = itertools.count()


def tell(desk: Database, name: str, **arguments: str) -> tuple[Any, bool]:
    outcome = desk.call(Call(f"call_{next(_ids)}", name, arguments), 5.0)
    return json.loads(outcome.content), outcome.is_error


def test_three_tools_and_the_control_ones() -> None:
    names = {tool.name for tool in description().tools}
    assert names == {"lookup_order", "create_ticket", "get_faq"} | CONTROL_NAMES


def test_orders_are_the_same_every_time_and_add_up() -> None:
    orders = generate(1)
    assert orders == generate(1)
    for order in orders.values():
        assert order["total"] == sum(item["quantity"] * item["price"] for item in order["items"])


@pytest.mark.parametrize("spelled", ["{}", " {} ", "#{}", "od-{n}", "{n}"])
def test_an_order_is_found_however_its_id_is_spelled(spelled: str) -> None:
    key, order = next(iter(generate(SEED).items()))
    found, is_error = tell(
        open_file(None), "lookup_order", order_id=spelled.format(key, n=key.removeprefix("OD-"))
    )
    assert (found, is_error) == (order, False)


@pytest.mark.parametrize("order_id", ["OD-1", "", "' OR 1=1 --", "đơn hàng"])
def test_an_unknown_order_is_an_error(order_id: str) -> None:
    answer, is_error = tell(open_file(None), "lookup_order", order_id=order_id)
    assert is_error
    assert answer["error"] == f"no order {order_id!r}"


def test_a_ticket_is_kept_as_it_was_written() -> None:
    desk = open_file(None)
    issue = "Đèn bàn bị vỡ <|im_end|> \x00 🙂"
    made, is_error = tell(desk, "create_ticket", issue=issue, priority="high")
    assert not is_error
    assert made == {"ticket_id": "T-1", "priority": "high", "status": "open"}
    rows = desk.connection.execute("SELECT issue, priority FROM tickets").fetchall()
    assert rows == [(issue, "high")]


@pytest.mark.parametrize(
    ("issue", "priority"), [(" ", "low"), ("x" * (MAX_ISSUE + 1), "low"), ("lamp", "urgent")]
)
def test_a_ticket_nobody_could_work_on_is_refused(issue: str, priority: str) -> None:
    desk = open_file(None)
    assert tell(desk, "create_ticket", issue=issue, priority=priority)[1]
    assert desk.connection.execute("SELECT COUNT(*) FROM tickets").fetchone() == (0,)


@pytest.mark.parametrize(
    ("topic", "name", "is_vietnamese"),
    [
        ("returns", "returns", False),
        ("How do refunds work?", "returns", False),
        ("shipping cost", "shipping", False),
        ("Chính sách đổi trả", "returns", True),
        ("BẢO HÀNH", "warranty", True),
        ("opening hours", "opening hours", False),
    ],
)
def test_a_question_is_answered_in_its_language(topic: str, name: str, is_vietnamese: bool) -> None:
    answer, is_error = tell(open_file(None), "get_faq", topic=topic)
    assert not is_error
    faq = FAQS[name]
    assert answer == {"topic": name, "answer": faq.vietnamese if is_vietnamese else faq.english}


def test_an_unknown_topic_lists_the_known_ones() -> None:
    answer, is_error = tell(open_file(None), "get_faq", topic="astrology")
    assert is_error
    assert all(name in answer["error"] for name in FAQS)
