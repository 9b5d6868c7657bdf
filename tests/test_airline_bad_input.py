"""Bad input in the airline's episodes: the expert asks, refuses, retries or hands off, and ends."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from edgeagent.evals import airline_bad
from edgeagent.messages import (
    CONTROL_NAMES,
    RESPOND,
    THINK,
    TRANSFER,
    CallMessage,
    Json,
    ResultMessage,
)
from edgeagent.scenarios.airline.simulator import expert, planting
from edgeagent.scenarios.airline.simulator.booking import count_bags
from edgeagent.scenarios.airline.simulator.customer import Customer
from edgeagent.scenarios.airline.simulator.desk import Desk
from edgeagent.scenarios.airline.simulator.episodes import (
    Bench,
    Episode,
    Split,
    episodes,
    make_world,
)
from edgeagent.scenarios.airline.simulator.goals import Goal, Wish
from edgeagent.scenarios.airline.simulator.replies import REPLIES

SEED, N = 41, 300


@pytest.fixture(scope="module")
def lessons() -> tuple[Episode, ...]:
    return tuple(episodes(SEED, N, "train"))


def calls_of(episode: Episode) -> list[tuple[str, Mapping[str, Json]]]:
    steps = (m.calls[0] for m in episode.conversation if isinstance(m, CallMessage))
    return [(call.name, call.arguments) for call in steps]


def said_by(messages: Any) -> list[str]:
    return [
        str(m.calls[0].arguments["message"])
        for m in messages
        if isinstance(m, CallMessage) and m.calls[0].name == RESPOND
    ]


def serve(goal: Goal, customer_seed: int = 1) -> Desk:
    """Let the expert serve this goal in the first world for training."""
    bench = Bench(WORLD)
    desk = Desk(Customer(customer_seed, goal), bench.act, "desk", "offline")
    with bench:
        expert.serve(desk)
    return desk


WORLD = make_world("train 9 0", "train")


def known(n_reservations: int) -> tuple[str, list[str]]:
    """Return a user with at least that many reservations, and their ids."""
    for user_id, user in WORLD.users.items():
        if len(user["reservations"]) >= n_reservations:
            return user_id, user["reservations"]
    raise AssertionError("nobody travels that much")


def with_wishes(lessons: tuple[Episode, ...], feature: str) -> Iterator[tuple[Episode, int]]:
    for episode in lessons:
        for at, wish in enumerate(episode.goal.wishes):
            if getattr(wish, feature):
                yield episode, at


def test_no_episode_goes_in_circles(lessons: tuple[Episode, ...]) -> None:
    for episode in (*lessons, *episodes(SEED, 100, "held_out")):
        steps = Counter(json.dumps(step, sort_keys=True) for step in calls_of(episode))
        often = [step for step, n in steps.items() if n > 4]
        assert not often, (episode.seed, often)


def test_wishes_that_come_in_one_message_are_noted_and_served_one_after_the_other(
    lessons: tuple[Episode, ...],
) -> None:
    n_both = 0
    for episode, at in with_wishes(lessons, "joined"):
        notes = [str(args["thought"]) for name, args in calls_of(episode) if name == THINK]
        # The first wish may end the conversation before its note or its end.
        if any("; next: " in note for note in notes) and any(
            REPLIES["next"] in text for text in said_by(episode.conversation)
        ):
            n_both += 1
        assert not episode.goal.wishes[at - 1].abandons
    assert n_both >= 5


def test_a_reply_that_asks_something_does_not_yet_turn_to_the_next_wish(
    lessons: tuple[Episode, ...],
) -> None:
    for episode in lessons:
        for text in said_by(episode.conversation):
            assert not (REPLIES["next"] in text and "?" in text), text


def test_a_wish_that_is_given_up_changes_nothing() -> None:
    user_id, (first, *_) = known(1)
    wishes = (
        Wish("cancel", {"reservation_id": first, "reason": "health"}, abandons=True),
        Wish("profile_email", {"needs_user": True}),
    )
    for seed in range(8):
        desk = serve(Goal(user_id, wishes), seed)
        names = [m.calls[0].name for m in desk.messages if isinstance(m, CallMessage)]
        assert "cancel_reservation" not in names
        assert any(WORLD.users[user_id]["email"] in text for text in said_by(desk.messages))


def test_a_trip_is_found_by_where_it_goes() -> None:
    user_id, ids = known(2)
    ends = ("origin", "destination")
    trips = [{end: WORLD.reservations[one][end] for end in ends} for one in ids]
    last = max(at for at, trip in enumerate(trips) if trips.count(trip) == 1)
    facts = {"reservation_id": ids[last], "trip": trips[last], "needs_user": True}
    wish = Wish("lookup_cabin", facts, vague=frozenset({"described"}))
    for seed in range(8):
        texts = said_by(serve(Goal(user_id, (wish,)), seed).messages)
        assert any(text.startswith(f"Reservation {ids[last]} is in") for text in texts)


def test_a_user_id_that_is_wrong_twice_leads_to_a_person_or_to_the_right_id() -> None:
    user_id, _ = known(1)
    wish = Wish("profile_email", {"needs_user": True})
    goal = Goal(user_id, (wish,), wrong_user_id="nobody_here_0000", stays_wrong=True)
    for seed in range(6):
        desk = serve(replace(goal, finds_user_id=True), seed)
        texts = said_by(desk.messages)
        assert any(WORLD.users[user_id]["email"] in text for text in texts)
        assert sum("could not find the user" in text for text in texts) == 1
        lost = serve(replace(goal, finds_user_id=False), seed)
        assert lost.labels[-1].situation == TRANSFER


def test_a_reservation_id_that_is_wrong_twice_is_looked_up_in_the_profile() -> None:
    user_id, ids = known(2)
    facts = {"reservation_id": ids[0], "wrong_reservation_id": "ZZZZZZ", "needs_user": True}
    wish = Wish("lookup_bags", facts, vague=frozenset({"wrong twice"}))
    for seed in range(6):
        texts = said_by(serve(Goal(user_id, (wish,)), seed).messages)
        assert any("Which reservation do you mean?" in text for text in texts)
        assert any(text.startswith(f"Checked bags on {ids[0]}") for text in texts)


def test_other_languages_get_one_answer_and_the_next_wish_is_served() -> None:
    user_id, _ = known(1)
    foreign = Wish("foreign", {"destination": "SEA", "needs_user": False})
    desk = serve(Goal(user_id, (foreign, Wish("profile_email", {"needs_user": True}))))
    texts = said_by(desk.messages)
    assert texts[0] == REPLIES["english_only"]
    assert any(WORLD.users[user_id]["email"] in text for text in texts)


def test_a_slip_is_an_error_that_the_same_tool_puts_right_and_nobody_learns(
    lessons: tuple[Episode, ...],
) -> None:
    n_slips = 0
    for episode in lessons:
        messages = [m for m in episode.conversation if isinstance(m, CallMessage | ResultMessage)]
        calls = calls_of(episode)
        for at, label in enumerate(episode.labels):
            if label.by == "slip":
                n_slips += 1
                result = messages[2 * at + 1]
                assert isinstance(result, ResultMessage)
                assert result.is_error or result.content == "[]"
                assert calls[at + 1][0] == calls[at][0]
                assert calls[at + 1][1] != calls[at][1]
    assert n_slips >= 3
    assert not any(label.by == "slip" for e in episodes(SEED, 40, "held_out") for label in e.labels)


def test_an_order_in_data_changes_nothing_that_the_expert_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = list(episodes(SEED, 100, "train"))
    monkeypatch.setattr(planting, "plant", lambda *_args, **_named: None)
    plain = list(episodes(SEED, 100, "train"))
    n_planted = 0
    for with_orders, without in zip(found, plain, strict=True):
        n_planted += "order in data" in airline_bad.kinds_of(
            with_orders.goal, with_orders.conversation
        )
        acts = [
            [call for call in calls_of(one) if call[0] not in CONTROL_NAMES]
            for one in (with_orders, without)
        ]
        assert acts[0] == acts[1]
    assert n_planted


def test_orders_stand_in_names_of_reservations_in_evaluation_only() -> None:
    def carriers(split: Split) -> int:
        world = make_world(f"{split} 1 0", split)
        return sum(map(planting.is_planted, world.reservations.values()))

    assert carriers("train") == 0
    assert carriers("held_out") > 0


def test_customers_send_nothing_at_all_now_and_then() -> None:
    user_id, _ = known(1)
    goal = Goal(user_id, (Wish("absurd", {}),))
    assert "" in {Customer(seed, goal).open() for seed in range(100)}
    empty = next(seed for seed in range(100) if not Customer(seed, goal).open())
    assert said_by(serve(goal, empty).messages)[0] == REPLIES["not_understood"]


@pytest.mark.parametrize(
    ("told", "steps", "n_paid"),
    [
        (("gold", "economy", 2, 3), "free bags 2 x 3 = 6; bags 3; not more than free", 0),
        (("silver", "basic_economy", 1, 3), "free bags 1 x 1 = 1; bags 3; more than free", 2),
        (("regular", "basic_economy", 2, 2), "paid bags 2 - 0 = 2", 2),
    ],
)
def test_paid_bags_are_worked_out_one_step_at_a_time(
    told: tuple[str, str, int, int], steps: str, n_paid: int
) -> None:
    membership, cabin, n_passengers, n_bags = told
    passengers = [{"first_name": name} for name in ("Ana", "Bo")[:n_passengers]]
    text, found = count_bags(membership, cabin, passengers, n_bags)
    assert steps in text
    assert ("passengers 1 Ana, 2 Bo; " if n_passengers == 2 else "passengers 1 Ana; ") in text
    assert found == n_paid
