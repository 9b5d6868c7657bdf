"""The simulator teaches only what the real desk accepts, and says it in many ways."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from edgeagent.history import open_calls
from edgeagent.messages import (
    CONTROL_NAMES,
    DEFER,
    RESPOND,
    TRANSFER,
    Call,
    CallMessage,
    ResultMessage,
    ToolKind,
    UserMessage,
)
from edgeagent.scenarios.airline import backend
from edgeagent.scenarios.airline.checks import Rule
from edgeagent.scenarios.airline.records import Records
from edgeagent.scenarios.airline.simulator import episodes as episodes_module
from edgeagent.scenarios.airline.simulator import grammar, understanding, wanting
from edgeagent.scenarios.airline.simulator.customer import Customer
from edgeagent.scenarios.airline.simulator.desk import ToolRefused
from edgeagent.scenarios.airline.simulator.drawing import is_reserved
from edgeagent.scenarios.airline.simulator.episodes import (
    EPISODES_PER_WORLD,
    Bench,
    Episode,
    Split,
    episodes,
    make_world,
    play,
)
from edgeagent.scenarios.airline.simulator.expert import TASKS
from edgeagent.scenarios.airline.simulator.goals import Ask, Goal, Wish
from edgeagent.scenarios.airline.simulator.kinds import CONFIRMED, WEIGHTS
from edgeagent.scenarios.airline.simulator.replies import REPLIES
from edgeagent.scenarios.airline.simulator.speaker import phrases


@pytest.fixture(scope="module")
def lessons() -> tuple[Episode, ...]:
    return tuple(episodes(11, 400, "train"))


@pytest.fixture(scope="module")
def reserved() -> tuple[Episode, ...]:
    return tuple(episodes(11, 100, "held_out"))


def calls_of(episode: Episode) -> Iterator[Call]:
    for message in episode.conversation:
        if isinstance(message, CallMessage):
            yield from message.calls


def test_the_same_seed_plays_the_same_episode(lessons: tuple[Episode, ...]) -> None:
    again = tuple(episodes(11, 60, "train"))
    assert again == lessons[:60]


def test_a_wish_that_changes_nothing_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The desk refuses it, and the expert has nothing to teach there."""

    def refused(seed: str, *rest: Any) -> Episode:
        if seed == "train 3 1":
            raise ToolRefused("it is so already", Rule.NOTHING_TO_CHANGE)
        return play(seed, *rest)

    monkeypatch.setattr(episodes_module, "play", refused)
    assert [lesson.seed for lesson in episodes(3, 3, "train")] == [
        "train 3 0", "train 3 1 1", "train 3 2",
    ]  # fmt: skip


def _spelled(sequence: grammar.Sequence) -> list[str]:
    """Return every text of an alternative, its slots and rules by name."""
    parts: list[list[str]] = []
    for node in sequence:
        match node:
            case str(text):
                parts.append([text])
            case grammar.Choice(options):
                parts.append([text for option in options for text in _spelled(option)])
            case grammar.Slot(name) | grammar.Ref(name):
                parts.append([f"<{name}>"])
    return ["".join(part) for part in itertools.product(*parts)]


def test_no_reserved_alternative_is_part_of_one_for_training() -> None:
    found = phrases()
    for name in found.names():
        rule = found.rule(name)
        taught = {text.lower() for one in (*rule.train, *rule.plain) for text in _spelled(one)}
        for text in (text for one in rule.held_out for text in _spelled(one)):
            pattern = re.compile(rf"(?<!\w){re.escape(text.strip().lower())}(?!\w)")
            assert not [other for other in taught if pattern.search(other)], (name, text)


def test_an_episode_is_a_valid_conversation_with_one_label_per_step(
    lessons: tuple[Episode, ...],
) -> None:
    for episode in lessons:
        assert isinstance(episode.conversation[0], UserMessage)
        assert not open_calls(episode.conversation)
        assert len(episode.labels) == len(list(calls_of(episode)))
        ids = [call.id for call in calls_of(episode)]
        assert len(set(ids)) == len(ids)


