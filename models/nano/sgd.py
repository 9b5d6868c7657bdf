"""Conversations from Schema-Guided Dialogue (CC BY-SA 4.0), in nano's messages.

Reads the corpus's own layout (`train/dialogues_001.json`, `train/schema.json`) and the compact
form (`train.jsonl.gz`, `schema_train.json`). Following distil labs' TFT benchmark, a system
utterance is a call of `respond_to_user` and every argument is a string. Refuses to know what the
conversations are trained for; `held_out` names those that must not be.

    python -m models.nano.sgd DIR
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.nano.dialogue import RESPOND_TOOL, Dialogue
from models.nano.template import Message, Tool, call, respond, result, tool, user

MAX_RESULTS = 4
"""Rows that a search result keeps, as in the TFT conversations."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One dialogue of the corpus before it is cut, augmented or filtered."""

    id: str
    split: str
    services: tuple[str, ...]
    turns: tuple[tuple[Any, ...], ...]
    """`("user", text)`, `("say", text)`, `("call", name, arguments)`, `("result", rows)`."""

    @property
    def key(self) -> str:
        """`split/id`: ids repeat between the splits."""
        return f"{self.split}/{self.id}"


@dataclass(frozen=True, slots=True)
class Lines:
    """What people wrote to agree, to decline and to end, in any domain."""

    yes: tuple[str, ...]
    no: tuple[str, ...]
    closing: tuple[str, ...]


MAX_WORDS = 9
_ASKS_TO_CONFIRM = re.compile(r"confirm|correct\b|is (?:that|this) (?:right|ok)|sound", re.I)
_OFFERS = re.compile(r"would you like|do you want|shall i|should i|(?:want|like) me to", re.I)
_AGREES = re.compile(
    r"(?:yes|yeah|yep|yup|sure|that|ok|correct|right|sounds|perfect|great|please|it)\b", re.I
)
_DECLINES = re.compile(r"(?:no|not|nope|nah|i don't|maybe later)\b", re.I)
_GOES_ON = re.compile(r"[?\d]|\b(?:need|want to|play|cast|watch|listen|turn|make|change)\b", re.I)
_ENDS = re.compile(r"thank|bye|\ball\b|nothing|everything|good|great|\bno\b|nope|perfect", re.I)


def lines(recorded: Iterable[Recorded]) -> Lines:
    """Return short answers that say nothing else, each as often as it was written.

    An agreement stands between a question for it and a call, a decline between an offer and
    other words, an ending at the end.
    """
    yes: list[str] = []
    no: list[str] = []
    closing: list[str] = []
    for item in recorded:
        *asked, last = [at for at, turn in enumerate(item.turns) if turn[0] == "user"]
        for at in asked[1:]:
            before, text, behind = item.turns[at - 1], item.turns[at][1], item.turns[at + 1]
            if before[0] != "say" or _GOES_ON.search(text) or len(text.split()) > MAX_WORDS:
                continue
            if behind[0] == "call" and _ASKS_TO_CONFIRM.search(before[1]) and _AGREES.match(text):
                yes.append(text)
            elif behind[0] == "say" and _OFFERS.search(before[1]) and _DECLINES.match(text):
                no.append(text)
        text = item.turns[last][1]
        if not _GOES_ON.search(text) and _ENDS.search(text) and len(text.split()) <= MAX_WORDS:
            closing.append(text)
    return Lines(tuple(yes), tuple(no), tuple(closing))


