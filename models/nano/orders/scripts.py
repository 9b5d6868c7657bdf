"""What customers of the shop come for, and what the desk does about it, step by step.

Each script is one wish from its opening to its end. The desk follows the scenario's policy: it
looks up by id, says what the order says, proposes a ticket and waits for a yes, leaves hard
turns to the larger model. A script returns whether the conversation can go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from random import Random
from typing import TypeAlias

from edgeagent.messages import Json
from edgeagent.scenarios.orders.shop import TODAY
from models.nano import values
from models.nano.orders import stock
from models.nano.orders.desk import SHARE_ID_TOLD, Desk, Language

Script: TypeAlias = Callable[[Desk], bool]

SHARE_MISREAD = 0.07
"""Of the customers with an order, those who get its id wrong at first."""
WEEK = 7
"""Days from which on a late parcel is urgent."""

COLOURS: Mapping[Language, tuple[str, ...]] = {
    "en": ("red", "blue", "green", "black", "white", "grey", "yellow", "brown", "pink", "orange"),
    "vi": ("đỏ", "xanh", "đen", "trắng", "xám", "vàng", "nâu", "hồng", "cam", "tím"),
}
IDEAS: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "gift wrapping", "a dark mode", "larger sizes", "a newsletter", "evening deliveries",
        "recycled boxes", "a loyalty scheme", "a wish list", "more colours", "bundles for families",
        "a shop in my town", "longer videos of the goods", "spare parts", "a chat in spanish",
    ),
    "vi": (
        "gói quà", "cỡ lớn hơn", "tích điểm", "hộp giấy tái chế", "nhiều màu hơn", "ứng dụng",
        "giao buổi tối", "đồ thay thế", "video dài hơn", "combo gia đình",
    ),
}  # fmt: skip
TOPICS: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "student discounts", "gift wrapping", "bonus points", "jobs", "wholesale", "size charts",
        "recycling", "bulk prices", "the newsletter", "vouchers", "your suppliers", "allergens",
        "engraving", "sustainability", "rentals", "catalogues", "a family plan", "black friday",
    ),
    "vi": (
        "giảm giá sinh viên", "gói quà", "tích điểm", "tuyển dụng", "bán sỉ", "bảng cỡ",
        "khắc tên", "khuyến mãi", "voucher", "thuê đồ", "nhà cung cấp", "tái chế",
    ),
}  # fmt: skip
FAQ_TOPICS: Mapping[str, tuple[str, str]] = {
    "returns": ("returns", "đổi trả"),
    "shipping": ("shipping", "giao hàng"),
    "payment": ("payment", "thanh toán"),
    "warranty": ("warranty", "bảo hành"),
    "account": ("account", "tài khoản"),
    "hours": ("opening hours", "giờ mở cửa"),
}
"""What get_faq is asked for, in English and in Vietnamese."""
FAQS = (
    "returns_0", "returns_1", "shipping_0", "shipping_1", "payment_0", "payment_1", "warranty_0",
    "warranty_1", "account_0", "hours_0",
)  # fmt: skip
"""Topic and sentence of the answer that serves the question."""

CHANGES: Mapping[str, tuple[str, ...]] = {
    "cancel": (*stock.OPEN, "cancelled"),
    "refund": ("delivered", "cancelled", "returned"),
    "return": ("delivered",),
    "exchange": ("delivered", "processing"),
    "address": ("processing", "shipped"),
    "add": ("processing",),
    "remove": ("processing",),
}
"""What the desk cannot do itself, and the states that an order is in when it is wished for."""
FAULTS: Mapping[str, str] = {
    "broken": "normal", "defect": "normal", "missing": "normal", "wrong": "normal",
    "lost": "normal", "danger": "high", "twice": "high",
}  # fmt: skip
"""What goes wrong, and the priority of the ticket."""
HARD: Mapping[str, str] = {
    "hard_orders": "several orders have to be weighed",
    "hard_rules": "several dates and rules have to be weighed",
    "hard_unclear": "the wish can be read in more than one way",
}
QUESTIONS = ("status", "status", "status", "when", "when", "total", "items", "placed", "unsaid")


def status(desk: Desk) -> bool:
    """Ask something about an order, and perhaps something more about the same one."""
    asked = desk.rng.choice(QUESTIONS)
    order = stock.draw(desk.rng, held_out=desk.held_out)
    if asked != "items" and desk.rng.random() < 0.04:
        order = stock.injected(desk.rng, order)
    found = _look_up(desk, desk.put(order), f"ask_{asked}")
    _tell(desk, asked, found)
    if desk.rng.random() < 0.2:
        more = desk.rng.choice([other for other in QUESTIONS if other != asked])
        if more != "items" or ";" not in found["items"][0]["name"]:
            desk.open(f"ask_{more}", order=desk.typed(desk.text("it")))
            _tell(desk, more, found)
    return True


def both(desk: Desk) -> bool:
    """Ask for the state of two orders, which is two look-ups and nothing to weigh."""
    ids = [desk.put(stock.draw(desk.rng, n_items=1))["order_id"] for _ in range(2)]
    desk.open("ask_both", id=desk.spelled(ids[0]), id_b=desk.spelled(ids[1]))
    first, second = (desk.call("lookup_order", order_id=one) for one in ids)
    slots = {"oid": ids[0], "status": desk.word(first["status"])}
    desk.reply("r_both", oid_b=ids[1], status_b=desk.word(second["status"]), **slots)
    return True


def faq(desk: Desk) -> bool:
    """Ask a common question."""
    question = desk.rng.choice(FAQS)
    desk.open(f"faq_{question}")
    desk.tell(_from_faq(desk, question))
    return True


def two_in_one(desk: Desk) -> bool:
    """Ask for the state of an order and a common question in one message."""
    order, question = desk.put(stock.draw(desk.rng, n_items=1)), desk.rng.choice(FAQS)
    named = desk.named(order["order_id"], is_told=True)
    desk.open_both("ask_status", f"faq_{question}", order=named)
    found = desk.call("lookup_order", order_id=order["order_id"])
    answer = _from_faq(desk, question)
    desk.tell(f"{_answer(desk, 'status', found)} {answer}")
    return True


def unknown_faq(desk: Desk) -> bool:
    """Ask what the shop has no answer to."""
    topic = desk.typed(desk.rng.choice(TOPICS[desk.language]))
    desk.open("faq_unknown", topic=topic)
    desk.call("get_faq", topic=topic)
    return _ticket(desk, "r_no_answer", "topic", "normal", {"topic": topic})


def change(desk: Desk) -> bool:
    """Want something done to an order that only a person can do."""
    kind = desk.rng.choice(tuple(CHANGES))
    rng = desk.rng
    order = desk.put(stock.draw(rng, CHANGES[kind], held_out=desk.held_out))
    slots = {
        "item": _item(rng, order),
        "colour": desk.typed(rng.choice(COLOURS[desk.language])),
        "address": values.address(rng),
    }
    found = _look_up(desk, order, f"do_{kind}", **slots)
    if kind == "cancel" and found["status"] == "cancelled":
        desk.reply("r_already", oid=found["order_id"], status=desk.word("cancelled"))
        return True
    return _about_item(desk, "r_propose_instead", kind, "normal", found, slots)


def fault(desk: Desk) -> bool:
    """Report something that is broken, lost, wrong, dangerous or paid twice."""
    kind = desk.rng.choice(tuple(FAULTS))
    statuses = stock.OPEN + stock.CLOSED if kind == "twice" else ("delivered",)
    order = desk.put(stock.draw(desk.rng, statuses, held_out=desk.held_out))
    slots = {"item": _item(desk.rng, order)}
    found = _look_up(desk, order, f"do_{kind}", **slots)
    return _about_item(desk, "r_propose", kind, FAULTS[kind], found, slots)


def late(desk: Desk) -> bool:
    """Complain that an order is late; how late it is decides what is done."""
    statuses = (*stock.OPEN, *stock.OPEN, *stock.OPEN, "delivered", "cancelled")
    found = _look_up(desk, desk.put(stock.draw(desk.rng, statuses)), "do_late")
    slots = {"oid": found["order_id"]}
    if found["expected_on"] is None:
        desk.reply("r_has_come", status=desk.word(found["status"]), **slots)
        return True
    slots["expected"] = found["expected_on"]
    n_late = (TODAY - date.fromisoformat(found["expected_on"])).days
    if n_late <= 0:
        desk.reply("r_not_late", **slots)
        return True
    priority = "high" if n_late > WEEK else "normal"
    thought = f"expected {slots['expected']}, today {TODAY}: {n_late} days late, {priority}"
    desk.think(thought)
    return _ticket(desk, "r_propose", "late", priority, slots)


def idea(desk: Desk) -> bool:
    """Have a wish for the shop itself."""
    slots = {"idea": desk.typed(desk.rng.choice(IDEAS[desk.language]))}
    desk.open("do_idea", **slots)
    return _ticket(desk, "r_propose", "idea", "low", slots)


def person(desk: Desk) -> bool:
    """Ask for a person."""
    if desk.rng.random() < 0.3:
        order_id, is_told = stock.order_id(desk.rng), desk.rng.random() < 0.7
        desk.open("person_about", order=desk.named(order_id, is_told))
        about = f" about order {order_id}" if is_told else ""
        desk.hand_over(f"Customer asks for a person{about}.")
    else:
        desk.open("person")
        desk.hand_over("Customer asks for a person.")
    return False


def beyond(desk: Desk) -> bool:
    """Need what no tool can do and a ticket would not help with."""
    desk.open("beyond")
    desk.hand_over("Customer needs what no tool can do.")
    return False


def hard(desk: Desk) -> bool:
    """Bring what has to be weighed; where nothing larger is reachable, a ticket is offered."""
    rule = desk.rng.choice(("hard_orders", "hard_orders", "hard_rules", "hard_unclear"))
    ids = {slot: stock.order_id(desk.rng) for slot in "abc"}
    text = desk.open(rule, **{slot: desk.spelled(one) for slot, one in ids.items()})
    if desk.rng.random() < 0.75:
        desk.defer(HARD[rule])
        return False
    told = [one for one in ids.values() if one.removeprefix("OD-") in text]
    return _ticket(
        desk, "r_offline", "hard", "normal", {"orders": ", ".join(told)}, learn="without deferring"
    )


def refused(rule: str, answer: str) -> Script:
    """Return the script of a message that gets one answer and no tool."""

    def script(desk: Desk) -> bool:
        order = desk.named(stock.order_id(desk.rng), desk.rng.random() < 0.7)
        desk.open(rule, order=order, word=values.word(desk.rng))
        desk.reply(answer)
        return True

    return script


SCRIPTS: Mapping[str, tuple[float, Script]] = {
    "status": (22, status),
    "both": (4, both),
    "faq": (20, faq),
    "two_in_one": (4, two_in_one),
    "unknown_faq": (4, unknown_faq),
    "change": (17, change),
    "fault": (15, fault),
    "late": (7, late),
    "idea": (4, idea),
    "person": (4, person),
    "beyond": (2, beyond),
    "hard": (9, hard),
    "off": (6, refused("off", "r_off")),
    "injection": (3, refused("injection", "r_off")),
    "absurd": (2, refused("absurd", "r_pardon")),
    "foreign": (1, refused("foreign", "r_foreign")),
}
"""Every kind of wish with its weight."""


def _look_up(desk: Desk, order: dict[str, Json], opening: str, **slots: str) -> dict[str, Json]:
    """Open with `opening`, come to know the id, look it up, and return the backend's document."""
    rng, order_id = desk.rng, order["order_id"]
    is_told, is_wrong = rng.random() < SHARE_ID_TOLD, rng.random() < SHARE_MISREAD
    shown = _misread(rng, order_id) if is_wrong else order_id
    is_wrong = not desk.knows(shown)
    desk.open(opening, order=desk.named(shown, is_told), **slots)
    if not is_told:
        desk.reply("r_ask_id")
        rule = "give_id"
        if rng.random() < 0.1:
            desk.say("no_id", name=order["customer"])
            desk.reply("r_need_id")
            rule = "found_id"
        desk.say(rule, id=desk.spelled(shown))
    if is_wrong:
        desk.call("lookup_order", order_id=shown)
        desk.reply("r_no_order", oid=shown)
        desk.say("give_id_again", id=desk.spelled(order_id))
    found: dict[str, Json] = desk.call("lookup_order", order_id=order_id)
    return found


