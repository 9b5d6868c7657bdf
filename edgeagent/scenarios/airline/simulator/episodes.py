"""Whole lessons: a customer, the expert, and the real backend of the airline, by seed.

Several episodes share a generated world; each one starts from it fresh, so an episode replays
on a backend that was opened on `world_of(episode)` and nothing else.

    python -m edgeagent.scenarios.airline.simulator --seed 1 --n 3
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgeagent.cascade import ToolOutcome
from edgeagent.messages import Call, Conversation, Tool
from edgeagent.scenarios.airline import backend, data
from edgeagent.scenarios.airline.checks import Rule
from edgeagent.scenarios.airline.simulator import expert, planting, wanting
from edgeagent.scenarios.airline.simulator.customer import Customer
from edgeagent.scenarios.airline.simulator.desk import Desk, HardTurns, Label, ToolRefused
from edgeagent.scenarios.airline.simulator.goals import Goal
from edgeagent.scenarios.airline.world import CABINS, World

Split: TypeAlias = Literal["train", "held_out"]
DrawGoal: TypeAlias = Callable[[World, random.Random, bool], Goal]
"""Makes a customer of a world; the last argument tells whether for evaluation."""

EPISODES_PER_WORLD = 50
N_FLIGHTS = 200
N_USERS = {"train": 40, "held_out": 160}
"""One name in eight is reserved for evaluation, so its worlds need more people."""

HARD_TURNS: tuple[HardTurns, ...] = ("end", "larger", "offline")
HARD_WEIGHTS = (56, 16, 28)
SLIPS = 0.04
"""Of the calls that name an id or a city, those that go wrong first: righting one is learnt."""
SOLD_OUT = 0.3
"""Of the flights of a day in a training world, those with one cabin full, beside chance."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One conversation with a label for every step."""

    seed: str
    goal: Goal
    conversation: Conversation
    tools: tuple[Tool, ...]
    labels: tuple[Label, ...]
    """One for each `CallMessage` of the conversation, in order."""
    world_seed: str


def episodes(
    seed: int, n: int, split: Split, draw: DrawGoal = wanting.draw_goal
) -> Iterator[Episode]:
    """Yield `n` episodes of customers that `draw` makes; about 5 ms each on one core."""
    for start in range(0, n, EPISODES_PER_WORLD):
        world_seed = f"{split} {seed} {start // EPISODES_PER_WORLD}"
        world = make_world(world_seed, split)
        bench = Bench(world)
        for number in range(start, min(n, start + EPISODES_PER_WORLD)):
            yield _playable(f"{split} {seed} {number}", world_seed, world, bench, split, draw)


def _playable(
    seed: str, world_seed: str, world: World, bench: Bench, split: Split, draw: DrawGoal
) -> Episode:
    """Play the episode, or its next namesake where the desk finds nothing to change.

    One wish in some thousands asks for what is already so, which the policy refuses.
    """
    for again in range(10):
        try:
            name = f"{seed} {again}" if again else seed
            return play(name, world_seed, world, bench, split, draw)
        except ToolRefused as refused:
            if refused.rule != Rule.NOTHING_TO_CHANGE:
                raise
    raise AssertionError(f"ten wishes in a row change nothing: {seed}")


def play(
    seed: str,
    world_seed: str,
    world: World,
    bench: Bench,
    split: Split,
    draw: DrawGoal = wanting.draw_goal,
) -> Episode:
    """Play one episode on a bench that holds the untouched world, and leave it untouched."""
    rng = random.Random(f"episode {seed}")
    goal = draw(world, rng, split == "held_out")
    hard = rng.choices(HARD_TURNS, weights=HARD_WEIGHTS)[0]
    slips = SLIPS if split == "train" else 0.0
    desk = Desk(Customer(seed, goal), bench.act, seed, hard, slips)
    with bench:
        expert.serve(desk)
    tools = backend.description().tools
    return Episode(seed, goal, tuple(desk.messages), tools, tuple(desk.labels), world_seed)


def make_world(world_seed: str, split: Split) -> World:
    """Return the world of a block of episodes; about 60 ms."""
    world = data.generate(world_seed, N_USERS[split], 3 * N_USERS[split], N_FLIGHTS)
    planting.plant(world, world_seed, held_out=split == "held_out")
    if split == "train":
        _sell_out(world, world_seed)
    return world


def _sell_out(world: World, world_seed: str) -> None:
    """Leave no seat in some cabins, so that a full flight is met more often than by chance."""
    rng = random.Random(f"sold out {world_seed}")
    for flight in world.flights.values():
        for day in flight["dates"].values():
            if "available_seats" in day and rng.random() < SOLD_OUT:
                day["available_seats"][rng.choice(CABINS)] = 0


class Bench:
    """The airline's own rules on a database that forgets every episode.

    Leaves out receipts and schema checks, which the expert does not need; a test replays
    episodes on the backend that has them.
    """

    def __init__(self, world: World) -> None:
        self._desk = backend.open_world(world)

    @property
    def connection(self) -> sqlite3.Connection:
        """The database, for comparing."""
        return self._desk.connection

    def __enter__(self) -> Bench:
        self.connection.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.execute("ROLLBACK")

    def act(self, call: Call) -> ToolOutcome:
        """Run one tool; an error undoes whatever it changed."""
        self.connection.execute("SAVEPOINT effect")
        outcome = backend.act(self.connection, call.name, call.arguments)
        if outcome.is_error:
            self.connection.execute("ROLLBACK TO effect")
        self.connection.execute("RELEASE effect")
        return outcome
