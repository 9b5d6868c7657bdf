"""Find flights that can be booked: direct ones, and pairs with one stop.

Knows nothing of users. Answers are short: a small model has to read them.
"""

from __future__ import annotations

from datetime import date

from edgeagent.messages import Json
from edgeagent.scenarios.airline.checks import Forbidden
from edgeagent.scenarios.airline.records import Records
from edgeagent.scenarios.airline.world import CITIES, arrival, departure

MAX_DIRECT = 8
MAX_ONESTOP = 4
"""Pairs, so that no answer shows more than eight flights."""


def search_direct_flight(records: Records, origin: str, destination: str, date: str) -> list[Json]:
    """Return at most eight bookable flights, earliest departure first."""
    _check(origin, destination, date)
    flights = [f for f in records.flights_between(origin, destination) if _bookable(f, date)]
    flights.sort(key=lambda flight: departure(flight, date))
    return [_shown(flight, date) for flight in flights[:MAX_DIRECT]]


def search_onestop_flight(
    records: Records, origin: str, destination: str, date: str
) -> list[list[Json]]:
    """Return at most four bookable pairs, the lowest economy price first."""
    _check(origin, destination, date)
    pairs = []
    for first in records.flights_from(origin):
        if first["destination"] == destination or not _bookable(first, date):
            continue
        landed = arrival(first, date)
        for second in records.flights_between(first["destination"], destination):
            day = landed.date().isoformat()
            if _bookable(second, day) and departure(second, day) > landed:
                pairs.append([_shown(first, date), _shown(second, day)])
    pairs.sort(key=lambda pair: sum(leg["prices"]["economy"] for leg in pair))
    return pairs[:MAX_ONESTOP]


def _check(origin: str, destination: str, day: str) -> None:
    for code in (origin, destination):
        if code not in CITIES:
            raise Forbidden(f"no airport {code!r}; use a code of list_all_airports")
    try:
        date.fromisoformat(day)
    except ValueError:
        raise Forbidden(f"date {day!r} is not written YYYY-MM-DD") from None


def _bookable(flight: Json, day: str) -> bool:
    return bool(flight["dates"].get(day, {}).get("status") == "available")


def _shown(flight: Json, day: str) -> Json:
    facts = flight["dates"][day]
    return {
        "flight_number": flight["flight_number"],
        "origin": flight["origin"],
        "destination": flight["destination"],
        "date": day,
        "departure": _short(flight["scheduled_departure_time_est"]),
        "arrival": _short(flight["scheduled_arrival_time_est"]),
        "prices": facts["prices"],
        "available_seats": facts["available_seats"],
    }


def _short(clock: str) -> str:
    """Return `07:05` for `07:05:00` and `01:30+1` for `01:30:00+1`."""
    return clock[:5] + clock[8:]