def _misread(rng: Random, order_id: str) -> str:
    at = rng.randrange(len("OD-"), len(order_id))
    other = rng.choice([digit for digit in "123456789" if digit != order_id[at]])
    return order_id[:at] + other + order_id[at + 1 :]


def _from_faq(desk: Desk, question: str) -> str:
    """Look the question's topic up and return the sentence that answers it."""
    topic, _, sentence = question.partition("_")
    found = desk.call("get_faq", topic=FAQ_TOPICS[topic][desk.language == "vi"])
    return f"{found['answer'].rstrip('.').split('. ')[int(sentence)]}."


def _tell(desk: Desk, asked: str, found: dict[str, Json]) -> None:
    desk.tell(_answer(desk, asked, found))


def _answer(desk: Desk, asked: str, found: dict[str, Json]) -> str:
    slots = {
        "oid": found["order_id"],
        "status": desk.word(found["status"]),
        "expected": found["expected_on"] or "",
        "total": str(found["total"]),
        "placed": found["placed_on"],
        "items": _items(found),
    }
    rule = f"r_{asked}"
    if asked in ("status", "when"):
        rule += "_open" if found["expected_on"] else "_closed"
    return desk.text(rule, **slots)


def _items(found: dict[str, Json]) -> str:
    return ", ".join(f"{item['quantity']} x {item['name']}" for item in found["items"])


