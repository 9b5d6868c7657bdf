"""A write happens once, whatever dies and whoever asks again."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeagent.errors import ScenarioError
from edgeagent.messages import Call
from edgeagent.scenarios.airline.backend import open_file, open_world, world_of
from edgeagent.scenarios.database import Database
from edgeagent.scenarios.orders import backend as orders
from tests.airline_desk import ADA, booking, small_world

ROOT = Path(__file__).parents[1]

CHILD = """
import sys
from pathlib import Path
from tests.test_scenario_exactly_once import book, open_roomy
desk = open_roomy(Path(sys.argv[1]))
for n in range(10_000):
    desk.call(book(n), 5.0)
"""


def open_roomy(path: Path) -> Database:
    """Return a desk whose one flight has seats enough for every booking of the test."""
    world = small_world()
    world.flights["HAT100"]["dates"]["2024-05-20"]["available_seats"] = {"economy": 1_000_000}
    return open_world(world, path=path)


def book(n: int) -> Call:
    return Call(
        f"call_{n}",
        "book_reservation",
        booking(
            destination="DEN",
            flights=[{"flight_number": "HAT100", "date": "2024-05-20"}],
            passengers=[ADA],
            payment_methods=[{"payment_id": "credit_card_1000001", "amount": 150}],
            total_baggages=0,
        ),
    )


def n_receipts(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        (count,) = connection.execute("SELECT COUNT(*) FROM receipts").fetchone()
    except sqlite3.OperationalError:  # not made yet
        return 0
    finally:
        connection.close()
    return int(count)


def test_a_killed_writer_leaves_whole_bookings_only(tmp_path: Path) -> None:
    path = tmp_path / "airline.db"
    rng = random.Random(4)
    for _ in range(4):
        n_before = n_receipts(path) if path.exists() else 0
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], cwd=ROOT)
        try:
            give_up = time.monotonic() + 60
            # Each child asks for every earlier booking again before it makes one of its own.
            while not path.exists() or n_receipts(path) < n_before + 3:
                assert child.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.002)
            time.sleep(rng.random() * 0.02)
        finally:
            child.kill()
            child.wait()
    desk = open_roomy(path)
    n_done = n_receipts(path)
    for n in range(n_done + 2):
        assert not desk.call(book(n), 5.0).is_error
    assert n_receipts(path) == n_done + 2
    world = world_of(desk)
    n_made = len(world.reservations) - len(small_world().reservations)
    n_seats = world.flights["HAT100"]["dates"]["2024-05-20"]["available_seats"]["economy"]
    assert n_made == 1_000_000 - n_seats == n_done + 2
    desk.close()


def test_the_same_call_returns_its_receipt(tmp_path: Path) -> None:
    path = tmp_path / "airline.db"
    desk = open_roomy(path)
    assert desk.receipt("call_1") is None
    first = desk.call(book(1), 5.0)
    assert desk.receipt("call_1") == first
    desk.close()
    again = open_roomy(path)
    assert again.receipt("call_1") == first
    assert again.call(book(1), 5.0) == first
    assert again.call(book(2), 5.0) != first
    again.close()


def test_a_refusal_has_a_receipt_too() -> None:
    desk = open_world(small_world())
    cancel = Call("call_1", "cancel_reservation", {"reservation_id": "ECO111"})
    outcome = desk.call(cancel, 5.0)
    assert outcome.is_error
    assert desk.receipt("call_1") == outcome


def test_a_call_id_is_good_for_one_call_only() -> None:
    desk = open_world(small_world())
    desk.call(Call("call_1", "cancel_reservation", {"reservation_id": "BUS111"}), 5.0)
    other = desk.call(Call("call_1", "cancel_reservation", {"reservation_id": "NEW111"}), 5.0)
    assert other.is_error
    assert "status" not in world_of(desk).reservations["NEW111"]


def test_another_thread_may_call() -> None:
    desk = open_world(small_world())
    outcomes: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: outcomes.append(desk.call(book(n), 5.0).is_error))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Three seats: three bookings, three refusals.
    assert sorted(outcomes) == [False] * 3 + [True] * 3


def test_a_database_that_is_locked_answers_in_time(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    desk = orders.open_file(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ticket = Call("call_1", "create_ticket", {"issue": "late", "priority": "low"})
    outcome = desk.call(ticket, 0.05)
    assert outcome.is_error
    assert desk.receipt("call_1") is None
    other.execute("ROLLBACK")
    other.close()
    assert not desk.call(ticket, 5.0).is_error
    desk.close()


def test_reset_seeds_afresh(tmp_path: Path) -> None:
    desk = open_file(tmp_path / "airline.db")
    before = world_of(desk)
    name = next(key for key, one in before.reservations.items() if one["cabin"] == "business"
                and one["flights"][0]["date"] > "2024-05-17")  # fmt: skip
    assert not desk.call(Call("call_1", "cancel_reservation", {"reservation_id": name}), 5).is_error
    assert world_of(desk) != before
    desk.reset()
    assert world_of(desk) == before
    assert desk.receipt("call_1") is None
    desk.close()


@pytest.mark.parametrize(
    "content", [b"not a database, but longer than a header " * 9, b"PK\x03\x04"]
)
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "airline.db"
    path.write_bytes(content)
    with pytest.raises(ScenarioError, match=r"airline\.db"):
        open_file(path)


def test_data_of_another_version_is_not_guessed_at(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    orders.open_file(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ScenarioError, match="version 99"):
        orders.open_file(path)