def test_every_call_fits_its_schema_and_replays_on_the_real_backend(
    lessons: tuple[Episode, ...], reserved: tuple[Episode, ...]
) -> None:
    """The real backend checks schemas, commits for good and keeps receipts; the bench does not."""
    for episode in (*lessons[::4], *reserved[::10]):
        split: Split = "held_out" if episode in reserved else "train"
        desk = backend.open_world(make_world(episode.world_seed, split))
        results = {m.call_id: m for m in episode.conversation if isinstance(m, ResultMessage)}
        for call in calls_of(episode):
            if call.name not in CONTROL_NAMES:
                outcome = desk.call(call, timeout_s=5.0)
                expected = results[call.id]
                assert (outcome.content, outcome.is_error) == (expected.content, expected.is_error)
        desk.close()


def test_a_round_asks_much_about_one_reservation_and_changes_little() -> None:
    rounds = list(episodes(11, 60, "train", wanting.draw_round))
    n_wishes = [len(episode.goal.wishes) for episode in rounds]
    assert sum(5 <= n <= 8 for n in n_wishes) > 50
    for episode in rounds:
        named = {
            wish.facts["reservation_id"]
            for wish in episode.goal.wishes
            if "reservation_id" in wish.facts
        }
        assert len(named) <= 3
    n_steps = [len(list(calls_of(episode))) for episode in rounds]
    assert sum(n_steps) > 15 * len(rounds)
    wishes = [w for episode in rounds for w in episode.goal.wishes if w.kind in CONFIRMED]
    assert 0.6 < sum(wish.declines for wish in wishes) / len(wishes) < 0.85
    test_every_call_fits_its_schema_and_replays_on_the_real_backend(tuple(rounds), ())


def test_a_replay_ends_in_the_state_that_the_expert_left() -> None:
    world = make_world("train 5 0", "train")
    bench = Bench(world)
    pristine = backend.world_of(backend.open_world(world))
    for number in range(25):
        episode = play(f"train 5 {number}", "train 5 0", world, bench, "train")
        replayed = backend.open_world(world)
        with bench:
            for call in calls_of(episode):
                if call.name not in CONTROL_NAMES:
                    bench.act(call)
                    replayed.call(call, timeout_s=5.0)
            assert backend.world_of(replayed) == Records(bench.connection).world()
        assert Records(bench.connection).world() == pristine


def test_the_expert_breaks_no_rule_except_by_trying_a_balance(
    lessons: tuple[Episode, ...], reserved: tuple[Episode, ...]
) -> None:
    kinds = {tool.name: tool.kind for tool in lessons[0].tools}
    for episode in (*lessons, *reserved):
        results = [m for m in episode.conversation if isinstance(m, ResultMessage)]
        for label, message in zip(episode.labels, results, strict=True):
            if kinds[message.name] is ToolKind.WRITE and label.by != "slip":
                assert not message.is_error or "payment_balance" in message.content


def test_every_write_follows_a_yes_of_the_customer(lessons: tuple[Episode, ...]) -> None:
    kinds = {tool.name: tool.kind for tool in lessons[0].tools}
    n_writes = 0
    for episode in lessons:
        said = ""
        for message in episode.conversation:
            if isinstance(message, CallMessage):
                call = message.calls[0]
                if call.name == RESPOND:
                    said = call.arguments["message"]
                elif kinds[call.name] is ToolKind.WRITE:
                    n_writes += 1
                    assert "(yes/no)?" in said
    assert n_writes > 100


def test_every_tool_and_every_kind_of_wish_comes_up(lessons: tuple[Episode, ...]) -> None:
    more = itertools.chain(lessons, episodes(12, 900, "train"))
    names: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for episode in more:
        names.update(call.name for call in calls_of(episode))
        kinds.update(wish.kind for wish in episode.goal.wishes)
    assert set(names) == {tool.name for tool in lessons[0].tools}
    assert set(kinds) == set(WEIGHTS)


def test_a_deferral_is_the_last_step_and_never_comes_with_a_write_after_it(
    lessons: tuple[Episode, ...],
) -> None:
    n_deferred = 0
    for episode in lessons:
        names = [call.name for call in calls_of(episode)]
        n_deferred += DEFER in names
        assert DEFER not in names[:-1]
        assert TRANSFER not in names[:-1]
    assert 15 < n_deferred < 80


