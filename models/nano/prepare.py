"""Text to token shards: one `.npz` for each source, made of windows of at most N tokens.

A shard holds `ids` (uint16, all windows end to end), `flags` (uint8, see windows.py), `ends`
(int64, where each window ends) and `deferral` (the first token of that tool's name).

    python -m models.nano.prepare --sgd DIR --tau DIR --held-out TFT_FILE --tokens 1024
    python -m models.nano.prepare --airline 9000 --openings 4000 --lines SGD --tokens 3072
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import tokenizers

from edgeagent.messages import DEFER
from edgeagent.scenarios import job
from models.nano import airline, augment, diet, retime, sgd, tau
from models.nano.choices import choices
from models.nano.dialogue import Dialogue
from models.nano.guide import lessons as guide
from models.nano.orders import lessons as orders
from models.nano.titles import titled
from models.nano.windows import CALL, CHOICE, COPY, windows

WORK = Path(__file__).parent / "work"
SHARE_TITLED = 0.4
"""Of the recorded conversations, those under the policy that the development file has."""


def recorded_lines(folder: Path, development: Path | None) -> sgd.Lines:
    """Return how people in SGD agree, decline and end, the held-out conversations left out."""
    recorded = list(sgd.read(folder, ("train",)))
    conversations = sgd.tft_conversations(development) if development else []
    reasons = sgd.held_out(recorded, conversations)
    return sgd.lines(item for item in recorded if item.key not in reasons)


def schema_guided(
    folder: Path, development: Path | None, rng: Random, services: str = ""
) -> Iterator[Dialogue]:
    """Yield SGD dialogues that may be trained on, varied; every fourth keeps its own values.

    `services` is the beginning of a service's name that a dialogue must have; empty takes all.
    """
    policies = (_policy(development),) if development else ()
    recorded = list(sgd.read(folder))
    conversations = sgd.tft_conversations(development) if development else []
    reasons = sgd.held_out(recorded, conversations)
    print(f"sgd: {len(recorded)} dialogues, held out: {dict(Counter(reasons.values()))}")
    tools = {split: sgd.schemas(folder, split) for split in ("train", "dev", "test")}
    others = [tool for services in tools["train"].values() for tool in services]
    free = [
        item
        for item in recorded
        if item.key not in reasons and any(name.startswith(services) for name in item.services)
    ]
    vocabulary = _vocabulary(free)
    requests = [turn[1] for item in free for turn in item.turns[:1]]
    for item in rng.sample(free, len(free)):
        dialogue = augment.canonical(sgd.dialogue_of(item, tools[item.split]))
        if rng.random() < 0.7:
            dialogue = retime.retimed(dialogue, rng)
        if rng.random() < 0.75:
            dialogue = augment.replace_values(dialogue, rng, vocabulary)
        if rng.random() < 0.04:
            dialogue = augment.irrelevant(dialogue, rng.choice(requests), rng)
        yield titled(augment.vary_tools(dialogue, rng, others), rng, policies, SHARE_TITLED)


def _policy(development: Path) -> str:
    """Return the policy that the development file is answered under."""
    return job.read(development.with_name("job_description.json")).policy


def _vocabulary(recorded: list[sgd.Recorded]) -> tuple[str, ...]:
    """Return the words that customers use, to make names of."""
    counts: Counter[str] = Counter()
    for item in recorded:
        for turn in item.turns:
            if turn[0] in ("user", "say"):
                counts.update(re.findall(r"[A-Za-z]{3,10}", turn[1]))
    return tuple(sorted(word for word, count in counts.items() if count >= 2))


def write(name: str, dialogues: Iterable[Dialogue], folder: Path, n_max: int, seed: int) -> None:
    """Write the shard of one source; a few thousand windows per ten seconds."""
    encoder = tokenizers.Tokenizer.from_file(str(WORK / "tokenizer" / "tokenizer.json"))
    rng = Random(seed)
    ids: list[np.ndarray] = []
    flags: list[np.ndarray] = []
    ends: list[int] = []
    total, began = 0, time.monotonic()
    for dialogue in dialogues:
        for window in windows(dialogue, encoder, n_max, rng):
            ids.append(np.array(window.ids, np.uint16))
            flags.append(np.array(window.flags, np.uint8))
            total += len(window.ids)
            ends.append(total)
    all_ids, all_flags = np.concatenate(ids), np.concatenate(flags)
    all_flags[choices(all_ids, all_flags)] |= CHOICE
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.npz"
    deferral = np.int64(encoder.encode(DEFER).ids[0])
    np.savez(
        partial, ids=all_ids, flags=all_flags, ends=np.array(ends, np.int64), deferral=deferral
    )
    os.replace(partial, folder / f"{name}.npz")
    in_calls = (all_flags & CALL > 0).mean()
    print(
        f"{name}: {len(ends)} windows, {total / 1e6:.2f} M tokens, {in_calls:.0%} in calls,"
        f" {(all_flags & COPY > 0).mean():.1%} copied,"
        f" {(all_flags & CHOICE > 0).mean():.1%} chosen, {time.monotonic() - began:.0f} s"
    )


def main() -> None:
    """Write the shards that the options name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sgd", type=Path)
    parser.add_argument("--tau", type=Path)
    parser.add_argument("--lines", type=Path, help="SGD, for how customers say yes, no and goodbye")
    parser.add_argument("--held-out", type=Path, help="TFT file whose conversations stay out")
    parser.add_argument("--diet", type=int, default=0, help="copying exercises to make")
    parser.add_argument("--guide", type=int, default=0, help="restaurant conversations to make")
    parser.add_argument("--airline", type=int, default=0, help="simulated episodes to make")
    parser.add_argument(
        "--openings", type=int, default=0, help="episodes to take only the start of"
    )
    parser.add_argument(
        "--drill", type=int, default=0, help="episodes to take only those from that write much"
    )
    parser.add_argument(
        "--rounds", type=int, default=0, help="customers to make who ask many things"
    )
    parser.add_argument("--orders", type=int, default=0, help="lessons of the shop's desk to make")
    parser.add_argument("--tokens", type=int, default=512, help="longest window")
    parser.add_argument("--shards", default="shards", help="folder under work/")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder, seed = WORK / options.shards, options.seed
    lines = recorded_lines(options.lines, options.held_out) if options.lines else None
    if options.diet:
        write("diet", diet.dialogues(Random(seed), options.diet), folder, options.tokens, seed)
    if options.guide:
        talks = guide.dialogues(Random(seed), options.guide)
        write("guide", talks, folder, options.tokens, seed)
    if options.tau:
        write("tau", tau.lessons(options.tau, Random(seed)), folder, options.tokens, seed)
    if options.airline:
        lessons = airline.dialogues(seed, options.airline, lines=lines)
        write("airline", lessons, folder, options.tokens, seed)
    if options.drill:
        write("drill", airline.drill(seed, options.drill, lines), folder, options.tokens, seed)
    if options.rounds:
        write("rounds", airline.rounds(seed, options.rounds, lines), folder, options.tokens, seed)
    if options.openings:
        write("openings", airline.openings(seed, options.openings), folder, options.tokens, seed)
    if options.orders:
        write("orders", orders.dialogues(seed, options.orders), folder, options.tokens, seed)
    if options.sgd:
        dialogues = schema_guided(options.sgd, options.held_out, Random(seed))
        write("sgd", dialogues, folder, options.tokens, seed)
        # The restaurants scenario ships with the package, so its domain has a shard of its own.
        own = schema_guided(options.sgd, options.held_out, Random(seed + 1), "Restaurants")
        write("restaurants", own, folder, options.tokens, seed + 1)


if __name__ == "__main__":
    main()
