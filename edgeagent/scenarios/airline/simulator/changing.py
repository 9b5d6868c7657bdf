"""Tasks that change a reservation: flights, cabin, bags, passengers, cancelling; certificates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from edgeagent.messages import Json
from edgeagent.scenarios.airline.simulator import records, wording
from edgeagent.scenarios.airline.simulator.booking import choose, count_bags, other_payment
from edgeagent.scenarios.airline.simulator.desk import Desk, TaskOver, ToolRefused
from edgeagent.scenarios.airline.simulator.goals import Utterance
from edgeagent.scenarios.airline.world import BAG_FEE, CANCELLED_COMPENSATION, NOW

FLOWN = frozenset({"landed", "flying"})
COVERED = frozenset({"health", "weather"})
_REASONS = {"health": "health", "weather": "weather", "plan": "plan", "airline": "airline"}


def change_flight(desk: Desk) -> Utterance:
    """Move a trip to another day, or one leg of a round trip; what is kept keeps its price."""
    found = _live_reservation(desk)
    if found["cabin"] == "basic_economy":
        return desk.say("refuse_basic_change", reservation_id=found["reservation_id"])
    at = 1 if desk.slots.get("leg") == "return" else 0
    old = found["flights"][at]
    day = records.date(desk, "ask_new_date")
    trip = {"origin": old["origin"], "destination": old["destination"], "date": day}
    n_passengers = len(found["passengers"])
    _note_move(desk, found, at, day)
    chosen = choose(desk, trip, found["cabin"], n_passengers, "offer_flights")
    prices = [flight["prices"][found["cabin"]] for flight in chosen]
    _note_prices(desk, list(zip(chosen, prices, strict=True)), [old], found)
    difference = _difference(desk, prices, [old["price"]], n_passengers)
    flights = [*found["flights"][:at], *chosen, *found["flights"][at + 1 :]]
    segments = [{"flight_number": f["flight_number"], "date": f["date"]} for f in flights]
    return _update_flights(
        desk, found, found["cabin"], segments, difference, "confirm_flights",
        flights=wording.trip(segments), cabin=wording.cabin(found["cabin"]),
    )  # fmt: skip


def change_cabin(desk: Desk) -> Utterance:
    """Move all flights of a reservation to another cabin at today's prices."""
    found = _live_reservation(desk)
    cabin = desk.ask("cabin", "ask_cabin")
    prices = []
    for segment in found["flights"]:
        trip = {key: segment[key] for key in ("origin", "destination", "date")}
        flights = wording.seats(
            desk.use("search_direct_flight", **trip), cabin, len(found["passengers"])
        )
        same = [f for f in flights if f["flight_number"] == segment["flight_number"]]
        if not same:
            reservation_id = found["reservation_id"]
            return desk.say("no_seats", reservation_id=reservation_id, cabin=wording.cabin(cabin))
        prices.append(same[0]["prices"][cabin])
    old = [segment["price"] for segment in found["flights"]]
    new = list(zip(found["flights"], prices, strict=True))
    _note_prices(desk, new, found["flights"], found)
    difference = _difference(desk, prices, old, len(found["passengers"]))
    segments = [{"flight_number": s["flight_number"], "date": s["date"]} for s in found["flights"]]
    return _update_flights(
        desk, found, cabin, segments, difference, "confirm_cabin",
        flights=wording.trip(segments), cabin=wording.cabin(cabin),
    )  # fmt: skip


def add_bags(desk: Desk) -> Utterance:
    """Add checked bags and charge those beyond the free ones."""
    found = _live_reservation(desk)
    n_more = desk.ask("bags", "ask_more_bags")
    user = records.user(desk)
    total = found["total_baggages"] + n_more
    steps, n_paid = count_bags(user["membership"], found["cabin"], found["passengers"], total)
    n_before = found["nonfree_baggages"]
    n_charged = max(0, n_paid - n_before)
    desk.think(
        f"bags {found['total_baggages']} + {n_more} = {total}; {steps}; "
        f"paid before {n_before}; to pay "
        + (f"{n_paid} - {n_before} = {n_charged}" if n_charged else "0")
    )
    payment_id = _change_payment(desk, user)
    amount = desk.calculate(f"{BAG_FEE} * {n_charged}") if n_charged else 0
    told = {
        "reservation_id": found["reservation_id"],
        "total": total,
        "nonfree": n_paid,
        "amount": amount,
    }
    while True:
        if not desk.confirm("confirm_bags", **told, payment=payment_id):
            return desk.say("nothing_done")
        try:
            changed = desk.use(
                "update_reservation_baggages",
                reservation_id=found["reservation_id"],
                total_baggages=total,
                nonfree_baggages=n_paid,
                payment_id=payment_id,
            )
        except ToolRefused as exc:
            payment_id = str(other_payment(desk, exc)["pid"])
        else:
            desk.reservations[found["reservation_id"]] = changed
            return desk.say("bags_added", reservation_id=found["reservation_id"], total=total)