def test_hard_turns_are_also_shown_without_the_larger_model(
    lessons: tuple[Episode, ...],
) -> None:
    labels = [label for episode in lessons for label in episode.labels]
    assert any(label.by == "larger model" for label in labels)
    masked = [label for label in labels if label.is_masked]
    assert masked
    assert all(label.is_hard for label in masked)


def test_reserved_names_and_words_stay_out_of_training(
    lessons: tuple[Episode, ...], reserved: tuple[Episode, ...]
) -> None:
    for episode, expected in (*((e, False) for e in lessons), *((e, True) for e in reserved)):
        last_name = episode.goal.user_id.split("_")[-2]
        assert is_reserved(last_name.capitalize()) == expected or last_name == "mccarthy"
    held_out_words = ("ahoy", "greetings", "aye, carry on", "make it so", "zzz")
    said = " ".join(
        message.text.lower()
        for episode in lessons
        for message in episode.conversation
        if isinstance(message, UserMessage)
    )
    assert not [word for word in held_out_words if word in said]


@pytest.mark.parametrize("kind", sorted(WEIGHTS))
def test_every_wish_is_known_to_the_expert_and_to_the_grammar(kind: str) -> None:
    assert kind in TASKS
    assert kind in phrases()


def test_intents_have_hundreds_of_surface_forms() -> None:
    # With the ways to name a reservation, a route and a day that go into the slots.
    n_reservation = phrases().n_forms("res_rid") + phrases().n_forms("res_bare")
    for kind in ("lookup_bags", "cancel", "upgrade", "change_date", "defer_refund"):
        assert phrases().n_forms(kind) * n_reservation > 5_000
    assert phrases().n_forms("yes") >= 20


def test_what_the_expert_asks_is_what_the_customer_hears() -> None:
    expected = {
        "ask_user_id": [Ask.USER_ID],
        "unknown_user": [Ask.USER_ID],
        "not_yours": [Ask.USER_ID],
        "ask_reservation": [Ask.RESERVATION_ID],
        "unknown_reservation": [Ask.RESERVATION_ID],
        "which_reservation": [Ask.WHICH_RESERVATION],
        "ask_route": [Ask.ROUTE],
        "ask_origin": [Ask.ORIGIN],
        "ask_destination": [Ask.DESTINATION],
        "ask_date": [Ask.DATE],
        "ask_exact_date": [Ask.DATE],
        "ask_new_date": [Ask.DATE],
        "ask_flight_type": [Ask.FLIGHT_TYPE],
        "ask_flight_type_and_cabin": [Ask.FLIGHT_TYPE, Ask.CABIN],
        "ask_bags_and_insurance": [Ask.BAGS, Ask.INSURANCE],
        "ask_return_date": [Ask.RETURN_DATE],
        "ask_cabin": [Ask.CABIN],
        "ask_passengers": [Ask.PASSENGERS],
        "ask_bags": [Ask.BAGS],
        "ask_more_bags": [Ask.BAGS],
        "ask_insurance": [Ask.INSURANCE],
        "ask_payment": [Ask.PAYMENT],
        "ask_change_payment": [Ask.PAYMENT],
        "payment_refused": [Ask.PAYMENT],
        "ask_new_passenger": [Ask.NEW_PASSENGER],
        "ask_reason": [Ask.REASON],
        "offer_flights": [Ask.FLIGHT],
        "offer_onestop": [Ask.FLIGHT],
        "offer_return": [Ask.FLIGHT],
        "no_user_id": [Ask.HUMAN_OR_FACTS],
        "offline": [Ask.HUMAN_OR_FACTS],
        "greeting": [Ask.WISH],
        "not_understood": [Ask.WISH],
        "english_only": [Ask.WISH],
        **{name: [Ask.CONFIRM] for name in REPLIES if name.startswith("confirm_")},
        "offer_certificate": [Ask.CONFIRM],
    }
    heard = {name: understanding.asks(text) for name, text in REPLIES.items()}
    assert heard == {name: expected.get(name, []) for name in REPLIES}


