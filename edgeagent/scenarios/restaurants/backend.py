"""Find a place to eat and keep a table there.

The guide's day is 2019-03-01, as in the dialogues whose tools these are. Knows nothing of prompts.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path

from edgeagent.cascade import ToolOutcome
from edgeagent.messages import Json
from edgeagent.scenarios import job
from edgeagent.scenarios.database import Database, Desk, answer, refused
from edgeagent.scenarios.restaurants.guide import CITIES, CUISINES, generate

VERSION = 1
SEED = 2019
TODAY = date(2019, 3, 1)
N_TABLES = 4
"""Tables that one place keeps for one time."""
MAX_FOUND = 6

TABLES = (
    "CREATE TABLE restaurants (restaurant_name TEXT, city TEXT, cuisine TEXT, price_range TEXT,"
    " has_live_music TEXT, serves_alcohol TEXT, phone_number TEXT, street_address TEXT,"
    " PRIMARY KEY (city, restaurant_name))",
    "CREATE TABLE reservations (id INTEGER PRIMARY KEY, city TEXT NOT NULL,"
    " restaurant_name TEXT NOT NULL, date TEXT NOT NULL, time TEXT NOT NULL,"
    " party_size TEXT NOT NULL)",
)
_SHOWN = (
    "city", "cuisine", "has_live_music", "phone_number", "price_range", "restaurant_name",
    "serves_alcohol", "street_address",
)  # fmt: skip
_FILTERS = ("city", "cuisine", "price_range", "has_live_music", "serves_alcohol")


@cache
def description() -> job.Job:
    """Return the policy text and the three tools."""
    return job.read(files("edgeagent.scenarios.restaurants") / "job_description.json")


def open_file(path: Path | None) -> Database:
    """Return the guide on `path`, made from `SEED` if it is new; in memory without a path."""
    return Database(Desk("restaurants", VERSION, TABLES, seed, act, description().tools), path)


def seed(connection: sqlite3.Connection) -> None:
    """Write the guide into empty tables."""
    marks = ", ".join(f":{name}" for name in _SHOWN)
    connection.executemany(
        f"INSERT INTO restaurants ({', '.join(_SHOWN)}) VALUES ({marks})", generate(SEED)
    )


def act(connection: sqlite3.Connection, name: str, arguments: Mapping[str, Json]) -> ToolOutcome:
    """Run one tool; arguments fit its schema."""
    match name:
        case "FindRestaurants":
            return _find(connection, arguments)
        case "ReserveRestaurant":
            return _reserve(connection, arguments)
    return refused(f"{name} is not a tool of the guide")


def _find(connection: sqlite3.Connection, arguments: Mapping[str, Json]) -> ToolOutcome:
    if _of(CITIES, arguments["city"]) is None:
        return refused(f"the guide covers {', '.join(CITIES)}")
    if _of(CUISINES, arguments["cuisine"]) is None:
        return refused(f"the guide knows these cuisines: {', '.join(CUISINES)}")
    asked = [name for name in _FILTERS if name in arguments]
    where = " AND ".join(f"{name} = :{name} COLLATE NOCASE" for name in asked)
    rows = connection.execute(
        f"SELECT {', '.join(_SHOWN)} FROM restaurants WHERE {where}"
        f" ORDER BY restaurant_name LIMIT {MAX_FOUND}",
        {name: arguments[name].strip() for name in asked},
    )
    return answer([dict(zip(_SHOWN, row, strict=True)) for row in rows])


def _reserve(connection: sqlite3.Connection, arguments: Mapping[str, Json]) -> ToolOutcome:
    place = connection.execute(
        f"SELECT {', '.join(_SHOWN)} FROM restaurants"
        " WHERE city = ? COLLATE NOCASE AND restaurant_name = ? COLLATE NOCASE",
        (arguments["city"].strip(), arguments["restaurant_name"].strip()),
    ).fetchone()
    if place is None:
        return refused(f"no {arguments['restaurant_name']} in {arguments['city']}")
    shown = dict(zip(_SHOWN, place, strict=True))
    time, day = _time(arguments["time"]), _day(arguments.get("date", "today"))
    if time is None:
        return refused(f"time {arguments['time']!r} is not written like 18:30")
    if day is None:
        return refused(f"date {arguments['date']!r} is not a day from today, written YYYY-MM-DD")
    at = (shown["city"], shown["restaurant_name"], day, time)
    (n_taken,) = connection.execute(
        "SELECT COUNT(*) FROM reservations"
        " WHERE city = ? AND restaurant_name = ? AND date = ? AND time = ?",
        at,
    ).fetchone()
    if n_taken >= N_TABLES:
        return refused(f"no table left on {day} at {time}")
    party = arguments.get("party_size", "2")
    connection.execute(
        "INSERT INTO reservations (city, restaurant_name, date, time, party_size)"
        " VALUES (?, ?, ?, ?, ?)",
        (*at, party),
    )
    return answer([{**shown, "date": day, "time": time, "party_size": party}])


def _of(known: Mapping[str, object], said: str) -> str | None:
    return next((name for name in known if name.casefold() == said.strip().casefold()), None)


def _time(said: str) -> str | None:
    """Return `18:30` for `18:30`, `6:30 pm` or `6 p.m. `; None if it is no time of day."""
    pattern = r"(\d{1,2})(?::(\d\d))?\s*(?:([ap])\.?m\.?)?"
    found = re.fullmatch(pattern, said.strip(), re.IGNORECASE | re.ASCII)
    if found is None or not (found[2] or found[3]):
        return None
    hour, minute = int(found[1]), int(found[2] or 0)
    if found[3]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if found[3].lower() == "p" else 0)
    return f"{hour:02d}:{minute:02d}" if hour < 24 and minute < 60 else None


def _day(said: str) -> str | None:
    word = said.strip().casefold()
    if word in ("today", "tonight"):
        return TODAY.isoformat()
    if word == "tomorrow":
        return (TODAY + timedelta(days=1)).isoformat()
    try:
        day = date.fromisoformat(word)
    except ValueError:
        return None
    return day.isoformat() if day >= TODAY else None
