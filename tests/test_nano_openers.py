"""First messages as anybody types them, and what the embedded model makes of each.

Scores on scripted customers once hid a build that refused plain requests. Nothing here is from a
phrase file of the simulator; names and routes are the generated desk's and others.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from edgeagent import config, wiring
from edgeagent.engine.client import Prompt, StepDone, StepRule
from edgeagent.messages import THINK, TRANSFER, Call, UserMessage
from edgeagent.scenarios.airline import backend
from edgeagent.wiring import Local


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("DATA", "STATE", "CACHE", "CONFIG"):
            patch.setenv(f"XDG_{kind}_HOME", str(tmp_path_factory.mktemp(kind)))
        local = wiring.open_local(config.load({"model.name": "nano"}), "none")
        with closing(local.tier):
            local.tier.start()
            yield local


def first_call(local: Local, text: str) -> Call:
    """Return the first call that follows a conversation's first message."""
    desk = backend.description()
    rule = StepRule(
        frozenset(tool.name for tool in desk.tools),
        local.manifest.defer_threshold,
        None,
        local.max_tokens,
    )
    prompt = Prompt(desk.policy, desk.tools, (UserMessage(text),))
    *_, done = local.tier.step(prompt, rule, threading.Event())
    assert isinstance(done, StepDone)
    (made,) = done.calls
    return made


WISHES = (
    ("I'd like to book a flight from San Francisco to Seattle.",
     "book a flight; origin SFO; destination SEA"),
    ("Hello, I want to book a flight from Boston to Denver on May 20.",
     "book a flight; origin BOS; destination DEN; date 2024-05-20"),
    ("Hi, can you book me a flight to Miami please?", "book a flight; destination MIA"),
    ("I need a flight from Las Vegas to Philadelphia on May 20, economy, please.",
     "(book a flight|search); origin LAS; destination PHL; date 2024-05-20"),
    ("Are there flights from San Francisco to Seattle on May 22?",
     "search; origin SFO; destination SEA; date 2024-05-22"),
    ("Hi! I need to cancel my reservation HX92M5.", "cancel; reservation_id HX92M5"),
    ("I would like to change the date of my flight", "change (flight|date)"),
    ("Hello, I'd like to add a bag to my booking HX92M5", "add bags; reservation_id HX92M5"),
    ("Hello, can you look up my reservation PVUSK3?", "lookup overview; reservation_id PVUSK3"),
    ("Which flights are in my reservation HX92M5?", "lookup flights; reservation_id HX92M5"),
    ("My user id is lucia_aguilar_3019. Which cards do I have on file?",
     "profile payment; user_id lucia_aguilar_3019"),
    ("What is my membership level?", "profile membership"),
)  # fmt: skip


@pytest.mark.parametrize(("said", "noted"), WISHES)
def test_a_plain_request_is_noted_for_what_it_is(nano: Local, said: str, noted: str) -> None:
    made = first_call(nano, said)
    assert made.name == THINK, made
    assert re.match(f"wish: {noted}", made.arguments["thought"])


@pytest.mark.parametrize("said", ["I want to talk to a person.", "I want to speak to a human"])
def test_whoever_asks_for_a_person_gets_one(nano: Local, said: str) -> None:
    assert first_call(nano, said).name == TRANSFER
