"""Draw what a customer wants from a world in which it makes sense.

The same seed draws the same goal. Names and routes whose checksum says so are reserved for
evaluation: training never meets them as the customer's own. Knows nothing of phrases.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edgeagent.messages import Json
from edgeagent.scenarios.airline.simulator.drawing import Draw, is_reserved
from edgeagent.scenarios.airline.simulator.goals import Goal, Wish
from edgeagent.scenarios.airline.simulator.kinds import (
    ALONE,
    BAG_KINDS,
    CONFIRMED,
    ELSEWHERE,
    ENDING,
    FLIGHT_KINDS,
    READING,
    SILENT,
    WEIGHTS,
)
from edgeagent.scenarios.airline.world import AIRPORTS, CABINS, World


def draw_goal(world: World, rng: random.Random, held_out: bool) -> Goal:
    """Draw a customer with one to three wishes that this world can answer."""
    draw = Draw(world, rng, held_out)
    wishes: list[Wish] = []
    n_wishes = rng.choices((1, 2, 3), weights=(66, 25, 9))[0]
    while len(wishes) < n_wishes:
        kind = rng.choices(tuple(WEIGHTS), weights=tuple(WEIGHTS.values()))[0]
        if draw.last_kind in ("search_cheapest", "search_earliest") and rng.random() < 0.4:
            kind = "price_people"
        if kind in draw.seen:
            continue
        wish = _draw_wish(draw, kind)
        if wish is None:
            if wishes and rng.random() < 0.2:
                break
            continue
        wishes.append(_taken(draw, wish))
        if kind.startswith(ENDING):
            break
    is_wrong = rng.random() < 0.06
    return Goal(
        user_id=draw.user_id,
        wishes=_in_messages(wishes, rng, held_out),
        held_out=held_out,
        wrong_user_id=_mistype_id(draw.user_id, rng) if is_wrong else None,
        stays_wrong=is_wrong and rng.random() < 0.3,
        finds_user_id=rng.random() < 0.5,
        forgot_user_id=rng.random() < 0.03,
        greets_first=rng.random() < 0.08,
    )


def draw_round(world: World, rng: random.Random, held_out: bool) -> Goal:
    """Draw a customer with five to eight wishes about one reservation, few of them carried out.

    Whoever reads a record for one answer learns to find one thing in it; every further question
    about the same record costs a few dozen tokens instead of a few hundred.
    """
    draw = Draw(world, rng, held_out, stays=1.0)
    wishes: list[Wish] = []
    n_wishes = rng.randrange(5, 9)
    for _ in range(60):
        kind = rng.choices(tuple(READING), weights=tuple(READING.values()))[0]
        wish = None if kind in draw.seen else _draw_wish(draw, kind)
        if wish is None:
            continue
        keeps = kind in CONFIRMED and rng.random() < 0.7
        wishes.append(_taken(draw, replace(wish, declines=wish.declines or keeps)))
        if len(wishes) == n_wishes:
            break
    return Goal(draw.user_id, _in_messages(wishes, rng, held_out), held_out)


def _taken(draw: Draw, wish: Wish) -> Wish:
    """Return the wish, after noting what the next ones have to know of it."""
    draw.seen.add(wish.kind)
    draw.last_kind = wish.kind
    draw.reservation_id = wish.facts.get("reservation_id", draw.reservation_id)
    if wish.kind == "cancel" and draw.reservation_id is not None:
        draw.gone.add(draw.reservation_id)
    return wish


def _in_messages(wishes: list[Wish], rng: random.Random, held_out: bool) -> tuple[Wish, ...]:
    """Put some wishes into the message of the one before, and let some be given up for the next.

    Three wishes in one message are kept for evaluation.
    """
    found = wishes[:1]
    for wish in wishes[1:]:
        before = found[-1]
        may_join = (
            not wish.kind.startswith((*ALONE, *ENDING))
            and not before.kind.startswith(ALONE)
            and not {wish.kind, before.kind} <= CONFIRMED
            and (held_out or not before.joined)
        )
        chance = rng.random()
        if may_join and chance < (0.9 if before.joined else 0.4):
            wish = replace(wish, joined=True)
        elif chance > 0.9 and before.facts.get("needs_user") and wish.kind != "price_people":
            found[-1] = replace(before, abandons=True)
        found.append(wish)
    return tuple(found)


def _draw_wish(draw: Draw, kind: str) -> Wish | None:
    make = _MAKERS.get(kind) or _MAKERS.get(kind.split("_")[0]) or _plain
    rng = draw.rng
    facts = make(draw, kind)
    if facts is None:
        return None
    if not draw.user_id:
        # A wish without a reservation may be anybody's.
        users = [user_id for user_id in draw.world.users if draw.is_ours(user_id)]
        if not users:
            return None
        draw.user_id = rng.choice(users)
    if kind in ("book", *FLIGHT_KINDS, *BAG_KINDS):
        facts["payments"] = _payments(draw, is_booking=kind == "book")
    facts["needs_user"] = not kind.startswith(SILENT)
    vague = _vagueness(draw, kind, facts)
    return Wish(
        kind,
        facts,
        declines=kind in CONFIRMED and rng.random() < 0.08,
        asks_again=kind in CONFIRMED and rng.random() < 0.05,
        revises=_revision(kind, facts, rng),
        insists=rng.random() < 0.3,
        vague=vague,
        injects=not kind.startswith((*ALONE, *ENDING)) and rng.random() < 0.02,
    )


def _revision(kind: str, facts: Mapping[str, Json], rng: random.Random) -> tuple[str, Json] | None:
    """Draw what a customer wants otherwise when flights are offered or a booking is read out."""
    if "other_date" in facts and rng.random() < 0.08:
        return "date", facts["other_date"]
    if kind != "book" or rng.random() > 0.1:
        return None
    if rng.random() < 0.5:
        return "insurance", "no" if facts["insurance"] == "yes" else "yes"
    return "bags", rng.choice([n for n in (1, 2, 3) if n != facts["bags"]])


def _vagueness(draw: Draw, kind: str, facts: dict[str, Json]) -> frozenset[str]:
    rng = draw.rng
    vague: set[str] = set()
    reservation_id = facts.get("reservation_id")
    is_new = reservation_id is not None and reservation_id != draw.reservation_id
    if is_new and not kind.startswith(("defer", "refuse", "faq", "off", "scope")):
        chance = rng.random()
        if chance < 0.12 and len(draw.user["reservations"]) <= 5:
            vague.add("reservation_id")
            if len(draw.user["reservations"]) > 1 and rng.random() < 0.3:
                vague.add("which")
        elif chance < 0.17:
            facts["wrong_reservation_id"] = _mistype_id(str(reservation_id), rng)
            if rng.random() < 0.3 and 1 < len(draw.user["reservations"]) <= 5:
                vague.add("wrong twice")
        elif chance < 0.25 and (trip := _only_trip(draw, str(reservation_id))):
            facts["trip"] = trip
            vague.add("described")
    if kind in ("search", "book", "change_open") and rng.random() < 0.06:
        vague.add("date")
    return frozenset(vague)


def _only_trip(draw: Draw, reservation_id: str) -> dict[str, Json] | None:
    """Return origin and destination if no other of the customer's few reservations has them."""
    ids = draw.user["reservations"]
    trips = [
        {end: draw.world.reservations[one][end] for end in ("origin", "destination")} for one in ids
    ]
    trip = trips[ids.index(reservation_id)]
    return trip if len(ids) <= 3 and trips.count(trip) == 1 else None


