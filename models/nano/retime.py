"""Another time of day and another day in a recorded conversation, wherever it is spoken of.

Customers say `half past 6 in the evening` where a call says `18:30`. Both change together, so the
conversion has to be learnt and no favourite hour can be remembered. A value whose mentions cannot
all be told apart (a weekday, `noon`, `tomorrow`) stays as it was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from random import Random
from typing import Any

from edgeagent.scenarios.airline.simulator.spoken import ordinal
from models.nano.dialogue import Dialogue
from models.nano.template import call, result, user

_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_SPOKEN_TIME = re.compile(
    r"(?P<half>\bhalf past )(?P<half_hour>1[0-2]|[1-9])\b"
    r"|(?<![\d:$.,])(?P<hour>2[0-3]|1\d|0?\d):(?P<minute>[0-5]\d)(?![\d:])"
    r"|(?<![\d:$.,])(?P<bare>1[0-2]|[1-9])"
    r"(?= ?[ap]\.?m\b|(?: o'?clock)? in the (?:morning|after|even))"
    r"|(?<=\bmorning )(?P<after_morning>1[0-2]|[1-9])\b(?!:)"
    r"|(?<=\bevening )(?P<after_evening>1[0-2]|[1-9])\b(?!:)",
    re.IGNORECASE,
)
_SPOKEN_DAY = re.compile(
    r"\b(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]* "
    r"(?P<day>\d{1,2})(?P<nth>st|nd|rd|th)?\b(?!:)"
    r"|\b(?P<only>\d{1,2})(?P<only_nth>st|nd|rd|th)\b",
    re.IGNORECASE,
)
_RELATIVE = re.compile(
    r"(?:mon|tues|wednes|thurs|fri|satur|sun|to|yester)day|day after|tomorrow|tonight|week",
    re.IGNORECASE,
)
_STREET = re.compile(r"^ (?:street|st|avenue|ave|floor|road|century|place|grade)\b", re.IGNORECASE)


def retimed(dialogue: Dialogue, rng: Random) -> Dialogue:
    """Return the dialogue with other times and days, as far as every mention is understood."""
    texts, used = _texts(dialogue), _used(dialogue)
    times = _new_times(used, " ".join(texts), rng)
    days = {} if any(map(_RELATIVE.search, texts)) else _new_days(used, " ".join(texts), rng)
    if not times and not days:
        return dialogue

    def spoken(text: str) -> str:
        text = _SPOKEN_TIME.sub(lambda match: _other_time(match, times), text)
        return _SPOKEN_DAY.sub(lambda match: _other_day(match, days), text)

    def exact(value: Any) -> Any:
        return times.get(value, days.get(value, value)) if isinstance(value, str) else value

    messages = []
    for message in dialogue.messages:
        if calls := message.get("tool_calls"):
            name, arguments = calls[0]["function"]["name"], calls[0]["function"]["arguments"]
            change: Callable[[Any], Any] = spoken if "message" in arguments else exact
            messages.append(call(name, {key: change(item) for key, item in arguments.items()}))
        elif message["role"] == "tool":
            messages.append(result(_exact(message["content"], {**times, **days})))
        else:
            messages.append(user(spoken(message["content"])))
    return replace(dialogue, messages=tuple(messages))


def _exact(text: str, new: dict[str, str]) -> str:
    pattern = "|".join(map(re.escape, new))
    return re.sub(f'(?<=")(?:{pattern})(?=")', lambda match: new[match[0]], text)


def _texts(dialogue: Dialogue) -> list[str]:
    """Return what the two people said."""
    texts = []
    for message in dialogue.messages:
        if calls := message.get("tool_calls"):
            texts.append(calls[0]["function"]["arguments"].get("message", ""))
        elif message["role"] == "user":
            texts.append(message["content"])
    return texts


def _used(dialogue: Dialogue) -> list[str]:
    """Return the values of calls, each once."""
    found: dict[str, None] = {}
    for message in dialogue.messages:
        if calls := message.get("tool_calls"):
            found |= dict.fromkeys(map(str, calls[0]["function"]["arguments"].values()))
    return list(found)


def _new_times(used: list[str], text: str, rng: Random) -> dict[str, str]:
    """Return another time in the same part of the day for each that the text speaks of."""
    mentioned = {found for match in _SPOKEN_TIME.finditer(text) for found in _minutes(match)}
    new: dict[str, str] = {}
    taken = {_of_clock(value) % 720 for value in used if _CLOCK.fullmatch(value)} | mentioned
    for value in used:
        if not _CLOCK.fullmatch(value) or _of_clock(value) % 720 not in mentioned:
            continue
        minutes = _of_clock(value)
        part = (420, 720) if minutes < 720 else (720, 1020) if minutes < 1020 else (1020, 1365)
        free = [m for m in range(*part, 15) if m % 720 not in taken]
        if free and minutes != 720:
            chosen = rng.choice(free)
            taken.add(chosen % 720)
            new[value] = f"{chosen // 60:02}:{chosen % 60:02}"
    return new


def _of_clock(value: str) -> int:
    return int(value[:2]) * 60 + int(value[3:])


def _minutes(match: re.Match[str]) -> Iterator[int]:
    """Yield the minutes of half a day that a mention means."""
    if match["half"]:
        yield int(match["half_hour"]) % 12 * 60 + 30
    elif match["hour"]:
        yield (int(match["hour"]) * 60 + int(match["minute"])) % 720
    else:
        yield int(match["bare"] or match["after_morning"] or match["after_evening"]) % 12 * 60


def _other_time(match: re.Match[str], new: dict[str, str]) -> str:
    meant = next(_minutes(match))
    chosen = next((to for of, to in new.items() if _of_clock(of) % 720 == meant), None)
    if chosen is None:
        return match[0]
    minutes = _of_clock(chosen)
    is_long = match["hour"] is not None and int(match["hour"]) > 12
    hour = minutes // 60 if is_long else (minutes // 60 - 1) % 12 + 1
    if match["half"]:
        return f"half past {hour}" if minutes % 60 == 30 else f"{hour}:{minutes % 60:02}"
    return f"{hour}:{minutes % 60:02}" if minutes % 60 or match["hour"] else f"{hour}"


def _new_days(used: list[str], text: str, rng: Random) -> dict[str, str]:
    """Return the days moved by one number of days inside their months; empty if they cannot be."""
    days = [date.fromisoformat(value) for value in used if _DAY.fullmatch(value)]
    mentioned = {int(match["day"] or match["only"]) for match in _SPOKEN_DAY.finditer(text)}
    if not days or {day.day for day in days} != mentioned:
        return {}
    low, high = 1 - min(day.day for day in days), 28 - max(day.day for day in days)
    steps = [step for step in range(low, high + 1) if step]
    if not steps:
        return {}
    step = timedelta(rng.choice(steps))
    return {str(day): str(day + step) for day in days}


def _other_day(match: re.Match[str], new: dict[str, str]) -> str:
    said = int(match["day"] or match["only"])
    # A house number with an ending is no day.
    if _STREET.match(match.string[match.end() :]):
        return match[0]
    chosen = next((to for of, to in new.items() if int(of[8:]) == said), None)
    if chosen is None:
        return match[0]
    nth = match["nth"] or match["only_nth"]
    number = ordinal(int(chosen[8:])) if nth else str(int(chosen[8:]))
    return match[0][: match.start("day") - match.start()] + number if match["month"] else number
