"""A scripted customer: opens with a wish and reacts sensibly to whatever the agent writes.

The customer reads only the agent's words (`understanding.asks`), so the same class serves the
expert's lessons and the evaluation of a model. What an utterance means travels beside its text
in `last`; only the expert looks at it. Knows nothing of tools or databases.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from edgeagent.messages import Json
from edgeagent.scenarios.airline.simulator import spoken, understanding
from edgeagent.scenarios.airline.simulator.goals import Ask, Goal, Utterance, Wish
from edgeagent.scenarios.airline.simulator.grammar import Piece
from edgeagent.scenarios.airline.simulator.speaker import Speaker
from edgeagent.scenarios.airline.world import CITIES


class Customer:
    """One customer in one conversation; deterministic by seed and goal."""

    def __init__(self, seed: int | str, goal: Goal) -> None:
        self.goal = goal
        self._rng = random.Random(f"customer {seed}")
        self._persona = spoken.draw_persona(self._rng)
        self._speaker = Speaker(goal, self._persona, self._rng)
        self._n_wish = -1
        self._told: set[str] = set()
        self._did: set[str] = set()
        """What the customer does once in a wish and has done."""
        self._mentioned: str | None = None
        """The reservation that the conversation is about."""
        self._patience = self._persona.patience
        self._is_leaving = False
        self._tells_price = False
        self._told_ahead: list[dict[str, Json]] = []
        """What was told of the wishes that came in one message with the present one."""
        self._is_aside = False
        self._has_insisted = False
        self.last = Utterance("", None, {})
        """The newest utterance with its meaning."""

    @property
    def wish(self) -> Wish:
        """The wish that is being served."""
        return self.goal.wishes[max(0, self._n_wish)]

    def open(self) -> str:
        """Return the first message."""
        if self.goal.greets_first:
            return self._say(self._speaker.phrase("greeting"), "greeting", {})
        return self._next_wish()

    def reply(self, agent_message: str) -> str | None:
        """Answer the agent; None when the customer has left."""
        if self._is_leaving:
            return None
        known = self.wish.facts.get("reservation_id")
        if known is not None and known in agent_message:
            self._mentioned = known
        asked = understanding.asks(agent_message)
        self._tells_price = "$" in agent_message
        if self._n_wish < 0 or (Ask.WISH in asked and self._has_next):
            return self._next_wish()
        if understanding.is_refusal(agent_message):
            return self._after_refusal()
        was_aside, self._is_aside = self._is_aside, False
        if was_aside and not asked:
            return self._open_wish()
        if not asked or asked == [Ask.WISH]:
            return self._after_answer()
        if self.wish.abandons and self._has_next:
            return self._next_wish("abandon")
        if understanding.is_retry(agent_message):
            self._told -= {slot.value for slot in asked}
        return self._answer(asked, agent_message)

    @property
    def _has_next(self) -> bool:
        """Whether something is left to wish; a price for more people needs a price first."""
        left = self.goal.wishes[self._n_wish + 1 :]
        return bool(left) and (left[0].kind != "price_people" or self._tells_price)

    def _next_wish(self, starts: str = "connect") -> str:
        is_first = self._n_wish < 0
        self._n_wish += 1
        if not is_first:
            self._told &= {"user_id"}
            self._did &= {"wrong_user_id", "wrong user twice", "lost user", "forgot"}
        self._has_insisted = False
        self._patience = self._persona.patience
        self._speaker.wish = self.wish
        if self.wish.joined and self._told_ahead:
            told = self._told_ahead.pop(0)
            self._note(told)
            return self._say(self._speaker.phrase("go_on"), self.wish.kind, told)
        return self._open_wish(None if is_first else starts)

    def _after_refusal(self) -> str:
        if self.wish.insists and not self._has_insisted:
            self._has_insisted = True
            return self._say(self._speaker.phrase("insist"), "insist", {})
        if self._has_next:
            return self._next_wish()
        self._is_leaving = True
        return self._say(self._speaker.phrase("angry_end"), "thanks", {})

    def _after_answer(self) -> str | None:
        if self._has_next:
            return self._next_wish()
        self._is_leaving = True
        if self._persona.temper == "terse" and self._rng.random() < 0.5:
            return None
        return self._say(self._speaker.phrase("thanks"), "thanks", {})

    def _answer(self, asked: list[Ask], agent_message: str) -> str:
        if asked[0] in INTERRUPTED and self._rng.random() < ASIDE_SHARE:
            return self._aside(asked[0])
        parts: list[list[Piece]] = []
        told: dict[str, Json] = {}
        for ask in asked:
            part, values = self._answer_one(ask, agent_message)
            if part:
                parts.append(part)
                told.update(values)
        if not parts:
            self._patience -= 1
            if self._patience <= 0:
                self._is_leaving = True
                return self._say(self._speaker.phrase("handoff"), "handoff", {})
            return self._open_wish()
        if self._rng.random() < VOLUNTEER_SHARE:
            part, values = self._volunteer(told)
            if part:
                parts.append(part)
                told.update(values)
        joined = parts[0]
        for part in parts[1:]:
            joined = [*joined, Piece(self._rng.choice(BETWEEN), is_value=False), *part]
        self._note(told)
        return self._say(joined, None, told)

    def _volunteer(self, told: Mapping[str, Json]) -> tuple[list[Piece], dict[str, Json]]:
        """Give the one id with the other, before it is asked for."""
        goal, wish = self.goal, self.wish
        known = self._told | told.keys()
        reservation_id = wish.facts.get("reservation_id")
        is_sure = not wish.vague and "wrong_reservation_id" not in wish.facts
        if "user_id" in told and reservation_id and is_sure and "reservation_id" not in known:
            return self._speaker.phrase("my_rid"), {"reservation_id": reservation_id}
        knows_user = goal.wrong_user_id is None and not goal.forgot_user_id
        may_tell_user = wish.facts.get("needs_user") and knows_user
        if "reservation_id" in told and may_tell_user and "user_id" not in known:
            return self._speaker.phrase("my_uid"), {"user_id": goal.user_id}
        return [], {}

    def _aside(self, ask: Ask) -> str:
        """Say something else than was asked for; the agent has to answer and ask again."""
        self._is_aside = True
        # Nonsense such as `no` or `1234` would be an answer to some questions.
        is_clear = ask in (Ask.USER_ID, Ask.RESERVATION_ID, Ask.DATE)
        kind = self._rng.choice([kind for kind in ASIDES if is_clear or kind != "absurd"])
        code = self._rng.choice(tuple(CITIES))
        pieces = self._speaker.phrase(kind, d=CITIES[code])
        return self._say(pieces, None, {"aside": ASIDE_REPLIES.get(kind, kind)})

    def _note(self, told: Mapping[str, Json]) -> None:
        self._told |= told.keys()
        if told.get("reservation_id") == self.wish.facts.get("reservation_id", ""):
            self._mentioned = told["reservation_id"]

    def _answer_one(self, ask: Ask, agent_message: str) -> tuple[list[Piece], dict[str, Json]]:
        match ask:
            case Ask.USER_ID:
                return self._answer_user_id()
            case Ask.RESERVATION_ID | Ask.WHICH_RESERVATION:
                return self._answer_reservation(ask, agent_message)
            case Ask.DATE if "date" in self.wish.vague and "vague_date" not in self._did:
                self._did.add("vague_date")
                return self._speaker.phrase("vague_date"), {"vague": "date"}
            case Ask.FLIGHT:
                return self._answer_flight(agent_message)
            case Ask.PAYMENT:
                return self._answer_payment()
            case Ask.CONFIRM:
                return self._answer_confirm()
            case Ask.HUMAN_OR_FACTS:
                return self._choose_help()
            case Ask.WISH:
                return [], {}
            case _:
                return self._tell(ask)

    def _tell(self, ask: Ask) -> tuple[list[Piece], dict[str, Json]]:
        """Answer with a fact of the wish, spoken by the rule that fits its value."""
        facts = self._facts
        slots = (ask.value,) if ask is not Ask.ROUTE else ("origin", "destination")
        if ask is Ask.FLIGHT_TYPE and facts.get("flight_type") == "round_trip":
            slots = ("flight_type", "return_date")
        known = {slot: facts[slot] for slot in slots if slot in facts}
        if not known:
            return [], {}
        match ask:
            case Ask.FLIGHT_TYPE:
                rule = f"trip_{known['flight_type']}"
            case Ask.BAGS:
                rule = "bags_some" if known["bags"] else "bags_none"
            case Ask.INSURANCE | Ask.REASON:
                rule = f"{ask.value}_{known[ask.value]}"
            case Ask.PASSENGERS:
                return self._speaker.name_passengers(known["passengers"]), known
            case Ask.NEW_PASSENGER:
                return self._speaker.name_new_passenger(known["new_passenger"]), known
            case Ask.ROUTE if len(known) == 1:
                # A wish for a place that is not served has no origin.
                rule = GIVING[Ask(next(iter(known)))]
            case _:
                rule = GIVING[ask]
        return self._speaker.phrase(rule), known

    @property
    def _facts(self) -> Mapping[str, Json]:
        """What the customer wants by now."""
        revises = self.wish.revises
        if revises is None or "revise" not in self._did:
            return self.wish.facts
        return {**self.wish.facts, revises[0]: revises[1]}

    def _choose_help(self) -> tuple[list[Piece], dict[str, Json]]:
        """Choose between what can be looked up and a person."""
        lost_id = "lost user" in self._did or (
            "forgot" in self._did and "user_id" not in self._told
        )
        if lost_id and self.goal.finds_user_id:
            self._did.discard("lost user")
            return self._speaker.phrase("found_uid"), {"user_id": self.goal.user_id}
        wants_facts = bool(self.wish.facts.get("wants_facts")) and not lost_id
        rule = "accept_facts" if wants_facts else "accept_transfer"
        return self._speaker.phrase(rule), {"wants_facts": wants_facts}

    def _answer_confirm(self) -> tuple[list[Piece], dict[str, Json]]:
        wish = self.wish
        if wish.asks_again and "again" not in self._did:
            self._did.add("again")
            return self._speaker.phrase("why"), {"again": True}
        if wish.revises is not None and "revise" not in self._did:
            return self._revise(*wish.revises)
        word = "no_stop" if wish.declines else "yes"
        return self._speaker.phrase(word), {"confirm": not wish.declines}

    def _revise(self, slot: str, value: Json) -> tuple[list[Piece], dict[str, Json]]:
        """Say that something is wanted otherwise after all."""
        self._did.add("revise")
        match slot:
            case "bags":
                pieces = self._speaker.phrase("revise_bags", **self._speaker.count(value))
            case "date":
                day = spoken.say_date(value, self._rng)
                pieces = self._speaker.phrase("revise_date", date=day)
            case _:
                pieces = self._speaker.phrase(f"revise_{slot}_{value}")
        return pieces, {slot: value}

    def _answer_user_id(self) -> tuple[list[Piece], dict[str, Json]]:
        if self.goal.forgot_user_id and "forgot" not in self._did:
            self._did.add("forgot")
            return self._speaker.phrase("no_uid"), {"unknown": "user_id"}
        wrong = self.goal.wrong_user_id
        if wrong is not None and "wrong_user_id" not in self._did:
            self._did.add("wrong_user_id")
            return self._speaker.phrase("give_uid", uid=wrong), {"user_id": wrong}
        if wrong is not None and self.goal.stays_wrong and "wrong user twice" not in self._did:
            self._did |= {"wrong user twice", "lost user"}
            return self._speaker.phrase("repeat_uid", uid=wrong), {"user_id": wrong}
        rule = "repeat_uid" if wrong is not None else "give_uid"
        return self._speaker.phrase(rule), {"user_id": self.goal.user_id}

    def _answer_reservation(
        self, ask: Ask, agent_message: str
    ) -> tuple[list[Piece], dict[str, Json]]:
        wish = self.wish
        known = wish.facts.get("reservation_id")
        if known is None:
            return [], {}
        is_listed = known in agent_message
        if "reservation_id" in wish.vague and not is_listed:
            if "no_rid" not in self._did:
                self._did.add("no_rid")
                return self._speaker.phrase("no_rid"), {"unknown": "reservation_id"}
            return self._speaker.phrase("dont_know"), {"unknown": "reservation_id"}
        if "described" in wish.vague and not is_listed and "described" not in self._did:
            self._did.add("described")
            return self._speaker.phrase("describe_trip"), {"trip": wish.facts["trip"]}
        if "which" in wish.vague and ask is Ask.WHICH_RESERVATION:
            return self._speaker.phrase("vague_reservation"), {"vague": "reservation_id"}
        wrong = wish.facts.get("wrong_reservation_id")
        if wrong is not None and "wrong_rid" not in self._did:
            self._did.add("wrong_rid")
            return self._speaker.phrase("give_rid", rid=wrong), {"reservation_id": wrong}
        is_stubborn = "wrong twice" in wish.vague and "wrong again" not in self._did
        if wrong is not None and is_stubborn and not is_listed:
            self._did.add("wrong again")
            return self._speaker.phrase("repeat_rid", rid=wrong), {"reservation_id": wrong}
        rule = "repeat_rid" if wrong is not None else "pick_rid" if is_listed else "give_rid"
        return self._speaker.phrase(rule), {"reservation_id": known}

    def _answer_flight(self, agent_message: str) -> tuple[list[Piece], dict[str, Json]]:
        offered = understanding.flight_numbers(agent_message)
        if not offered:
            return [], {}
        revises = self.wish.revises
        if revises is not None and revises[0] == "date" and "revise" not in self._did:
            return self._revise(*revises)
        wanted = self.wish.facts.get("flight_numbers", ())
        pairs = understanding.connections(agent_message)
        if pairs:
            pair = self._rng.choice(pairs)
            return self._speaker.phrase("pick_pair", fn=pair[0], fna=pair[1]), {
                "flight_numbers": pair
            }
        chosen = next((number for number in wanted if number in offered), None)
        chosen = chosen or self._rng.choice(offered)
        rule = "pick_only" if len(offered) == 1 and self._rng.random() < 0.6 else "pick_flight"
        return self._speaker.phrase(rule, fn=chosen), {"flight_numbers": (chosen,)}

    def _answer_payment(self) -> tuple[list[Piece], dict[str, Json]]:
        ways = self.wish.facts.get("payments")
        if not ways:
            return [], {}
        tried = sum(1 for deed in self._did if deed.startswith("payment_"))
        self._did.add(f"payment_{tried}")
        way = ways[min(tried, len(ways) - 1)]
        values = {key: str(value) for key, value in way.items()}
        return self._speaker.phrase(way["rule"], **values), {"payment": way}

    def _open_wish(self, starts: str | None = None) -> str:
        pieces, told = self._speaker.opening(self._told, self._mentioned, starts)
        self._note(told)
        further, also = self._tell_ahead(told)
        return self._say([*pieces, *further], self.wish.kind, told, also)

    def _tell_ahead(self, told: Mapping[str, Json]) -> tuple[list[Piece], tuple[Utterance, ...]]:
        """Tell the wishes that belong into the same message as the present one."""
        further: list[Piece] = []
        also: list[Utterance] = []
        known, mentioned = self._told | told.keys(), told.get("reservation_id")
        for wish in self.goal.wishes[max(0, self._n_wish) + 1 :]:
            if not wish.joined:
                break
            self._speaker.wish = wish
            pieces, values = self._speaker.opening(known, mentioned, "join")
            further += pieces
            also.append(Utterance("", wish.kind, values))
            known, mentioned = known | values.keys(), values.get("reservation_id", mentioned)
        self._speaker.wish = self.wish
        self._told_ahead = [dict(one.told) for one in also]
        return further, tuple(also)

    def _say(
        self,
        pieces: list[Piece],
        intent: str | None,
        told: Mapping[str, Json],
        also: tuple[Utterance, ...] = (),
    ) -> str:
        text = spoken.write(pieces, self._persona, self._rng)
        self.last = Utterance(text, intent, dict(told), also)
        return text


ASIDE_SHARE = 0.02
VOLUNTEER_SHARE = 0.15
BETWEEN = (", ", ", ", " and ", ". ", "; ", ", and ", " ... ")
"""Between two answers in one message."""
ASIDES = (
    "faq_bag_fee", "faq_insurance", "faq_refund_time", "faq_max_passengers", "faq_certificates",
    "off_weather", "off_chat", "injection", "absurd", "refuse_discount",
)  # fmt: skip
"""What a customer may say in the middle of something else."""
ASIDE_REPLIES = {"off_weather": "off_topic", "off_chat": "off_topic", "absurd": "sorry"}
INTERRUPTED = frozenset(
    {Ask.USER_ID, Ask.RESERVATION_ID, Ask.DATE, Ask.CABIN, Ask.PASSENGERS, Ask.BAGS, Ask.INSURANCE}
)
"""Questions that a customer may meet with something else."""

GIVING: Mapping[Ask, str] = {
    Ask.ROUTE: "give_route",
    Ask.ORIGIN: "give_o",
    Ask.DESTINATION: "give_d",
    Ask.DATE: "give_date",
    Ask.RETURN_DATE: "give_return",
    Ask.CABIN: "give_cabin",
}
"""The phrase rule that answers an ask with a single value."""
