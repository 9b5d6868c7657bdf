"""The airline's five tools that change reservations, under the policy.

Each one checks everything before it saves anything, and returns the reservation as it is then.
What a change does to seats, balances and later claims is done here too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgeagent.messages import Json
from edgeagent.scenarios.airline.checks import (
    FLOWN,
    Forbidden,
    Rule,
    bookable,
    check_bags,
    check_booking_payment,
    check_route,
    check_update_payment,
    known_user,
    live_reservation,
    may_cancel,
    statuses,
)
from edgeagent.scenarios.airline.records import Records
from edgeagent.scenarios.airline.world import BAG_FEE, INSURANCE_FEE, MAX_PASSENGERS, NOW

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def book_reservation(
    records: Records,
    user_id: str,
    origin: str,
    destination: str,
    flight_type: str,
    cabin: str,
    flights: Sequence[Json],
    passengers: Sequence[Json],
    payment_methods: Sequence[Json],
    total_baggages: int,
    nonfree_baggages: int,
    insurance: str,
) -> Json:
    """Book a trip, take the money and the seats, and return the reservation."""
    user = known_user(records, user_id)
    n_passengers = len(passengers)
    if not 1 <= n_passengers <= MAX_PASSENGERS:
        raise Forbidden(f"1 to {MAX_PASSENGERS} passengers", Rule.PASSENGER_LIMIT)
    segments = [
        bookable(records, flight["flight_number"], flight["date"], cabin, n_passengers)
        for flight in flights
    ]
    check_route(records, (origin, destination, flight_type), segments, Rule.ROUTE_MISMATCH)
    check_bags(user, cabin, n_passengers, total_baggages, nonfree_baggages)
    total = sum(segment["price"] for segment in segments) * n_passengers
    total += INSURANCE_FEE * n_passengers if insurance == "yes" else 0
    total += BAG_FEE * nonfree_baggages
    check_booking_payment(user, payment_methods, total)

    reservation = {
        "reservation_id": _fresh_reservation_id(records, user_id, user),
        "user_id": user_id,
        "origin": origin,
        "destination": destination,
        "flight_type": flight_type,
        "cabin": cabin,
        "flights": segments,
        "passengers": list(passengers),
        "payment_history": list(payment_methods),
        "created_at": NOW.isoformat(),
        "total_baggages": total_baggages,
        "nonfree_baggages": nonfree_baggages,
        "insurance": insurance,
    }
    for payment in payment_methods:
        method = user["payment_methods"][payment["payment_id"]]
        if method["source"] == "certificate":
            del user["payment_methods"][payment["payment_id"]]
        elif method["source"] == "gift_card":
            method["amount"] -= payment["amount"]
    user["reservations"].append(reservation["reservation_id"])
    records.save_user(user_id, user)
    records.save_reservation(reservation)
    _move_seats(records, segments, cabin, -n_passengers)
    return reservation


def update_reservation_flights(
    records: Records, reservation_id: str, cabin: str, flights: Sequence[Json], payment_id: str
) -> Json:
    """Replace flights or cabin, settle the difference, and return the reservation.

    A segment that stays in its cabin keeps its price; every other one costs what it costs today.
    """
    reservation = live_reservation(records, reservation_id)
    user = known_user(records, reservation["user_id"])
    old, old_cabin = reservation["flights"], reservation["cabin"]
    before = {(segment["flight_number"], segment["date"]): segment for segment in old}
    wanted = [(flight["flight_number"], flight["date"]) for flight in flights]
    kept = {key for key in wanted if key in before and cabin == old_cabin}
    if wanted == list(before) and cabin == old_cabin:
        raise Forbidden("flights and cabin are already so", Rule.NOTHING_TO_CHANGE)
    if wanted != list(before) and old_cabin == "basic_economy":
        raise Forbidden("basic economy flights cannot be changed", Rule.BASIC_ECONOMY_NO_CHANGE)
    old_statuses = dict(zip(before, statuses(records, reservation), strict=True))
    if any(status in FLOWN and key not in kept for key, status in old_statuses.items()):
        raise Forbidden("a flown segment cannot be changed", Rule.SEGMENT_FLOWN)
    n_passengers = len(reservation["passengers"])
    segments = [
        before[key] if key in kept else bookable(records, *key, cabin, n_passengers)
        for key in wanted
    ]
    trip = (reservation["origin"], reservation["destination"], reservation["flight_type"])
    check_route(records, trip, segments, Rule.ROUTE_FIXED)
    due = (sum(s["price"] for s in segments) - sum(s["price"] for s in old)) * n_passengers
    check_update_payment(user, payment_id, due)

    dropped = [before[key] for key in before if key not in kept]
    _note_claims(records, reservation, [old_statuses[key] for key in before if key not in kept])
    _move_seats(records, dropped, old_cabin, n_passengers)
    added = [segment for key, segment in zip(wanted, segments, strict=True) if key not in kept]
    _move_seats(records, added, cabin, -n_passengers)
    reservation["flights"] = segments
    reservation["cabin"] = cabin
    _settle(records, reservation, user, payment_id, due)
    return reservation


def update_reservation_baggages(
    records: Records,
    reservation_id: str,
    total_baggages: int,
    nonfree_baggages: int,
    payment_id: str,
) -> Json:
    """Add checked bags, charge the paid ones, and return the reservation."""
    reservation = live_reservation(records, reservation_id)
    user = known_user(records, reservation["user_id"])
    _check_travel_ahead(records, reservation)
    if total_baggages < reservation["total_baggages"]:
        raise Forbidden("checked bags can be added, not removed", Rule.NO_BAG_REMOVAL)
    if total_baggages == reservation["total_baggages"]:
        raise Forbidden("the reservation has these bags already", Rule.NOTHING_TO_CHANGE)
    n_passengers = len(reservation["passengers"])
    check_bags(user, reservation["cabin"], n_passengers, total_baggages, nonfree_baggages)
    due = BAG_FEE * max(0, nonfree_baggages - reservation["nonfree_baggages"])
    check_update_payment(user, payment_id, due)
    reservation["total_baggages"] = total_baggages
    reservation["nonfree_baggages"] = nonfree_baggages
    _settle(records, reservation, user, payment_id, due)
    return reservation


def update_reservation_passengers(
    records: Records, reservation_id: str, passengers: Sequence[Json]
) -> Json:
    """Replace the passengers by as many others and return the reservation."""
    reservation = live_reservation(records, reservation_id)
    _check_travel_ahead(records, reservation)
    n_passengers = len(reservation["passengers"])
    if len(passengers) != n_passengers:
        raise Forbidden(
            f"the reservation is for {n_passengers}, the number of passengers cannot change",
            Rule.PASSENGER_COUNT,
        )
    if list(passengers) == reservation["passengers"]:
        raise Forbidden("these are the passengers already", Rule.NOTHING_TO_CHANGE)
    reservation["passengers"] = list(passengers)
    records.save_reservation(reservation)
    return reservation


def cancel_reservation(records: Records, reservation_id: str) -> Json:
    """Cancel the whole trip, refund every payment, free the seats, return the reservation."""
    reservation = live_reservation(records, reservation_id)
    user = known_user(records, reservation["user_id"])
    found = statuses(records, reservation)
    if FLOWN.intersection(found):
        raise Forbidden("a segment is already flown; a human agent has to help", Rule.SEGMENT_FLOWN)
    if not may_cancel(reservation, found):
        raise Forbidden(
            "booked more than 24 hours ago, not cancelled by the airline, not business, "
            "no insurance",
            Rule.NOT_CANCELLABLE,
        )
    _note_claims(records, reservation, found)
    refunds = [
        {"payment_id": payment["payment_id"], "amount": -payment["amount"]}
        for payment in reservation["payment_history"]
    ]
    for refund in refunds:
        _refund(user, refund["payment_id"], -refund["amount"])
    reservation["payment_history"] += refunds
    reservation["status"] = "cancelled"
    records.save_user(reservation["user_id"], user)
    records.save_reservation(reservation)
    _move_seats(
        records, reservation["flights"], reservation["cabin"], len(reservation["passengers"])
    )
    return reservation


def _refund(user: Json, payment_id: str, amount: int) -> None:
    """Put money back on a gift card; a certificate returns with the part that was used."""
    methods = user["payment_methods"]
    source = payment_id.rpartition("_")[0]
    if source == "credit_card":
        return
    if payment_id in methods:
        methods[payment_id]["amount"] += amount
    elif amount > 0:
        methods[payment_id] = {"source": source, "amount": amount, "id": payment_id}


def _settle(records: Records, reservation: Json, user: Json, payment_id: str, due: int) -> None:
    method = user["payment_methods"][payment_id]
    if method["source"] == "gift_card":
        method["amount"] -= due
    if due:
        reservation["payment_history"].append({"payment_id": payment_id, "amount": due})
    records.save_user(reservation["user_id"], user)
    records.save_reservation(reservation)


def _check_travel_ahead(records: Records, reservation: Json) -> None:
    if FLOWN.issuperset(statuses(records, reservation)):
        raise Forbidden("every segment is already flown", Rule.SEGMENT_FLOWN)


def _move_seats(records: Records, segments: Sequence[Json], cabin: str, n_seats: int) -> None:
    for segment in segments:
        flight = records.flight(segment["flight_number"])
        facts = (flight or {"dates": {}})["dates"].get(segment["date"], {})
        if flight is not None and "available_seats" in facts:
            facts["available_seats"][cabin] += n_seats
            records.save_flight(flight)


def _note_claims(records: Records, reservation: Json, found: Sequence[str]) -> None:
    """Remember disturbed segments that leave the reservation: a certificate may be owed later."""
    for kind in sorted({"cancelled", "delayed"}.intersection(found)):
        records.connection.execute(
            "INSERT OR IGNORE INTO claims VALUES (?, ?, ?, NULL)",
            (reservation["reservation_id"], kind, len(reservation["passengers"])),
        )


def _fresh_reservation_id(records: Records, user_id: str, user: Json) -> str:
    """Return an id that depends on the world alone, so that a replay makes the same one."""
    for attempt in range(1000):
        text = f"{user_id} {user['email']} {len(user['reservations'])} {attempt}"
        digest = hashlib.sha256(text.encode()).digest()
        made = "".join(_ALPHABET[byte % 36] for byte in digest[:6])
        if records.reservation(made) is None and not made.isdigit() and not made.isalpha():
            return made
    raise AssertionError("a thousand reservation ids in a row were taken")
