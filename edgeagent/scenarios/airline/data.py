"""Generate an airline desk from a seed: flights for a month, users, reservations.

Knows nothing of storage. The same seed and sizes give the same world on every machine.
About 40 ms for 100 flight numbers, 20 users and 40 reservations.
"""

from __future__ import annotations

import math
import random
import string
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, timedelta

from edgeagent.messages import Json
from edgeagent.scenarios.airline.names import (
    FIRST_NAMES,
    LAST_NAMES,
    STREET_KINDS,
    STREETS,
    TOWNS,
)
from edgeagent.scenarios.airline.world import (
    AIRPORTS,
    BAG_FEE,
    CABINS,
    FIRST_DAY,
    INSURANCE_FEE,
    N_DAYS,
    NOW,
    World,
    arrival,
    departure,
    free_bags,
)

TODAY = NOW.date().isoformat()
DAYS = tuple((FIRST_DAY + timedelta(days=n)).isoformat() for n in range(N_DAYS))

SITUATIONS = {
    "available": 58,
    "landed": 13,
    "cancelled": 10,
    "delayed": 8,
    "on time": 6,
    "flying": 5,
}
"""Status of the first segment of a generated reservation → weight."""


def generate(
    seed: int | str, n_users: int = 120, n_reservations: int = 300, n_flights: int = 240
) -> World:
    """Return a fresh world; ids are drawn so widely that two seeds practically never share one."""
    rng = random.Random(f"airline desk {seed}")
    world = World(flights=_flights(rng, n_flights))
    for _ in range(n_users):
        user_id, user = _user(rng, world)
        world.users[user_id] = user
    network = _Network(world)
    for _ in range(n_reservations):
        reservation = _reservation(rng, world, network)
        world.reservations[reservation["reservation_id"]] = reservation
        world.users[reservation["user_id"]]["reservations"].append(reservation["reservation_id"])
    return world


