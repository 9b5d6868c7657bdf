"""The kinds of wishes: how often each is drawn and what they have in common.

A kind is also the name of the phrase rule that opens it and of the expert's task.
"""

from __future__ import annotations

from collections.abc import Mapping

WEIGHTS: Mapping[str, float] = {
    "lookup_overview": 5, "lookup_flights": 4, "lookup_passengers": 3, "lookup_bags": 3,
    "lookup_payment": 3, "lookup_insurance": 3, "lookup_cabin": 3,
    "profile_membership": 2, "profile_payment": 2, "profile_reservations": 2, "profile_email": 1,
    "profile_passengers": 1, "profile_dob": 1,
    "search": 8, "search_cheapest": 3, "search_earliest": 3,
    "search_unserved": 2, "price_people": 2,
    "book": 12,
    "change_date": 5, "change_open": 3, "change_leg": 3, "upgrade": 5,
    "add_bags": 4, "add_bags_open": 2,
    "passenger": 5, "cancel": 11, "compensation_cancelled": 4, "compensation_delayed": 1.5,
    "refuse_insurance": 1.2, "refuse_remove_bags": 1.2, "refuse_count": 1.2, "refuse_route": 1.2,
    "refuse_discount": 1.2,
    "handoff": 4,
    "scope_pet": 0.6, "scope_seat": 0.6, "scope_luggage": 0.6, "scope_meal": 0.6,
    "scope_wheelchair": 0.6, "scope_hotel": 0.6, "scope_account": 0.6, "scope_crew": 0.6,
    "scope_checkin": 0.6,
    "off_weather": 1, "off_chat": 2, "off_advice": 1, "injection": 3,
    "absurd": 1.5, "foreign": 1.2,
    "faq_what": 1, "faq_who": 0.7,
    "faq_bags": 1.5, "faq_bag_fee": 0.7, "faq_insurance": 0.7, "faq_refund_time": 0.7,
    "faq_max_passengers": 0.7, "faq_basic_change": 0.7, "faq_basic_cancel": 0.7,
    "faq_certificates": 0.7, "faq_cancel_rules": 0.7, "faq_airports": 0.7, "faq_airport_code": 1.2,
    "defer_refund": 5, "defer_total": 2.5, "defer_many": 3.5, "defer_plan": 2.5,
    "defer_ambiguous": 2.5,
}  # fmt: skip
"""How often each kind of wish is drawn."""

READING: Mapping[str, float] = {
    "lookup_overview": 4, "lookup_flights": 4, "lookup_passengers": 4, "lookup_bags": 2,
    "lookup_payment": 3, "lookup_insurance": 1, "lookup_cabin": 1,
    "profile_membership": 1, "profile_payment": 2, "profile_reservations": 2,
    "profile_passengers": 1, "search": 2, "search_cheapest": 1,
    "change_date": 2, "change_leg": 4, "upgrade": 4, "add_bags": 4, "passenger": 5, "cancel": 3,
    "compensation_cancelled": 3,
}  # fmt: skip
"""How often each kind is drawn where a customer asks many things about one reservation."""

ENDING = ("handoff", "scope_")
"""Kinds that end a conversation, so nothing is wished after them."""

BAG_KINDS = ("add_bags", "add_bags_open")
FLIGHT_KINDS = ("change_date", "change_open", "change_leg", "upgrade")
ELSEWHERE = (
    "Paris", "London", "Tokyo", "Berlin", "Rome", "Toronto", "Mexico City", "Honolulu", "Sydney",
    "Hanoi", "Madrid", "Dubai", "Cairo", "Seoul", "Lisbon", "Vienna", "Oslo", "Mumbai", "Lima",
    "Portland", "Salt Lake City", "Nashville", "Austin", "Tampa", "San Diego", "Anchorage",
    "Vancouver", "Dublin", "Zurich", "Istanbul", "Bangkok", "Singapore", "Nairobi", "Havana",
)  # fmt: skip
"""Places that people ask for and the airline does not serve."""

CONFIRMED = frozenset(
    {"book", *FLIGHT_KINDS, *BAG_KINDS, "passenger", "cancel", "compensation_cancelled"}
)
"""Kinds that come to a yes or no."""

ALONE = ("absurd", "foreign", "off_", "injection", "price_", "defer_", "faq_who", "faq_what")
"""Kinds that share no message with another wish."""

SILENT = (
    "absurd",
    "foreign",
    "faq_",
    "off_",
    "price_",
    "handoff",
    "injection",
    "refuse_discount",
    "search",
    "scope_",
)
"""Kinds that need no user id."""
