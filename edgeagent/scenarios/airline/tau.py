"""tau-bench's airline tools as they are, bugs included, so that its episodes replay exactly.

Knows no policy: nothing is refused that tau-bench accepts. Error texts, the order of checks and
the ids it makes are tau-bench's.
Source: sierra-research/tau-bench 59a200c, envs/airline (MIT); re-implemented from its behaviour.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from edgeagent.cascade import ToolOutcome
from edgeagent.errors import ScenarioError
from edgeagent.messages import Json
from edgeagent.scenarios.airline.records import TABLES, Records
from edgeagent.scenarios.airline.world import CITIES, World
from edgeagent.scenarios.calculator import calculate as calculated

Document = TypeVar("Document")

CREATED_AT = "2024-05-15T15:00:00"
RESERVATION_IDS = ("HATHAT", "HATHAU", "HATHAV")
"""A fourth booking overwrites the third."""
CERTIFICATE_IDS = ("certificate_3221322", "certificate_3221323", "certificate_3221324")


class _Told(Exception):
    """An error that tau-bench returns as text."""


def act(connection: sqlite3.Connection, name: str, arguments: Mapping[str, Json]) -> ToolOutcome:
    """Run one tool; whatever goes wrong inside becomes `Error: …`, as tau-bench's `Env` does."""
    tool = TOOLS.get(name)
    if tool is None:
        return ToolOutcome(f"Unknown action {name}", is_error=True)
    try:
        return ToolOutcome(tool(Records(connection), **copy.deepcopy(dict(arguments))))
    except (
        _Told, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, sqlite3.Error
    ) as exc:  # fmt: skip
        return ToolOutcome(f"Error: {exc}", is_error=True)


def import_tau(folder: Path) -> World:
    """Return the world in tau-bench's users, flights and reservations files (`.json`, `.json.gz`).

    Raises:
        ScenarioError: a file is missing or does not hold an object of objects.
    """
    return World(
        users=_documents(folder, "users"),
        flights=_documents(folder, "flights"),
        reservations=_documents(folder, "reservations"),
    )


def final_db_sha256(world: World) -> str:
    """Return the hash that tau-bench compares two databases by; about 0.2 s for its own data."""
    return _sha256(
        (("flights", world.flights), ("reservations", world.reservations), ("users", world.users)),
        lambda document: repr(_hashable(document)),
    )


def _sha256(
    tables: Iterable[tuple[str, Mapping[str, Document]]], shown: Callable[[Document], str]
) -> str:
    """Return the hash of `repr` of nested tuples, which is put together document by document."""
    told = ", ".join(
        f"({name!r}, {_tuple(f'({key!r}, {shown(rows[key])})' for key in sorted(rows))})"
        for name, rows in tables
    )
    return hashlib.sha256(f"({told})".encode()).hexdigest()