def _flights(rng: random.Random, n_flights: int) -> dict[str, Json]:
    """Return flights on a network that has both directions of every route it has."""
    codes = list(AIRPORTS)
    pairs = [(a, b) for n, a in enumerate(codes) for b in codes[n + 1 :] if _miles(a, b) > 150]
    routes = rng.sample(pairs, min(len(pairs), max(1, n_flights // 3)))
    numbers = iter(sorted(rng.sample(range(1000), n_flights)))
    flights: dict[str, Json] = {}
    while len(flights) < n_flights:
        a, b = routes[len(flights) // 2 % len(routes)]
        for origin, destination in ((a, b), (b, a)):
            if len(flights) < n_flights:
                number = f"HAT{next(numbers):03d}"
                flights[number] = _flight(rng, number, origin, destination)
    return flights


def _flight(rng: random.Random, number: str, origin: str, destination: str) -> Json:
    miles = _miles(origin, destination)
    leaves = rng.randrange(5 * 60, 23 * 60 + 30, 15)
    minutes = round((35 + miles / 7.5) / 5) * 5
    flight = {
        "flight_number": number,
        "origin": origin,
        "destination": destination,
        "scheduled_departure_time_est": _clock(leaves),
        "scheduled_arrival_time_est": _clock(leaves + minutes),
    }
    fare = 45 + miles * 0.045
    return {**flight, "dates": {day: _day(rng, day, leaves, minutes, fare) for day in DAYS}}


def _day(rng: random.Random, day: str, leaves: int, minutes: int, fare: float) -> Json:
    """Return what the desk knows of one flight on one day, seen from the fixed hour."""
    if rng.random() < (0.10 if day == TODAY else 0.04 if day < "2024-05-18" else 0.0):
        return {"status": "cancelled"}
    if day > TODAY:
        low = fare * (0.8 + 0.5 * rng.random())
        fares = (low, low * (1.3 + 0.6 * rng.random()), low * (3.0 + 2.5 * rng.random()))
        return {
            "status": "available",
            "available_seats": {cabin: int(rng.random() * 20.99) for cabin in CABINS},
            "prices": {cabin: int(price) for cabin, price in zip(CABINS, fares, strict=True)},
        }
    if day < TODAY:
        return _landed(day, leaves + int(rng.random() * 30) - 5, minutes)
    now = NOW.hour * 60 + NOW.minute
    if leaves < now - 120 or (leaves < now and rng.random() < 0.7):
        if leaves + minutes < now - 30:
            return _landed(day, leaves + int(rng.random() * 20), minutes)
        return {
            "status": "flying",
            "actual_departure_time_est": _stamp(day, min(leaves + 5, now - 1)),
            "estimated_arrival_time_est": _stamp(day, max(leaves + minutes + 5, now + 15)),
        }
    late = leaves < now or rng.random() < 0.35
    shift = max(now + 20 - leaves, 45 + int(rng.random() * 180)) if late else 0
    return {
        "status": "delayed" if late else "on time",
        "estimated_departure_time_est": _stamp(day, leaves + shift),
        "estimated_arrival_time_est": _stamp(day, leaves + shift + minutes),
    }


def _landed(day: str, left: int, minutes: int) -> Json:
    return {
        "status": "landed",
        "actual_departure_time_est": _stamp(day, left),
        "actual_arrival_time_est": _stamp(day, left + minutes),
    }


def _user(rng: random.Random, world: World) -> tuple[str, Json]:
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    user_id = f"{first}_{last}_{rng.randrange(1000, 10000)}".lower()
    if user_id in world.users:
        return _user(rng, world)
    town, state, zip_start = rng.choice(TOWNS)
    street = f"{rng.choice(STREETS)} {rng.choice(STREET_KINDS)}"
    user = {
        "name": {"first_name": first, "last_name": last},
        "address": {
            "address1": f"{rng.randrange(10, 990)} {street}",
            "address2": f"Suite {rng.randrange(100, 999)}",
            "city": town,
            "country": "USA",
            "state": state,
            "zip": f"{zip_start}{rng.randrange(100):02d}",
        },
        "email": f"{first}.{last}{rng.randrange(1000, 10000)}@example.com".lower(),
        "dob": _birthday(rng),
        "payment_methods": _payment_methods(rng),
        "saved_passengers": [_person(rng) for _ in range(rng.choice((0, 1, 1, 2, 3)))],
        "membership": rng.choice(("regular", "silver", "gold")),
        "reservations": [],
    }
    return user_id, user


def _payment_methods(rng: random.Random) -> Json:
    """Return one to five methods, at least one of which can pay for anything."""
    kinds = ("credit_card", "gift_card", "certificate")
    sources = ["credit_card", *rng.choices(kinds, weights=(2, 4, 4), k=rng.randrange(0, 5))]
    methods: dict[str, Json] = {}
    for source in rng.sample(sources, len(sources)):
        payment_id = f"{source}_{rng.randrange(1_000_000, 10_000_000)}"
        method: dict[str, Json] = {"source": source}
        if source == "credit_card":
            method["brand"] = rng.choice(("visa", "mastercard"))
            method["last_four"] = f"{rng.randrange(10000):04d}"
        elif source == "gift_card":
            method["amount"] = rng.choice((rng.randrange(15, 300), rng.randrange(100, 2500)))
        else:
            method["amount"] = rng.choice((50, 100, 150, 200, 250, 300, 400, 500))
        methods[payment_id] = {**method, "id": payment_id}
    return methods


class _Network:
    """Index of the flights: by status for a first segment, by origin for the next ones."""

    def __init__(self, world: World) -> None:
        self.flights = world.flights
        self.by_status: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self.by_origin: dict[str, list[str]] = defaultdict(list)
        for number, flight in world.flights.items():
            self.by_origin[flight["origin"]].append(number)
            for day, facts in flight["dates"].items():
                # Cancellations long past would make every second claim a stale one.
                if facts["status"] != "cancelled" or day >= "2024-05-10":
                    self.by_status[facts["status"]].append((number, day))

    def start(self, rng: random.Random) -> tuple[str, str]:
        """Draw the first flight and day of a trip."""
        known = [status for status in SITUATIONS if self.by_status[status]]
        status = rng.choices(known, weights=[SITUATIONS[status] for status in known])[0]
        return rng.choice(self.by_status[status])

    def onward(self, rng: random.Random, number: str, day: str) -> str | None:
        """Draw a connection that leaves after the flight has arrived, on the same day."""
        flight, there = self.flights[number], arrival(self.flights[number], day)
        later = [
            other
            for other in self.by_origin[flight["destination"]]
            if self.flights[other]["destination"] != flight["origin"]
            and departure(self.flights[other], day) > there
        ]
        return rng.choice(later) if later else None

    def direct(self, rng: random.Random, origin: str, destination: str) -> str | None:
        """Draw a flight between two airports."""
        found = [n for n in self.by_origin[origin] if self.flights[n]["destination"] == destination]
        return rng.choice(found) if found else None


def _trip(rng: random.Random, network: _Network) -> tuple[str, list[tuple[str, str]]]:
    """Return `one_way` or `round_trip` and its (flight number, day) segments."""
    number, day = network.start(rng)
    out = [(number, day)]
    if rng.random() < 0.35 and (onward := network.onward(rng, number, day)):
        out.append((onward, day))
    origin = network.flights[number]["origin"]
    destination = network.flights[out[-1][0]]["destination"]
    back_day = (date.fromisoformat(day) + timedelta(days=rng.randrange(2, 10))).isoformat()
    if rng.random() < 0.5 and back_day in DAYS:
        home = network.direct(rng, destination, origin)
        if home is not None:
            return "round_trip", [*out, (home, back_day)]
        if len(out) == 2:
            middle = network.flights[number]["destination"]
            first = network.direct(rng, destination, middle)
            if first is not None and (second := network.direct(rng, middle, origin)):
                leaves = departure(network.flights[second], back_day)
                if leaves > arrival(network.flights[first], back_day):
                    return "round_trip", [*out, (first, back_day), (second, back_day)]
    return "one_way", out


def _reservation(rng: random.Random, world: World, network: _Network) -> Json:
    user_id = rng.choice(list(world.users))
    user = world.users[user_id]
    flight_type, trip = _trip(rng, network)
    cabin = rng.choice(CABINS)
    passengers = _passengers(rng, user)
    segments = [_segment(rng, world, number, day, cabin) for number, day in trip]
    bags = rng.choice((0, 0, 1, 1, 2, 3, 4)) if len(passengers) < 3 else rng.randrange(0, 7)
    nonfree = max(0, bags - free_bags(user["membership"], cabin, len(passengers)))
    insurance = rng.choice(("yes", "no", "no"))
    total = sum(segment["price"] for segment in segments) * len(passengers) + nonfree * BAG_FEE
    total += INSURANCE_FEE * len(passengers) if insurance == "yes" else 0
    return {
        "reservation_id": _reservation_id(rng, world),
        "user_id": user_id,
        "origin": segments[0]["origin"],
        "destination": world.flights[_turning_point(flight_type, trip)]["destination"],
        "flight_type": flight_type,
        "cabin": cabin,
        "flights": segments,
        "passengers": passengers,
        "payment_history": _payments(rng, user, total),
        "created_at": _created_at(rng, trip[0][1]),
        "total_baggages": bags,
        "nonfree_baggages": nonfree,
        "insurance": insurance,
    }


def _turning_point(flight_type: str, trip: Sequence[tuple[str, str]]) -> str:
    """Return the number of the last outbound flight."""
    out = [number for number, day in trip if day == trip[0][1]]
    return out[-1] if flight_type == "round_trip" else trip[-1][0]


def _segment(rng: random.Random, world: World, number: str, day: str, cabin: str) -> Json:
    flight = world.flights[number]
    facts = flight["dates"][day]
    miles = _miles(flight["origin"], flight["destination"])
    factor = {"basic_economy": 1.0, "economy": 1.6, "business": 4.2}[cabin]
    once = int((45 + miles * 0.045) * factor * (0.8 + 0.4 * rng.random()))
    price = facts["prices"][cabin] if "prices" in facts and rng.random() < 0.5 else once
    return {
        "origin": flight["origin"],
        "destination": flight["destination"],
        "flight_number": number,
        "date": day,
        "price": price,
    }


def _passengers(rng: random.Random, user: Json) -> list[Json]:
    own = {**user["name"], "dob": user["dob"]}
    others = list(user["saved_passengers"])
    n_more = rng.choices((0, 1, 2, 3, 4), weights=(45, 27, 14, 9, 5))[0]
    while len(others) < n_more:
        others.append(_person(rng))
    return [own, *rng.sample(others, n_more)]


def _payments(rng: random.Random, user: Json, total: int) -> list[Json]:
    cards = [key for key, way in user["payment_methods"].items() if way["source"] == "credit_card"]
    gifts = [key for key, way in user["payment_methods"].items() if way["source"] == "gift_card"]
    card = rng.choice(gifts if gifts and rng.random() < 0.4 else cards)
    part = rng.choice((50, 100, 150, 200, 250))
    if rng.random() < 0.12 and part < total:
        spent = f"certificate_{rng.randrange(1_000_000, 10_000_000)}"
        return [
            {"payment_id": spent, "amount": part},
            {"payment_id": card, "amount": total - part},
        ]
    return [{"payment_id": card, "amount": total}]


def _created_at(rng: random.Random, first_day: str) -> str:
    """Return when it was booked: one in four within the last 24 hours where the trip allows."""
    if first_day >= TODAY and rng.random() < 0.25:
        made = NOW - timedelta(seconds=rng.randrange(600, 23 * 3600))
    else:
        latest = min(NOW - timedelta(hours=26), departure(_MIDNIGHT, first_day))
        made = latest - timedelta(seconds=rng.randrange(3600, 13 * 86400))
    return made.isoformat()


_MIDNIGHT = {"scheduled_departure_time_est": "00:00:00"}


def _reservation_id(rng: random.Random, world: World) -> str:
    while True:
        made = "".join(rng.choices(string.ascii_uppercase + string.digits, k=6))
        # An id of digits alone would read as a number, one of letters alone as a word.
        if made not in world.reservations and not made.isdigit() and not made.isalpha():
            return made


def _person(rng: random.Random) -> Json:
    return {
        "first_name": rng.choice(FIRST_NAMES),
        "last_name": rng.choice(LAST_NAMES),
        "dob": _birthday(rng),
    }


def _birthday(rng: random.Random) -> str:
    return (date(1948, 1, 1) + timedelta(days=rng.randrange(57 * 365))).isoformat()


def _miles(a: str, b: str) -> float:
    (_, lat_a, lon_a), (_, lat_b, lon_b) = AIRPORTS[a], AIRPORTS[b]
    north = math.radians(lat_b - lat_a)
    east = math.radians(lon_b - lon_a) * math.cos(math.radians((lat_a + lat_b) / 2))
    return 3959 * math.hypot(north, east)


def _clock(minutes: int) -> str:
    days, rest = divmod(minutes, 24 * 60)
    return f"{rest // 60:02d}:{rest % 60:02d}:00" + (f"+{days}" if days else "")


def _stamp(day: str, minutes: int) -> str:
    days, rest = divmod(minutes, 24 * 60)
    on = (date.fromisoformat(day) + timedelta(days=days)).isoformat()
    return f"{on}T{rest // 60:02d}:{rest % 60:02d}:00"
