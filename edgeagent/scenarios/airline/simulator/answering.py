"""Tasks that only look: reservations, profiles, searches, rules, and what is out of reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from edgeagent.messages import Json
from edgeagent.scenarios.airline.simulator import records, spoken, wording
from edgeagent.scenarios.airline.simulator.desk import Desk
from edgeagent.scenarios.airline.simulator.goals import Utterance
from edgeagent.scenarios.airline.world import CITIES, FREE_BAGS


def look_up(desk: Desk, reply: Callable[[Desk, Json], Utterance]) -> Utterance:
    """Load the reservation and answer from it."""
    reservation = records.reservation(desk)
    return reply(desk, reservation)


def overview(desk: Desk, reservation: Json) -> Utterance:
    """Tell everything about a reservation in two lines."""
    if reservation.get("status") == "cancelled":
        return desk.say("overview_cancelled", **reservation)
    return desk.say(
        "overview",
        **{
            **reservation,
            "flight_type": wording.flight_type(reservation["flight_type"]),
            "cabin": wording.cabin(reservation["cabin"]),
            "flights": wording.trip_with_status(reservation["flights"]),
            "passengers": wording.people(reservation["passengers"]),
        },
    )


def _flights(desk: Desk, reservation: Json) -> Utterance:
    flights = wording.trip_with_status(reservation["flights"])
    return desk.say("flights", reservation_id=reservation["reservation_id"], flights=flights)


def _passengers(desk: Desk, reservation: Json) -> Utterance:
    names = wording.people(reservation["passengers"])
    return desk.say("passengers", reservation_id=reservation["reservation_id"], passengers=names)


def _bags(desk: Desk, reservation: Json) -> Utterance:
    return desk.say("bags", **reservation)


def _payment(desk: Desk, reservation: Json) -> Utterance:
    paid = wording.payments(reservation["payment_history"])
    return desk.say("payment", reservation_id=reservation["reservation_id"], payments=paid)


def _insurance(desk: Desk, reservation: Json) -> Utterance:
    reply = "insured" if reservation["insurance"] == "yes" else "not_insured"
    return desk.say(reply, reservation_id=reservation["reservation_id"])


def _cabin(desk: Desk, reservation: Json) -> Utterance:
    cabin = wording.cabin(reservation["cabin"])
    return desk.say("cabin", reservation_id=reservation["reservation_id"], cabin=cabin)


def profile(desk: Desk, reply: Callable[[Desk, Json], Utterance]) -> Utterance:
    """Load the profile and answer from it."""
    return reply(desk, records.user(desk))


def _membership(desk: Desk, user: Json) -> Utterance:
    return desk.say("membership", membership=user["membership"])


def _ways(desk: Desk, user: Json) -> Utterance:
    return desk.say("payment_methods", ways=wording.ways(user))


def _reservations(desk: Desk, user: Json) -> Utterance:
    if not user["reservations"]:
        return desk.say("no_reservations")
    return desk.say("reservations", ids=records.ids(user))


def _email(desk: Desk, user: Json) -> Utterance:
    return desk.say("email", email=user["email"])


def _saved(desk: Desk, user: Json) -> Utterance:
    if not user["saved_passengers"]:
        return desk.say("no_saved_passengers")
    return desk.say("saved_passengers", passengers=wording.people(user["saved_passengers"]))


def _dob(desk: Desk, user: Json) -> Utterance:
    return desk.say("dob", dob=user["dob"])


def search(desk: Desk, best: str | None = None) -> Utterance:
    """Search direct flights, then one-stop ones, and tell what there is or which is `best`."""
    trip = records.route_and_date(desk)
    cabin = desk.slots.get("cabin", "economy")
    told = {**trip, "cabin": wording.cabin(cabin)}
    flights = wording.seats(desk.use("search_direct_flight", **trip), cabin)
    if flights and best == "cheapest":
        flight = min(flights, key=lambda one: one["prices"][cabin])
        desk.price = flight["prices"][cabin]
        return desk.say("cheapest", **told, flight=wording.option(flight, cabin))
    if flights and best == "earliest":
        desk.price = flights[0]["prices"][cabin]
        return desk.say("earliest", **told, flight=wording.option(flights[0], cabin))
    if flights:
        return desk.say("found_flights", **told, flights=wording.options(flights, cabin))
    pairs = records.connections(desk, trip, cabin)
    if pairs:
        return desk.say("found_onestop", **told, pairs=wording.pairs(pairs, cabin))
    return desk.say("found_nothing", **told)


def _price_people(desk: Desk) -> Utterance:
    """Multiply the fare that was told last; without one, ask what is wanted."""
    if desk.price is None:
        return desk.say("not_understood")
    people = desk.slots["people"]
    total = desk.calculate(f"{people} * {desk.price}")
    return desk.say("price_people", people=people, total=total)


def _unserved(desk: Desk) -> Utterance:
    return desk.say("unserved", place=desk.slots["place"])


def _airports(desk: Desk) -> Utterance:
    cities = desk.use("list_all_airports")
    return desk.say("airports", cities=spoken.join_words(cities.values()))


def _airport_code(desk: Desk) -> Utterance:
    code = desk.slots["city"]
    desk.use("list_all_airports")
    return desk.say("airport_code", city=CITIES[code], code=code)


def _faq_bags(desk: Desk) -> Utterance:
    membership, cabin = desk.slots["membership"], desk.slots["cabin"]
    n = FREE_BAGS[membership][cabin]
    return desk.say("faq_bags", membership=membership, n=n, cabin=wording.cabin(cabin))


def _transfer(desk: Desk, summary: str) -> Utterance:
    desk.transfer(summary)
    raise AssertionError("a transfer ends the conversation")


def _reply(desk: Desk, reply: str) -> Utterance:
    return desk.say(reply)


_FACETS: Mapping[str, Callable[[Desk, Json], Utterance]] = {
    "overview": overview,
    "flights": _flights,
    "passengers": _passengers,
    "bags": _bags,
    "payment": _payment,
    "insurance": _insurance,
    "cabin": _cabin,
}
_PROFILE: Mapping[str, Callable[[Desk, Json], Utterance]] = {
    "membership": _membership,
    "payment": _ways,
    "reservations": _reservations,
    "email": _email,
    "passengers": _saved,
    "dob": _dob,
}
_SCOPE = {
    "pet": "The customer wants to travel with a pet.",
    "seat": "The customer wants to choose a seat.",
    "luggage": "The customer reports lost or damaged luggage.",
    "meal": "The customer wants a special meal.",
    "wheelchair": "The customer needs wheelchair assistance.",
    "hotel": "The customer wants a hotel or ground transport.",
    "account": "The customer wants to change the account.",
    "crew": "The customer complains about the staff.",
    "checkin": "The customer needs check-in or documents.",
}
_RULE_QUESTIONS = (
    "faq_bag_fee",
    "faq_insurance",
    "faq_refund_time",
    "faq_max_passengers",
    "faq_basic_change",
    "faq_basic_cancel",
    "faq_certificates",
    "faq_cancel_rules",
    "refuse_insurance",
    "refuse_remove_bags",
    "refuse_count",
    "refuse_route",
    "refuse_discount",
    "injection",
    "greeting",
)

TASKS: Mapping[str, Callable[[Desk], Utterance]] = {
    **{f"lookup_{name}": partial(look_up, reply=reply) for name, reply in _FACETS.items()},
    **{f"profile_{name}": partial(profile, reply=reply) for name, reply in _PROFILE.items()},
    "search": search,
    "search_cheapest": partial(search, best="cheapest"),
    "search_earliest": partial(search, best="earliest"),
    "search_unserved": _unserved,
    "price_people": _price_people,
    "faq_what": partial(_reply, reply="what_i_do"),
    "faq_who": partial(_reply, reply="who_i_am"),
    "faq_airports": _airports,
    "faq_airport_code": _airport_code,
    "faq_bags": _faq_bags,
    **{f"scope_{name}": partial(_transfer, summary=text) for name, text in _SCOPE.items()},
    "handoff": partial(_transfer, summary="The customer asks for a human agent."),
    **{name: partial(_reply, reply=name) for name in _RULE_QUESTIONS},
    "off_weather": partial(_reply, reply="off_topic"),
    "off_chat": partial(_reply, reply="off_topic"),
    "off_advice": partial(_reply, reply="off_topic"),
    "absurd": partial(_reply, reply="not_understood"),
    "foreign": partial(_reply, reply="english_only"),
    "thanks": partial(_reply, reply="closing"),
}