def _tuple(shown: Iterable[str]) -> str:
    parts = list(shown)
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def replay(db_dir: Path, tasks: Iterable[Mapping[str, Json]]) -> Iterator[tuple[Json, str]]:
    """Yield (task id, hash of the database after the task's own actions), each on fresh data."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for statement in TABLES:
            connection.execute(statement)
        Records(connection).fill(import_tau(db_dir))
        # Nearly every document is the same after every task: 12 s → 1 s for tau-bench's 25.
        shown = cache(lambda text: repr(_hashable(json.loads(text))))
        for task in tasks:
            connection.execute("BEGIN")
            for action in task["actions"]:
                act(connection, action["name"], action["kwargs"])
            yield task["id"], _sha256(_rows(connection), shown)
            connection.execute("ROLLBACK")
    finally:
        connection.close()


def _rows(connection: sqlite3.Connection) -> Iterator[tuple[str, dict[str, str]]]:
    for table in ("flights", "reservations", "users"):
        yield table, dict(connection.execute(f"SELECT id, document FROM {table}").fetchall())


def _documents(folder: Path, name: str) -> dict[str, Json]:
    plain, packed = folder / f"{name}.json", folder / f"{name}.json.gz"
    path = plain if plain.exists() else packed
    try:
        raw = path.read_bytes()
        found = json.loads(gzip.decompress(raw) if path is packed else raw)
    except FileNotFoundError as exc:
        raise ScenarioError(f"{folder} holds neither {plain.name} nor {packed.name}") from exc
    except (OSError, EOFError, ValueError) as exc:
        raise ScenarioError(f"cannot read tau-bench data in {path}: {exc}") from exc
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise ScenarioError(f"{path} is not tau-bench data: an object of objects is expected")
    return found


def _hashable(value: Json) -> Json:
    if isinstance(value, dict):
        return tuple((key, _hashable(one)) for key, one in sorted(value.items()))
    if isinstance(value, list):
        return tuple(_hashable(one) for one in value)
    return value


def _get_user_details(records: Records, user_id: str) -> str:
    return json.dumps(_user(records, user_id))


def _get_reservation_details(records: Records, reservation_id: str) -> str:
    # "user not found" is tau-bench's own text for a missing reservation.
    return json.dumps(_reservation(records, reservation_id, "user not found"))


def _list_all_airports(records: Records) -> str:
    return json.dumps(CITIES)


def _search_direct_flight(records: Records, origin: str, destination: str, date: str) -> str:
    return json.dumps(
        [
            {**_timetable(flight), **flight["dates"][date]}
            for flight in records.flights_between(origin, destination)
            if _is_available(flight, date)
        ]
    )


def _search_onestop_flight(records: Records, origin: str, destination: str, date: str) -> str:
    pairs = []
    for first in records.flights_from(origin):
        landing = first["scheduled_arrival_time_est"]
        day = f"2024-05-{int(date[-2:]) + 1}" if "+1" in landing else date
        for second in records.flights_between(first["destination"], destination):
            if landing > second["scheduled_departure_time_est"]:
                continue
            if _is_available(first, date) and _is_available(second, day):
                # The second leg shows the first day's seats and prices, as in tau-bench.
                pairs.append(
                    [
                        {**_timetable(first), **first["dates"][date], "date": date},
                        {**_timetable(second), **second["dates"][date], "date": day},
                    ]
                )
    return json.dumps(pairs)


def _timetable(flight: Json) -> Json:
    return {key: value for key, value in flight.items() if key != "dates"}


def _is_available(flight: Json, day: str) -> bool:
    return day in flight["dates"] and bool(flight["dates"][day]["status"] == "available")


def _book_reservation(
    records: Records,
    user_id: str,
    origin: str,
    destination: str,
    flight_type: str,
    cabin: str,
    flights: list[Json],
    passengers: list[Json],
    payment_methods: list[Json],
    total_baggages: int,
    nonfree_baggages: int,
    insurance: str,
) -> str:
    user = _user(records, user_id)
    for flight in flights:
        _price(records, flight, cabin, len(passengers))
    total = sum(flight["price"] * len(passengers) for flight in flights)
    if insurance == "yes":
        total += 30 * len(passengers)
    total += 50 * nonfree_baggages
    _check_payments(user, payment_methods, total)
    try:
        _pay(user, payment_methods)
    finally:
        # A certificate that pays twice is gone after the first time, and then there is an error.
        records.save_user(user_id, user)
    taken = [made for made in RESERVATION_IDS[:2] if records.reservation(made) is not None]
    reservation = {
        "reservation_id": RESERVATION_IDS[len(taken) if taken[:1] == ["HATHAT"] else 0],
        "user_id": user_id,
        "origin": origin,
        "destination": destination,
        "flight_type": flight_type,
        "cabin": cabin,
        "flights": flights,
        "passengers": passengers,
        "payment_history": payment_methods,
        "created_at": CREATED_AT,
        "total_baggages": total_baggages,
        "nonfree_baggages": nonfree_baggages,
        "insurance": insurance,
    }
    user["reservations"].append(reservation["reservation_id"])
    records.save_user(user_id, user)
    records.save_reservation(reservation)
    return json.dumps(reservation)


def _check_payments(user: Json, payments: Sequence[Json], total: int) -> None:
    methods = user["payment_methods"]
    for payment in payments:
        payment_id, amount = payment["payment_id"], payment["amount"]
        if payment_id not in methods:
            raise _Told(f"payment method {payment_id} not found")
        is_limited = methods[payment_id]["source"] in ("gift_card", "certificate")
        if is_limited and methods[payment_id]["amount"] < amount:
            raise _Told(f"not enough balance in payment method {payment_id}")
    paid = sum(payment["amount"] for payment in payments)
    if paid != total:
        raise _Told(f"payment amount does not add up, total price is {total}, but paid {paid}")


def _pay(user: Json, payments: Sequence[Json]) -> None:
    methods = user["payment_methods"]
    for payment in payments:
        method = methods[payment["payment_id"]]
        if method["source"] == "gift_card":
            method["amount"] -= payment["amount"]
        elif method["source"] == "certificate":
            del methods[payment["payment_id"]]


def _cancel_reservation(records: Records, reservation_id: str) -> str:
    reservation = _reservation(records, reservation_id)
    reservation["payment_history"] += [
        {"payment_id": payment["payment_id"], "amount": -payment["amount"]}
        for payment in reservation["payment_history"]
    ]
    reservation["status"] = "cancelled"
    records.save_reservation(reservation)
    return json.dumps(reservation)


def _update_reservation_flights(
    records: Records, reservation_id: str, cabin: str, flights: list[Json], payment_id: str
) -> str:
    reservation = _reservation(records, reservation_id)
    n_passengers = len(reservation["passengers"])
    for flight in flights:
        same = [
            old
            for old in reservation["flights"]
            if old["flight_number"] == flight["flight_number"]
            and old["date"] == flight["date"]
            and cabin == reservation["cabin"]
        ]
        if same:
            for key in ("price", "origin", "destination"):
                flight[key] = same[0][key]
        else:
            _price(records, flight, cabin, n_passengers)
    total = sum(flight["price"] * n_passengers for flight in flights)
    total -= sum(flight["price"] for flight in reservation["flights"]) * n_passengers
    # The cabin of the reservation stays as it was, as in tau-bench.
    reservation["flights"] = flights
    return _charge(records, reservation, payment_id, total)


def _update_reservation_baggages(
    records: Records,
    reservation_id: str,
    total_baggages: int,
    nonfree_baggages: int,
    payment_id: str,
) -> str:
    reservation = _reservation(records, reservation_id)
    total = 50 * max(0, nonfree_baggages - reservation["nonfree_baggages"])
    reservation["total_baggages"] = total_baggages
    reservation["nonfree_baggages"] = nonfree_baggages
    return _charge(records, reservation, payment_id, total)


def _charge(records: Records, reservation: Json, payment_id: str, total: int) -> str:
    """Charge a change and save it; nothing is saved when the payment is refused."""
    user = _user(records, reservation["user_id"])
    method = user["payment_methods"].get(payment_id)
    if method is None:
        raise _Told("payment method not found")
    if method["source"] == "certificate":
        raise _Told("certificate cannot be used to update reservation")
    if method["source"] == "gift_card":
        if method["amount"] < total:
            raise _Told("gift card balance is not enough")
        method["amount"] -= total
    if total != 0:
        reservation["payment_history"].append({"payment_id": payment_id, "amount": total})
    records.save_user(reservation["user_id"], user)
    records.save_reservation(reservation)
    return json.dumps(reservation)


def _update_reservation_passengers(
    records: Records, reservation_id: str, passengers: list[Json]
) -> str:
    reservation = _reservation(records, reservation_id)
    if len(passengers) != len(reservation["passengers"]):
        raise _Told("number of passengers does not match")
    reservation["passengers"] = passengers
    records.save_reservation(reservation)
    return json.dumps(reservation)


def _send_certificate(records: Records, user_id: str, amount: int) -> str:
    user = _user(records, user_id)
    for made in CERTIFICATE_IDS:
        if made not in user["payment_methods"]:
            user["payment_methods"][made] = {
                "source": "certificate",
                "amount": amount,
                "id": made,
            }
            records.save_user(user_id, user)
            return f"Certificate {made} added to user {user_id} with amount {amount}."
    return "None"


def _price(records: Records, flight: Json, cabin: str, n_passengers: int) -> None:
    """Write price, origin and destination into a requested flight."""
    number = flight["flight_number"]
    known = records.flight(number)
    if known is None:
        raise _Told(f"flight {number} not found")
    if flight["date"] not in known["dates"]:
        raise _Told(f"flight {number} not found on date {flight['date']}")
    facts = known["dates"][flight["date"]]
    if facts["status"] != "available":
        raise _Told(f"flight {number} not available on date {flight['date']}")
    if facts["available_seats"][cabin] < n_passengers:
        raise _Told(f"not enough seats on flight {number}")
    flight["price"] = facts["prices"][cabin]
    flight["origin"] = known["origin"]
    flight["destination"] = known["destination"]


def _user(records: Records, user_id: str) -> Json:
    user = records.user(user_id)
    if user is None:
        raise _Told("user not found")
    return user


def _reservation(
    records: Records, reservation_id: str, missing: str = "reservation not found"
) -> Json:
    reservation = records.reservation(reservation_id)
    if reservation is None:
        raise _Told(missing)
    return reservation


TOOLS: Mapping[str, Callable[..., str]] = {
    "book_reservation": _book_reservation,
    "calculate": lambda records, expression: calculated(expression),
    "cancel_reservation": _cancel_reservation,
    "get_reservation_details": _get_reservation_details,
    "get_user_details": _get_user_details,
    "list_all_airports": _list_all_airports,
    "search_direct_flight": _search_direct_flight,
    "search_onestop_flight": _search_onestop_flight,
    "send_certificate": _send_certificate,
    "think": lambda records, thought: "",
    "transfer_to_human_agents": lambda records, summary: "Transfer successful",
    "update_reservation_baggages": _update_reservation_baggages,
    "update_reservation_flights": _update_reservation_flights,
    "update_reservation_passengers": _update_reservation_passengers,
}
