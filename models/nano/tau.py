"""Recorded airline conversations of tau-bench (MIT) in nano's messages.

None of the tasks that evaluations keep for themselves is taken. Conversations that missed their
goal are: where one went wrong is not recorded, and most of their steps are as good as the others'.
Refuses to know the airline's rules.

    python -m models.nano.tau DIR
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from edgeagent.scenarios.airline import backend
from models.nano import values
from models.nano.airline import tools_of
from models.nano.dialogue import Dialogue
from models.nano.template import Message, Tool, call, respond, result, user

HELD_OUT = (5, 3)
"""Tasks with `id % 5 == 3` are for evaluation only."""


def tools() -> tuple[Tool, ...]:
    """Return the airline desk's tools as the runtime shows them, in its order.

    In any other order the list tells a recorded conversation from a simulated one, and what is
    learnt from the one never shows at the desk.
    """
    return tuple(tools_of(backend.description().tools))


def dialogues(folder: Path) -> Iterator[Dialogue]:
    """Yield the conversations of `folder` that are free for training."""
    modulus, kept = HELD_OUT
    offered = tools()
    with gzip.open(folder / "gpt4o_trajectories.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["task_id"] % modulus != kept:
                policy = str(row["messages"][0]["content"])
                yield Dialogue("tau", offered, tuple(_messages(row["messages"])), policy)


def lessons(folder: Path, rng: Random, n_copies: int = 10) -> Iterator[Dialogue]:
    """Yield every free conversation as it is and `n_copies` times with other names and ids."""
    for dialogue in dialogues(folder):
        yield dialogue
        for _ in range(n_copies):
            yield varied(dialogue, rng)


_IDS = {
    r"[a-z]+_[a-z]+_\d{4}": values.user_id,
    r"(?:credit_card|gift_card|certificate)_\d{7}": values.payment_id,
    r"HAT\d{3}": lambda rng: "HAT" + values.digits(rng, 3),
    r"(?<![A-Z0-9])(?=[A-Z0-9]*\d)[A-Z0-9]{6}(?![A-Z0-9])": values.reservation_id,
}
_PAYMENTS = ("credit_card", "gift_card", "certificate")
_NAMES = re.compile(r'"(?:first|last)_name": "([A-Za-z]+)"')


def varied(dialogue: Dialogue, rng: Random) -> Dialogue:
    """Return the conversation with other people's names and other ids throughout."""
    text = json.dumps(dialogue.messages, ensure_ascii=False)
    # What a tool answered is JSON inside JSON.
    names = {name: values.word(rng) for name in sorted(set(_NAMES.findall(text.replace("\\", ""))))}
    new: dict[str, str] = {}
    for pattern, make in _IDS.items():
        for old in sorted(set(re.findall(pattern, text)) - new.keys()):
            new[old] = make(rng)
            if old.startswith(_PAYMENTS):
                # A gift card stays a gift card.
                new[old] = old.rstrip("0123456789") + values.digits(rng, 7)
    whole = "|".join(map(re.escape, sorted(new, key=len, reverse=True)))
    text = re.sub(rf"(?<!\w)(?:{whole})(?!\w)", lambda m: new[m[0]], text) if whole else text
    people = "|".join(sorted(names, key=len, reverse=True))
    if people:
        text = re.sub(rf"(?<![A-Za-z])(?:{people})(?![A-Za-z])", lambda m: names[m[0]], text)
    return replace(dialogue, messages=tuple(json.loads(text)))


def _messages(recorded: list[dict[str, object]]) -> Iterator[Message]:
    for message in recorded:
        content = str(message.get("content") or "")
        match message["role"]:
            case "user":
                if content != "###STOP###":
                    yield user(content)
            case "tool":
                yield result(content)
            case "assistant":
                for item in message.get("tool_calls") or ():  # type: ignore[attr-defined]  # foreign JSON
                    function = item["function"]
                    yield call(function["name"], json.loads(function["arguments"]))
                if not message.get("tool_calls"):
                    yield respond(content)


def main() -> None:
    """Print how many conversations and calls are free for training."""
    found = list(dialogues(Path(sys.argv[1])))
    n_calls = sum("tool_calls" in message for dialogue in found for message in dialogue.messages)
    print(len(found), "conversations,", n_calls, "calls")


if __name__ == "__main__":
    main()
