"""The airline's documents in SQLite, one JSON document per row.

Knows nothing of rules. Integers, floats and key order survive, so a world hashes the same
before and after.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

from edgeagent.messages import Json
from edgeagent.scenarios.airline.world import World

TABLES = (
    "CREATE TABLE users (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE reservations (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE flights (id TEXT PRIMARY KEY, origin TEXT NOT NULL, destination TEXT NOT NULL,"
    " document TEXT NOT NULL)",
    "CREATE INDEX flights_origin ON flights (origin)",
    "CREATE TABLE claims (reservation_id TEXT NOT NULL, kind TEXT NOT NULL,"
    " n_passengers INTEGER NOT NULL, certificate_id TEXT, PRIMARY KEY (reservation_id, kind))",
)
"""`claims`: a disturbance that a reservation had, and the certificate that made up for it."""


class Records:
    """Reads and saves documents; the transaction is the caller's."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def user(self, user_id: str) -> Json | None:
        """Return the user's document, None if there is none."""
        return self._one("users", user_id)

    def reservation(self, reservation_id: str) -> Json | None:
        """Return the reservation's document, None if there is none."""
        return self._one("reservations", reservation_id)

    def flight(self, number: str) -> Json | None:
        """Return the flight's document with all its dates, None if there is none."""
        return self._one("flights", number)

    def flights_from(self, origin: str) -> Iterator[Json]:
        """Yield the flights that leave an airport, in the order they were stored."""
        rows = self.connection.execute(
            "SELECT document FROM flights WHERE origin = ? ORDER BY rowid", (origin,)
        )
        for (document,) in rows.fetchall():
            yield json.loads(document)

    def flights_between(self, origin: str, destination: str) -> Iterator[Json]:
        """Yield the flights between two airports, in the order they were stored."""
        rows = self.connection.execute(
            "SELECT document FROM flights WHERE origin = ? AND destination = ? ORDER BY rowid",
            (origin, destination),
        )
        for (document,) in rows.fetchall():
            yield json.loads(document)

    def save_user(self, user_id: str, document: Json) -> None:
        """Replace the user's document."""
        self._save("users", user_id, document)

    def save_reservation(self, document: Json) -> None:
        """Store a reservation under the id it carries."""
        self._save("reservations", document["reservation_id"], document)

    def save_flight(self, document: Json) -> None:
        """Store a flight under the number it carries."""
        self.connection.execute(
            "INSERT INTO flights VALUES (?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET document = excluded.document",
            (
                document["flight_number"],
                document["origin"],
                document["destination"],
                json.dumps(document),
            ),
        )

    def fill(self, world: World) -> None:
        """Store a whole world in empty tables."""
        for flight in world.flights.values():
            self.save_flight(flight)
        for user_id, user in world.users.items():
            self.save_user(user_id, user)
        for reservation in world.reservations.values():
            self.save_reservation(reservation)

    def world(self) -> World:
        """Return every document; about 60 ms for tau-bench's 300 flights and 2,000 reservations."""
        return World(self._all("users"), self._all("flights"), self._all("reservations"))

    def _one(self, table: str, key: Json) -> Json | None:
        if not isinstance(key, str):
            return None  # SQLite would take the number 429815 for the id of that spelling
        row = self.connection.execute(f"SELECT document FROM {table} WHERE id = ?", (key,))
        found = row.fetchone()
        return None if found is None else json.loads(found[0])

    def _all(self, table: str) -> dict[str, Json]:
        rows = self.connection.execute(f"SELECT id, document FROM {table} ORDER BY rowid")
        return {key: json.loads(document) for key, document in rows}

    def _save(self, table: str, key: str, document: Json) -> None:
        # An upsert keeps the row's place, and with it the order of every listing.
        self.connection.execute(
            f"INSERT INTO {table} VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET document = excluded.document",
            (key, json.dumps(document)),
        )