def _reservation(draw: Draw, _kind: str) -> dict[str, Json] | None:
    found = draw.own(lambda _reservation, _statuses: True)
    return None if found is None else _of(draw, found)


def _of(draw: Draw, reservation: Json) -> dict[str, Json]:
    draw.user_id = reservation["user_id"]
    return {"reservation_id": reservation["reservation_id"]}


def _plain(_draw: Draw, _kind: str) -> dict[str, Json] | None:
    return {}


def _route(draw: Draw, kind: str) -> dict[str, Json] | None:
    """Draw a route, mostly one with a direct flight, and a day on which it can be booked."""
    rng = draw.rng
    wants_reserved = draw.held_out and rng.random() < 0.5
    for _ in range(60):
        if rng.random() < 0.85:
            flight = draw.world.flights[rng.choice(tuple(draw.world.flights))]
            origin, destination = flight["origin"], flight["destination"]
        else:
            origin, destination = rng.sample(tuple(AIRPORTS), 2)
        if is_reserved(origin + destination) == wants_reserved:
            date = f"2024-05-{rng.randrange(16, 31)}"
            if kind.startswith("search") and rng.random() < 0.12:
                # Beyond the timetable, so that other months are understood too.
                date = f"2024-{rng.randrange(6, 13):02d}-{rng.randrange(1, 29):02d}"
            facts: dict[str, Json] = {"origin": origin, "destination": destination, "date": date}
            if rng.random() < 0.35:
                facts["cabin"] = rng.choice(CABINS)
            return facts
    return None


