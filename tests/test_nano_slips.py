"""Slips in lessons: what the tools say to them in training is what the desk's tools say."""

from __future__ import annotations

import json
from contextlib import closing
from itertools import pairwise
from random import Random

import pytest

from edgeagent.messages import Call
from edgeagent.scenarios.airline import backend
from models.nano import airline, slips
from models.nano.dialogue import Dialogue
from models.nano.template import Message

LESSONS = tuple(airline.dialogues(77, 60, "held_out"))
"""Held-out lessons are left as the expert played them."""


def _inserted(before: Dialogue, after: Dialogue) -> tuple[Message, Message, Message] | None:
    """Return the slip, its result and the call behind them."""
    for at, message in enumerate(after.messages):
        if at >= len(before.messages) or message != before.messages[at]:
            return after.messages[at], after.messages[at + 1], after.messages[at + 2]
    return None


SLIPPED = [
    (lesson, found)
    for number, lesson in enumerate(LESSONS)
    if (found := _inserted(lesson, slips.slipped(lesson, Random(number))))
]


def test_a_slip_is_context_and_the_call_behind_it_is_learnt() -> None:
    assert len(SLIPPED) > 30
    for lesson, (slip, _, right) in SLIPPED:
        wrong, meant = (m["tool_calls"][0]["function"] for m in (slip, right))
        assert slip["learn"] == "nothing"
        assert right.get("learn") != "nothing"
        assert right in lesson.messages
        assert wrong["name"] == meant["name"]
        assert wrong["arguments"] != meant["arguments"]
        assert wrong["arguments"].keys() == meant["arguments"].keys()


def test_the_desks_tools_answer_a_slip_with_the_same_words() -> None:
    seen = set()
    with closing(backend.open_file(None)) as desk:
        for number, (_, (slip, told, _)) in enumerate(SLIPPED):
            function = slip["tool_calls"][0]["function"]
            answer = desk.call(Call(f"c{number}", function["name"], function["arguments"]), 5)
            assert json.loads(told["content"]) == json.loads(answer.content)
            seen.add((function["name"], answer.content))
    assert len(seen) > 4


def test_a_lesson_without_a_call_that_can_go_wrong_stays_as_it_is() -> None:
    lesson = next(d for d in LESSONS if not any(map(slips._can_slip, d.messages)))
    assert slips.slipped(lesson, Random(1)) == lesson


def test_training_lessons_slip_now_and_then_and_never_twice() -> None:
    n_slipped = 0
    for lesson in airline.dialogues(5, 120):
        found = [
            (first, second)
            for first, second in pairwise(m for m in lesson.messages if m.get("tool_calls"))
            if first.get("learn") == "nothing"
            and first["tool_calls"][0]["function"]["name"]
            == second["tool_calls"][0]["function"]["name"]
            and second.get("learn") != "nothing"
        ]
        assert len(found) <= 1
        n_slipped += bool(found)
    assert 5 <= n_slipped <= 35


@pytest.mark.parametrize("right", ["noor_mehta_2480", "BS6J2K"])
def test_a_misread_id_keeps_its_form(right: str) -> None:
    wrong = slips._misread(right, Random(3))
    assert wrong != right
    assert [(c.isdigit(), c.isalpha()) for c in wrong] == [
        (c.isdigit(), c.isalpha()) for c in right
    ]
