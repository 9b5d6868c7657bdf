"""Fill a shop's books from a seed: orders on their way, and answers to common questions.

Knows nothing of storage. The questions are answered in English and in Vietnamese.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from edgeagent.messages import Json

TODAY = date(2025, 3, 10)

_GOODS = (
    ("desk lamp", 34), ("water bottle", 18), ("rain jacket", 79), ("wireless mouse", 25),
    ("notebook set", 12), ("travel pillow", 22), ("coffee grinder", 48), ("phone case", 15),
    ("yoga mat", 29), ("bluetooth speaker", 59), ("garden shears", 21), ("wool blanket", 66),
)  # fmt: skip
_NAMES = (
    "Amara Holm", "Binh Tran", "Chiara Conti", "Dariusz Nowak", "Elif Demir", "Hana Sato",
    "Ifeoma Obi", "Jonas Berg", "Linh Pham", "Mateo Rojas", "Neha Iyer", "Thuy Nguyen",
)  # fmt: skip
_STATUSES = ("processing", "shipped", "out for delivery", "delivered", "cancelled", "returned")


@dataclass(frozen=True, slots=True)
class Faq:
    """One answer and the words that ask for it."""

    words: tuple[str, ...]
    english: str
    vietnamese: str


FAQS: Mapping[str, Faq] = {
    "returns": Faq(
        ("return", "returns", "refund", "exchange", "đổi trả", "trả hàng", "hoàn tiền"),
        "Unused goods can be sent back within 30 days of delivery. The refund reaches the "
        "original payment method 5 working days after the parcel arrives with us.",
        "Hàng chưa sử dụng được trả lại trong vòng 30 ngày kể từ khi nhận. Tiền được hoàn về "
        "phương thức thanh toán ban đầu sau 5 ngày làm việc kể từ khi chúng tôi nhận hàng.",
    ),
    "shipping": Faq(
        ("shipping", "delivery", "tracking", "giao hàng", "vận chuyển"),
        "Orders leave our warehouse within 2 working days and arrive 3 to 5 days later. "
        "Shipping is free from 50 dollars, otherwise it costs 6 dollars.",
        "Đơn hàng rời kho trong 2 ngày làm việc và đến nơi sau 3 đến 5 ngày. Miễn phí giao hàng "
        "cho đơn từ 50 đô la, dưới mức đó phí là 6 đô la.",
    ),
    "payment": Faq(
        ("payment", "pay", "card", "invoice", "thanh toán", "hóa đơn"),
        "We take Visa, Mastercard and bank transfer. The invoice is attached to the e-mail that "
        "confirms the order.",
        "Chúng tôi nhận Visa, Mastercard và chuyển khoản. Hóa đơn được đính kèm trong thư xác "
        "nhận đơn hàng.",
    ),
    "warranty": Faq(
        ("warranty", "guarantee", "broken", "repair", "bảo hành", "sửa chữa"),
        "Electrical goods have a warranty of 24 months, everything else 12 months. A ticket with "
        "the order id is enough to claim it.",
        "Hàng điện tử được bảo hành 24 tháng, các mặt hàng khác 12 tháng. Chỉ cần một phiếu hỗ "
        "trợ kèm mã đơn hàng để yêu cầu bảo hành.",
    ),
    "account": Faq(
        ("account", "password", "login", "tài khoản", "mật khẩu"),
        "A new password can be asked for on the sign-in page; the link in the e-mail is valid "
        "for one hour.",
        "Bạn có thể yêu cầu mật khẩu mới ở trang đăng nhập; liên kết trong thư có hiệu lực một "
        "giờ.",
    ),
    "opening hours": Faq(
        ("opening hours", "hours", "contact", "phone", "giờ mở cửa", "liên hệ"),
        "People answer tickets on working days from 8:00 to 18:00.",
        "Nhân viên trả lời phiếu hỗ trợ vào ngày làm việc từ 8:00 đến 18:00.",
    ),
}


def generate(seed: int, n_orders: int = 80) -> dict[str, Json]:
    """Return orders by id, such as `OD-48213`."""
    rng = random.Random(f"order books {seed}")
    orders: dict[str, Json] = {}
    for number in rng.sample(range(10_000, 100_000), n_orders):
        status = rng.choice(_STATUSES)
        is_open = status in ("processing", "shipped", "out for delivery")
        placed = TODAY - timedelta(days=rng.randrange(1, 8) if is_open else rng.randrange(8, 60))
        # One open order in six is late; the desk has to notice that by itself.
        days = rng.randrange(4, 9) if rng.random() > 1 / 6 else 0
        goods = [
            (*good, rng.choice((1, 1, 1, 2, 3)))
            for good in rng.sample(_GOODS, rng.choice((1, 2, 3)))
        ]
        orders[f"OD-{number}"] = {
            "order_id": f"OD-{number}",
            "customer": rng.choice(_NAMES),
            "status": status,
            "placed_on": placed.isoformat(),
            "items": [{"name": name, "quantity": n, "price": price} for name, price, n in goods],
            "total": sum(price * n for _, price, n in goods),
            "expected_on": (placed + timedelta(days=days)).isoformat() if is_open else None,
        }
    return orders