def test_every_refusal_of_the_expert_is_heard_as_one() -> None:
    refused = [name for name in REPLIES if name.startswith("refuse_") or name == "no_exception"]
    assert all(understanding.is_refusal(REPLIES[name]) for name in refused)
    assert not understanding.is_refusal(REPLIES["booked"])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # Questions of another agent than ours.
        ("Could I have your user id and the reservation number, please?", ["user_id", "res"]),
        ("To proceed with the booking, shall I confirm these details for you?", ["confirm"]),
        ("What dates are you planning to travel?", ["date"]),
        ("Which payment method would you like to use?", ["payment"]),
        ("Please provide your user ID so I can look this up.", ["user_id"]),
        ("Your reservation has two bags.", []),
        ("Is there anything else I can help you with?", ["wish"]),
    ],
)
def test_customers_understand_other_agents(message: str, expected: list[str]) -> None:
    heard = [ask.value for ask in understanding.asks(message)]
    assert len(heard) == len(expected)
    assert all(ask.startswith(start) for ask, start in zip(heard, expected, strict=True))


def test_a_customer_can_be_put_before_any_agent() -> None:
    goal = Goal("mia_berg_1234", (Wish("cancel", {"reservation_id": "AB12CD", "reason": "plan"}),))
    customer = Customer(3, goal)
    assert customer.open()
    assert "mia_berg_1234" in (customer.reply("May I have your user id?") or "")
    assert "AB12CD" in (customer.reply("What is the reservation number?") or "")
    assert customer.reply("Shall I cancel it (yes/no)?")
    last = customer.reply("It is cancelled.")
    assert last is None or customer.reply("Goodbye!") is None


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_customer_answers_whatever_it_is_asked(split: Split) -> None:
    """A model that lost the thread asks for things that the wish does not have."""
    world = make_world(f"odd {split}", split)
    for number in range(120):
        goal = wanting.draw_goal(world, random.Random(number), held_out=split == "held_out")
        for text in REPLIES.values():
            customer = Customer(number, goal)
            assert customer.open()
            customer.reply(text)


def test_a_customer_leaves_an_agent_that_never_understands() -> None:
    for seed in range(20):
        goal = Goal("mia_berg_1234", (Wish("lookup_bags", {"reservation_id": "AB12CD"}),))
        customer = Customer(seed, goal)
        customer.open()
        replies = itertools.takewhile(
            bool, (customer.reply("What is your favourite suitcase colour?") for _ in range(50))
        )
        assert len(list(replies)) < 10


def test_goals_are_drawn_from_what_the_world_holds() -> None:
    world = make_world("train 9 0", "train")
    for seed in range(200):
        goal = wanting.draw_goal(world, random.Random(seed), held_out=False)
        assert goal.user_id in world.users
        for wish in goal.wishes:
            reservation_id = wish.facts.get("reservation_id")
            if reservation_id is not None:
                assert world.reservations[reservation_id]["user_id"] == goal.user_id


def test_episodes_cross_the_edge_of_a_world() -> None:
    seeds = [e.world_seed for e in episodes(3, EPISODES_PER_WORLD + 1, "train")]
    assert len(set(seeds)) == 2


@pytest.mark.parametrize("text", ["a (b|c", "a b)", "a {B}", "<Rule>"])
def test_a_malformed_phrase_is_refused_at_load(text: str) -> None:
    with pytest.raises(ValueError, match="phrase"):
        grammar.parse(text)


def test_a_phrase_expands_its_choices_rules_and_slots() -> None:
    rules = {
        "hi": grammar.Rule((grammar.parse("hi "),), ()),
        "all": grammar.Rule((grammar.parse("<hi>(a|b|){x}"),), (grammar.parse("reserved"),)),
    }
    spoken = grammar.Grammar(rules)
    heard = {
        "".join(piece.text for piece in spoken.speak("all", {"x": "!"}, random.Random(seed)))
        for seed in range(50)
    }
    assert heard == {"hi a!", "hi b!", "hi !"}
    assert spoken.n_forms("all") == 3


def test_plain_ways_to_say_a_thing_are_common_in_training_and_unknown_to_evaluation() -> None:
    rules = {"one": grammar.of_tables({"a": {"train": ["x", "y", "z"], "plain": ["p"]}}).rule("a")}
    spoken = grammar.Grammar(rules)

    def said(held_out: bool) -> list[str]:
        heard = (spoken.speak("one", {}, random.Random(n), held_out) for n in range(400))
        return ["".join(piece.text for piece in pieces) for pieces in heard]

    assert 0.25 < said(held_out=False).count("p") / 400 < 0.45
    assert "p" not in said(held_out=True)
