"""Lessons of the airline simulator in nano's messages.

The policy is learnt from what the scripted expert does; the larger model's steps are context.

    python -m models.nano.airline
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from random import Random

from edgeagent.messages import (
    RESPOND,
    THINK,
    CallMessage,
    ResultMessage,
    Tool,
    ToolKind,
    UserMessage,
)
from edgeagent.scenarios.airline import backend
from edgeagent.scenarios.airline.names import FIRST_NAMES, LAST_NAMES
from edgeagent.scenarios.airline.simulator import wanting
from edgeagent.scenarios.airline.simulator.episodes import Episode, Split, episodes
from models.nano import template, values
from models.nano.dialogue import Dialogue
from models.nano.sgd import Lines
from models.nano.titles import titled

DRILLED = ("book", "add_bags", "passenger", "upgrade", "change_")
"""Beginnings of the kinds of wishes that end in a write with many arguments."""
CONFIRMING = ("confirm_", "offer_certificate")
"""Beginnings of the replies that ask for a yes or no."""
POLICY = backend.description().policy
WRITES = frozenset(tool.name for tool in backend.description().tools if tool.kind is ToolKind.WRITE)
"""Tools that a yes sets off."""
SHARE_RECORDED = 0.45
"""Of those answers and of the goodbyes, those that are said in recorded words."""
SHARE_RENAMED = 0.6
"""Of the lessons, those whose people get invented names: the world has a few hundred of its own."""
SHARE_TITLED = 0.94
"""Of the lessons, those under the desk's own policy."""
SHARE_WITH_REPLY = 0.2
"""Of the openings, those that are shown again with the result and the reply to it."""

_CAPITALISED = "|".join(sorted({*FIRST_NAMES, *LAST_NAMES}, key=len, reverse=True))
_LOWER = _CAPITALISED.lower()
_NAME = re.compile(
    rf"(?<![A-Za-z])(?:{_CAPITALISED})(?![A-Za-z])"
    # In lower case a name is only what stands in a user id or in front of a mail's @.
    rf"|(?<![A-Za-z])(?:{_LOWER})(?=_|\.[a-z]+\d*@)|(?<=[_.])(?:{_LOWER})(?=_\d|\d*@)"
)


def dialogues(
    seed: int, n: int, split: Split = "train", lines: Lines | None = None
) -> Iterator[Dialogue]:
    """Return `n` lessons; in one of eight the tools stand in another order.

    Lessons to train on have invented names in most cases, held-out ones never. With `lines`,
    customers agree, decline and end in recorded words in many cases.
    """
    return _varied(episodes(seed, n, split), Random(seed), split, lines)


def drill(seed: int, n: int, lines: Lines | None = None) -> Iterator[Dialogue]:
    """Yield the lessons among `n` episodes that book or change something, about four in ten."""
    hard = (
        episode
        for episode in episodes(seed, n, "train")
        if any(wish.kind.startswith(DRILLED) for wish in episode.goal.wishes)
    )
    return _varied(hard, Random(seed), "train", lines)


def rounds(seed: int, n: int, lines: Lines | None = None) -> Iterator[Dialogue]:
    """Yield `n` lessons of customers who ask many things about one reservation."""
    lessons = episodes(seed, n, "train", wanting.draw_round)
    return _varied(lessons, Random(seed), "train", lines)


def _varied(
    lessons: Iterable[Episode], rng: Random, split: Split, lines: Lines | None
) -> Iterator[Dialogue]:
    words = Random(rng.random())
    for episode in lessons:
        dialogue = dialogue_of(episode if lines is None else _reworded(episode, lines, words))
        if split == "train" and rng.random() < SHARE_RENAMED:
            dialogue = renamed(dialogue, rng)
        if rng.random() < 0.125:
            tools = tuple(rng.sample(dialogue.tools, len(dialogue.tools)))
            dialogue = replace(dialogue, tools=tools)
        if split == "train":
            dialogue = titled(dialogue, rng, (dialogue.policy,), SHARE_TITLED)
        yield dialogue