def _unserved(draw: Draw, kind: str) -> dict[str, Json] | None:
    facts = _route(draw, kind)
    if facts is None:
        return None
    places = [place for place in ELSEWHERE if is_reserved(place) == draw.held_out]
    return {**facts, "place": draw.rng.choice(places), "in_opening": ("place",)}


def _party(draw: Draw, _kind: str) -> dict[str, Json] | None:
    """Ask for more people, which makes sense only after one fare was told."""
    is_next = draw.last_kind in ("search_cheapest", "search_earliest")
    if not is_next:
        return None
    return {"people": draw.rng.randrange(2, 6), "in_opening": ("people",)}


def _booking(draw: Draw, kind: str) -> dict[str, Json] | None:
    rng = draw.rng
    facts = _route(draw, kind)
    if facts is None:
        return None
    flights = [
        flight
        for flight in draw.world.flights.values()
        if (flight["origin"], flight["destination"]) == (facts["origin"], facts["destination"])
    ]
    if flights:
        facts["flight_numbers"] = (rng.choice(flights)["flight_number"],)
    facts["cabin"] = rng.choice(CABINS)
    facts["flight_type"] = "one_way"
    if rng.random() < 0.2 and facts["date"] < "2024-05-28":
        facts["flight_type"] = "round_trip"
        facts["return_date"] = f"2024-05-{rng.randrange(int(facts['date'][-2:]) + 2, 31)}"
    people: list[Json] = []
    if rng.random() < 0.75:
        people.append({"is_self": True})
    n_others = rng.choices((0, 1, 2), weights=(70, 25, 5))[0] if people else rng.choice((1, 1, 2))
    facts["passengers"] = people + [draw.person() for _ in range(n_others)]
    facts["bags"] = rng.choice((0, 0, 1, 1, 2, 3))
    if facts["flight_type"] == "one_way":
        days = [f"2024-05-{day}" for day in range(16, 31)]
        facts["other_date"] = rng.choice([day for day in days if day != facts["date"]])
    facts["insurance"] = rng.choice(("yes", "no"))
    return facts


def _change(draw: Draw, kind: str) -> dict[str, Json] | None:
    is_basic = draw.rng.random() < 0.2
    found = draw.own(
        lambda r, statuses: (
            set(statuses) == {"available"}
            and len(statuses) == 1
            and (r["cabin"] == "basic_economy") == is_basic
        )
    )
    if found is None:
        return None
    days = _open_days(draw, found["flights"][0], found)
    if not days:
        return None
    facts = {**_of(draw, found), "date": draw.rng.choice(days)}
    if others := [day for day in days if day != facts["date"]]:
        facts["other_date"] = draw.rng.choice(others)
    if kind == "change_date":
        facts["in_opening"] = ("date",)
    return facts


