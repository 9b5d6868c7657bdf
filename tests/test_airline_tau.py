"""tau-bench's rule set does what tau-bench does, bugs included."""

from __future__ import annotations

import gzip
import json
import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgeagent.cascade import ToolOutcome
from edgeagent.errors import ScenarioError
from edgeagent.messages import Call
from edgeagent.scenarios import library
from edgeagent.scenarios.airline import tau
from edgeagent.scenarios.airline.backend import open_world, world_of
from edgeagent.scenarios.airline.records import TABLES, Records
from edgeagent.scenarios.airline.world import World
from tests.airline_desk import ADA, booking, small_world
from tests.conftest import SHARED

TAU = SHARED / "tau"
BASE_SHA256 = "4587e6b48ad2b2c4f3e1fecb40aabec7bb2286513273b8f8cec3f5865222f290"
"""Of tau-bench's untouched data, from notes on sierra-research/tau-bench 59a200c."""

needs_tau = pytest.mark.skipif(
    not TAU.exists(), reason="tau-bench's data is not beside the checkout"
)


def calls(world: World, *wanted: tuple[str, dict[str, Any]]) -> tuple[list[ToolOutcome], World]:
    desk = open_world(world, "tau")
    done = [desk.call(Call(f"call_{n}", *call), 5.0) for n, call in enumerate(wanted)]
    return done, world_of(desk)


@needs_tau
def test_every_task_with_a_hash_ends_in_that_database() -> None:
    tasks = [
        task for task in json.loads((TAU / "tasks.json").read_text()) if "final_db_sha256" in task
    ]
    expected = [(task["id"], task["final_db_sha256"]) for task in tasks]
    assert len(expected) == 25
    assert list(tau.replay(TAU, tasks)) == expected


@needs_tau
def test_data_hashes_the_same_before_and_after_sqlite() -> None:
    world = tau.import_tau(TAU)
    assert tau.final_db_sha256(world) == BASE_SHA256
    assert tau.final_db_sha256(world_of(open_world(world, "tau"))) == BASE_SHA256


@needs_tau
def test_recorded_tool_results_come_out_again() -> None:
    """All but the profiles: the recordings say `province` where the data says `state`."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in TABLES:
        connection.execute(statement)
    Records(connection).fill(tau.import_tau(TAU))
    n_equal = 0
    with gzip.open(TAU / "gpt4o_trajectories.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            connection.execute("BEGIN")
            messages = json.loads(line)["messages"]
            for before, message in pairwise(messages):
                if message["role"] != "tool":
                    continue
                function = before["tool_calls"][0]["function"]
                arguments = json.loads(function["arguments"])
                content = tau.act(connection, function["name"], arguments).content
                if function["name"] != "get_user_details":
                    assert content == message["content"]
                    n_equal += 1
            connection.execute("ROLLBACK")
    connection.close()
    assert n_equal > 700


ERRORS = [
    ("get_user_details", {"user_id": "x"}, "Error: user not found"),
    ("get_reservation_details", {"reservation_id": "x"}, "Error: user not found"),
    ("cancel_reservation", {"reservation_id": "x"}, "Error: reservation not found"),
    ("nothing", {}, "Unknown action nothing"),
    ("calculate", {"expression": "2 x"}, "Error: invalid characters in expression"),
    ("calculate", {"expression": "1/0"}, "Error: division by zero"),
    ("book_reservation", booking(user_id="x", flights=[]), "Error: user not found"),
    ("book_reservation", booking(flights=[{"flight_number": "X", "date": "2024-05-20"}]),
     "Error: flight X not found"),
    ("book_reservation", booking(flights=[{"flight_number": "HAT100", "date": "x"}]),
     "Error: flight HAT100 not found on date x"),
    ("book_reservation", booking(flights=[{"flight_number": "HAT100", "date": "2024-05-15"}]),
     "Error: flight HAT100 not available on date 2024-05-15"),
    ("book_reservation", booking(flights=[{"flight_number": "HAT101", "date": "2024-05-20"}]),
     "Error: not enough seats on flight HAT101"),
    ("book_reservation", booking(payment_methods=[{"payment_id": "x", "amount": 600}]),
     "Error: payment method x not found"),
    ("book_reservation",
     booking(payment_methods=[{"payment_id": "certificate_1000001", "amount": 600}]),
     "Error: not enough balance in payment method certificate_1000001"),
    ("book_reservation", booking(insurance="yes"),
     "Error: payment amount does not add up, total price is 660, but paid 600"),
    ("update_reservation_passengers", {"reservation_id": "ECO111", "passengers": []},
     "Error: number of passengers does not match"),
    ("update_reservation_baggages",
     {"reservation_id": "ECO111", "total_baggages": 9, "nonfree_baggages": 9, "payment_id": "x"},
     "Error: payment method not found"),
    ("update_reservation_baggages",
     {"reservation_id": "ECO111", "total_baggages": 9, "nonfree_baggages": 9,
      "payment_id": "certificate_1000001"},
     "Error: certificate cannot be used to update reservation"),
    ("update_reservation_baggages",
     {"reservation_id": "ECO111", "total_baggages": 99, "nonfree_baggages": 99,
      "payment_id": "gift_card_1000001"},
     "Error: gift card balance is not enough"),
    ("send_certificate", {"user_id": "x", "amount": 1}, "Error: user not found"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "text"), ERRORS)
def test_an_error_has_tau_benchs_words_and_changes_nothing(
    name: str, arguments: dict[str, Any], text: str
) -> None:
    (outcome,), after = calls(small_world(), (name, arguments))
    assert outcome == ToolOutcome(text, is_error=True)
    assert after == small_world()


def test_a_wrong_argument_is_an_error_and_no_exception() -> None:
    for arguments in ({}, {"user": 1}, {"user_id": ["a"]}, {"user_id": "\ud800"}):
        (outcome,), _ = calls(small_world(), ("get_user_details", arguments))
        assert outcome.is_error
        assert outcome.content.startswith("Error: ")


def test_bugs_are_kept() -> None:
    same = [{"flight_number": "HAT100", "date": "2024-05-20"}]
    card = "credit_card_1000001"
    book = ("book_reservation", booking())
    cancel = ("cancel_reservation", {"reservation_id": "FLO111"})
    certificate = ("send_certificate", {"user_id": "eva_berg_2000", "amount": 5000})
    upgrade = ("update_reservation_flights",
               {"reservation_id": "BAS111", "cabin": "business", "flights": same,
                "payment_id": card})  # fmt: skip
    done, after = calls(
        small_world(), book, book, book, book, cancel, cancel, upgrade, *[certificate] * 4
    )
    assert not any(outcome.is_error for outcome in done)
    # A fourth booking overwrites the third, and seats are never taken.
    assert after.users["ada_berg_1000"]["reservations"][-4:] == [
        "HATHAT",
        "HATHAU",
        "HATHAV",
        "HATHAV",
    ]
    assert after.flights == small_world().flights
    # Cancelling twice refunds the refund as well.
    amounts = [one["amount"] for one in after.reservations["FLO111"]["payment_history"]]
    assert amounts == [180, -180, -180, 180]
    # The new cabin is paid for and not written down, and half of the trip is gone.
    assert after.reservations["BAS111"]["cabin"] == "basic_economy"
    assert len(after.reservations["BAS111"]["flights"]) == 1
    # A fourth certificate is silently not sent.
    assert done[-1].content == "None"
    methods = after.users["eva_berg_2000"]["payment_methods"]
    assert [key for key in methods if key.startswith("certificate_3")] == [
        "certificate_3221322", "certificate_3221323", "certificate_3221324",
    ]  # fmt: skip


def replayed(world: World, *wanted: tuple[str, dict[str, Any]]) -> World:
    """Return the world after calls that nothing undoes, as in a replay."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in TABLES:
        connection.execute(statement)
    Records(connection).fill(world)
    for name, arguments in wanted:
        assert tau.act(connection, name, arguments).is_error
    return Records(connection).world()


