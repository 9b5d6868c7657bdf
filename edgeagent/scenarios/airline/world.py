"""What the airline desk is made of: documents, the fixed hour, airports, fees and free bags.

Knows nothing of storage or of tools. Documents have the shapes of tau-bench's airline data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from edgeagent.messages import Json

NOW = datetime(2024, 5, 15, 15, 0, 0)
"""The desk's clock stands still here (EST); the policy text says so too."""

FIRST_DAY = date(2024, 5, 1)
N_DAYS = 30
CABINS = ("basic_economy", "economy", "business")
BAG_FEE = 50
INSURANCE_FEE = 30
"""Dollars per passenger."""
MAX_PASSENGERS = 5
CANCELLED_COMPENSATION = 100
DELAYED_COMPENSATION = 50
"""Dollars per passenger on a certificate."""

FREE_BAGS: Mapping[str, Mapping[str, int]] = {
    "regular": {"basic_economy": 0, "economy": 1, "business": 2},
    "silver": {"basic_economy": 1, "economy": 2, "business": 3},
    "gold": {"basic_economy": 2, "economy": 3, "business": 3},
}
"""Free checked bags of each passenger, by the booking user's membership and the cabin."""

AIRPORTS: Mapping[str, tuple[str, float, float]] = {
    "SFO": ("San Francisco", 37.6, -122.4),
    "JFK": ("New York", 40.6, -73.8),
    "LAX": ("Los Angeles", 33.9, -118.4),
    "ORD": ("Chicago", 42.0, -87.9),
    "DFW": ("Dallas", 32.9, -97.0),
    "DEN": ("Denver", 39.9, -104.7),
    "SEA": ("Seattle", 47.4, -122.3),
    "ATL": ("Atlanta", 33.6, -84.4),
    "MIA": ("Miami", 25.8, -80.3),
    "BOS": ("Boston", 42.4, -71.0),
    "PHX": ("Phoenix", 33.4, -112.0),
    "IAH": ("Houston", 30.0, -95.3),
    "LAS": ("Las Vegas", 36.1, -115.2),
    "MCO": ("Orlando", 28.4, -81.3),
    "EWR": ("Newark", 40.7, -74.2),
    "CLT": ("Charlotte", 35.2, -80.9),
    "MSP": ("Minneapolis", 44.9, -93.2),
    "DTW": ("Detroit", 42.2, -83.4),
    "PHL": ("Philadelphia", 39.9, -75.2),
    "LGA": ("LaGuardia", 40.8, -73.9),
}
"""IATA code → city, latitude and longitude in degrees."""

CITIES = {code: city for code, (city, _, _) in AIRPORTS.items()}


@dataclass(slots=True)
class World:
    """Everything the desk knows, as plain documents by id."""

    users: dict[str, Json] = field(default_factory=dict)
    flights: dict[str, Json] = field(default_factory=dict)
    """By flight number; `dates` maps `YYYY-MM-DD` to status, seats and prices."""
    reservations: dict[str, Json] = field(default_factory=dict)


def free_bags(membership: str, cabin: str, n_passengers: int) -> int:
    """Return how many checked bags a reservation carries free of charge."""
    return FREE_BAGS[membership][cabin] * n_passengers


def departure(flight: Json, day: str) -> datetime:
    """Return when the flight leaves on `day` by its timetable (EST)."""
    return _at(day, flight["scheduled_departure_time_est"])


def arrival(flight: Json, day: str) -> datetime:
    """Return when the flight that leaves on `day` arrives; `+1` means the day after."""
    return _at(day, flight["scheduled_arrival_time_est"])


def _at(day: str, clock: str) -> datetime:
    time, _, days = clock.partition("+")
    return datetime.fromisoformat(f"{day}T{time}") + timedelta(days=int(days or 0))