def change_passenger(desk: Desk) -> Utterance:
    """Replace one passenger by another; their number stays."""
    found = _live_reservation(desk)
    change = desk.ask("new_passenger", "ask_new_passenger")
    new = {key: change["new"][key] for key in ("first_name", "last_name", "dob")}
    old = change["old"]
    leaving = [p for p in found["passengers"] if old is None or _is_named(p, old)]
    desk.think(
        f"new {new['first_name']} {new['last_name']} {new['dob']}; "
        f"for {wording.people(leaving) or 'nobody'}"
    )
    passengers = [new if passenger in leaving else passenger for passenger in found["passengers"]]
    reservation_id = found["reservation_id"]
    names = wording.people(passengers)
    told = {"reservation_id": reservation_id, "passengers": wording.people_and_births(passengers)}
    if not desk.confirm("confirm_passengers", **told):
        return desk.say("nothing_done")
    changed = desk.use(
        "update_reservation_passengers", reservation_id=reservation_id, passengers=passengers
    )
    desk.reservations[reservation_id] = changed
    return desk.say("passengers_changed", reservation_id=reservation_id, passengers=names)


def cancel(desk: Desk) -> Utterance:
    """Cancel a reservation that the policy lets go, or refuse with the rule."""
    found = _live_reservation(desk)
    reservation_id = found["reservation_id"]
    found_statuses = [segment["status"] for segment in found["flights"]]
    reason = desk.ask("reason", "ask_reason")
    if FLOWN.intersection(found_statuses):
        desk.transfer("The customer wants to cancel a trip that is partly flown.")
    is_recent = datetime.fromisoformat(found["created_at"]) >= NOW - timedelta(hours=24)
    is_free = is_recent or "cancelled" in found_statuses or found["cabin"] == "business"
    if not is_free and found["insurance"] == "yes" and reason == "murky":
        return desk.defer(
            "whether the insurance covers this reason is a judgement call", "larger_refund"
        )
    is_allowed = is_free or (found["insurance"] == "yes" and reason in COVERED)
    made = "within 24 hours" if is_recent else "more than 24 hours ago"
    desk.think(
        f"made {found['created_at']}, {made}; flights {wording.numbered(found_statuses)}; "
        f"cabin {wording.cabin(found['cabin'])}; insurance {found['insurance']}; "
        f"reason {_REASONS.get(reason, 'other')}; {'can' if is_allowed else 'cannot'} be cancelled"
    )
    if not is_allowed and found["insurance"] == "yes":
        return desk.say("refuse_cancel_reason", reservation_id=reservation_id)
    if not is_allowed:
        cabin = wording.cabin(found["cabin"])
        return desk.say("refuse_cancel", reservation_id=reservation_id, cabin=cabin, insurance="no")
    if not desk.confirm("confirm_cancel", reservation_id=reservation_id):
        return desk.say("nothing_done")
    gone = desk.use("cancel_reservation", reservation_id=reservation_id)
    desk.reservations[reservation_id] = gone
    return desk.say("cancelled", reservation_id=reservation_id)


def compensate(desk: Desk) -> Utterance:
    """Offer a certificate for a flight that the airline cancelled, where the policy allows."""
    found = records.own_reservation(desk)
    user = records.user(desk)
    was_cancelled = any(segment["status"] == "cancelled" for segment in found["flights"])
    is_entitled = (
        user["membership"] != "regular"
        or found["insurance"] == "yes"
        or found["cabin"] == "business"
    )
    cabin = wording.cabin(found["cabin"])
    statuses = wording.numbered(segment["status"] for segment in found["flights"])
    desk.think(
        f"flights {statuses}; membership {user['membership']}; cabin {cabin}; "
        f"insurance {found['insurance']}; passengers {wording.counted(found['passengers'])}; "
        f"{'certificate' if was_cancelled and is_entitled else 'no certificate'}"
    )
    if not was_cancelled:
        return desk.say("refuse_no_disturbance", reservation_id=found["reservation_id"])
    if not is_entitled:
        return desk.say("refuse_compensation", cabin=cabin)
    amount = desk.calculate(f"{CANCELLED_COMPENSATION} * {len(found['passengers'])}")
    if not desk.confirm("offer_certificate", amount=amount, user_id=desk.slots["user_id"]):
        return desk.say("nothing_done")
    sent = desk.use("send_certificate", user_id=desk.slots["user_id"], amount=amount)
    return desk.say("certificate_sent", **sent)


