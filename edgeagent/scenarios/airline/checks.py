"""The conditions of the airline's policy that more than one tool asks for.

Knows documents and rules, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from edgeagent.messages import Json
from edgeagent.scenarios.airline.records import Records
from edgeagent.scenarios.airline.world import NOW, arrival, departure, free_bags

FLOWN = frozenset({"landed", "flying"})


class Rule(StrEnum):
    """The rule that a refused call would have broken; `rule` in the tool's error."""

    PASSENGER_LIMIT = "passenger_limit"
    ROUTE_MISMATCH = "route_mismatch"
    ROUTE_FIXED = "route_fixed"
    CONNECTION_TIME = "connection_time"
    FLIGHT_NOT_AVAILABLE = "flight_not_available"
    NOT_ENOUGH_SEATS = "not_enough_seats"
    BAG_ALLOWANCE = "bag_allowance"
    NO_BAG_REMOVAL = "no_bag_removal"
    PAYMENT_NOT_IN_PROFILE = "payment_not_in_profile"
    ONE_CERTIFICATE = "one_certificate"
    ONE_CREDIT_CARD = "one_credit_card"
    THREE_GIFT_CARDS = "three_gift_cards"
    PAYMENT_ONCE = "payment_once"
    PAYMENT_BALANCE = "payment_balance"
    PAYMENT_TOTAL = "payment_total"
    CERTIFICATE_ONLY_FOR_BOOKING = "certificate_only_for_booking"
    BASIC_ECONOMY_NO_CHANGE = "basic_economy_no_change"
    NOTHING_TO_CHANGE = "nothing_to_change"
    PASSENGER_COUNT = "passenger_count"
    SEGMENT_FLOWN = "segment_flown"
    ALREADY_CANCELLED = "already_cancelled"
    NOT_CANCELLABLE = "not_cancellable"
    CERTIFICATE_NOT_ELIGIBLE = "certificate_not_eligible"
    CERTIFICATE_AMOUNT = "certificate_amount"
    CERTIFICATE_ALREADY_SENT = "certificate_already_sent"


class Forbidden(Exception):
    """A tool may not do this; the desk turns it into an error result and undoes the call."""

    def __init__(self, error: str, rule: Rule | None = None) -> None:
        super().__init__(error)
        self.rule = rule


def known_user(records: Records, user_id: str) -> Json:
    """Return the user or refuse."""
    user = records.user(user_id)
    if user is None:
        raise Forbidden("user not found")
    return user


def known_reservation(records: Records, reservation_id: str) -> Json:
    """Return the reservation or refuse."""
    reservation = records.reservation(reservation_id)
    if reservation is None:
        raise Forbidden("reservation not found")
    return reservation


def live_reservation(records: Records, reservation_id: str) -> Json:
    """Return a reservation that is not cancelled, or refuse."""
    reservation = known_reservation(records, reservation_id)
    if is_cancelled(reservation):
        raise Forbidden("the reservation is cancelled", Rule.ALREADY_CANCELLED)
    return reservation


def is_cancelled(reservation: Json) -> bool:
    """Tell whether the customer's reservation was cancelled, by whomever."""
    return bool(reservation.get("status") == "cancelled")


def statuses(records: Records, reservation: Json) -> list[str]:
    """Return the status of each segment on its day, `unknown` where the flight is not known."""
    found = []
    for segment in reservation["flights"]:
        flight = records.flight(segment["flight_number"]) or {"dates": {}}
        found.append(flight["dates"].get(segment["date"], {"status": "unknown"})["status"])
    return found


def may_cancel(reservation: Json, segment_statuses: Sequence[str]) -> bool:
    """Tell whether the policy lets the customer cancel, segments flown left aside.

    The tool is not told the reason: with insurance it takes health or weather as given.
    """
    made = datetime.fromisoformat(reservation["created_at"])
    return (
        made >= NOW - timedelta(hours=24)
        or "cancelled" in segment_statuses
        or reservation["cabin"] == "business"
        or reservation["insurance"] == "yes"
    )


def is_compensable(user: Json, reservation: Json) -> bool:
    """Tell whether a complaint about this reservation may end in a certificate."""
    return bool(
        user["membership"] in ("silver", "gold")
        or reservation["insurance"] == "yes"
        or reservation["cabin"] == "business"
    )


def check_bags(user: Json, cabin: str, n_passengers: int, n_bags: int, n_nonfree: int) -> None:
    """Refuse a count of paid bags that is not what membership and cabin leave to pay."""
    free = free_bags(user["membership"], cabin, n_passengers)
    expected = max(0, n_bags - free)
    if n_bags < 0 or n_nonfree != expected:
        raise Forbidden(
            f"{free} bags are free for a {user['membership']} member, so of {n_bags} bags "
            f"nonfree_baggages must be {expected}",
            Rule.BAG_ALLOWANCE,
        )