def openings(seed: int, n: int) -> Iterator[Dialogue]:
    """Yield the first step of `n` episodes, the one behind a note too, some up to the first reply.

    A whole lesson costs about a thousand tokens and shows one customer's first wish; an opening
    costs a third, so far more ways to say a wish are seen for the same work. Without the tools
    in front it would cost eighty, but what was learnt there did not show behind the tools.
    """
    rng = Random(seed)
    for episode in episodes(seed, n, "train"):
        dialogue = dialogue_of(episode)
        if rng.random() < SHARE_RENAMED:
            dialogue = renamed(dialogue, rng)
        dialogue = replace(dialogue, source="openings")
        dialogue = titled(dialogue, rng, (dialogue.policy,), SHARE_TITLED)
        messages = dialogue.messages
        names = {
            at: message["tool_calls"][0]["function"]["name"]
            for at, message in enumerate(messages)
            if message["role"] == "assistant"
        }
        first = min(names)
        if names[first] == THINK:
            # The note on the wish says what the step behind it is for.
            first = min(at for at in names if at > first)
        yield replace(dialogue, messages=messages[: first + 1])
        replies = [at for at, name in names.items() if name == RESPOND and at > first]
        if replies and rng.random() < SHARE_WITH_REPLY:
            yield replace(dialogue, messages=messages[: replies[0] + 1])


def renamed(dialogue: Dialogue, rng: Random) -> Dialogue:
    """Return the dialogue with an invented name for every first and last name in it.

    User ids and addresses of mail are spelled from names, so they change along.
    """
    names: dict[str, str] = {}

    def swap(match: re.Match[str]) -> str:
        old = match.group(0)
        new = names.setdefault(old.lower(), values.word(rng))
        return new.lower() if old.islower() else new

    messages = tuple(_mapped(message, partial(_NAME.sub, swap)) for message in dialogue.messages)
    return replace(dialogue, messages=messages)


def _mapped(message: template.Message, change: Callable[[str], str]) -> template.Message:
    if calls := message.get("tool_calls"):
        function = calls[0]["function"]
        arguments = json.loads(change(template.dumps(function["arguments"])))
        return {**message, **template.call(function["name"], arguments)}
    return {**message, "content": change(message["content"])}


def _reworded(episode: Episode, lines: Lines, rng: Random) -> Episode:
    """Return the episode with recorded words for some of the plain answers in it."""
    steps = [at for at, said in enumerate(episode.conversation) if isinstance(said, CallMessage)]
    conversation = list(episode.conversation)
    situations = [label.situation for label in episode.labels]
    for number, (before, behind) in enumerate(pairwise(situations), start=1):
        at = steps[number] - 1
        if not isinstance(conversation[at], UserMessage) or rng.random() > SHARE_RECORDED:
            continue
        if behind == "closing":
            conversation[at] = UserMessage(rng.choice(lines.closing))
        elif before.startswith(CONFIRMING) and behind == "nothing_done":
            conversation[at] = UserMessage(rng.choice(lines.no))
        elif before.startswith(CONFIRMING) and behind in WRITES:
            conversation[at] = UserMessage(rng.choice(lines.yes))
    return replace(episode, conversation=tuple(conversation))


def dialogue_of(episode: Episode) -> Dialogue:
    """Return the episode as a dialogue, each step marked with what is to be learnt from it."""
    messages = []
    labels = iter(episode.labels)
    for message in episode.conversation:
        match message:
            case UserMessage(text):
                messages.append(template.user(text))
            case CallMessage((call,)):
                label = next(labels)
                step = template.call(call.name, dict(call.arguments))
                if label.by != "expert":
                    step["learn"] = "nothing"
                elif label.is_masked:
                    step["learn"] = "without deferring"
                messages.append(step)
            case ResultMessage(name=name, content=content) if name != RESPOND:
                messages.append(template.result(content))
            case _:
                pass
    return Dialogue("airline", tuple(tools_of(episode.tools)), tuple(messages), POLICY)


def tools_of(tools: Iterable[Tool]) -> Iterator[template.Tool]:
    """Yield the package's tools in the shape that templates take."""
    for tool in tools:
        parameters = tool.parameters
        yield template.tool(tool.name, parameters["properties"], parameters.get("required", []))


def main() -> None:
    """Print three lessons as the model reads them."""
    for dialogue in dialogues(1, 3):
        print(template.render(dialogue.messages, dialogue.tools))


if __name__ == "__main__":
    main()