def test_a_certificate_that_pays_twice_is_gone_and_nothing_is_booked() -> None:
    once = {"payment_id": "certificate_1000001", "amount": 100}
    rest = {"payment_id": "credit_card_1000001", "amount": 400}
    after = replayed(
        small_world(), ("book_reservation", booking(payment_methods=[once, once, rest]))
    )
    expected = small_world()
    del expected.users["ada_berg_1000"]["payment_methods"]["certificate_1000001"]
    assert after == expected


def test_a_number_is_nobodys_id() -> None:
    world = small_world()
    world.reservations["429815"] = {**world.reservations["ECO111"], "reservation_id": "429815"}
    assert replayed(world, ("cancel_reservation", {"reservation_id": 429815})) == world


def test_the_second_leg_shows_the_first_days_prices() -> None:
    world = small_world()
    world.flights["HAT300"]["dates"]["2024-05-20"]["prices"] = {"economy": 1}
    (found,), _ = calls(
        world,
        ("search_onestop_flight", {"origin": "DEN", "destination": "LAX", "date": "2024-05-20"}),
    )
    ((_, second),) = json.loads(found.content)
    assert (second["date"], second["prices"]) == ("2024-05-21", {"economy": 1})


def test_amounts_keep_their_type() -> None:
    """The hash tells 250 from 250.0, so SQLite must not."""
    hashes = set()
    for amount in (250, 250.0):
        call = ("send_certificate", {"user_id": "ada_berg_1000", "amount": amount})
        hashes.add(tau.final_db_sha256(calls(small_world(), call)[1]))
    assert len(hashes) == 2


def test_imported_data_is_what_the_rule_set_serves(tmp_path: Path) -> None:
    source, data_dir = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    data_dir.mkdir()
    library.load("airline", data_dir, rules="tau").backend.receipt("call_1")
    world = small_world()
    (source / "users.json").write_text(json.dumps(world.users))
    (source / "flights.json").write_text(json.dumps(world.flights))
    with gzip.open(source / "reservations.json.gz", "wt") as file:
        json.dump(world.reservations, file)
    library.import_tau(source, data_dir)
    scenario = library.load("airline", data_dir, rules="tau")
    outcome = scenario.backend.call(
        Call("call_1", "update_reservation_passengers",
             {"reservation_id": "ECO111", "passengers": [ADA]}), 5.0
    )  # fmt: skip
    assert json.loads(outcome.content)["reservation_id"] == "ECO111"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nothing.json", "{}", "holds neither users.json nor users.json.gz"),
        ("users.json", "{", "cannot read"),
        ("users.json", "[]", "object of objects"),
        ("users.json.gz", "not gzip", "cannot read"),
    ],
)
def test_data_that_is_not_tau_benchs_is_refused(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ScenarioError, match=said):
        tau.import_tau(tmp_path)