def _item(rng: Random, order: dict[str, Json]) -> str:
    name: str = rng.choice(order["items"])["name"]
    return name


def _about_item(
    desk: Desk, rule: str, kind: str, priority: str, found: dict[str, Json], slots: dict[str, str]
) -> bool:
    return _ticket(desk, rule, kind, priority, {**slots, "oid": found["order_id"]}, found)


def _ticket(
    desk: Desk,
    rule: str,
    kind: str,
    priority: str,
    slots: dict[str, str],
    found: dict[str, Json] | None = None,
    learn: str = "",
) -> bool:
    """Propose a ticket, and open it once the customer has said yes."""
    rng = desk.rng
    issue = desk.text(f"issue_{kind}", **slots)
    said = {"priority": desk.word(priority), **slots}
    desk.reply(rule, issue=issue, learn=learn, **said)
    others = [item["name"] for item in found["items"]] if found else []
    others = [name for name in others if name != slots.get("item")]
    if others and slots.get("item", "-") in issue and rng.random() < 0.15:
        slots = {**slots, "item": rng.choice(others)}
        desk.say("not_that", **slots)
        issue = desk.text(f"issue_{kind}", **slots)
        desk.reply(rule, issue=issue, **said)
    elif rng.random() < 0.07:
        desk.say("hm")
        desk.reply("r_again")
    if rng.random() < 0.14:
        desk.say("no")
        desk.reply("r_left")
        return True
    desk.say("yes")
    opened = desk.call("create_ticket", issue=issue, priority=priority)
    desk.reply("r_opened", ticket=opened["ticket_id"])
    return True
