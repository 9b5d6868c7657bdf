"""How a customer puts things: openings, values and people, in the persona's words.

Composes what is said and what it means; decides nothing about when to say it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Set
from functools import cache

from edgeagent.messages import Json
from edgeagent.scenarios.airline.simulator import grammar, spoken
from edgeagent.scenarios.airline.simulator.goals import Goal
from edgeagent.scenarios.airline.simulator.grammar import Grammar, Piece
from edgeagent.scenarios.airline.simulator.spoken import Persona

PHRASE_FILES = ("fragments.toml", "wishes.toml", "questions.toml", "answers.toml")


@cache
def phrases() -> Grammar:
    """Return the customers' grammar; about 30 ms the first time."""
    return grammar.load(*PHRASE_FILES)


class Speaker:
    """The words of one customer."""

    def __init__(self, goal: Goal, persona: Persona, rng: random.Random) -> None:
        self._goal = goal
        self._persona = persona
        self._rng = rng
        self.wish = goal.wishes[0]
        """The wish that values are taken from."""

    def opening(
        self, told_before: Set[str], mentioned: str | None, starts: str | None
    ) -> tuple[list[Piece], dict[str, Json]]:
        """Open the wish; return what is said and the canonical values in it.

        `mentioned` is the reservation that is being talked about, `starts` a rule to begin with
        in place of the persona's own way.
        """
        told: dict[str, Json] = {}
        slots = self._opening_slots(mentioned, told)
        body = phrases().speak(self.wish.kind, slots, self._rng, self._goal.held_out)
        said = {piece.text for piece in body if piece.is_value}
        for slot, keys in UNSAID.items():
            if slots[slot] not in said:
                for key in keys - set(self.wish.facts.get("in_opening", ())):
                    told.pop(key, None)
        pieces = [*(self._start() if starts is None else self.phrase(starts)), *body]
        for part, values in self._extra_facts(told_before, told):
            pieces += [Piece(self._rng.choice((". ", ". ", ", ", "; ")), is_value=False), *part]
            told.update(values)
        if self.wish.injects:
            pieces += [Piece(". ", is_value=False), *self.phrase("injected")]
        return pieces, told

    def name_passengers(self, people: list[Json]) -> list[Piece]:
        """Name everyone who travels, oneself without a name."""
        own = bool(people) and bool(people[0].get("is_self"))
        others = people[1:] if own else people
        if own and not others:
            return self.phrase("pax_self")
        listed = spoken.join_words(self.text("person", **self._person(p)) for p in others)
        return self.phrase("pax_self_and" if own else "pax_list", people=listed)

    def name_new_passenger(self, change: Json) -> list[Piece]:
        """Say who travels instead of whom."""
        values = self._person(change["new"])
        if change["old"] is None:
            return self.phrase("new_person", **values)
        old = f"{change['old']['first_name']} {change['old']['last_name']}"
        return self.phrase("fix_name", old=old, **values)

    def _person(self, person: Json) -> dict[str, str]:
        return {
            "first": person["first_name"],
            "last": person["last_name"],
            "dob": spoken.say_birthday(person["dob"], self._rng),
        }

    def _start(self) -> list[Piece]:
        match self._persona.temper:
            case "terse":
                return []
            case "rude" if self._rng.random() < 0.5:
                return self.phrase("rude_start")
            case "chatty":
                return [*self.phrase("hi"), *self.phrase("chatty_start")]
            case "polite":
                return self.phrase("hi")
            case _:
                return self.phrase("maybe_hi")

    def _opening_slots(self, mentioned: str | None, told: dict[str, Json]) -> dict[str, str]:
        """Choose what the opening tells, and note it in `told`."""
        wish, rng = self.wish, self._rng
        facts = wish.facts
        slots = self._slots()
        openness = self._persona.openness
        slots["res"] = self._name_reservation(mentioned, told)
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
        slots["route"] = self.text(rule, **slots) if rule else ""
        if wish.kind in ROUTE_WISHES:
            told.update({slot: facts[slot] for slot in told_route})
        slots["when"] = ""
        if wish.kind in DATED_WISHES and "date" not in wish.vague and rng.random() < openness:
            slots["when"] = self.text("when", **slots)
            told["date"] = facts["date"]
            if "cabin" in facts and rng.random() < 0.4:
                slots["when"] += self.text("in_cabin", **slots)
                told["cabin"] = facts["cabin"]
        return slots

    def _name_reservation(self, mentioned: str | None, told: dict[str, Json]) -> str:
        wish = self.wish
        known = wish.facts.get("reservation_id")
        if known is None:
            return self.text("res_bare")
        if known == mentioned:
            told["reservation_id"] = known
            return self.text("res_it") if self._rng.random() < 0.6 else known
        if "described" in wish.vague and self._rng.random() < 0.5:
            told["trip"] = wish.facts["trip"]
            return self.text("res_trip")
        is_open = self._rng.random() < 0.25 + 0.7 * self._persona.openness
        is_unknown = not wish.vague.isdisjoint(("reservation_id", "described"))
        if is_unknown or "wrong_reservation_id" in wish.facts or not is_open:
            return self.text("res_bare")
        told["reservation_id"] = known
        return self.text("res_rid", rid=known)

    def _extra_facts(
        self, told_before: Set[str], told: Mapping[str, Json]
    ) -> list[tuple[list[Piece], dict[str, Json]]]:
        """Return what else the customer tells unasked, in whole sentences."""
        extra: list[tuple[list[Piece], dict[str, Json]]] = []
        wish = self.wish
        chance = self._persona.openness * 0.6
        knows_user = self._goal.wrong_user_id is None and not self._goal.forgot_user_id
        may_tell_user = wish.facts.get("needs_user") and knows_user
        if may_tell_user and "user_id" not in told_before and self._rng.random() < chance:
            extra.append((self.phrase("my_uid"), {"user_id": self._goal.user_id}))
        if "reason" in wish.facts and self._rng.random() < chance:
            reason = wish.facts["reason"]
            extra.append((self.phrase(f"reason_{reason}"), {"reason": reason}))
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
                extra.append((self.phrase(rule), {slot: facts[slot]}))
                if rule == "state_round_trip":
                    extra[-1][1]["return_date"] = facts["return_date"]
        is_alone = len(facts["passengers"]) == 1 and facts["passengers"][0].get("is_self")
        if is_alone and self._rng.random() < chance:
            extra.append((self.phrase("state_pax_self"), {"passengers": facts["passengers"]}))
        return extra

    def _slots(self) -> dict[str, str]:
        facts, rng = self.wish.facts, self._rng
        slots = {"uid": self._goal.user_id}
        if "reservation_id" in facts:
            slots["rid"] = facts["reservation_id"]
        if "trip" in facts:
            slots["to"] = spoken.say_city(facts["trip"]["origin"], rng)
            slots["td"] = spoken.say_city(facts["trip"]["destination"], rng)
        for slot, name in (("origin", "o"), ("destination", "d"), ("city", "city")):
            if slot in facts:
                slots[name] = spoken.say_city(facts[slot], rng)
        for slot, name in (("date", "date"), ("return_date", "rdate")):
            if slot in facts:
                slots[name] = spoken.say_date(facts[slot], rng)
        if "cabin" in facts:
            slots["cabin"] = spoken.name_cabin(facts["cabin"], rng)
        if "bags" in facts:
            slots.update(self.count(facts["bags"]))
        if "people" in facts:
            slots["people"] = spoken.say_number(facts["people"], rng)
        for slot in ("membership", "place", "leg"):
            if slot in facts:
                slots[slot] = facts[slot]
        return slots

    def count(self, n_bags: int) -> dict[str, str]:
        """Return the slots that say a number of bags."""
        n = spoken.say_number(n_bags, self._rng)
        one = n_bags == 1
        return {
            "n": n,
            "bags": "bag" if one else "bags",
            "cases": "suitcase" if one else "suitcases",
        }

    def phrase(self, rule: str, /, **values: str) -> list[Piece]:
        """Say a rule of the grammar about the present wish; `values` fill or replace slots."""
        slots = {**self._slots(), **values}
        return phrases().speak(rule, slots, self._rng, self._goal.held_out)

    def text(self, rule: str, /, **values: str) -> str:
        """Return the same as plain text."""
        return "".join(piece.text for piece in self.phrase(rule, **values))


ROUTE_WISHES = frozenset({"search", "search_cheapest", "search_earliest", "book", "defer_plan"})
UNSAID: Mapping[str, Set[str]] = {
    "res": {"reservation_id", "trip"},
    "route": {"origin", "destination"},
    "when": {"date", "cabin"},
}
"""Slot that an opening may leave out → what is not told then."""
DATED_WISHES = frozenset(
    {"search", "search_cheapest", "search_earliest", "search_unserved", "book"}
)
