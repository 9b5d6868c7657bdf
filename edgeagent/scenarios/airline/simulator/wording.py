"""How the expert writes values that it copies from tool results: flights, people, money."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeagent.messages import Json
from edgeagent.scenarios.airline.simulator.spoken import join_words, say_cabin

MAX_SHOWN = 4


def flight_type(value: str) -> str:
    """Return `one way` for `one_way`."""
    return value.replace("_", " ")


def cabin(value: str) -> str:
    """Return `basic economy` for `basic_economy`."""
    return say_cabin(value)


def trip(segments: Iterable[Json]) -> str:
    """Return `HAT001 on 2024-05-20 and HAT002 on 2024-05-24`."""
    return join_words(f"{s['flight_number']} on {s['date']}" for s in segments)


def trip_with_status(segments: Iterable[Json]) -> str:
    """Return the trip, each flight that is not simply ahead with its status."""
    return join_words(
        f"{s['flight_number']} on {s['date']}"
        + ("" if s["status"] == "available" else f" ({s['status']})")
        for s in segments
    )


def people(passengers: Iterable[Json]) -> str:
    """Return full names."""
    return join_words(f"{p['first_name']} {p['last_name']}" for p in passengers)


def numbered(items: Iterable[object]) -> str:
    """Return `1 Ana, 2 Bo`: a small model counts by numbering, not at a glance."""
    return ", ".join(f"{i} {item}" for i, item in enumerate(items, start=1))


def counted(passengers: Iterable[Json]) -> str:
    """Return the first names, numbered."""
    return numbered(passenger["first_name"] for passenger in passengers)


def people_and_births(passengers: Iterable[Json]) -> str:
    """Return full names with dates of birth."""
    return join_words(f"{p['first_name']} {p['last_name']} ({p['dob']})" for p in passengers)


def payments(history: Iterable[Json]) -> str:
    """Return amounts with the methods that paid them."""
    return join_words(f"${p['amount']} with {p['payment_id']}" for p in history)


def ways(profile: Json, with_certificates: bool = True) -> str:
    """Return the payment methods of a profile with what tells them apart."""
    told = []
    for way in profile["payment_methods"].values():
        if way["source"] == "credit_card":
            told.append(f"{way['id']} ({way['brand']} {way['last_four']})")
        elif with_certificates or way["source"] != "certificate":
            told.append(f"{way['id']} (${way['amount']})")
    return join_words(told)


def seats(flights: Sequence[Json], in_cabin: str, n_seats: int = 1) -> list[Json]:
    """Return the flights that have seats left in the cabin."""
    return [flight for flight in flights if flight["available_seats"][in_cabin] >= n_seats]


def option(flight: Json, in_cabin: str) -> str:
    """Return `HAT001 06:00-09:30 $134`."""
    return (
        f"{flight['flight_number']} {flight['departure']}-{flight['arrival']} "
        f"${flight['prices'][in_cabin]}"
    )


def options(flights: Sequence[Json], in_cabin: str) -> str:
    """Return the first few flights with times and prices."""
    return ", ".join(option(flight, in_cabin) for flight in flights[:MAX_SHOWN])


def pairs(found: Sequence[Sequence[Json]], in_cabin: str) -> str:
    """Return the first two connections."""
    return ", or ".join(" then ".join(option(leg, in_cabin) for leg in pair) for pair in found[:2])
