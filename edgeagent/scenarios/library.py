"""Find a scenario by its name or its folder and open it, data and all.

Knows where each built-in scenario's data lies: `<data_dir>/<name>.db`, made at the first start.

    scenario = load("airline", paths.data_dir())
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from edgeagent.errors import ScenarioError
from edgeagent.messages import Tool
from edgeagent.scenarios import folder, job
from edgeagent.scenarios.airline import backend as airline
from edgeagent.scenarios.airline import tau
from edgeagent.scenarios.airline.world import CITIES
from edgeagent.scenarios.database import Database
from edgeagent.scenarios.orders import backend as orders
from edgeagent.scenarios.restaurants import backend as restaurants

Rules: TypeAlias = Literal["policy", "tau"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything a conversation needs besides a model; serves as the cascade's agent."""

    name: str
    title: str
    """One line for the head of the screen; says so when there is no backend."""
    policy: str
    tools: tuple[Tool, ...]
    backend: Database | folder.FolderBackend
    greeting: str
    """What the desk says before the customer has said anything; not part of the conversation."""
    examples: tuple[str, ...]
    """Messages a person might start with; ids in them are in the data."""
    is_recorded: bool
    """Some tool has no backend and answers with a recorded or an empty result."""


@dataclass(frozen=True, slots=True)
class _BuiltIn:
    title: str
    greeting: str
    describe: Callable[[], job.Job]
    open: Callable[[Path, Rules], Database]
    examples: Callable[[Database], tuple[str, ...]]


def names() -> tuple[str, ...]:
    """Return the names of the built-in scenarios, the default one first."""
    return tuple(_BUILT_IN)


def load(name_or_dir: str, data_dir: Path, rules: Rules = "policy") -> Scenario:
    """Return the scenario, its database made and seeded if this is the first time.

    `rules` matters to `airline` alone; the two rule sets keep separate databases. The first start
    takes about 0.3 s, later ones a few milliseconds.

    Raises:
        ScenarioError: no such name or folder, or something in it cannot be used.
    """
    built_in = _BUILT_IN.get(name_or_dir)
    if built_in is None:
        return _of_folder(Path(name_or_dir), data_dir)
    database = built_in.open(data_file(name_or_dir, data_dir, rules), rules)
    described = built_in.describe()
    return Scenario(
        name=name_or_dir,
        title=built_in.title if rules == "policy" else f"{built_in.title} (tau-bench rules)",
        policy=described.policy,
        tools=described.tools,
        backend=database,
        greeting=built_in.greeting,
        examples=built_in.examples(database),
        is_recorded=False,
    )


def data_file(name: str, data_dir: Path, rules: Rules = "policy") -> Path:
    """Return where a built-in scenario keeps its data; remove it to start afresh."""
    return data_dir / (f"{name}.db" if rules == "policy" else f"{name}-{rules}.db")


def import_tau(source: Path, data_dir: Path) -> Path:
    """Put tau-bench's own data behind `load("airline", rules="tau")`; return the database file.

    What that rule set had before, receipts included, is replaced.

    Raises:
        ScenarioError: `source` does not hold tau-bench's users, flights and reservations.
    """
    world = tau.import_tau(source)
    path = data_file("airline", data_dir, "tau")
    fresh = path.with_suffix(".new")
    for leftover in (fresh, *_sidecars(fresh)):
        leftover.unlink(missing_ok=True)
    airline.open_world(world, "tau", fresh).close()
    for stale in _sidecars(path):
        stale.unlink(missing_ok=True)
    os.replace(fresh, path)
    return path


def _sidecars(path: Path) -> tuple[Path, Path]:
    return Path(f"{path}-wal"), Path(f"{path}-shm")


def _of_folder(path: Path, data_dir: Path) -> Scenario:
    if not path.is_dir():
        raise ScenarioError(
            f"no scenario {str(path)!r}; choose {', '.join(_BUILT_IN)} or a folder that holds a "
            "job_description.json"
        )
    name = path.resolve().name
    opened = folder.open_folder(path, data_dir / "mcp.log")
    title, greeting = name, ""
    if opened.without_backend:
        title = f"{name} ({'recorded answers' if opened.n_recorded else 'no backend'})"
        greeting = (
            f"{', '.join(opened.without_backend)}: no backend in {path}; "
            f"{opened.n_recorded} recorded answers, an empty one otherwise"
        )
    return Scenario(
        name=name,
        title=title,
        policy=opened.policy,
        tools=opened.tools,
        backend=opened.backend,
        greeting=greeting,
        examples=(),
        is_recorded=bool(opened.without_backend),
    )


def _airline_examples(database: Database) -> tuple[str, ...]:
    (user_id,), (reservation_id,), (origin, destination) = (
        database.connection.execute(f"SELECT {columns} ORDER BY rowid LIMIT 1").fetchone()
        for columns in ("id FROM users", "id FROM reservations", "origin, destination FROM flights")
    )
    towns = f"{CITIES[origin]} to {CITIES[destination]}"
    return (
        f"Hello, can you look up my reservation {reservation_id}?",
        f"I need a flight from {towns} on May 20, economy, please.",
        f"My user id is {user_id}. Which cards do I have on file?",
        "I want to talk to a person.",
    )


def _orders_examples(database: Database) -> tuple[str, ...]:
    (order_id,) = database.connection.execute("SELECT id FROM orders ORDER BY rowid").fetchone()
    return (
        f"Where is my order {order_id}?",
        "Can I send goods back?",
        "Phí giao hàng là bao nhiêu?",
    )


_BUILT_IN: Mapping[str, _BuiltIn] = {
    "airline": _BuiltIn(
        "Airline service desk",
        "Hello, this is the airline's service desk. How can I help you?",
        airline.description,
        airline.open_file,
        _airline_examples,
    ),
    "restaurants": _BuiltIn(
        "Restaurant guide",
        "Hello, where would you like to eat?",
        restaurants.description,
        lambda path, rules: restaurants.open_file(path),
        lambda database: (
            "I am looking for a Thai place in San Diego.",
            "Find me Italian food in Oakland, not too expensive.",
        ),
    ),
    "orders": _BuiltIn(
        "Shop help desk",
        "Hello, this is the shop's help desk. What can I do for you?",
        orders.description,
        lambda path, rules: orders.open_file(path),
        _orders_examples,
    ),
}
