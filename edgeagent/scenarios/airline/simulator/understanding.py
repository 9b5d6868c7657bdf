"""What an agent's message asks for, read from its words.

Keyword rules, in order; the last question of the message decides, because agents summarize
before they ask. Knows nothing of goals: it may find an ask that the customer cannot answer.
"""

from __future__ import annotations

import re

from edgeagent.scenarios.airline.simulator.goals import Ask

_RULES: tuple[tuple[Ask, str], ...] = (
    (Ask.HUMAN_OR_FACTS, r"human agent.*\?|details or .*(person|human|agent)"),
    (
        Ask.CONFIRM,
        r"\(yes/no\)|yes or no|\bshall i\b|should i (go|proceed|book|cancel|make)|do you confirm"
        r"|please confirm|would you like (me to|it|this certificate|to proceed)|do you want me to"
        r"|\(yes\)|to proceed\?|go ahead\?|is (this|that) correct",
    ),
    (Ask.USER_ID, r"\buser ?id\b|\buser ?name\b|account id"),
    (Ask.WHICH_RESERVATION, r"which (one|of them|of these|reservation|booking|trip)\b"),
    (Ask.RESERVATION_ID, r"(reservation|booking|confirmation) (id|number|code)"),
    (Ask.REASON, r"\breason\b|\bwhy (do|are|would) you"),
    (Ask.FLIGHT_TYPE, r"one[- ]way or|round[- ]trip( or|\?)|trip type"),
    (Ask.RETURN_DATE, r"return (date|on)|(come|fly|coming|flying) back|date .*return"),
    (
        Ask.NEW_PASSENGER,
        r"(new|correct|right) (first |full )?(name|passenger)|should (it|the name)",
    ),
    (Ask.FLIGHT, r"which (flight|option)|flight (do|would) you (like|prefer|want|take)"),
    (Ask.PAYMENT, r"payment|\bpay\b|which (card|method)|refund method"),
    (Ask.BAGS, r"\bbags?\b|baggage|luggage|suitcase"),
    (Ask.INSURANCE, r"insurance"),
    (Ask.PASSENGERS, r"passengers?\b|who (is|will be) (flying|travel)|travell?ers?\b"),
    (Ask.ROUTE, r"from (which city|where) to|origin and (the )?destination|which route"),
    (
        Ask.ORIGIN,
        r"from where|fly from|depart from|leav(e|ing) from|\borigin\b|departure (city|air)",
    ),
    (Ask.DESTINATION, r"where to\b|fly to\b|going to\b|\bdestination\b|to which city|arrival city"),
    (Ask.DATE, r"\bdates?\b(?! of birth)|which day|what day|when (do|would) you"),
    (Ask.CABIN, r"\bcabin\b|which class|what class|basic economy, economy or"),
    (Ask.WISH, r"how (can|may) i help|what (can|may) i do|anything else|what do you need"),
)
_COMPILED = tuple((ask, re.compile(pattern)) for ask, pattern in _RULES)
_REQUEST = re.compile(
    r"\b(please (give|tell|provide|share|send|let me know|confirm|choose|check)|i need"
    r"|could you|can you|let me know)\b"
)
_REFUSAL = re.compile(
    r"\b(cannot|can ?not|can't|unable to|not (possible|allowed|eligible|permitted)|no exception"
    r"|do not (fly|serve|offer)"
    r"|found no)\b"
)
_RETRY = re.compile(
    r"\b(could not find|cannot find|not found|does not (exist|belong)|exact date)\b"
)
_PAIR = re.compile(r"\b(HAT\d{3})\b[^,]*? then (HAT\d{3})\b")
_FLIGHT = re.compile(r"\bHAT\d{3}\b")


def asks(message: str) -> list[Ask]:
    """Return what the message asks for, in the order of the rules; empty if it asks nothing."""
    question = _question(message)
    if not question:
        return []
    found = [ask for ask, pattern in _COMPILED if pattern.search(question)]
    for alone in (Ask.HUMAN_OR_FACTS, Ask.CONFIRM, Ask.WISH):
        if alone in found:
            return [alone]
    if Ask.ROUTE in found:
        found = [ask for ask in found if ask not in (Ask.ORIGIN, Ask.DESTINATION)]
    if Ask.WHICH_RESERVATION in found:
        found = [ask for ask in found if ask is not Ask.RESERVATION_ID]
    if Ask.RETURN_DATE in found:
        found = [ask for ask in found if ask is not Ask.DATE]
    if Ask.INSURANCE in found:
        found = [ask for ask in found if ask is not Ask.PASSENGERS]
    if Ask.NEW_PASSENGER in found:
        found = [ask for ask in found if ask is not Ask.PASSENGERS]
    return found


def is_refusal(message: str) -> bool:
    """Tell whether the message declines a request for good: it asks nothing and says cannot."""
    return not _question(message) and bool(_REFUSAL.search(message.lower()))


def is_retry(message: str) -> bool:
    """Tell whether the message says that an earlier answer did not work."""
    return bool(_RETRY.search(message.lower()))


def flight_numbers(message: str) -> list[str]:
    """Return the flight numbers in the message, each once, in order."""
    return list(dict.fromkeys(_FLIGHT.findall(message)))


def connections(message: str) -> list[tuple[str, str]]:
    """Return the pairs of flights that the message offers as `one then the other`."""
    return _PAIR.findall(message)


def _question(message: str) -> str:
    """Return the sentences that ask, in lower case."""
    sentences = re.split(r"(?<=[.!?])\s+", message.lower())
    asking = [s for s in sentences if s.endswith("?") or _REQUEST.search(s) or "yes/no" in s]
    return " ".join(asking)
