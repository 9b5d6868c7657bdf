"""A scripted customer: opens with a wish and reacts sensibly to whatever the agent writes.

The customer reads only the agent's words (`understanding.asks`), so the same class serves the
expert's lessons and the evaluation of a model. What an utterance means travels beside its text
in `last`; only the expert looks at it. Knows nothing of tools or databases.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache

from edgeagent.messages import Json
from edgeagent.scenarios.airline.simulator import grammar, spoken, understanding
from edgeagent.scenarios.airline.simulator.goals import Ask, Goal, Utterance, Wish
from edgeagent.scenarios.airline.simulator.grammar import Grammar, Piece
from edgeagent.scenarios.airline.world import CITIES

PHRASE_FILES = ("fragments.toml", "wishes.toml", "questions.toml", "answers.toml")


@cache
def phrases() -> Grammar:
    """Return the customers' grammar; about 30 ms the first time."""
    return grammar.load(*PHRASE_FILES)


class Customer:
    """One customer in one conversation; deterministic by seed and goal."""

    def __init__(self, seed: int | str, goal: Goal) -> None:
        self.goal = goal
        self._rng = random.Random(f"customer {seed}")
        self._persona = spoken.draw_persona(self._rng)
        self._n_wish = -1
        self._told: set[str] = set()
        self._did: set[str] = set()
        """What the customer does once in a wish and has done."""
        self._mentioned: str | None = None
        """The reservation that the conversation is about."""
        self._patience = self._persona.patience
        self._is_leaving = False
        self._tells_price = False
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
            return self._say(self._phrase("greeting"), "greeting", {})
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
        if not asked or asked == [Ask.WISH]:
            return self._after_answer()
        if understanding.is_retry(agent_message):
            self._told -= {slot.value for slot in asked}
        return self._answer(asked, agent_message)

    @property
    def _has_next(self) -> bool:
        """Whether something is left to wish; a price for more people needs a price first."""
        left = self.goal.wishes[self._n_wish + 1 :]
        return bool(left) and (left[0].kind != "price_people" or self._tells_price)

    def _next_wish(self) -> str:
        is_first = self._n_wish < 0
        self._n_wish += 1
        if not is_first:
            self._told &= {"user_id"}
            self._did &= {"wrong_user_id", "forgot"}
        self._has_insisted = False
        self._patience = self._persona.patience
        return self._open_wish(with_connection=not is_first)

    def _after_refusal(self) -> str:
        if self.wish.insists and not self._has_insisted:
            self._has_insisted = True
            return self._say(self._phrase("insist"), "insist", {})
        if self._has_next:
            return self._next_wish()
        self._is_leaving = True
        return self._say(self._phrase("angry_end"), "thanks", {})

    def _after_answer(self) -> str | None:
        if self._has_next:
            return self._next_wish()
        self._is_leaving = True
        if self._persona.temper == "terse" and self._rng.random() < 0.5:
            return None
        return self._say(self._phrase("thanks"), "thanks", {})

    def _answer(self, asked: list[Ask], agent_message: str) -> str:
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
                return self._say(self._phrase("handoff"), "handoff", {})
            return self._open_wish(with_connection=False)
        if asked[0] not in UNINTERRUPTED and self._rng.random() < ASIDE_SHARE:
            return self._aside(asked)
        joined = parts[0]
        for part in parts[1:]:
            joined = [*joined, Piece(", ", is_value=False), *part]
        self._note(told)
        return self._say(joined, None, told)

    def _aside(self, asked: list[Ask]) -> str:
        """Say something else than was asked for; the agent has to answer and ask again."""
        kind = self._rng.choice(ASIDES)
        code = self._rng.choice(tuple(CITIES))
        pieces = self._phrase(kind, d=CITIES[code])
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
                return self._phrase("vague_date"), {"vague": "date"}
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
        facts = self.wish.facts
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
                return self._name_passengers(known["passengers"]), known
            case Ask.NEW_PASSENGER:
                return self._name_new_passenger(known["new_passenger"]), known
            case _:
                rule = GIVING[ask]
        return self._phrase(rule), known

    def _choose_help(self) -> tuple[list[Piece], dict[str, Json]]:
        """Choose between what can be looked up and a person."""
        lost_id = "forgot" in self._did and "user_id" not in self._told
        if lost_id and self._rng.random() < 0.5:
            return self._phrase("found_uid"), {"user_id": self.goal.user_id}
        wants_facts = bool(self.wish.facts.get("wants_facts")) and not lost_id
        rule = "accept_facts" if wants_facts else "accept_transfer"
        return self._phrase(rule), {"wants_facts": wants_facts}

    def _answer_confirm(self) -> tuple[list[Piece], dict[str, Json]]:
        wish = self.wish
        if wish.asks_again and "again" not in self._did:
            self._did.add("again")
            return self._phrase("why"), {"again": True}
        if wish.revises is not None and "revise" not in self._did:
            self._did.add("revise")
            slot, value = wish.revises
            if slot == "bags":
                return self._phrase("revise_bags", **self._count(value)), {slot: value}
            return self._phrase(f"revise_{slot}_{value}"), {slot: value}
        word = "no_stop" if wish.declines else "yes"
        return self._phrase(word), {"confirm": not wish.declines}

    def _answer_user_id(self) -> tuple[list[Piece], dict[str, Json]]:
        if self.goal.forgot_user_id and "forgot" not in self._did:
            self._did.add("forgot")
            return self._phrase("no_uid"), {"unknown": "user_id"}
        wrong = self.goal.wrong_user_id
        if wrong is not None and "wrong_user_id" not in self._did:
            self._did.add("wrong_user_id")
            return self._phrase("give_uid", uid=wrong), {"user_id": wrong}
        rule = "repeat_uid" if wrong is not None else "give_uid"
        return self._phrase(rule), {"user_id": self.goal.user_id}

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
                return self._phrase("no_rid"), {"unknown": "reservation_id"}
            return self._phrase("dont_know"), {"unknown": "reservation_id"}
        if "which" in wish.vague and ask is Ask.WHICH_RESERVATION:
            return self._phrase("vague_reservation"), {"vague": "reservation_id"}
        wrong = wish.facts.get("wrong_reservation_id")
        if wrong is not None and "wrong_rid" not in self._did:
            self._did.add("wrong_rid")
            return self._phrase("give_rid", rid=wrong), {"reservation_id": wrong}
        rule = "repeat_rid" if wrong is not None else "pick_rid" if is_listed else "give_rid"
        return self._phrase(rule), {"reservation_id": known}

    def _answer_flight(self, agent_message: str) -> tuple[list[Piece], dict[str, Json]]:
        offered = understanding.flight_numbers(agent_message)
        if not offered:
            return [], {}
        wanted = self.wish.facts.get("flight_numbers", ())
        pairs = understanding.connections(agent_message)
        if pairs:
            pair = self._rng.choice(pairs)
            return self._phrase("pick_pair", fn=pair[0], fna=pair[1]), {"flight_numbers": pair}
        chosen = next((number for number in wanted if number in offered), None)
        chosen = chosen or self._rng.choice(offered)
        rule = "pick_only" if len(offered) == 1 and self._rng.random() < 0.6 else "pick_flight"
        return self._phrase(rule, fn=chosen), {"flight_numbers": (chosen,)}

    def _answer_payment(self) -> tuple[list[Piece], dict[str, Json]]:
        ways = self.wish.facts.get("payments")
        if not ways:
            return [], {}
        tried = sum(1 for deed in self._did if deed.startswith("payment_"))
        self._did.add(f"payment_{tried}")
        way = ways[min(tried, len(ways) - 1)]
        values = {key: str(value) for key, value in way.items()}
        return self._phrase(way["rule"], **values), {"payment": way}

    def _name_passengers(self, people: list[Json]) -> list[Piece]:
        own = bool(people) and bool(people[0].get("is_self"))
        others = people[1:] if own else people
        if own and not others:
            return self._phrase("pax_self")
        listed = spoken.join_words(self._text("person", **self._person(p)) for p in others)
        return self._phrase("pax_self_and" if own else "pax_list", people=listed)

    def _name_new_passenger(self, change: Json) -> list[Piece]:
        values = self._person(change["new"])
        if change["old"] is None:
            return self._phrase("new_person", **values)
        old = f"{change['old']['first_name']} {change['old']['last_name']}"
        return self._phrase("fix_name", old=old, **values)

    def _person(self, person: Json) -> dict[str, str]:
        return {
            "first": person["first_name"],
            "last": person["last_name"],
            "dob": spoken.say_birthday(person["dob"], self._rng),
        }

    def _open_wish(self, with_connection: bool) -> str:
        wish, rng = self.wish, self._rng
        told: dict[str, Json] = {}
        slots = self._opening_slots(wish, told)
        body = phrases().speak(wish.kind, slots, rng, self.goal.held_out)
        start = self._phrase("connect") if with_connection else self._start()
        pieces = [*start, *body]
        for part, values in self._extra_facts(wish, told):
            pieces += [Piece(rng.choice((". ", ". ", ", ", "; ")), is_value=False), *part]
            told.update(values)
        self._note(told)
        return self._say(pieces, wish.kind, told)

    def _start(self) -> list[Piece]:
        match self._persona.temper:
            case "terse":
                return []
            case "rude" if self._rng.random() < 0.5:
                return self._phrase("rude_start")
            case "chatty":
                return [*self._phrase("hi"), *self._phrase("chatty_start")]
            case "polite":
                return self._phrase("hi")
            case _:
                return self._phrase("maybe_hi")

    def _opening_slots(self, wish: Wish, told: dict[str, Json]) -> dict[str, str]:
        """Choose what the opening tells, and note it in `told`."""
        facts, rng = wish.facts, self._rng
        slots = self._slots(wish)
        openness = self._persona.openness
        slots["res"] = self._name_reservation(wish, told)
        told.update({slot: facts[slot] for slot in facts.get("in_opening", ())})
        wanted = [slot for slot in ("origin", "destination") if slot in facts]
        open_route = rng.random() < 0.35 + openness / 2
        told_route = wanted if open_route else [s for s in wanted if rng.random() < 0.35]
        rule = {
            (): None,
            ("origin",): "route_from",
            ("destination",): "route_to",
            ("origin", "destination"): "route_full",
        }[tuple(told_route)]
        slots["route"] = self._text(rule, **slots) if rule else ""
        if wish.kind in ROUTE_WISHES:
            told.update({slot: facts[slot] for slot in told_route})
        slots["when"] = ""
        if wish.kind in DATED_WISHES and "date" not in wish.vague and rng.random() < openness:
            slots["when"] = self._text("when", **slots)
            told["date"] = facts["date"]
            if "cabin" in facts and rng.random() < 0.4:
                slots["when"] += self._text("in_cabin", **slots)
                told["cabin"] = facts["cabin"]
        return slots

    def _name_reservation(self, wish: Wish, told: dict[str, Json]) -> str:
        known = wish.facts.get("reservation_id")
        if known is None:
            return self._text("res_bare")
        if known == self._mentioned:
            told["reservation_id"] = known
            return self._text("res_it") if self._rng.random() < 0.6 else known
        is_open = self._rng.random() < 0.25 + 0.7 * self._persona.openness
        if "reservation_id" in wish.vague or "wrong_reservation_id" in wish.facts or not is_open:
            return self._text("res_bare")
        told["reservation_id"] = known
        return self._text("res_rid", rid=known)

    def _extra_facts(
        self, wish: Wish, told: Mapping[str, Json]
    ) -> list[tuple[list[Piece], dict[str, Json]]]:
        """Return what else the customer tells unasked, in whole sentences."""
        extra: list[tuple[list[Piece], dict[str, Json]]] = []
        chance = self._persona.openness * 0.6
        knows_user = self.goal.wrong_user_id is None and not self.goal.forgot_user_id
        may_tell_user = wish.facts.get("needs_user") and knows_user
        if may_tell_user and "user_id" not in self._told and self._rng.random() < chance:
            extra.append((self._phrase("my_uid"), {"user_id": self.goal.user_id}))
        if "reason" in wish.facts and self._rng.random() < chance:
            extra.append(self._tell(Ask.REASON))
        if wish.kind == "book":
            extra += self._booking_facts(told, chance * 0.6)
        return extra

    def _booking_facts(
        self, told: Mapping[str, Json], chance: float
    ) -> list[tuple[list[Piece], dict[str, Json]]]:
        """Return what a customer who tells everything at once says about a booking."""
        facts = self.wish.facts
        bags = "some" if facts["bags"] else "none"
        extra: list[tuple[list[Piece], dict[str, Json]]] = []
        for slot, rule in (
            ("flight_type", f"state_{facts['flight_type']}"),
            ("cabin", "state_cabin"),
            ("bags", f"state_bags_{bags}"),
            ("insurance", f"state_insurance_{facts['insurance']}"),
        ):
            if slot not in told and self._rng.random() < chance:
                extra.append((self._phrase(rule), {slot: facts[slot]}))
                if rule == "state_round_trip":
                    extra[-1][1]["return_date"] = facts["return_date"]
        is_alone = len(facts["passengers"]) == 1 and facts["passengers"][0].get("is_self")
        if is_alone and self._rng.random() < chance:
            extra.append((self._phrase("state_pax_self"), {"passengers": facts["passengers"]}))
        return extra

    def _slots(self, wish: Wish) -> dict[str, str]:
        facts, rng = wish.facts, self._rng
        slots = {"uid": self.goal.user_id}
        if "reservation_id" in facts:
            slots["rid"] = facts["reservation_id"]
        for slot, name in (("origin", "o"), ("destination", "d"), ("city", "city")):
            if slot in facts:
                slots[name] = spoken.say_city(facts[slot], rng)
        for slot, name in (("date", "date"), ("return_date", "rdate")):
            if slot in facts:
                slots[name] = spoken.say_date(facts[slot], rng)
        if "cabin" in facts:
            slots["cabin"] = spoken.say_cabin(facts["cabin"])
        if "bags" in facts:
            slots.update(self._count(facts["bags"]))
        if "people" in facts:
            slots["people"] = spoken.say_number(facts["people"], rng)
        for slot in ("membership", "place"):
            if slot in facts:
                slots[slot] = facts[slot]
        return slots

    def _count(self, n_bags: int) -> dict[str, str]:
        n = spoken.say_number(n_bags, self._rng)
        one = n_bags == 1
        return {
            "n": n,
            "bags": "bag" if one else "bags",
            "cases": "suitcase" if one else "suitcases",
        }

    def _phrase(self, rule: str, /, **values: str) -> list[Piece]:
        slots = {**self._slots(self.wish), **values}
        return phrases().speak(rule, slots, self._rng, self.goal.held_out)

    def _text(self, rule: str, /, **values: str) -> str:
        return "".join(piece.text for piece in self._phrase(rule, **values))

    def _say(self, pieces: list[Piece], intent: str | None, told: Mapping[str, Json]) -> str:
        text = spoken.write(pieces, self._persona, self._rng)
        self.last = Utterance(text, intent, dict(told))
        return text


ASIDE_SHARE = 0.02
ASIDES = (
    "faq_bag_fee", "faq_insurance", "faq_refund_time", "faq_max_passengers", "faq_certificates",
    "off_weather", "off_chat", "injection", "absurd", "refuse_discount",
)  # fmt: skip
"""What a customer may say in the middle of something else."""
ASIDE_REPLIES = {"off_weather": "off_topic", "off_chat": "off_topic", "absurd": "sorry"}
UNINTERRUPTED = frozenset({Ask.CONFIRM, Ask.HUMAN_OR_FACTS, Ask.WISH, Ask.WHICH_RESERVATION})

GIVING: Mapping[Ask, str] = {
    Ask.ROUTE: "give_route",
    Ask.ORIGIN: "give_o",
    Ask.DESTINATION: "give_d",
    Ask.DATE: "give_date",
    Ask.RETURN_DATE: "give_return",
    Ask.CABIN: "give_cabin",
}
"""The phrase rule that answers an ask with a single value."""

ROUTE_WISHES = frozenset({"search", "search_cheapest", "search_earliest", "book", "defer_plan"})
DATED_WISHES = frozenset(
    {"search", "search_cheapest", "search_earliest", "search_unserved", "book"}
)
