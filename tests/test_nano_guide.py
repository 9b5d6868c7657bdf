"""The invented restaurant conversations: what is called is what was said, in the tools' terms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from random import Random

import jsonschema
import pytest

from models.nano.dialogue import Dialogue
from models.nano.guide import lessons, spoken

LESSONS = list(lessons.dialogues(Random(5), 300))


def _calls(dialogue: Dialogue) -> Iterator[tuple[str, dict[str, str], str]]:
    """Yield name, arguments, and what the customer and the assistant had said until then."""
    said = ""
    for message in dialogue.messages:
        if not message.get("tool_calls"):
            said += " " + message["content"] if message["role"] == "user" else ""
            continue
        function = message["tool_calls"][0]["function"]
        if function["name"] == "respond_to_user":
            said += " " + function["arguments"]["message"]
        else:
            yield function["name"], function["arguments"], said


def test_every_call_satisfies_its_schema() -> None:
    for dialogue in LESSONS:
        schemas = {t["function"]["name"]: t["function"]["parameters"] for t in dialogue.tools}
        for name, arguments, _ in _calls(dialogue):
            jsonschema.validate(arguments, schemas[name])


def test_names_and_cities_were_said_before_they_are_used() -> None:
    n_calls = 0
    for dialogue in LESSONS:
        for _, arguments, said in _calls(dialogue):
            n_calls += 1
            for key in {"city", "cuisine", "restaurant_name"} & arguments.keys():
                names = (arguments[key], *spoken.aliases(arguments[key]))
                assert any(name.lower() in said.lower() for name in names)
    assert n_calls > 300


def test_a_reservation_repeats_what_was_confirmed() -> None:
    """The last full confirmation or its correction names the time that is then reserved."""
    for dialogue in LESSONS:
        for name, arguments, said in _calls(dialogue):
            if name == "ReserveRestaurant":
                times = re.findall(r"(\d{1,2})(?::(\d\d))? ?([ap]m)", said, re.IGNORECASE)
                assert any(_canonical(*found) == arguments["time"] for found in times)


def _canonical(hour: str, minute: str, half: str) -> str:
    return f"{int(hour) % 12 + 12 * (half.lower() == 'pm'):02}:{minute or '00'}"


@pytest.mark.parametrize("value", ["08:00", "11:45", "12:00", "12:30", "13:15", "18:30", "22:00"])
def test_an_assistant_says_times_that_read_back(value: str) -> None:
    for seed in range(20):
        said = spoken.plain_time(value, Random(seed))
        found = re.fullmatch(r"(\d{1,2})(?::(\d\d))? ?([ap]m)", said, re.IGNORECASE)
        assert found
        assert _canonical(found[1], found[2], found[3]) == value


def test_half_a_day_is_never_mistaken() -> None:
    for seed in range(400):
        for value in ("11:15", "19:45"):
            said = spoken.say_time(value, Random(seed)).lower()
            wrong = ("pm", "evening", "night", "afternoon") if value < "12" else ("am", "morning")
            assert not any(re.search(rf"\b\d*{word}\b", said) for word in wrong), said


def test_weekdays_are_those_of_the_calendar() -> None:
    assert spoken.weekday(date(2019, 3, 2)) == "this Saturday"
    assert spoken.weekday(date(2019, 3, 5)) == "next Tuesday"
    assert spoken.weekday(date(2019, 3, 20)) == ""


def test_the_same_seed_gives_the_same_conversations() -> None:
    first, second = (list(lessons.dialogues(Random(9), 20)) for _ in range(2))
    assert first == second
