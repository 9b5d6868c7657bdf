"""A small airline desk written by hand, for tests that need to know every document in it."""

from __future__ import annotations

import itertools
import json
from typing import Any

from edgeagent.messages import Call
from edgeagent.scenarios.airline.backend import open_world
from edgeagent.scenarios.airline.world import World
from edgeagent.scenarios.database import Database

PRICES = {"basic_economy": 100, "economy": 150, "business": 400}
ADA = {"first_name": "Ada", "last_name": "Berg", "dob": "1980-01-01"}
BEN = {"first_name": "Ben", "last_name": "Berg", "dob": "1982-02-02"}

_ids = itertools.count()


def flight(number: str, origin: str, destination: str, leaves: str, lands: str) -> dict[str, Any]:
    available = {"status": "available", "available_seats": dict.fromkeys(PRICES, 3)}
    days: dict[str, Any] = {
        f"2024-05-{day}": {**available, "prices": PRICES} for day in range(16, 31)
    }
    days |= {
        "2024-05-13": {"status": "landed"},
        "2024-05-14": {"status": "cancelled"},
        "2024-05-15": {"status": "delayed"},
        "2024-05-29": {**available, "prices": {name: price * 2 for name, price in PRICES.items()}},
    }
    return {
        "flight_number": number,
        "origin": origin,
        "destination": destination,
        "scheduled_departure_time_est": leaves,
        "scheduled_arrival_time_est": lands,
        "dates": days,
    }


def reservation(
    name: str, cabin: str, *days: str, user: str = "ada_berg_1000", **other: Any
) -> dict[str, Any]:
    """Return SEA → DEN on the first day and, with a second day, back again."""
    legs = [("HAT100", "SEA", "DEN"), ("HAT110", "DEN", "SEA")]
    flights = [
        {"origin": a, "destination": b, "flight_number": number, "date": day, "price": 90}
        for (number, a, b), day in zip(legs, days, strict=False)
    ]
    return {
        "reservation_id": name,
        "user_id": user,
        "origin": "SEA",
        "destination": "DEN",
        "flight_type": "round_trip" if len(days) > 1 else "one_way",
        "cabin": cabin,
        "flights": flights,
        "passengers": [ADA],
        "payment_history": [{"payment_id": "gift_card_1000001", "amount": 90 * len(days)}],
        "created_at": "2024-05-02T10:00:00",
        "total_baggages": 1,
        "nonfree_baggages": 0,
        "insurance": "no",
        **other,
    }


def user(first: str, membership: str, *reservations: str) -> dict[str, Any]:
    methods = {
        "credit_card_1000001": {"source": "credit_card", "brand": "visa", "last_four": "0001"},
        "credit_card_1000002": {"source": "credit_card", "brand": "visa", "last_four": "0002"},
        "gift_card_1000001": {"source": "gift_card", "amount": 500},
        "gift_card_1000002": {"source": "gift_card", "amount": 20},
        "gift_card_1000003": {"source": "gift_card", "amount": 20},
        "gift_card_1000004": {"source": "gift_card", "amount": 20},
        "certificate_1000001": {"source": "certificate", "amount": 100},
        "certificate_1000002": {"source": "certificate", "amount": 100},
    }
    return {
        "name": {"first_name": first, "last_name": "Berg"},
        "address": {},
        "email": f"{first.lower()}@example.com",
        "dob": "1980-01-01",
        "payment_methods": {key: {**method, "id": key} for key, method in methods.items()},
        "saved_passengers": [],
        "membership": membership,
        "reservations": list(reservations),
    }


def small_world() -> World:
    """Two users; each reservation is named for what is special about it."""
    flights = [
        flight("HAT100", "SEA", "DEN", "09:00:00", "12:00:00"),
        flight("HAT101", "SEA", "DEN", "18:00:00", "21:00:00"),
        flight("HAT110", "DEN", "SEA", "14:00:00", "17:00:00"),
        flight("HAT200", "DEN", "BOS", "13:00:00", "17:00:00"),
        flight("HAT201", "DEN", "BOS", "22:00:00", "02:00:00+1"),
        flight("HAT210", "BOS", "DEN", "11:00:00", "13:00:00"),
        flight("HAT300", "BOS", "LAX", "04:00:00", "07:00:00"),
    ]
    flights[1]["dates"]["2024-05-20"]["available_seats"] = dict.fromkeys(PRICES, 0)
    later = ("2024-05-20", "2024-05-24")
    made = [
        reservation("ECO111", "economy", *later),
        reservation("BAS111", "basic_economy", *later),
        reservation("BUS111", "business", *later),
        reservation("INS111", "basic_economy", *later, insurance="yes"),
        reservation("NEW111", "basic_economy", *later, created_at="2024-05-14T15:00:00"),
        reservation("OLD111", "basic_economy", *later, created_at="2024-05-14T14:59:59"),
        reservation("AIR111", "economy", "2024-05-14", "2024-05-24"),
        reservation("FLO111", "business", "2024-05-13", "2024-05-24"),
        reservation("GON111", "economy", "2024-05-13"),
        reservation("LAT111", "business", "2024-05-15", "2024-05-24"),
        reservation("TWO111", "economy", *later, passengers=[ADA, BEN]),
        reservation("CAN111", "economy", *later, status="cancelled"),
        reservation("POO111", "economy", "2024-05-14", user="eva_berg_2000"),
        reservation("CER111", "business", *later, payment_history=[
            {"payment_id": "certificate_7777777", "amount": 60},
            {"payment_id": "credit_card_1000001", "amount": 120},
        ]),
    ]  # fmt: skip
    names = [one["reservation_id"] for one in made if one["user_id"] == "ada_berg_1000"]
    return World(
        users={
            "ada_berg_1000": user("Ada", "gold", *names),
            "eva_berg_2000": user("Eva", "regular", "POO111"),
        },
        flights={one["flight_number"]: one for one in flights},
        reservations={one["reservation_id"]: one for one in made},
    )


def small_desk() -> Database:
    """Return the small world behind the policy's tools, in memory."""
    return open_world(small_world())


def tell(desk: Database, name: str, **arguments: Any) -> tuple[Any, bool]:
    """Call a tool and return (its decoded answer, whether it is an error)."""
    outcome = desk.call(Call(f"call_{next(_ids)}", name, arguments), 5.0)
    return json.loads(outcome.content), outcome.is_error


def booking(**changed: Any) -> dict[str, Any]:
    """Return a booking of Ada's that the policy allows: two in economy, 600 dollars, 6 bags."""
    return {
        "user_id": "ada_berg_1000",
        "origin": "SEA",
        "destination": "BOS",
        "flight_type": "one_way",
        "cabin": "economy",
        "flights": [
            {"flight_number": "HAT100", "date": "2024-05-20"},
            {"flight_number": "HAT200", "date": "2024-05-20"},
        ],
        "passengers": [ADA, BEN],
        "payment_methods": [{"payment_id": "credit_card_1000001", "amount": 600}],
        "total_baggages": 6,
        "nonfree_baggages": 0,
        "insurance": "no",
        **changed,
    }