def _leg(draw: Draw, _kind: str) -> dict[str, Json] | None:
    """Draw a round trip of two flights and another day for one of them."""
    found = draw.own(
        lambda r, statuses: (
            statuses == ["available", "available"]
            and r["flight_type"] == "round_trip"
            and r["cabin"] != "basic_economy"
        )
    )
    if found is None:
        return None
    at = draw.rng.randrange(2)
    segment, other = found["flights"][at], found["flights"][1 - at]
    days = [
        day
        for day in _open_days(draw, segment, found)
        # A day apart from the other flight, so that neither leaves before the other lands.
        if abs(int(day[-2:]) - int(other["date"][-2:])) > 1 and (day > other["date"]) == bool(at)
    ]
    if not days:
        return None
    leg = ("outbound", "return")[at]
    return {**_of(draw, found), "leg": leg, "date": draw.rng.choice(days), "in_opening": _LEG}


_LEG = ("leg", "date")


def _open_days(draw: Draw, segment: Json, reservation: Json) -> list[str]:
    """Return the other days on which the route has a flight with seats for everyone."""
    days = {
        day
        for flight in draw.world.flights.values()
        if all(flight[end] == segment[end] for end in ("origin", "destination"))
        for day, facts in flight["dates"].items()
        if facts["status"] == "available"
        and facts["available_seats"][reservation["cabin"]] >= len(reservation["passengers"])
    }
    return sorted(days - {segment["date"]})


def _upgrade(draw: Draw, _kind: str) -> dict[str, Json] | None:
    found = draw.own(lambda r, statuses: set(statuses) == {"available"} and len(statuses) <= 2)
    if found is None:
        return None
    cabin = draw.rng.choice([cabin for cabin in CABINS if cabin != found["cabin"]])
    return {**_of(draw, found), "cabin": cabin, "in_opening": ("cabin",)}


def _bags(draw: Draw, kind: str) -> dict[str, Json] | None:
    found = draw.own(
        lambda r, statuses: set(statuses) == {"available"} and r["total_baggages"] <= 3
    )
    if found is None:
        return None
    facts = {**_of(draw, found), "bags": draw.rng.choice((1, 1, 1, 2, 2, 3))}
    if kind == "add_bags":
        facts["in_opening"] = ("bags",)
    return facts


def _passenger(draw: Draw, _kind: str) -> dict[str, Json] | None:
    found = draw.own(
        lambda r, statuses: set(statuses) == {"available"} and len(r["passengers"]) <= 3
    )
    if found is None:
        return None
    old = draw.rng.choice(found["passengers"])
    new = draw.person()
    if draw.rng.random() < 0.4:
        new = {**old, "last_name": new["last_name"]}
    is_only = len(found["passengers"]) == 1 and draw.rng.random() < 0.7
    change = {"old": None if is_only else old, "new": new}
    return {**_of(draw, found), "new_passenger": change}


def _cancel(draw: Draw, _kind: str) -> dict[str, Json] | None:
    """Draw a case first and a reservation for it then, so that every rule comes up."""
    rng = draw.rng
    case = rng.choice(
        ("recent", "airline", "business", "covered", "uncovered", "murky", "bare", "bare", "flown")
    )
    found = draw.own(lambda r, statuses: _is_case(case, r, statuses))
    if found is None:
        return None
    reasons = {
        "airline": ("airline",),
        "covered": ("health", "weather"),
        "uncovered": ("plan",),
        "murky": ("murky",),
        "bare": ("plan", "plan", "health", "weather", "murky"),
    }.get(case, ("plan", "plan", "health", "weather"))
    return {**_of(draw, found), "reason": rng.choice(reasons)}


def _is_case(case: str, reservation: Json, statuses: Sequence[str]) -> bool:
    is_flown = bool({"landed", "flying"}.intersection(statuses))
    if case == "flown" or is_flown:
        return case == "flown" and is_flown
    is_recent = bool(reservation["created_at"] >= "2024-05-14T15:00:00")
    is_business = bool(reservation["cabin"] == "business")
    by_airline = "cancelled" in statuses
    if case in ("recent", "airline", "business"):
        return {"recent": is_recent, "airline": by_airline, "business": is_business}[case]
    is_free = is_recent or is_business or by_airline
    is_insured = bool(reservation["insurance"] == "yes")
    return is_insured == (case != "bare") and not is_free


def _complaint(draw: Draw, kind: str) -> dict[str, Json] | None:
    wants = {"cancelled"} if kind.endswith("cancelled") else {"delayed"}
    if kind.endswith("cancelled") and draw.rng.random() < 0.15:
        wants = {"available"}
    found = draw.own(lambda _r, statuses: bool(wants.intersection(statuses)))
    return None if found is None else _of(draw, found)


