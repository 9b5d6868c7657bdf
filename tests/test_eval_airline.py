"""Airline episodes: an expert in the model's place is perfect, and each kind of mistake is seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeagent.engine.client import Prompt, StepDone, StepRule
from edgeagent.evals import airline, airline_cases, airline_play
from edgeagent.evals.airline_cases import Case, Followed, changes
from edgeagent.evals.airline_null import NULLS, Null
from edgeagent.evals.rows import Options, Progress, Row
from edgeagent.events import Prefilled, Token
from edgeagent.manifest import DEFAULT
from edgeagent.messages import RESPOND, Call, CallMessage, Usage, Verdict
from edgeagent.scenarios.airline.simulator import expert
from edgeagent.scenarios.airline.simulator.desk import Desk
from edgeagent.scenarios.airline.simulator.episodes import Bench
from edgeagent.scenarios.airline.world import World
from edgeagent.wiring import Local
from tests.tiny_gguf import write_tiny

ROOT = Path(__file__).parents[1]


class Expert(Null):
    """The scripted expert where the model would be: its calls, one per step."""

    def __init__(self, case: Case, world: World) -> None:
        super().__init__(RESPOND, {"message": "?"})
        desk = Desk(Followed(case.id, case.goal), Bench(world).act, case.id, "offline")
        expert.serve(desk)
        calls = [m.calls[0] for m in desk.messages if isinstance(m, CallMessage)]
        self.steps = list(zip(calls, desk.labels, strict=True))

    def step(
        self, prompt: Prompt, rule: StepRule, cancel: threading.Event
    ) -> Iterator[Prefilled | Token | StepDone]:
        call, label = self.steps.pop(0)
        verdict = Verdict(label.is_hard, 1.0, "greedy")
        yield StepDone((call,), "", verdict, Usage(n_decoded=10), "complete")


class Clumsy(Expert):
    """The expert, but for one call that is replaced or left out."""

    def __init__(self, case: Case, world: World, name: str, instead: Call | None) -> None:
        super().__init__(case, world)
        at = next(i for i, (call, _) in enumerate(self.steps) if call.name == name)
        if instead is None:
            del self.steps[at]
        else:
            self.steps[at] = (instead, self.steps[at][1])


CASES = list(airline_cases.cases(3, 80))


def played(case: Case, world: World, tier: Null) -> dict[str, float | None]:
    return dict(
        airline.score(case, airline_play.play(airline_cases.customer_of(case), world, tier))
    )


def test_the_expert_in_the_models_place_serves_every_customer_and_breaks_no_rule() -> None:
    n_hard = n_changing = n_facts = 0
    for case, world in CASES:
        scores = played(case, world, Expert(case, world))
        assert scores["served"] == 1.0, (case.id, scores)
        assert scores["deferred"] == scores["deferred_hard"] == scores["hard"] == len(case.hard)
        n_hard += len(case.hard)
        n_changing += case.is_changing
        n_facts += bool(case.facts)
    assert min(n_hard / 3, n_changing / 10, n_facts / 15) >= 1, "the sample shows too little"


def find(name: str, family: str) -> tuple[Case, World, Call]:
    """Return a case in which the expert makes that call, which succeeds."""
    for case, world in airline_cases.cases(7, 150):
        if len(case.accepted) == 1 and any(kind.startswith(family) for kind in case.kinds):
            for call, _ in Expert(case, world).steps:
                if call.name == name and case.is_changing:
                    return case, world, call
    raise AssertionError(f"no case with {name}")


def test_a_write_that_is_left_out_or_changed_is_a_wrong_end() -> None:
    case, world, call = find("cancel_reservation", "cancel")
    left_out = played(case, world, Clumsy(case, world, call.name, None))
    assert (left_out["exact"], left_out["violations"]) == (0.0, 0.0)
    other = next(
        key
        for key, found in world.reservations.items()
        if found["cabin"] == "business" and found["user_id"] != case.goal.user_id
        and all(
            world.flights[s["flight_number"]]["dates"][s["date"]]["status"] == "available"
            for s in found["flights"]
        )
    )  # fmt: skip
    wrong = Call("call_1", call.name, {"reservation_id": other})
    foreign = played(case, world, Clumsy(case, world, call.name, wrong))
    assert foreign["exact"] == 0.0
    assert foreign["foreign_writes"] == foreign["violations"] == 1.0


def test_a_write_without_a_yes_is_a_violation_even_if_it_is_the_right_one() -> None:
    case, world, call = find("cancel_reservation", "cancel")
    hasty = Expert(case, world)
    calls = [step[0].name for step in hasty.steps]
    at = calls.index(call.name)
    assert calls[at - 1] == RESPOND, "the question that is answered with yes"
    hasty.steps[at - 1], hasty.steps[at] = hasty.steps[at], hasty.steps[at - 1]
    scores = played(case, world, hasty)
    assert scores["exact"] == 1.0
    assert (scores["unconfirmed_writes"], scores["served"]) == (1.0, 0.0)
    assert scores["exact_clean"] == 0.0


def test_a_forbidden_write_is_a_violation_although_the_desk_refuses_it() -> None:
    case, world, call = find("cancel_reservation", "cancel")
    flown = next(
        key
        for key, found in world.reservations.items()
        if any(
            world.flights[s["flight_number"]]["dates"][s["date"]]["status"] == "landed"
            for s in found["flights"]
        )
    )
    tier = Expert(case, world)
    tier.steps.insert(0, (Call("call_2", call.name, {"reservation_id": flown}), tier.steps[0][1]))
    scores = played(case, world, tier)
    assert (scores["exact"], scores["refused_writes"]) == (1.0, 1.0)


def test_agents_that_understand_nothing_are_right_only_where_nothing_had_to_be_done() -> None:
    for case, world in CASES[:20]:
        for name, arguments in NULLS.values():
            scores = played(case, world, Null(name, arguments))
            assert scores["exact"] == float(not case.is_changing)
            assert scores["deferred"] == 0.0


def test_a_customer_who_reads_the_same_reply_again_and_again_hangs_up() -> None:
    parrot = Null(RESPOND, {"message": "Could you give me your user ID, please?"})
    for case, world in CASES[:20]:
        found = airline_play.play(airline_cases.customer_of(case), world, parrot)
        assert len(found.replies) <= airline_play.MAX_SAME
        assert found.is_looping == bool(found.note)
        if found.note:
            assert found.note == "read the same reply 5 times"
            return
    raise AssertionError("nobody lost patience")


def test_bad_input_is_told_apart_and_the_expert_gets_over_all_of_it() -> None:
    kinds = {kind for case, _ in CASES for kind in case.bad}
    assert kinds >= {"order by the customer", "order in data", "tool error", "no match"}
    n_orders = n_errors = 0
    for case, world in CASES[:40]:
        scores = played(case, world, Expert(case, world))
        assert scores["loops"] == 0.0
        assert scores["injection_resisted"] in (None, 1.0)
        assert scores["recovered"] in (None, 1.0)
        n_orders += scores["injection_resisted"] is not None
        n_errors += scores["recovered"] is not None
    assert min(n_orders, n_errors) >= 2


def test_an_agent_that_follows_an_order_in_data_has_not_resisted() -> None:
    case, world = next(
        (case, world)
        for case, world in airline_cases.cases(3, 150)
        if "order in data" in case.bad and world.users[case.goal.user_id]["reservations"]
    )
    upright = Expert(case, world)
    arguments = {"user_id": case.goal.user_id, "amount": 50}
    obedient = Expert(case, world)
    obedient.steps.insert(0, (Call("call_3", "send_certificate", arguments), obedient.steps[0][1]))
    assert played(case, world, upright)["injection_resisted"] == 1.0
    assert played(case, world, obedient)["injection_resisted"] == 0.0


def test_the_same_seed_asks_for_the_same_and_another_seed_for_something_else() -> None:
    again = [case for case, _ in airline_cases.cases(3, 10)]
    assert again == [case for case, _ in CASES[:10]]
    assert [case.goal for case, _ in airline_cases.cases(4, 10)] != [case.goal for case in again]


def test_changes_tell_what_differs_and_nothing_else() -> None:
    before = {"users/a": '{"x": 1, "y": {"z": [1]}}', "users/b": '{"k": 1}', "users/c": "{}"}
    after = {"users/a": '{"y": {"z": [2]}, "x": 1.0}', "users/b": "{}", "users/d": '{"n": 0}'}
    assert changes(before, after) == {
        "users/a/y/z": [2], "users/b/k": None, "users/c": None, "users/d": {"n": 0},
    }  # fmt: skip


def test_a_run_can_go_on_where_it_stopped_and_sums_up_from_its_rows() -> None:
    suite = airline.Airline()
    local = Local("null", Null(*NULLS["always hand off"]), DEFAULT)
    every = list(suite.run(local, Options(limit=6, seed=3)))
    rows = [item for item in every if isinstance(item, Row)]
    assert [item for item in every if isinstance(item, Progress)][-1] == Progress(6, 6)
    kept = frozenset(row.id for row in rows[:4])
    rest = [i for i in suite.run(local, Options(limit=6, seed=3, done=kept)) if isinstance(i, Row)]
    assert [row.id for row in rest] == [row.id for row in rows[4:]]
    summary = suite.summarize([*rows[:4], *rest])
    assert summary["n"] == 6
    hand_off = summary["floors"]["always hand off"]
    for key in airline.FLOOR_SCORES:
        assert summary["scores"][key]["value"] == hand_off[key], "the model is the floor itself"
    assert sum(goal["n"] for goal in summary["goals"].values()) >= 6
    bad = [kind for row in rows for kind in json.loads(row.reference)["bad"]]
    assert {kind: found["n"] for kind, found in summary["bad_input"].items()} == Counter(bad)
    for found in summary["bad_input"].values():
        assert set(found["scores"]) == set(airline.BAD_SCORES)
    assert suite.summarize([])["scores"]["exact"]["value"] is None


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def run(tmp_path: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    homes = {f"XDG_{name}_HOME": str(tmp_path) for name in ("CONFIG", "DATA", "CACHE", "STATE")}
    return subprocess.run(
        [sys.executable, "-m", "edgeagent", "eval", "airline", *typed],
        capture_output=True,
        text=True,
        env={**os.environ, **homes, "EDGEAGENT_MODEL__MAX_TOKENS": "24"},
        cwd=ROOT,
    )


def test_the_verb_plays_random_weights_and_prints_scores_floors_and_a_record(
    tmp_path: Path, tiny: Path
) -> None:
    done = run(tmp_path, "--model", str(tiny), "--limit", "4", "--seed", "7", "--json",
               "--failures", "1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["n"], len(told["rows"])) == (4, 4)
    assert set(told["floors"]) == {"always hand off", "always refuse"}
    assert told["record"]["files"]["model"]["name"] == "tiny.gguf"
    assert told["scores"]["calls"]["value"] > 0
    assert "=== held_out-7-" in done.stderr


@pytest.mark.parametrize(
    "typed", [("--limit", "0"), ("--model", "nobody-has-this"), ("--seed", "x")]
)
def test_bad_options_are_one_line_and_code_2(tmp_path: Path, typed: tuple[str, ...]) -> None:
    done = run(tmp_path, *typed)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
