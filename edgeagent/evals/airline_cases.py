"""What an airline episode should come to, found by letting the scripted expert serve it first.

The customer, the world and the rules are those of the simulator's evaluation split; the expert
hears what the customer means and does what the policy says. Knows no model.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from edgeagent.evals import airline_bad
from edgeagent.messages import (
    RESPOND,
    TRANSFER,
    CallMessage,
    Conversation,
    Json,
    ResultMessage,
    UserMessage,
)
from edgeagent.scenarios.airline.checks import Rule
from edgeagent.scenarios.airline.simulator import episodes, expert, wanting
from edgeagent.scenarios.airline.simulator.customer import Customer
from edgeagent.scenarios.airline.simulator.desk import Desk, Label, ToolRefused
from edgeagent.scenarios.airline.simulator.goals import Goal
from edgeagent.scenarios.airline.world import World

SPLIT: episodes.Split = "held_out"
N_CUSTOMERS = 4
"""Tempers that one goal is served with: what the customer leaves to chance may end differently."""
N_NAMESAKES = 10

Snapshot: TypeAlias = Mapping[str, str]
"""`table/id` → the document as JSON text."""
Changes: TypeAlias = Mapping[str, Json]
"""`table/id/key/…` → the value as it is now, None where it is gone; only what differs."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_FACT = re.compile(r"[\w@.:]*[\d@][\w@.:]*\w|\d")
"""Words with a digit or an @: ids, flight numbers, times, amounts, addresses."""


@dataclass(frozen=True, slots=True)
class Case:
    """One customer, and what serving that customer well comes to."""

    id: str
    """Seed of the episode."""
    goal: Goal
    accepted: tuple[Changes, ...]
    """Final states of the database that the expert brought about, each of them right."""
    hard: frozenset[int]
    """Wishes, by number, that are to be deferred."""
    rules: frozenset[str]
    """Rules that the expert was refused by: the customer asked for it, trying is no mistake."""
    facts: tuple[str, ...]
    """Words that the customer should read, in lower case: the expert had them from a tool."""
    ends_with_a_person: bool
    bad: tuple[str, ...] = ()
    """Kinds of bad input that come up; see `airline_bad`."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each wish."""
        return tuple(wish.kind for wish in self.goal.wishes)

    @property
    def is_changing(self) -> bool:
        """Whether doing nothing is wrong."""
        return {} not in self.accepted


class Followed(Customer):
    """A customer who notes which wish each utterance belongs to."""

    def __init__(self, seed: str, goal: Goal) -> None:
        super().__init__(seed, goal)
        self.wishes: list[int] = []

    def open(self) -> str:
        """Return the first message."""
        text = super().open()
        self._follow()
        return text

    def reply(self, agent_message: str) -> str | None:
        """Answer the agent; None when the customer has left."""
        text = super().reply(agent_message)
        if text is not None:
            self._follow()
        return text

    def _follow(self) -> None:
        self.wishes.append(next(i for i, w in enumerate(self.goal.wishes) if w is self.wish))


def cases(seed: int, n: int) -> Iterator[tuple[Case, World]]:
    """Yield `n` cases and the world of each; about 50 ms each on one core."""
    per_world = episodes.EPISODES_PER_WORLD
    for start in range(0, n, per_world):
        world_seed = f"{SPLIT} {seed} {start // per_world}"
        world = episodes.make_world(world_seed, SPLIT)
        bench = episodes.Bench(world)
        for number in range(start, min(n, start + per_world)):
            yield _case(f"{SPLIT} {seed} {number}", world, bench), world


def customer_of(case: Case) -> Followed:
    """Return the customer, who has said nothing yet."""
    return Followed(case.id, case.goal)


def snapshot(connection: sqlite3.Connection) -> Snapshot:
    """Return every document of an airline database as it is stored; about 3 ms."""
    return {
        f"{table}/{key}": document
        for table in ("users", "flights", "reservations")
        for key, document in connection.execute(f"SELECT id, document FROM {table}")
    }


def changes(before: Snapshot, after: Snapshot) -> Changes:
    """Return every value that differs, under the path that leads to it."""
    found: dict[str, Json] = {}
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            old, new = (json.loads(shot.get(key, "null")) for shot in (before, after))
            _differences(key, old, new, found)
    return found


