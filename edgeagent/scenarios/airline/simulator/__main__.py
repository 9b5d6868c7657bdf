"""Print episodes for a person to read.

python -m edgeagent.scenarios.airline.simulator --seed 1 --n 3 [--split held_out] [--kind book]
"""

from __future__ import annotations

import json
from typing import cast

import click

from edgeagent.messages import RESPOND, CallMessage, ResultMessage, UserMessage
from edgeagent.scenarios.airline.simulator.episodes import Episode, Split, episodes


@click.command()
@click.option("--seed", default=1, show_default=True, help="Seed of the first episode.")
@click.option("--n", default=3, show_default=True, help="How many episodes to play.")
@click.option("--split", type=click.Choice(["train", "held_out"]), default="train")
@click.option("--kind", default="", help="Print only episodes with a wish of this kind.")
def main(seed: int, n: int, split: str, kind: str) -> None:
    """Play customers against the scripted expert and print what happened."""
    for episode in episodes(seed, n, cast("Split", split)):
        if any(wish.kind.startswith(kind) for wish in episode.goal.wishes):
            _print(episode)


def _print(episode: Episode) -> None:
    kinds = ", ".join(wish.kind for wish in episode.goal.wishes)
    print(f"=== {episode.seed} | {episode.goal.user_id} | {kinds}")
    labels = iter(episode.labels)
    for message in episode.conversation:
        match message:
            case UserMessage(text):
                print(f"customer  {text}")
            case CallMessage((call,)):
                label = next(labels)
                mark = "" if label.by == "expert" else " (larger model)"
                mark += " (hard)" if label.is_hard else ""
                if call.name == RESPOND:
                    print(f"agent     {call.arguments['message']}{mark}")
                else:
                    print(f"  call    {call.name} {json.dumps(dict(call.arguments))}{mark}")
            case ResultMessage(name=name, content=content) if name != RESPOND and content:
                print(f"  result  {content[:400]}")
            case _:
                pass
    print()


if __name__ == "__main__":
    main()
