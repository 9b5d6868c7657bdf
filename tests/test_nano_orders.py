"""Lessons of the shop's desk: true on the real backend, lawful, in the customer's language."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from edgeagent.calls import validate
from edgeagent.messages import CONTROL_NAMES, DEFER, RESPOND, THINK, TRANSFER, Call
from edgeagent.scenarios.orders import backend
from edgeagent.scenarios.orders.shop import FAQS, TODAY
from models.nano import template
from models.nano.orders import desk, lessons, scripts, stock

PHRASES = Path(lessons.__file__).parent
TRAIN = tuple(lessons.lessons(11, 700))
HELD_OUT = tuple(lessons.lessons(11, 200, "held_out"))
MARKED = re.compile(r"[^\x00-\x7f]")


def steps(lesson: lessons.Lesson) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield the place, the name and the arguments of each step."""
    for at, message in enumerate(lesson.dialogue.messages):
        if message["role"] == "assistant":
            function = message["tool_calls"][0]["function"]
            yield at, function["name"], function["arguments"]


def said(lesson: lessons.Lesson, role: str, before: int) -> str:
    """Return what was said up to a place."""
    parts = [m["content"] for m in lesson.dialogue.messages[:before] if m["role"] == role]
    return " ".join(parts)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_lesson_replays_on_the_real_backend(split: str) -> None:
    database = backend.open_file(None)
    for lesson in TRAIN if split == "train" else HELD_OUT:
        stock.clear(database.connection, lesson.last_ticket)
        for order in lesson.orders:
            stock.add(database.connection, order)
        messages = lesson.dialogue.messages
        for at, name, arguments in steps(lesson):
            assert validate(name, arguments, backend.description().tools) is None
            assert list(arguments) == list(_properties(name))
            if name in CONTROL_NAMES:
                continue
            outcome = database.call(Call(f"call_{id(lesson)}_{at}", name, arguments), 5.0)
            assert messages[at + 1] == template.result(outcome.content)
            if outcome.is_error:
                assert name != "create_ticket", "nothing that is proposed is refused"
    database.close()


def _properties(name: str) -> dict[str, Any]:
    (tool,) = (tool for tool in backend.description().tools if tool.name == name)
    return dict(tool.parameters["properties"])


def test_an_order_is_looked_up_by_the_digits_that_the_customer_gave() -> None:
    n = 0
    for lesson in TRAIN + HELD_OUT:
        for at, name, arguments in steps(lesson):
            if name == "lookup_order":
                n += 1
                assert arguments["order_id"].removeprefix("OD-") in said(lesson, "user", at)
    assert n > 300


def test_a_ticket_is_what_was_proposed_and_agreed_to() -> None:
    answers = Counter[bool]()
    for lesson in TRAIN + HELD_OUT:
        messages = lesson.dialogue.messages
        yes = rf"^({'|'.join(map(re.escape, _words_of(lesson.language, 'yes')))})[.!]*$"
        for at, name, arguments in steps(lesson):
            if name != "create_ticket":
                continue
            proposal = messages[at - 2]["tool_calls"][0]["function"]
            told = [m for m in messages[:at] if m["role"] == "assistant"]
            assert any(
                arguments["issue"] in m["tool_calls"][0]["function"]["arguments"].get("message", "")
                for m in told
            )
            assert proposal["name"] == RESPOND
            assert messages[at - 1]["role"] == "user"
            answers[bool(re.match(yes, messages[at - 1]["content"], re.I))] += 1
    # The rest are typing errors.
    assert answers[True] > 0.9 * answers.total() > 150


def _words_of(language: str, rule: str) -> list[str]:
    table = tomllib.loads((PHRASES / f"{language}.toml").read_text(encoding="utf-8"))[rule]
    words = [*table["train"], *table["held_out"]]
    return words + [desk.without_marks(word) for word in words]


def test_the_priority_follows_the_policy() -> None:
    found = Counter[tuple[str, str]]()
    for lesson in TRAIN:
        if len(lesson.kinds) > 1:
            continue
        for at, name, arguments in steps(lesson):
            if name != "create_ticket":
                continue
            (kind,) = lesson.kinds
            found[kind, arguments["priority"]] += 1
            if kind == "late":
                expected = lesson.orders[0]["expected_on"]
                days = (TODAY - date.fromisoformat(expected)).days
                assert (arguments["priority"] == "high") == (days > 7)
                before = lesson.dialogue.messages[:at]
                made = [one["tool_calls"][0]["function"] for one in before if "tool_calls" in one]
                thought = [one["arguments"]["thought"] for one in made if one["name"] == THINK][-1]
                assert f"{days} days" in thought
            elif kind == "fault":
                dangerous = r"dangerous|nguy hiểm|twice|hai lần"
                is_high = arguments["priority"] == "high"
                assert is_high == bool(re.search(dangerous, arguments["issue"]))
            else:
                assert arguments["priority"] == ("low" if kind == "idea" else "normal")
    assert {priority for _, priority in found} == {"low", "normal", "high"}