def bookable(records: Records, number: str, day: str, cabin: str, n_passengers: int) -> Json:
    """Return the segment at today's price, or refuse: it has to be available with enough seats."""
    flight = records.flight(number)
    if flight is None:
        raise Forbidden(f"flight {number} not found")
    facts = flight["dates"].get(day)
    if facts is None:
        raise Forbidden(f"flight {number} not found on date {day}")
    if facts["status"] != "available":
        raise Forbidden(f"flight {number} is {facts['status']} on {day}", Rule.FLIGHT_NOT_AVAILABLE)
    n_seats = facts["available_seats"][cabin]
    if n_seats < n_passengers:
        raise Forbidden(
            f"flight {number} on {day} has {n_seats} seats left in {cabin}", Rule.NOT_ENOUGH_SEATS
        )
    return {
        "origin": flight["origin"],
        "destination": flight["destination"],
        "flight_number": number,
        "date": day,
        "price": facts["prices"][cabin],
    }


def check_route(
    records: Records, trip: tuple[str, str, str], segments: Sequence[Json], rule: Rule
) -> None:
    """Refuse segments that do not make the trip (origin, destination, flight type), in order."""
    origin, destination, flight_type = trip
    stops = [(segment["origin"], segment["destination"]) for segment in segments]
    if not _makes(stops, origin, destination, flight_type):
        raise Forbidden(
            f"these flights are not a {flight_type} trip from {origin} to {destination}", rule
        )
    for before, after in pairwise(segments):
        first, second = (
            records.flight(before["flight_number"]),
            records.flight(after["flight_number"]),
        )
        if first and second and arrival(first, before["date"]) >= departure(second, after["date"]):
            raise Forbidden(
                f"{after['flight_number']} leaves before {before['flight_number']} arrives",
                Rule.CONNECTION_TIME,
            )


def _makes(
    stops: Sequence[tuple[str, str]], origin: str, destination: str, flight_type: str
) -> bool:
    if flight_type == "one_way":
        return _leads(stops, origin, destination)
    return any(
        _leads(stops[:turn], origin, destination) and _leads(stops[turn:], destination, origin)
        for turn in range(1, len(stops))
    )


def _leads(stops: Sequence[tuple[str, str]], origin: str, destination: str) -> bool:
    if not stops or stops[0][0] != origin or stops[-1][1] != destination:
        return False
    return all(before[1] == after[0] for before, after in pairwise(stops))


def check_booking_payment(user: Json, payments: Sequence[Json], total: int) -> None:
    """Refuse a mix of payment methods that a booking does not allow, or a wrong sum."""
    methods = user["payment_methods"]
    for payment in payments:
        _in_profile(methods, payment["payment_id"])
    sources = [methods[payment["payment_id"]]["source"] for payment in payments]
    if sources.count("certificate") > 1:
        raise Forbidden("only one certificate per reservation", Rule.ONE_CERTIFICATE)
    if sources.count("credit_card") > 1:
        raise Forbidden("only one credit card per reservation", Rule.ONE_CREDIT_CARD)
    if sources.count("gift_card") > 3:
        raise Forbidden("only three gift cards per reservation", Rule.THREE_GIFT_CARDS)
    if len({payment["payment_id"] for payment in payments}) < len(payments):
        raise Forbidden("each payment method is listed once", Rule.PAYMENT_ONCE)
    for payment in payments:
        if payment["amount"] < 0 or (payment["amount"] == 0 and total):
            raise Forbidden("each amount must be above 0", Rule.PAYMENT_TOTAL)
        _covers(methods[payment["payment_id"]], payment["amount"])
    paid = sum(payment["amount"] for payment in payments)
    if paid != total:
        raise Forbidden(f"the total is {total}, but {paid} is paid", Rule.PAYMENT_TOTAL)


def check_update_payment(user: Json, payment_id: str, amount: int) -> None:
    """Refuse to charge (or, below zero, refund) a change to anything but a card in the profile."""
    _in_profile(user["payment_methods"], payment_id)
    method = user["payment_methods"][payment_id]
    if method["source"] == "certificate":
        raise Forbidden(
            "a change is paid or refunded with one gift card or credit card",
            Rule.CERTIFICATE_ONLY_FOR_BOOKING,
        )
    _covers(method, amount)


def _in_profile(methods: Json, payment_id: str) -> None:
    if payment_id not in methods:
        raise Forbidden(
            f"payment method {payment_id} is not in the user's profile",
            Rule.PAYMENT_NOT_IN_PROFILE,
        )


def _covers(method: Json, amount: int) -> None:
    if method["source"] != "credit_card" and method["amount"] < amount:
        raise Forbidden(
            f"{method['id']} holds {method['amount']}, {amount} is needed", Rule.PAYMENT_BALANCE
        )