def _refusal(draw: Draw, kind: str) -> dict[str, Json] | None:
    facts = _reservation(draw, kind)
    if facts is not None and kind == "refuse_route":
        facts["origin"], facts["destination"] = draw.rng.sample(tuple(AIRPORTS), 2)
    return facts


def _place(draw: Draw, _kind: str) -> dict[str, Json] | None:
    code = draw.rng.choice(tuple(AIRPORTS))
    found = _reservation(draw, "") or {}
    return {**found, "destination": code, "city": code, "in_opening": ("city",)}


def _allowance(draw: Draw, _kind: str) -> dict[str, Json] | None:
    membership = draw.rng.choice(("regular", "silver", "gold"))
    cabin = draw.rng.choice(CABINS)
    return {"membership": membership, "cabin": cabin, "in_opening": ("membership", "cabin")}


def _hard(draw: Draw, kind: str) -> dict[str, Json] | None:
    found = draw.own(lambda _r, statuses: "landed" not in statuses)
    route = _route(draw, kind)
    if found is None or route is None:
        return None
    bags = draw.rng.choice((1, 2, 3))
    facts = {**route, "cabin": draw.rng.choice(CABINS), **_of(draw, found), "bags": bags}
    return {**facts, "wants_facts": draw.rng.random() < 0.5}


def _payments(draw: Draw, is_booking: bool) -> list[Json]:
    """Draw how the customer wants to pay, first choice first; the last one always works."""
    rng = draw.rng
    methods = list(draw.user["payment_methods"].values())
    by = {
        source: [way for way in methods if way["source"] == source]
        for source in ("credit_card", "gift_card", "certificate")
    }
    card = rng.choice(by["credit_card"])
    told = {"kind": "one", "pid": card["id"], "brand": card["brand"], "digits": card["last_four"]}
    rules = ["pay_with", "pay_with", "pay_digits"]
    if len(by["credit_card"]) == 1:
        rules += ["pay_card", "pay_card"]
    ways: list[Json] = [{**told, "rule": rng.choice(rules)}]
    if by["gift_card"] and rng.random() < 0.35:
        gift = rng.choice(by["gift_card"])
        rule = "pay_gift" if len(by["gift_card"]) == 1 and rng.random() < 0.5 else "pay_with"
        ways.insert(0, {"kind": "one", "pid": gift["id"], "rule": rule})
    elif is_booking and by["certificate"] and rng.random() < 0.35:
        certificate = rng.choice(by["certificate"])["id"]
        mixed = {**told, "cert": certificate, "kind": "two", "rule": "pay_certificate_card"}
        ways.insert(0, mixed)
    if is_booking and by["certificate"] and by["gift_card"] and rng.random() < 0.5:
        parts = {"cert": by["certificate"][0]["id"], "gift": by["gift_card"][0]["id"]}
        ways.insert(0, {**told, **parts, "kind": "three", "rule": "pay_three"})
    return ways


def _mistype_id(text: str, rng: random.Random) -> str:
    """Change one digit, or a letter where there is none."""
    places = [at for at, letter in enumerate(text) if letter.isdigit()]
    at = rng.choice(places)
    other = rng.choice([digit for digit in "0123456789" if digit != text[at]])
    return text[:at] + other + text[at + 1 :]


_MAKERS: Mapping[str, Callable[[Draw, str], dict[str, Json] | None]] = {
    "lookup": _reservation,
    "search": _route,
    "search_unserved": _unserved,
    "price": _party,
    "book": _booking,
    "change": _change,
    "change_leg": _leg,
    "upgrade": _upgrade,
    "add": _bags,
    "passenger": _passenger,
    "cancel": _cancel,
    "compensation": _complaint,
    "refuse_discount": _plain,
    "refuse": _refusal,
    "scope": _place,
    "off": _place,
    "foreign": _place,
    "faq_airport_code": _place,
    "faq_bags": _allowance,
    "defer": _hard,
}
