"""Sessions as append-only events in SQLite, and the outbox of turns that could not leave.

Knows nothing of models, tools or screens. Two processes may share one database: write-ahead
logging lets one write while others read, and a busy writer is waited for.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeagent import ledger
from edgeagent.errors import StoreError, UsageError
from edgeagent.events import (
    TRANSIENT,
    ApprovalGiven,
    Event,
    TurnEnded,
    TurnFailed,
    from_json,
    to_json,
)

SCHEMA_VERSION = 1
BUSY_S = 10.0
TITLE_LENGTH = 60

DURABLE = (ApprovalGiven, TurnEnded, TurnFailed)
"""Events that are on the disk, not only in the operating system, before `append` returns.

No write begins before its leave is stored, so a power cut after the write finds what led to it.
Such a commit carries every earlier one with it, the call itself included: the log is one file
that only grows. It costs 7 ms here where the others cost 0.2 ms, so the rest of a turn goes
without and is made durable by the turn's end.
"""

_SCHEMA = f"""
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    scenario TEXT NOT NULL,
    model TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE events (
    session_id TEXT NOT NULL REFERENCES sessions (id),
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (session_id, seq)
);
CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sessions (id),
    turn_seq INTEGER NOT NULL,
    text TEXT NOT NULL,
    reason TEXT NOT NULL,
    cause TEXT NOT NULL,
    added_at REAL NOT NULL,
    done_at REAL,
    outcome TEXT,
    answer TEXT,
    UNIQUE (session_id, turn_seq)
);
PRAGMA user_version = {SCHEMA_VERSION};
"""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session in a list."""

    id: str
    scenario: str
    model: str
    created_at: float
    """Seconds since the epoch."""
    used_at: float
    """When its last event was stored."""
    title: str
    """Beginning of the first customer message; empty before there is one."""
    n_turns: int


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A turn that the local model wanted to hand over and could not."""

    id: int
    session_id: str
    turn_seq: int
    """`seq` of the turn's first event."""
    text: str
    """What the customer had written."""
    reason: str
    """Why the model wanted to defer, in its words."""
    cause: str
    """Why it could not leave."""
    added_at: float