def test_hard_turns_are_deferred_and_only_those() -> None:
    for lesson in TRAIN:
        names = [name for _, name, _ in steps(lesson)]
        if DEFER in names:
            assert lesson.kinds[-1] == "hard"
            assert names[-1] == DEFER
        if TRANSFER in names:
            assert lesson.kinds[-1] in ("person", "beyond")
            assert names[-1] == TRANSFER
        masked = [m for m in lesson.dialogue.messages if m.get("learn")]
        is_answered_here = "hard" in lesson.kinds and DEFER not in names
        assert bool(masked) == is_answered_here


def test_what_is_none_of_the_shops_business_meets_no_tool() -> None:
    seen = 0
    for lesson in TRAIN:
        if set(lesson.kinds) <= {"off", "injection", "absurd", "foreign"}:
            seen += 1
            assert {name for _, name, _ in steps(lesson)} == {RESPOND}
    assert seen > 40


def test_the_desk_answers_in_the_customers_language() -> None:
    n = Counter(lesson.language for lesson in TRAIN)
    assert 0.27 < n["vi"] / len(TRAIN) < 0.40
    bare = 0
    for lesson in TRAIN:
        replies = [a["message"] for _, name, a in steps(lesson) if name == RESPOND]
        if lesson.language == "en":
            assert not any(MARKED.search(reply) for reply in replies)
        elif "foreign" not in lesson.kinds:
            assert all(MARKED.search(reply) for reply in replies)
            bare += not MARKED.search(said(lesson, "user", len(lesson.dialogue.messages)))
    assert 0.25 < bare / n["vi"] < 0.6


def test_vietnamese_loses_its_marks_and_nothing_else() -> None:
    assert desk.without_marks("Đơn hàng của tôi đâu? OD-1") == "Don hang cua toi dau? OD-1"


def test_nothing_can_be_remembered_from_one_lesson_to_the_next() -> None:
    orders = [order for lesson in TRAIN for order in lesson.orders]
    ids = Counter(order["order_id"] for order in orders)
    goods = Counter(item["name"] for order in orders for item in order["items"])
    assert ids.most_common(1)[0][1] <= 2
    assert goods.most_common(1)[0][1] <= 6
    openings = Counter(lesson.dialogue.messages[0]["content"] for lesson in TRAIN)
    assert len(openings) > 0.85 * len(TRAIN)


def test_held_out_wording_is_never_trained_on() -> None:
    def heard(told: tuple[lessons.Lesson, ...]) -> str:
        return " ".join(said(lesson, "user", 99).lower() for lesson in told)

    train, held_out = heard(TRAIN), heard(HELD_OUT)
    reserved = ("whereabouts of", "scrap ", "reimburse", "flesh and blood", "easel", "hammock",
                "by all means", "cheers", "what's your take on", "shipment")  # fmt: skip
    assert not [word for word in reserved if word in train]
    assert len([word for word in reserved if word in held_out]) >= 4


def test_the_same_seed_gives_the_same_lessons() -> None:
    again = tuple(lessons.lessons(11, 30))
    assert again == TRAIN[:30]
    assert tuple(lessons.lessons(12, 30)) != again


def test_both_languages_have_the_same_rules_and_slots() -> None:
    tables = [
        tomllib.loads((PHRASES / f"{language}.toml").read_text(encoding="utf-8"))
        for language in ("en", "vi")
    ]
    assert tables[0].keys() == tables[1].keys()
    for rule in tables[0]:
        slots = [set(re.findall(r"\{\w+\}", str(table[rule]))) for table in tables]
        assert slots[0] >= slots[1], rule
        if rule.startswith(("r_", "issue_")):
            assert slots[0] == slots[1], rule


def test_every_common_question_is_answered_in_its_language() -> None:
    for question in scripts.FAQS:
        topic, _, sentence = question.partition("_")
        for language, asked in enumerate(scripts.FAQ_TOPICS[topic]):
            outcome = backend.act(stock.open_books(), "get_faq", {"topic": asked})
            told = json.loads(outcome.content)
            faq = FAQS[told["topic"]]
            assert told["answer"] == (faq.vietnamese if language else faq.english)
            assert len(told["answer"].rstrip(".").split(". ")) > int(sentence)


def test_the_shop_has_no_answer_to_what_is_asked_as_unknown() -> None:
    for topics in scripts.TOPICS.values():
        for topic in topics:
            for typed in (topic, desk.without_marks(topic)):
                assert backend.act(stock.open_books(), "get_faq", {"topic": typed}).is_error


def test_lessons_are_short() -> None:
    lengths = [len(template.render(x.dialogue.messages, x.dialogue.tools)) for x in TRAIN]
    assert median(lengths) < 1500


def test_a_lesson_cut_for_training_copies_ids_from_its_context() -> None:
    windows = pytest.importorskip("models.nano.windows")
    lesson = next(lesson for lesson in TRAIN if lesson.kinds == ("change",))

    class Letters:
        def encode(self, sequence: str) -> Any:
            ids = [ord(letter) for letter in sequence]
            offsets = [(i, i + 1) for i in range(len(ids))]
            return type("Encoding", (), {"ids": ids, "offsets": offsets})

    from random import Random

    (window,) = windows.windows(lesson.dialogue, Letters(), 100_000, Random(0))
    pairs = zip(window.ids, window.flags, strict=True)
    copied = "".join(chr(i) if flag & windows.COPY else "·" for i, flag in pairs)
    assert lesson.orders[0]["order_id"] in copied
