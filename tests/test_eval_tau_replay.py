"""`edgeagent eval tau-replay`: the contract's rows, whatever the actions hold."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeagent.commands.eval_tau_replay import command
from edgeagent.errors import EvaluationError, ScenarioError
from edgeagent.scenarios.airline import tau
from edgeagent.scenarios.airline.world import World
from tests.airline_desk import booking, small_world
from tests.conftest import SHARED

TAU = SHARED / "tau"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    folder = tmp_path / "db"
    folder.mkdir()
    world = small_world()
    (folder / "users.json").write_text(json.dumps(world.users))
    (folder / "reservations.json").write_text(json.dumps(world.reservations))
    with gzip.open(folder / "flights.json.gz", "wt") as file:
        json.dump(world.flights, file)
    return folder


def action(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"name": name, "kwargs": kwargs}


def replay(db: Path, tasks: Any, *options: str, name: str = "tasks.json") -> Result:
    path = db.parent / name
    text = tasks if isinstance(tasks, str) else json.dumps(tasks)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return CliRunner().invoke(
        command, ["--db", str(db), "--tasks", str(path), *options], catch_exceptions=False
    )


def hashes(db: Path, *tasks: list[dict[str, Any]]) -> list[str]:
    done = replay(db, [{"id": n, "actions": actions} for n, actions in enumerate(tasks)], "--json")
    rows = json.loads(done.stdout)["rows"]
    assert [row["id"] for row in rows] == list(range(len(tasks)))
    assert all(set(row) == {"id", "final_db_sha256"} for row in rows)
    return [row["final_db_sha256"] for row in rows]


def sha256(change: World) -> str:
    return tau.final_db_sha256(change)


def test_each_task_starts_from_fresh_data_and_ends_in_its_own_hash(db: Path) -> None:
    cancelled = small_world()
    cancelled.reservations["FLO111"]["status"] = "cancelled"
    cancelled.reservations["FLO111"]["payment_history"] += [
        {"payment_id": payment["payment_id"], "amount": -payment["amount"]}
        for payment in cancelled.reservations["FLO111"]["payment_history"]
    ]
    cancel = [action("cancel_reservation", reservation_id="FLO111")]
    assert hashes(db, cancel, [], cancel) == [
        sha256(cancelled), sha256(small_world()), sha256(cancelled),
    ]  # fmt: skip


NOTHING_HAPPENS = [
    action("no_such_tool", x=1),
    action("respond", content="hello"),
    action("cancel_reservation"),
    action("cancel_reservation", reservation_id=["FLO111"]),
    action("cancel_reservation", reservation_id="FLO111", why="because"),
    action("cancel_reservation", records={}, reservation_id="FLO111"),
    action("book_reservation", **booking(passengers=None)),
    action("book_reservation", **booking(payment_methods=[{"payment_id": "credit_card_1000001"}])),
    action("book_reservation", **booking(cabin="first")),
    action("update_reservation_passengers", reservation_id="ECO111", passengers=7),
    action("update_reservation_baggages", reservation_id="ECO111", total_baggages=1,
           nonfree_baggages="2", payment_id="credit_card_1000001"),
    action("calculate", expression="9**9**9"),
    action("transfer_to_human_agents", summary="x"),
]  # fmt: skip


@pytest.mark.parametrize("one", NOTHING_HAPPENS, ids=lambda one: str(one["name"]))
def test_a_call_that_fails_changes_nothing_and_the_next_one_still_counts(
    db: Path, one: dict[str, Any]
) -> None:
    send = action("send_certificate", user_id="ada_berg_1000", amount=50)
    alone, together, nothing = hashes(db, [send], [one, send], [one])
    assert nothing == sha256(small_world())
    assert alone == together != nothing


def test_a_gzipped_file_and_missing_ids_are_fine_and_differences_are_told(db: Path) -> None:
    tasks = [{"actions": []}, {"actions": [], "final_db_sha256": "00", "outputs": ["1"]}]
    done = replay(db, tasks, name="tasks.json.gz")
    assert done.exit_code == 0
    assert "0 of 1 known hashes match" in done.stdout
    assert "task 1:" in done.stderr
    told = json.loads(replay(db, tasks, "--json").stdout)
    assert [row["id"] for row in told["rows"]] == [0, 1]
    assert told["record"]["files"]["tasks"]["name"] == "tasks.json"


BAD = [
    ("{", "not JSON"),
    ("", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ({"actions": []}, "list of tasks"),
    ([1], "task 0"),
    ([{"id": 1}], "task 0"),
    ([{"actions": []}, {"actions": ["x"]}], "task 1, action 0"),
    ([{"actions": [{"name": 1, "kwargs": {}}]}], "task 0, action 0"),
    ([{"actions": [{"name": "think", "kwargs": None}]}], "task 0, action 0"),
]


@pytest.mark.parametrize(("tasks", "said"), BAD)
def test_a_file_that_holds_no_tasks_is_refused_in_one_line(db: Path, tasks: Any, said: str) -> None:
    with pytest.raises(EvaluationError, match=said) as caught:
        replay(db, tasks)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_are_refused(db: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot read"):
        CliRunner().invoke(
            command, ["--db", str(db), "--tasks", str(tmp_path / "none")], catch_exceptions=False
        )
    (db / "users.json").unlink()
    with pytest.raises(ScenarioError, match="holds neither"):
        replay(db, [{"actions": []}])


@pytest.mark.skipif(not TAU.exists(), reason="tau-bench's data is not beside the checkout")
def test_every_known_hash_of_tau_bench_matches() -> None:
    done = CliRunner().invoke(
        command, ["--db", str(TAU), "--tasks", str(TAU / "tasks.json")], catch_exceptions=False
    )
    assert "25 of 25 known hashes match" in done.stdout
