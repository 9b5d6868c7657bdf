"""What an airline episode should come to, found by letting the scripted expert serve it first.

The customer, the world and the rules are those of the simulator's evaluation split; the expert
hears what the customer means and does what the policy says. Knows no model.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

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
from edgeagent.scenarios.airline.records import Records
from edgeagent.scenarios.airline.simulator import episodes, expert, wanting
from edgeagent.scenarios.airline.simulator.customer import Customer
from edgeagent.scenarios.airline.simulator.desk import Desk, Label, ToolRefused
from edgeagent.scenarios.airline.simulator.goals import Goal
from edgeagent.scenarios.airline.world import World

SPLIT: episodes.Split = "held_out"
N_CUSTOMERS = 4
"""Tempers that one goal is served with: what the customer leaves to chance may end differently."""
N_NAMESAKES = 10

Changes = Mapping[str, Json]
"""`table/id` → the document as it is now, None where it is gone; only what differs."""

_TOKEN = re.compile(r"[A-Za-z0-9@$][A-Za-z0-9@$._:-]*[A-Za-z0-9]|[A-Z0-9]{2,}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class Case:
    """One customer, and what serving that customer well comes to."""

    id: str
    """Seed of the episode."""
    world_seed: str
    goal: Goal
    accepted: tuple[Changes, ...]
    """Final states of the database that the expert brought about, each of them right."""
    hard: frozenset[int]
    """Wishes, by number, that are to be deferred."""
    rules: frozenset[str]
    """Rules that the expert was refused by: the customer asked for it, trying is no mistake."""
    facts: tuple[str, ...]
    """What the expert said last on each wish and had from a tool, in lower case."""
    ends_with_a_person: bool

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
        self._note()
        return text

    def reply(self, agent_message: str) -> str | None:
        """Answer the agent; None when the customer has left."""
        text = super().reply(agent_message)
        if text is not None:
            self._note()
        return text

    def _note(self) -> None:
        self.wishes.append(next(i for i, w in enumerate(self.goal.wishes) if w is self.wish))


def cases(seed: int, n: int) -> Iterator[tuple[Case, World]]:
    """Yield `n` cases and the world of each; about 0.1 s each on one core."""
    per_world = episodes.EPISODES_PER_WORLD
    for start in range(0, n, per_world):
        world_seed = f"{SPLIT} {seed} {start // per_world}"
        world = episodes.make_world(world_seed, SPLIT)
        bench = episodes.Bench(world)
        for number in range(start, min(n, start + per_world)):
            yield _case(f"{SPLIT} {seed} {number}", world_seed, world, bench), world


def customer_of(case: Case) -> Followed:
    """Return the customer, who has said nothing yet."""
    return Followed(case.id, case.goal)


def changes(before: World, after: World) -> Changes:
    """Return every document that differs, under its table and id."""
    found: dict[str, Json] = {}
    for table in ("users", "flights", "reservations"):
        old, new = getattr(before, table), getattr(after, table)
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                found[f"{table}/{key}"] = new.get(key)
    return found


def _case(seed: str, world_seed: str, world: World, bench: episodes.Bench) -> Case:
    """Return the case, or its next namesake where the desk finds nothing to change."""
    for again in range(N_NAMESAKES):
        named = f"{seed} {again}" if again else seed
        rng = random.Random(f"episode {named}")
        goal = _decided(wanting.draw_goal(world, rng, held_out=True), world, rng)
        try:
            return _served(named, world_seed, goal, world, bench)
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


def _served(seed: str, world_seed: str, goal: Goal, world: World, bench: episodes.Bench) -> Case:
    accepted: list[Changes] = []
    rules: set[str] = set()
    for number in range(N_CUSTOMERS):
        customer = Followed(f"{seed} temper {number}" if number else seed, goal)
        desk = Desk(customer, bench.act, seed, "offline")
        with bench:
            expert.serve(desk)
            ended = changes(world, Records(bench.connection).world())
        if ended not in accepted:
            accepted.append(ended)
        rules |= set(_refusals(desk.messages))
        if number == 0:
            hard = _hard_wishes(customer, desk)
            facts = _facts(customer, tuple(desk.messages), hard)
            handed = any(label.situation == TRANSFER for label in desk.labels)
    return Case(
        seed, world_seed, goal, tuple(accepted), hard, frozenset(rules), facts, handed
    )  # fmt: skip


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
    """Return the words of each wish's last reply that only a tool can have told."""
    last: dict[int, str] = {}
    heard, said, shown = -1, "", ""
    for message in messages:
        match message:
            case UserMessage(text):
                heard += 1
                said += f" {text}"
            case CallMessage((call,)) if call.name == RESPOND:
                last[customer.wishes[heard]] = str(call.arguments["message"])
            case ResultMessage(name=name, content=content) if name != RESPOND:
                shown += f" {content}"
    told, known = said.lower(), shown.lower()
    found: dict[str, None] = {}
    for wish, reply in last.items():
        if wish in hard:
            continue
        for token in _TOKEN.findall(reply):
            word = token.lower()
            is_fact = any(letter.isdigit() or letter in "@$" for letter in word)
            # Agents write dates in their own way, and the customer's words are no news.
            if is_fact and not _DATE.search(word) and word not in told:
                if word.strip("$") in known:
                    found[word] = None
    return tuple(found)
