"""Text made fit for the screen, and progress thinned out."""

from __future__ import annotations

import pytest

from edgeagent.events import Answered, Event, Prefilled, Tier, Token
from edgeagent.tui.plain import clipped, literal, milliseconds, one_line, pretty, reason
from edgeagent.tui.posts import Happening, Work
from edgeagent.tui.work import caught_up


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines    and a tab"),
        ("windows\r\nlines", "windows\nlines"),
        ("over\rwritten", "over␍written"),
        ("\x1b[31mred", "␛[31mred"),
        ("bell\x07 delete\x7f", "bell␇ delete␡"),
        ("one-character CSI \x9b2J", "one-character CSI \ufffd2J"),
        ("pay \u202e001\u202c now", "pay \ufffd001\ufffd now"),
        ("half \ud83d", "half \ufffd"),  # json.loads lets "\ud83d" through
        ("Hà Nội", "Hà Nội"),
    ],
)
def test_nothing_in_a_text_can_steer_the_terminal(text: str, shown: str) -> None:
    assert literal(text) == shown


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ('{"a": 1}', '{\n  "a": 1\n}'),
        ("not json", "not json"),
        ("[" * 100_000, "[" * 100_000),  # deeper than the parser goes
    ],
)
def test_results_are_indented_where_they_are_json(content: str, shown: str) -> None:
    assert pretty(content) == shown


@pytest.mark.parametrize(
    ("content", "shown"),
    [('{"error": "no seat"}', "no seat"), ('{"status": 1}', '{"status": 1}'), ("boom", "boom")],
)
def test_the_reason_of_a_failure_is_its_error(content: str, shown: str) -> None:
    assert reason(content) == shown


def test_long_texts_say_how_much_is_missing() -> None:
    assert clipped("abcdef", 4) == "abcd\n… 2 more characters"
    assert one_line("a\n  b " * 100, 5) == "a b …"


@pytest.mark.parametrize(("ms", "shown"), [(0.2, "<1 ms"), (41.6, "42 ms"), (1260, "1.3 s")])
def test_durations_are_said_as_a_person_would(ms: float, shown: str) -> None:
    assert milliseconds(ms) == shown


def test_progress_is_joined_and_nothing_else_is() -> None:
    done = Answered("ab", Tier.LOCAL)
    events: list[Event] = [
        Prefilled(1, 3), Prefilled(3, 3), Token("a"), Token("b"), done, done, Token("c"),
    ]  # fmt: skip
    work = Work(is_turn=True)
    for event in events:
        work.happened.put(Happening(event))
    seen = [happening.event for happening in caught_up(work)]
    assert seen == [Prefilled(3, 3), Token("ab"), done, done, Token("c")]
    assert list(caught_up(work)) == []
