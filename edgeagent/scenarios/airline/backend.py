"""Open the airline desk under one of its two rule sets.

`policy` refuses what the airline's policy forbids and names the rule; `tau` does what tau-bench
does, bugs included (see `tau.py`).

    world = generate(seed=7, n_users=20, n_reservations=40, n_flights=100)
    desk = open_world(world)
    desk.call(Call("call_1", "get_user_details", {"user_id": next(iter(world.users))}), 1.0)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeAlias

from edgeagent.cascade import ToolOutcome
from edgeagent.messages import THINK, TRANSFER, Json
from edgeagent.scenarios import job
from edgeagent.scenarios.airline import tau
from edgeagent.scenarios.airline.certificates import send_certificate
from edgeagent.scenarios.airline.changes import (
    book_reservation,
    cancel_reservation,
    update_reservation_baggages,
    update_reservation_flights,
    update_reservation_passengers,
)
from edgeagent.scenarios.airline.checks import (
    Forbidden,
    known_reservation,
    known_user,
    statuses,
)
from edgeagent.scenarios.airline.data import generate
from edgeagent.scenarios.airline.records import TABLES, Records
from edgeagent.scenarios.airline.search import search_direct_flight, search_onestop_flight
from edgeagent.scenarios.airline.world import CITIES, World
from edgeagent.scenarios.calculator import calculate
from edgeagent.scenarios.database import Database, Desk, answer, refused

Rules: TypeAlias = Literal["policy", "tau"]

VERSION = 1
SEED = 2024
"""Of the desk that is made at the first start."""


@cache
def description() -> job.Job:
    """Return the policy text and the 16 tools."""
    return job.read(files("edgeagent.scenarios.airline") / "job_description.json")


def open_file(path: Path | None, rules: Rules = "policy") -> Database:
    """Return the desk on `path`, made from `SEED` if it is new; in memory without a path."""
    return Database(_desk(rules, lambda: generate(SEED)), path)


def open_world(world: World, rules: Rules = "policy", path: Path | None = None) -> Database:
    """Return a desk that holds `world`, in memory unless there is a path."""
    return Database(_desk(rules, lambda: world), path)


def world_of(desk: Database) -> World:
    """Return every document as it is, for comparing and hashing."""
    return Records(desk.connection).world()


def _desk(rules: Rules, make: Callable[[], World]) -> Desk:
    return Desk(
        title="airline",
        version=VERSION,
        tables=TABLES,
        seed=lambda connection: Records(connection).fill(make()),
        act=act if rules == "policy" else tau.act,
        tools=description().tools,
        is_strict=rules == "policy",
    )


def act(connection: sqlite3.Connection, name: str, arguments: Mapping[str, Json]) -> ToolOutcome:
    """Run one tool under the policy; arguments fit the tool's schema."""
    records = Records(connection)
    try:
        if name in _RESERVATION_TOOLS:
            return answer(_view(records, _RESERVATION_TOOLS[name](records, **arguments)))
        if name in _OTHER_TOOLS:
            return answer(_OTHER_TOOLS[name](records, **arguments))
    except Forbidden as exc:
        return refused(str(exc), exc.rule)
    match name:
        case "list_all_airports":
            return answer(CITIES)
        case "calculate":
            return _calculate(arguments["expression"])
        case _ if name == THINK:
            return ToolOutcome("")
        case _ if name == TRANSFER:
            return ToolOutcome("Transfer successful")
    return refused(f"{name} is not a tool of the desk")


def _view(records: Records, reservation: Json) -> Json:
    """Return the reservation with each segment's status, which the rules on cancelling ask for."""
    found = statuses(records, reservation)
    segments = [
        {**segment, "status": status}
        for segment, status in zip(reservation["flights"], found, strict=True)
    ]
    return {**reservation, "flights": segments}


def _calculate(expression: str) -> ToolOutcome:
    try:
        return ToolOutcome(calculate(expression))
    except (ValueError, ArithmeticError) as exc:
        return refused(str(exc))


_RESERVATION_TOOLS: Mapping[str, Callable[..., Json]] = {
    "get_reservation_details": known_reservation,
    "book_reservation": book_reservation,
    "cancel_reservation": cancel_reservation,
    "update_reservation_baggages": update_reservation_baggages,
    "update_reservation_flights": update_reservation_flights,
    "update_reservation_passengers": update_reservation_passengers,
}
_OTHER_TOOLS: Mapping[str, Callable[..., Json]] = {
    "get_user_details": known_user,
    "search_direct_flight": search_direct_flight,
    "search_onestop_flight": search_onestop_flight,
    "send_certificate": send_certificate,
}
