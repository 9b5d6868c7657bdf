"""A scenario's own database: calls in, outcomes out, each write exactly once.

Knows nothing of any scenario: rows and rules come from the `Desk` it is given. A write and its
receipt are one transaction, so whoever asks again after a crash gets the receipt or a first run.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jsonschema import Draft202012Validator

from edgeagent.cascade import ToolOutcome
from edgeagent.errors import ScenarioError
from edgeagent.messages import Call, Json, Tool, ToolKind

RECEIPTS = """
CREATE TABLE receipts (
    call_id TEXT PRIMARY KEY, name TEXT NOT NULL, arguments TEXT NOT NULL,
    content TEXT NOT NULL, is_error INTEGER NOT NULL
)
"""


@dataclass(frozen=True, slots=True)
class Desk:
    """What makes one scenario out of an empty database."""

    title: str
    version: int
    """Of the tables, 1 or more; a file made by another version is refused, not guessed at."""
    tables: Sequence[str]
    """`CREATE` statements, one each."""
    seed: Callable[[sqlite3.Connection], None]
    """Fills the tables."""
    act: Callable[[sqlite3.Connection, str, Mapping[str, Json]], ToolOutcome]
    """Runs one tool inside a transaction; an error outcome undoes whatever it changed."""
    tools: tuple[Tool, ...]
    is_strict: bool = True
    """Arguments are held against the tool's schema, and unknown tools refused, before `act`."""


class Database:
    """The backend of one built-in scenario, on a file or in memory.

    Used by one thread at a time, which need not be the one that made it.
    """

    is_own = True

    def __init__(self, desk: Desk, path: Path | None = None) -> None:
        """Open `path`, or a database in memory; an empty one is created and seeded.

        Raises:
            ScenarioError: the file is no database, is made by another version, or is not writable.
        """
        self._desk = desk
        self._path = path
        self._lock = threading.Lock()
        self._kinds = {tool.name: tool.kind for tool in desk.tools}
        self._checks = {tool.name: Draft202012Validator(tool.parameters) for tool in desk.tools}
        where = str(path or ":memory:")
        try:
            self.connection = sqlite3.connect(where, isolation_level=None, check_same_thread=False)
            # Whoever forgets `close` leaves no open file behind either.
            weakref.finalize(self, self.connection.close)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")
            self._create()
        except sqlite3.Error as exc:
            raise ScenarioError(
                f"cannot use the {desk.title} database {where}: {exc}; move the file away to "
                "start with fresh data"
            ) from exc

    def call(self, call: Call, timeout_s: float) -> ToolOutcome:
        """Run the call, or return the receipt of the same call; blocks for at most `timeout_s`."""
        if self._desk.is_strict and (problem := self._misfit(call)):
            return refused(problem)
        if not self._lock.acquire(timeout=timeout_s):
            return refused("the database is busy, try again")
        try:
            self.connection.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")
            if self._kinds.get(call.name) is ToolKind.WRITE:
                return self._write(call)
            with self._transaction("DEFERRED"):
                return self._desk.act(self.connection, call.name, call.arguments)
        except (sqlite3.Error, ValueError, OverflowError) as exc:
            # Lone surrogates and integers beyond 64 bits pass a JSON Schema and no database.
            return refused(f"the database cannot do this: {exc}")
        finally:
            self._lock.release()

    def receipt(self, call_id: str) -> ToolOutcome | None:
        """Return the outcome of a write that was executed, None if it was not."""
        with self._lock:
            row = self._receipt(call_id)
        return None if row is None else ToolOutcome(row[2], bool(row[3]))

    def reset(self) -> None:
        """Throw everything away, receipts included, and seed afresh."""
        with self._lock, self._transaction("IMMEDIATE"):
            names = self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (name,) in names.fetchall():
                self.connection.execute(f'DROP TABLE "{name}"')
            self._fill()

    def close(self) -> None:
        """Let go of the file; nothing may be called afterwards."""
        with self._lock:
            self.connection.close()

    def _write(self, call: Call) -> ToolOutcome:
        arguments = json.dumps(dict(call.arguments), sort_keys=True)
        with self._transaction("IMMEDIATE"):
            done = self._receipt(call.id)
            if done is not None:
                if done[:2] != (call.name, arguments):
                    return refused(f"call id {call.id} belongs to an earlier, different call")
                return ToolOutcome(done[2], bool(done[3]))
            self.connection.execute("SAVEPOINT effect")
            outcome = self._desk.act(self.connection, call.name, call.arguments)
            if outcome.is_error:
                self.connection.execute("ROLLBACK TO effect")
            self.connection.execute(
                "INSERT INTO receipts VALUES (?, ?, ?, ?, ?)",
                (call.id, call.name, arguments, outcome.content, outcome.is_error),
            )
        return outcome

    def _receipt(self, call_id: str) -> tuple[str, str, str, int] | None:
        rows = self.connection.execute(
            "SELECT name, arguments, content, is_error FROM receipts WHERE call_id = ?", (call_id,)
        )
        found: tuple[str, str, str, int] | None = rows.fetchone()
        return found

    def _misfit(self, call: Call) -> str | None:
        check = self._checks.get(call.name)
        if check is None:
            return f"unknown tool {call.name}"
        for error in check.iter_errors(dict(call.arguments)):
            return f"{error.json_path.replace('$', 'arguments', 1)}: {error.message[:200]}"
        return None

    def _create(self) -> None:
        with self._transaction("IMMEDIATE"):
            (version,) = self.connection.execute("PRAGMA user_version").fetchone()
            if version == self._desk.version:
                return
            (n_tables,) = self.connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            if version or n_tables:
                raise ScenarioError(
                    f"{self._path} holds version {version} of the {self._desk.title} data, this "
                    f"program needs {self._desk.version}; move the file away to start afresh"
                )
            self._fill()

    def _fill(self) -> None:
        for statement in (RECEIPTS, *self._desk.tables):
            self.connection.execute(statement)
        self._desk.seed(self.connection)
        self.connection.execute(f"PRAGMA user_version = {int(self._desk.version)}")

    @contextmanager
    def _transaction(self, mode: str) -> Iterator[None]:
        self.connection.execute(f"BEGIN {mode}")
        try:
            yield
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")


def refused(error: str, rule: str | None = None) -> ToolOutcome:
    """Return an error that a model can read; `rule` names the policy rule that forbids it."""
    told = {"error": error} if rule is None else {"error": error, "rule": rule}
    return ToolOutcome(json.dumps(told, ensure_ascii=False), is_error=True)


def answer(value: Json) -> ToolOutcome:
    """Return a result as compact JSON."""
    return ToolOutcome(json.dumps(value, ensure_ascii=False))