def read(folder: Path, splits: Collection[str] = ("train", "dev", "test")) -> Iterator[Recorded]:
    """Yield the dialogues of `folder` in file order, whichever of the two layouts it has."""
    for split in splits:
        compact = folder / f"{split}.jsonl.gz"
        if compact.exists():
            with gzip.open(compact, "rt", encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    turns = tuple(tuple(turn) for turn in row["messages"])
                    yield Recorded(row["id"], split, tuple(row["services"]), turns)
            continue
        for path in sorted((folder / split).glob("dialogues_*.json")):
            for row in json.loads(path.read_text(encoding="utf-8")):
                turns = tuple(_original_turns(row["turns"]))
                yield Recorded(row["dialogue_id"], split, tuple(row["services"]), turns)


def _original_turns(turns: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for turn in turns:
        if turn["speaker"] == "USER":
            yield ("user", turn["utterance"])
            continue
        for frame in turn["frames"]:
            if "service_call" in frame:
                service_call = frame["service_call"]
                yield ("call", service_call["method"], service_call["parameters"])
                yield ("result", frame.get("service_results", [])[:MAX_RESULTS])
        yield ("say", turn["utterance"])


def schemas(folder: Path, split: str) -> dict[str, tuple[Tool, ...]]:
    """Return the tools of every service that `split` knows, by service name."""
    compact = folder / f"schema_{split}.json"
    path = compact if compact.exists() else folder / split / "schema.json"
    services = json.loads(path.read_text(encoding="utf-8"))
    return {service["service_name"]: _service_tools(service) for service in services}


def _service_tools(service: dict[str, Any]) -> tuple[Tool, ...]:
    slots = {slot["name"]: slot for slot in service["slots"]}
    tools = []
    for intent in service["intents"]:
        names = [*intent["required_slots"], *intent["optional_slots"]]
        properties = {name: _property(slots[name]) for name in names}
        tools.append(tool(intent["name"], properties, intent["required_slots"]))
    return tuple(tools)


def _property(slot: dict[str, Any]) -> dict[str, Any]:
    if slot["is_categorical"] and slot["possible_values"]:
        return {"type": "string", "enum": list(slot["possible_values"])}
    return {"type": "string"}


def messages_of(recorded: Recorded) -> tuple[Message, ...]:
    """Return the dialogue as messages, from the customer's first one to the last reply."""
    messages: list[Message] = []
    for turn in recorded.turns:
        match turn:
            case ("user", text):
                messages.append(user(text))
            case ("say", text):
                messages.append(respond(text))
            case ("call", name, arguments):
                messages.append(call(name, {key: str(value) for key, value in arguments.items()}))
            case ("result", rows):
                messages.append(result(rows[:MAX_RESULTS]))
    return tuple(messages)


def dialogue_of(recorded: Recorded, tools: dict[str, tuple[Tool, ...]]) -> Dialogue:
    """Return the dialogue with the tools of its services, talking first."""
    offered = [tool for service in recorded.services for tool in tools[service]]
    # Two services of one dialogue may share an intent's name; the first one is offered.
    unique = {tool["function"]["name"]: tool for tool in reversed(offered)}
    offered_once = tuple(tool for tool in unique.values())
    return Dialogue("sgd", (RESPOND_TOOL, *reversed(offered_once)), messages_of(recorded))


def fingerprint(texts: list[str]) -> frozenset[str]:
    """Return what is left of utterances when spelling and spacing are gone."""
    return frozenset(re.sub(r"[^a-z0-9]+", " ", text.lower()).strip() for text in texts)


def held_out(
    dialogues: list[Recorded], conversations: list[frozenset[str]], overlap: float = 0.5
) -> dict[str, str]:
    """Return why each dialogue that must not be trained on is held out, by `split/id`.

    Single-service restaurant dialogues of the test split are, and every dialogue that shares
    at least `overlap` of its customer's utterances of four words or more (or all utterances,
    when none is that long) with one of `conversations`.
    """
    reasons: dict[str, str] = {}
    wanted = [_distinct(texts) for texts in conversations]
    for recorded in dialogues:
        is_restaurant = [service.startswith("Restaurants") for service in recorded.services]
        if recorded.split == "test" and is_restaurant == [True]:
            reasons[recorded.key] = "test split, restaurants"
            continue
        if not any(is_restaurant):
            continue
        own = _distinct(fingerprint([turn[1] for turn in recorded.turns if turn[0] == "user"]))
        if any(len(own & texts) >= overlap * min(len(own), len(texts)) for texts in wanted):
            reasons[recorded.key] = "shared with the development file"
    return reasons


def _distinct(texts: frozenset[str]) -> frozenset[str]:
    long = frozenset(text for text in texts if len(text.split()) >= 4)
    return long or texts


def tft_conversations(path: Path) -> list[frozenset[str]]:
    """Return the fingerprints of the customer's utterances of each TFT conversation."""
    conversations = []
    for line in path.read_text(encoding="utf-8").splitlines():
        question = json.loads(json.loads(line)["question"])
        texts = [m["content"] for m in question if m["role"] == "user"]
        conversations.append(fingerprint([text for text in texts if not text.startswith("[")]))
    return conversations


def main() -> None:
    """Print how many dialogues a folder holds and how many are held out."""
    folder = Path(sys.argv[1])
    dialogues = list(read(folder))
    development = tft_conversations(Path(sys.argv[2])) if len(sys.argv) > 2 else []
    reasons = held_out(dialogues, development)
    print(len(dialogues), "dialogues;", dict(Counter(reasons.values())), "held out")


if __name__ == "__main__":
    main()
