"""The store: append-only, shared by processes, honest about damage."""

from __future__ import annotations

import multiprocessing
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeagent.errors import StoreError, UsageError
from edgeagent.events import (
    Answered,
    ApprovalGiven,
    ApprovalNeeded,
    ContextTrimmed,
    Decision,
    Deferred,
    EngineRestarted,
    Event,
    Question,
    RemoteFailed,
    Stats,
    StepStarted,
    Stop,
    TextSaid,
    Tier,
    Token,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnFailed,
    TurnStarted,
)
from edgeagent.messages import Call, Usage, Verdict
from edgeagent.store import Store, held, title_of

CALL = Call("call_1", "cancel_reservation", {"reservation_id": "ZFA04Y", "nested": {"n": [1.5]}})
EVERY_STORED_EVENT: tuple[Event, ...] = (
    TurnStarted("xin chào \u0000 <|im_start|> 👩‍✈️"),
    StepStarted(1, Tier.LOCAL),
    ToolCalled(CALL, Tier.LOCAL, Verdict(False, 0.01, "greedy"), Usage(n_prompt=7), 12.5),
    ToolCalled(CALL, Tier.REMOTE, None, Usage(cost_usd=0.25), 12.5),
    ApprovalNeeded(CALL, Question.WRITE, "cancel ZFA04Y"),
    ApprovalGiven(CALL.id, Question.WRITE, Decision.ALWAYS),
    ToolReturned(CALL.id, CALL.name, '{"status": "cancelled"}', False, 3.0),
    TextSaid("None of the provided tools…", Tier.OFFLINE, Usage(), 1.0),
    Deferred("too hard", "outbox", "offline"),
    RemoteFailed("RemoteTimeout", "too slow"),
    EngineRestarted("signal 9"),
    ContextTrimmed(2),
    Answered("Done \ud800.", Tier.OFFLINE),
    TurnEnded(Stop.ANSWERED, Stats(2, 99.0, Usage(n_decoded=5))),
    TurnFailed("the disk is full"),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "sessions.db")
    yield store
    store.close()


def test_every_stored_event_comes_back_equal(store: Store) -> None:
    session = store.create_session("airline", "nano")
    for seq, event in enumerate(EVERY_STORED_EVENT):
        assert store.append(session, event) == seq
    assert tuple(store.events(session)) == EVERY_STORED_EVENT


def test_progress_is_not_stored(store: Store) -> None:
    session = store.create_session("airline", "nano")
    with pytest.raises(AssertionError):
        store.append(session, Token("<tool"))


def test_events_can_be_neither_changed_nor_deleted(store: Store) -> None:
    session = store.create_session("airline", "nano")
    store.append(session, TurnStarted("hello"))
    other = sqlite3.connect(store.path)
    for statement in ("DELETE FROM events", "UPDATE events SET body = '{}'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            other.execute(statement)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        other.execute("INSERT INTO events VALUES (?, 0, 0, 'Token', '{}')", (session,))
    other.close()
    assert store.events(session) == [TurnStarted("hello")]


def _append_fifty(path: Path, session: str, name: str) -> None:
    store = Store(path)
    for number in range(50):
        store.append(session, TurnStarted(f"{name} {number}"))
    store.close()


def test_two_processes_write_without_losing_or_reordering(store: Store) -> None:
    session = store.create_session("airline", "nano")
    spawn = multiprocessing.get_context("spawn")
    writers = [
        spawn.Process(target=_append_fifty, args=(store.path, session, name)) for name in "ab"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    texts = [event.text for event in store.events(session) if isinstance(event, TurnStarted)]
    for name in "ab":
        assert [t for t in texts if t.startswith(name)] == [f"{name} {n}" for n in range(50)]
    assert len(texts) == 100


def test_files_are_for_their_owner_only(store: Store) -> None:
    session = store.create_session("airline", "nano")
    store.append(session, TurnStarted("hello"))
    for suffix in ("", "-wal", "-shm"):
        mode = Path(f"{store.path}{suffix}").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600, suffix


@pytest.mark.parametrize("rubbish", [b"this is no database, it only looks long enough" * 100])
def test_a_damaged_database_says_what_to_do(tmp_path: Path, rubbish: bytes) -> None:
    path = tmp_path / "sessions.db"
    path.write_bytes(rubbish)
    with pytest.raises(StoreError, match=r"damaged.*move the file aside"):
        Store(path)


def test_a_page_damaged_inside_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    store = Store(path)
    session = store.create_session("airline", "nano")
    for _ in range(200):
        store.append(session, TurnStarted("hello " * 50))
    store.close()
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"move the file aside"):  # noqa: PT012
        damaged = Store(path)
        try:
            damaged.events(session)
        finally:
            damaged.close()


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer edgeagent"):
        Store(path)
    assert path.read_bytes() == before


def test_a_folder_that_is_missing_is_an_error_and_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        Store(tmp_path / "nowhere" / "sessions.db")


def test_sessions_are_listed_newest_use_first_with_the_first_message_as_title(
    store: Store,
) -> None:
    first = store.create_session("airline", "nano")
    second = store.create_session("orders", "nano:Q8_0")
    unused = store.create_session("airline", "nano")
    store.append(second, TurnStarted("Where is\n my   order?"))
    store.append(first, TurnStarted("hello"))
    store.append(first, TurnStarted("and again"))
    rows = {row.id: row for row in store.sessions()}
    assert rows[second].title == "Where is my order?"
    assert (rows[first].title, rows[first].n_turns) == ("hello", 2)
    assert (rows[unused].title, rows[unused].n_turns) == ("", 0)
    latest = store.latest()
    assert latest is not None
    assert latest.id == first, "an empty session is nothing to continue"


def test_a_session_answers_to_the_beginning_of_its_id(store: Store) -> None:
    session = store.create_session("airline", "nano")
    assert store.session(session[:-1]).id == session
    for wrong in ("nope", ""):
        store.create_session("airline", "nano")
        with pytest.raises(UsageError, match="sessions list"):
            store.session(wrong)


def test_a_turn_is_queued_once_and_leaves_the_queue_once(store: Store) -> None:
    session = store.create_session("airline", "nano")
    store.append(session, TurnStarted("a hard one"))
    entry = store.outbox_add(session, 0, "a hard one", "complex", "offline")
    assert store.outbox_add(session, 0, "a hard one", "complex", "offline") == entry
    assert [(row.id, row.text) for row in store.outbox()] == [(entry, "a hard one")]
    store.outbox_done(entry, "dropped")
    assert store.outbox() == []
    with pytest.raises(UsageError, match="outbox list"):
        store.outbox_done(entry, "dropped")


def test_a_session_is_held_by_one_at_a_time(store: Store) -> None:
    session = store.create_session("airline", "nano")
    other = store.create_session("airline", "nano")
    with held(store, session), held(store, other):  # noqa: SIM117
        with pytest.raises(StoreError, match="open in another"), held(store, session):
            pass
    with held(store, session):
        pass
    assert list((store.path.parent / "locks").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("", ""),
        ("  one\n\tline ", "one line"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
    ],
)
def test_a_title_is_one_short_line(text: str, title: str) -> None:
    assert title_of(text) == title