class Store:
    """The open database. Safe to use from several threads; close it when done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with _explained(path):
            # The write-ahead log takes over the permissions of the database file.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            with _explained(path):
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def create_session(self, scenario: str, model: str) -> str:
        """Return the id of a session that has no events yet."""
        session_id = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        with self._transaction() as db:
            db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?)",
                (session_id, scenario, model, time.time()),
            )
        return session_id

    def use_model(self, session_id: str, model: str) -> None:
        """Note the model that the session goes on with."""
        with self._transaction() as db:
            db.execute("UPDATE sessions SET model = ? WHERE id = ?", (model, session_id))

    def append(self, session_id: str, event: Event) -> int:
        """Store the event as the session's next one and return its `seq`."""
        assert not isinstance(event, TRANSIENT), "progress is shown, not stored"
        # ASCII on purpose: a remote may send half a surrogate pair, which SQLite would refuse.
        body = json.dumps(to_json(event), separators=(",", ":"))
        with self._transaction(durable=isinstance(event, DURABLE)) as db:
            (seq,) = db.execute(
                "SELECT COALESCE(MAX(seq) + 1, 0) FROM events WHERE session_id = ?", (session_id,)
            ).fetchone()
            db.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
                (session_id, seq, time.time(), type(event).__name__, body),
            )
        return int(seq)

    def events(self, session_id: str) -> list[Event]:
        """Return the session's events, oldest first."""
        rows = self._rows("SELECT body FROM events WHERE session_id = ? ORDER BY seq", session_id)
        try:
            return [from_json(json.loads(body)) for (body,) in rows]
        except (ValueError, KeyError, TypeError) as exc:
            raise StoreError(
                f"session {session_id} in {self.path} holds an event that this version "
                f"cannot read ({exc!r}); start a new session or update edgeagent"
            ) from exc

    def sessions(self) -> list[SessionRow]:
        """Return all sessions, the one used last first."""
        rows = self._rows(
            """
            SELECT s.id, s.scenario, s.model, s.created_at, COALESCE(MAX(e.at), s.created_at),
                   (SELECT json_extract(body, '$.text') FROM events
                    WHERE session_id = s.id AND kind = 'TurnStarted' ORDER BY seq LIMIT 1),
                   COALESCE(SUM(e.kind = 'TurnStarted'), 0)
            FROM sessions s LEFT JOIN events e ON e.session_id = s.id
            GROUP BY s.id ORDER BY 5 DESC, s.rowid DESC
            """
        )
        return [
            SessionRow(key, scenario, model, created, used, title_of(text or ""), n_turns)
            for key, scenario, model, created, used, text, n_turns in rows
        ]

    def session(self, id_or_start: str) -> SessionRow:
        """Return the session whose id is, or alone begins with, `id_or_start`.

        Raises:
            UsageError: none or several sessions answer to it.
        """
        found = [row for row in self.sessions() if row.id.startswith(id_or_start)]
        exact = [row for row in found if row.id == id_or_start]
        if len(exact or found) == 1:
            return (exact or found)[0]
        what = f"{len(found)} sessions' ids begin" if found else "no session's id begins"
        raise UsageError(f"{what} with {id_or_start!r}; list them with: edgeagent sessions list")

    def latest(self) -> SessionRow | None:
        """Return the session used last among those with a turn; None where there is none."""
        return next((row for row in self.sessions() if row.n_turns), None)

    def export(self, session_id: str) -> dict[str, Any]:
        """Return all that is stored of the session and what its steps cost, for `json.dumps`."""
        row = self.session(session_id)
        events = self._rows(
            "SELECT seq, at, body FROM events WHERE session_id = ? ORDER BY seq", row.id
        )
        return {
            "session": row.id,
            "scenario": row.scenario,
            "model": row.model,
            "created_at": row.created_at,
            "title": row.title,
            "events": [{"seq": seq, "at": at, **json.loads(body)} for seq, at, body in events],
            "ledger": [dataclasses.asdict(step) for step in ledger.rows(self.events(row.id))],
        }

    def fork(self, session_id: str, before_seq: int) -> str:
        """Return the id of a copy of the session that ends before the event `before_seq`."""
        row = self.session(session_id)
        fork_id = self.create_session(row.scenario, row.model)
        with self._transaction() as db:
            db.execute(
                "INSERT INTO events SELECT ?, seq, at, kind, body FROM events"
                " WHERE session_id = ? AND seq < ?",
                (fork_id, row.id, before_seq),
            )
        return fork_id

    def outbox_add(self, session_id: str, turn_seq: int, text: str, reason: str, cause: str) -> int:
        """Queue the turn and return the entry's id; a turn is queued once."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO outbox (session_id, turn_seq, text, reason, cause, added_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (session_id, turn_seq, text, reason, cause, time.time()),
            )
            (entry,) = db.execute(
                "SELECT id FROM outbox WHERE session_id = ? AND turn_seq = ?",
                (session_id, turn_seq),
            ).fetchone()
        return int(entry)

    def outbox(self) -> list[OutboxRow]:
        """Return the turns that still wait, oldest first."""
        rows = self._rows(
            "SELECT id, session_id, turn_seq, text, reason, cause, added_at FROM outbox"
            " WHERE done_at IS NULL ORDER BY id"
        )
        return [OutboxRow(*row) for row in rows]

    def outbox_done(self, entry_id: int, outcome: str, answer: str | None = None) -> None:
        """Take the entry out of the queue; `outcome` is `replayed` or `dropped`."""
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE outbox SET done_at = ?, outcome = ?, answer = ?"
                " WHERE id = ? AND done_at IS NULL",
                (time.time(), outcome, answer, entry_id),
            ).rowcount
        if not changed:
            raise UsageError(
                f"no outbox entry {entry_id} is waiting; list them with: edgeagent outbox list"
            )

    def close(self) -> None:
        """Close the database; the store cannot be used afterwards."""
        with self._lock:
            self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _statements(_SCHEMA):
                    self._db.execute(statement)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by a newer edgeagent (format {version}); "
                "update edgeagent, or move the file aside to start without its sessions"
            )

    @contextmanager
    def _transaction(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        with self._lock, _explained(self.path):
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._lock, _explained(self.path):
            return self._db.execute(query, values).fetchall()


@contextmanager
def held(store: Store, session_id: str) -> Iterator[None]:
    """Keep every other process, and every other `Session`, from writing into the session.

    The operating system lets go of the lock when the process ends, however it ends.

    Raises:
        StoreError: the session is open elsewhere.
    """
    folder = store.path.parent / "locks"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / session_id
    while True:
        lock = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(lock)
            raise StoreError(
                f"session {session_id} is open in another edgeagent; "
                "end that one or start without -c/--resume"
            ) from exc
        if os.fstat(lock).st_nlink:
            break
        os.close(lock)  # its holder removed it between our open and our lock
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(lock)


def title_of(text: str) -> str:
    """Return the beginning of a customer's message as one line."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"


def _statements(script: str) -> Iterator[str]:
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # ours to mend, not the file's
    except sqlite3.OperationalError as exc:
        advice = (
            "another edgeagent is writing; wait for it or end it"
            if "locked" in str(exc)
            else "see that the disk has room and that you may write there"
        )
        raise StoreError(f"cannot use the sessions in {path}: {exc}; {advice}") from exc
    except sqlite3.DatabaseError as exc:
        raise StoreError(
            f"the sessions in {path} are damaged: {exc}; move the file aside "
            f"(mv {path} {path}.damaged) to start without them, "
            f"`sqlite3 {path}.damaged .recover` shows what can be saved"
        ) from exc
    except OSError as exc:
        raise StoreError(f"cannot open the sessions in {path}: {exc.strerror}") from exc
