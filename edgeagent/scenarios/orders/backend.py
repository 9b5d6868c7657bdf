"""Look up orders, open tickets, answer common questions.

Knows nothing of prompts; a topic asked for in Vietnamese is answered in Vietnamese.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from edgeagent.cascade import ToolOutcome
from edgeagent.messages import Json
from edgeagent.scenarios import job
from edgeagent.scenarios.database import Database, Desk, answer, refused
from edgeagent.scenarios.orders.shop import FAQS, TODAY, generate

VERSION = 1
SEED = 2025
MAX_ISSUE = 2000
"""Characters that a ticket keeps; longer text is refused, not cut."""

TABLES = (
    "CREATE TABLE orders (id TEXT PRIMARY KEY COLLATE NOCASE, document TEXT NOT NULL)",
    "CREATE TABLE tickets (id INTEGER PRIMARY KEY, issue TEXT NOT NULL, priority TEXT NOT NULL,"
    " opened_on TEXT NOT NULL)",
)


@cache
def description() -> job.Job:
    """Return the policy text and the seven tools."""
    return job.read(files("edgeagent.scenarios.orders") / "job_description.json")


def open_file(path: Path | None) -> Database:
    """Return the shop's books on `path`, made from `SEED` if new; in memory without a path."""
    return Database(Desk("orders", VERSION, TABLES, seed, act, description().tools), path)


def seed(connection: sqlite3.Connection) -> None:
    """Write the orders into empty tables."""
    rows = [(key, json.dumps(order)) for key, order in generate(SEED).items()]
    connection.executemany("INSERT INTO orders VALUES (?, ?)", rows)


def act(connection: sqlite3.Connection, name: str, arguments: Mapping[str, Json]) -> ToolOutcome:
    """Run one tool; arguments fit its schema."""
    match name:
        case "lookup_order":
            return _lookup(connection, arguments["order_id"])
        case "create_ticket":
            return _create_ticket(connection, arguments["issue"], arguments["priority"])
        case "get_faq":
            return _faq(arguments["topic"])
        case "think":
            return ToolOutcome("")
        case "transfer_to_human_agents":
            return ToolOutcome("Transfer successful")
    return refused(f"{name} is not a tool of the shop")


def _lookup(connection: sqlite3.Connection, order_id: str) -> ToolOutcome:
    asked = order_id.strip().lstrip("#")
    asked = f"OD-{asked}" if asked.isdigit() else asked
    row = connection.execute("SELECT document FROM orders WHERE id = ?", (asked,)).fetchone()
    return refused(f"no order {order_id!r}") if row is None else ToolOutcome(row[0])


def _create_ticket(connection: sqlite3.Connection, issue: str, priority: str) -> ToolOutcome:
    if not issue.strip() or len(issue) > MAX_ISSUE:
        return refused(f"an issue has 1 to {MAX_ISSUE} characters, this one has {len(issue)}")
    made = connection.execute(
        "INSERT INTO tickets (issue, priority, opened_on) VALUES (?, ?, ?)",
        (issue.strip(), priority, TODAY.isoformat()),
    )
    return answer({"ticket_id": f"T-{made.lastrowid}", "priority": priority, "status": "open"})


def _faq(topic: str) -> ToolOutcome:
    asked = topic.casefold()
    for name, faq in FAQS.items():
        word = next((word for word in (name, *faq.words) if word in asked), None)
        if word is not None:
            text = faq.english if word.isascii() else faq.vietnamese
            return answer({"topic": name, "answer": text})
    return refused(f"no answer on that; topics are {', '.join(FAQS)}")