def _differences(path: str, old: Json, new: Json, found: dict[str, Json]) -> None:
    if old == new:
        return
    if not (isinstance(old, dict) and isinstance(new, dict)):
        found[path] = new
        return
    for key in sorted(old.keys() | new.keys()):
        _differences(f"{path}/{key}", old.get(key), new.get(key), found)


def facts_in(reply: str) -> tuple[str, ...]:
    """Return the words of a reply that can be checked; agents write dates in their own ways."""
    return tuple(_FACT.findall(_DATE.sub(" ", reply.lower())))


def _case(seed: str, world: World, bench: episodes.Bench) -> Case:
    """Return the case, or its next namesake where the desk finds nothing to change."""
    for again in range(N_NAMESAKES):
        named = f"{seed} {again}" if again else seed
        rng = random.Random(f"episode {named}")
        goal = _decided(wanting.draw_goal(world, rng, held_out=True), world, rng)
        try:
            return _served(named, goal, bench)
        except ToolRefused as refused:
            if refused.rule != Rule.NOTHING_TO_CHANGE:
                raise
    raise AssertionError(f"ten wishes in a row change nothing: {seed}")


def _decided(goal: Goal, world: World, rng: random.Random) -> Goal:
    """Give the customer an order of preference among all flights, so that offers decide nothing.

    Otherwise chance would pick the flight, and two agents that serve alike would end apart.
    """
    order = list(world.flights)
    rng.shuffle(order)
    wishes = []
    for wish in goal.wishes:
        first = wish.facts.get("flight_numbers", ())
        facts = {**wish.facts, "flight_numbers": (*first, *order)}
        wishes.append(replace(wish, facts=facts))
    return replace(goal, wishes=tuple(wishes))


def _served(seed: str, goal: Goal, bench: episodes.Bench) -> Case:
    accepted: list[Changes] = []
    rules: set[str] = set()
    before = snapshot(bench.connection)
    for number in range(N_CUSTOMERS):
        customer = Followed(f"{seed} temper {number}" if number else seed, goal)
        desk = Desk(customer, bench.act, seed, "offline")
        with bench:
            expert.serve(desk)
            ended = changes(before, snapshot(bench.connection))
        if ended not in accepted:
            accepted.append(ended)
        rules |= set(_refusals(desk.messages))
        if number == 0:
            hard = _hard_wishes(customer, desk)
            facts = _facts(customer, tuple(desk.messages), hard)
            bad = airline_bad.kinds_of(goal, tuple(desk.messages))
            handed = any(label.situation == TRANSFER for label in desk.labels)
    return Case(seed, goal, tuple(accepted), hard, frozenset(rules), facts, handed, bad)


def _refusals(messages: list[Json]) -> Iterator[str]:
    for message in messages:
        if isinstance(message, ResultMessage) and (rule := broken_rule(message.content)):
            yield rule


def broken_rule(content: str) -> str:
    """Return the rule that a tool's answer names; empty where it names none."""
    try:
        told = json.loads(content)
    except ValueError:
        return ""
    return str(told.get("rule") or "") if isinstance(told, dict) else ""


def _hard_wishes(customer: Followed, desk: Desk) -> frozenset[int]:
    labels: Iterator[Label] = iter(desk.labels)
    heard, hard = -1, set()
    for message in desk.messages:
        if isinstance(message, UserMessage):
            heard += 1
        elif isinstance(message, CallMessage) and next(labels).is_hard:
            hard.add(customer.wishes[heard])
    return frozenset(hard)


def _facts(customer: Followed, messages: Conversation, hard: frozenset[int]) -> tuple[str, ...]:
    """Return, of each wish's last reply that has any, the words that only a tool can have told.

    Wishes that are deferred or given up half-way have none.
    """
    left_out = hard | {at for at, wish in enumerate(customer.goal.wishes) if wish.abandons}
    last: dict[int, list[str]] = {}
    heard, said, shown = -1, "", ""
    for message in messages:
        match message:
            case UserMessage(text):
                heard += 1
                said += f" {text.lower()}"
            case CallMessage((call,)) if call.name == RESPOND:
                told = facts_in(str(call.arguments["message"]))
                words = [word for word in told if word in shown and word not in said]
                if words and customer.wishes[heard] not in left_out:
                    last[customer.wishes[heard]] = words
            case ResultMessage(name=name, content=content) if name != RESPOND:
                shown += f" {content.lower()}"
    return tuple(dict.fromkeys(word for words in last.values() for word in words))