def refuse_delay(desk: Desk) -> Utterance:
    """Refuse compensation for a delay where nothing is to be changed or cancelled."""
    records.own_reservation(desk)
    return desk.say("refuse_delay")


def _live_reservation(desk: Desk) -> Json:
    """Return the customer's own reservation; a cancelled one ends the task."""
    found = records.own_reservation(desk)
    if found.get("status") == "cancelled":
        raise TaskOver(desk.say("already_cancelled", reservation_id=found["reservation_id"]))
    return found


def _difference(desk: Desk, new: list[int], old: list[int], n_passengers: int) -> int:
    """Return what the change costs; below zero is a refund."""
    terms = " + ".join(map(str, new)) + "".join(f" - {price}" for price in old)
    return desk.calculate(terms if n_passengers == 1 else f"{n_passengers} * ({terms})")


def _note_move(desk: Desk, found: Json, at: int, day: Json) -> None:
    """Note which flight of the reservation is moved to which day and which ones stay."""
    flights = found["flights"]
    old = flights[at]
    stays = ", ".join(
        f"{i} {flight['flight_number']} {flight['date']}"
        for i, flight in enumerate(flights, start=1)
        if flight is not old
    )
    desk.think(
        f"moves {at + 1} {old['flight_number']} {old['origin']} to {old['destination']} "
        f"{old['date']} {old['price']}; to {day}; stays {stays or 'none'}"
    )


def _note_prices(desk: Desk, new: list[tuple[Json, int]], old: list[Json], found: Json) -> None:
    """Note the prices that a change is worked out from."""
    came = wording.numbered(f"{flight['flight_number']} {price}" for flight, price in new)
    went = wording.numbered(f"{segment['flight_number']} {segment['price']}" for segment in old)
    desk.think(f"new {came}; old {went}; passengers {wording.counted(found['passengers'])}")


def _change_payment(desk: Desk, user: Json) -> str:
    """Return the id of a card that may pay for a change."""
    ways = wording.ways(user, with_certificates=False)
    payment: Json = desk.ask("payment", "ask_change_payment", ways=ways)
    return str(payment["pid"])


def _update_flights(
    desk: Desk,
    found: Json,
    cabin: str,
    segments: list[Json],
    difference: int,
    reply: str,
    /,
    **told: object,
) -> Utterance:
    """Ask how to settle the difference, confirm, and change flights or cabin."""
    reservation_id = found["reservation_id"]
    payment_id = _change_payment(desk, records.user(desk))
    direction = "refund" if difference < 0 else "price"
    while True:
        is_wanted = desk.confirm(
            reply,
            reservation_id=reservation_id,
            direction=direction,
            amount=abs(difference),
            payment=payment_id,
            **told,
        )
        if not is_wanted:
            return desk.say("nothing_done")
        try:
            changed = desk.use(
                "update_reservation_flights",
                reservation_id=reservation_id,
                cabin=cabin,
                flights=segments,
                payment_id=payment_id,
            )
        except ToolRefused as exc:
            payment_id = str(other_payment(desk, exc)["pid"])
        else:
            desk.reservations[reservation_id] = changed
            return desk.say("changed", reservation_id=reservation_id)


def _is_named(passenger: Json, old: Json) -> bool:
    return bool(
        passenger["first_name"] == old["first_name"] and passenger["last_name"] == old["last_name"]
    )


TASKS: Mapping[str, Callable[[Desk], Utterance]] = {
    "change_date": change_flight,
    "change_open": change_flight,
    "change_leg": change_flight,
    "upgrade": change_cabin,
    "add_bags": add_bags,
    "add_bags_open": add_bags,
    "passenger": change_passenger,
    "cancel": cancel,
    "compensation_cancelled": compensate,
    "compensation_delayed": refuse_delay,
}
