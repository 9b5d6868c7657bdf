"""Lessons of the airline simulator in nano's messages.

The policy is learnt from what the scripted expert does; the larger model's steps are context.

    python -m models.nano.airline
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from edgeagent.messages import RESPOND, CallMessage, ResultMessage, Tool, UserMessage
from edgeagent.scenarios.airline.simulator.episodes import Episode, Split, episodes
from models.nano import template
from models.nano.dialogue import Dialogue

SHARE_WITH_REPLY = 0.2
"""Of the openings, those that are shown again with the result and the reply to it."""


def dialogues(seed: int, n: int, split: Split = "train") -> Iterator[Dialogue]:
    """Yield `n` lessons; in one of eight the tools stand in another order."""
    rng = Random(seed)
    for episode in episodes(seed, n, split):
        dialogue = dialogue_of(episode)
        if rng.random() < 0.125:
            tools = tuple(rng.sample(dialogue.tools, len(dialogue.tools)))
            dialogue = Dialogue(dialogue.source, tools, dialogue.messages)
        yield dialogue


def openings(seed: int, n: int) -> Iterator[Dialogue]:
    """Yield the first step of `n` episodes, some up to the first reply.

    A whole lesson costs about a thousand tokens and shows one customer's first wish; an opening
    costs a third, so far more ways to say a wish are seen for the same work. Without the tools
    in front it would cost eighty, but what was learnt there did not show behind the tools.
    """
    rng = Random(seed)
    for episode in episodes(seed, n, "train"):
        dialogue = dialogue_of(episode)
        messages = dialogue.messages
        names = {
            at: message["tool_calls"][0]["function"]["name"]
            for at, message in enumerate(messages)
            if message["role"] == "assistant"
        }
        first = min(names)
        yield Dialogue("openings", dialogue.tools, messages[: first + 1])
        replies = [at for at, name in names.items() if name == RESPOND and at > first]
        if replies and rng.random() < SHARE_WITH_REPLY:
            yield Dialogue("openings", dialogue.tools, messages[: replies[0] + 1])


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
                    step["learn"] = "arguments"
                messages.append(step)
            case ResultMessage(name=name, content=content) if name != RESPOND:
                messages.append(template.result(content))
            case _:
                pass
    return Dialogue("airline", tuple(tools_of(episode.tools)), tuple(messages))


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
