"""Score a checkpoint on conversations it was never trained on, one forward pass for each window.

A greedy decoder writes a reference call exactly when the reference is the most likely token at
every place of it, so nothing has to be decoded to count exact calls. What the runtime's grammar
would have ruled out is not ruled out here: the runtime can only do better.

    python -m models.nano.evaluate --run RUN --airline 200 --orders 200
    python -m models.nano.evaluate --run RUN --tft FILE
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import tokenizers
import torch

from edgeagent.evals.intervals import wilson
from models.nano import augment, sgd, template
from models.nano.dialogue import Dialogue
from models.nano.model import Nano, Shape
from models.nano.windows import CALL, NAME, Window, windows

WORK = Path(__file__).parent / "work"
RESPOND, DEFER = "respond_to_user", "defer_to_larger_model"


@dataclass(frozen=True, slots=True)
class Step:
    """One reference call and what the model made of it."""

    wanted: str
    """Name of the reference's tool."""
    named: bool
    """The name came out right."""
    exact: bool
    """Name and arguments came out right, letter by letter."""
    p_defer: float
    """Probability of the deferral call where the name begins."""
    text: str
    """The reference."""
    written: str
    """The most likely token at every place of the reference."""


def load(path: Path) -> Nano:
    """Return the network of a checkpoint, ready to score."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = Nano(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    model.eval()
    return model


def steps(model: Nano, encoder: Any, dialogues: Iterable[Dialogue], n_max: int) -> Iterator[Step]:
    """Yield every step of `dialogues` that a window of `n_max` tokens shows, once."""
    rng = Random(0)
    defer = encoder.encode(DEFER).ids[0]
    for dialogue in dialogues:
        for window in windows(dialogue, encoder, n_max, rng):
            yield from _scored(model, encoder, window, defer)


def _scored(model: Nano, encoder: Any, window: Window, defer: int) -> Iterator[Step]:
    ids = torch.tensor([window.ids])
    is_call = [bool(flag & CALL) for flag in window.flags]
    learnt = [place for place, flag in enumerate(is_call) if flag]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states = model.hidden(ids)[0]
        logits = model.logits(states[[place - 1 for place in learnt]]).float()
    best = dict(zip(learnt, logits.argmax(-1).tolist(), strict=True))
    row = {place: number for number, place in enumerate(learnt)}
    end = encoder.token_to_id("<|im_end|>")
    at = 0
    while at < len(is_call):
        if not is_call[at] or not window.flags[at] & NAME:
            at += 1
            continue
        behind = at
        while behind < len(is_call) and is_call[behind]:
            behind += 1
        if window.ids[behind - 1] == end:
            places = range(at, behind)
            right = [best[place] == window.ids[place] for place in places]
            n_name = sum(bool(window.flags[place] & NAME) for place in places)
            yield Step(
                encoder.decode([window.ids[place] for place in places][:n_name]),
                all(right[:n_name]),
                all(right),
                float(logits[row[at]].softmax(-1)[defer]),
                encoder.decode([window.ids[place] for place in places]),
                encoder.decode([best[place] for place in places]),
            )
        at = behind


def interval(n_right: int, n: int) -> str:
    """Return the share with its Wilson interval of 95 percent."""
    if not n:
        return "-"
    low, high = wilson(n_right, n)
    return f"{n_right / n:.3f} [{low:.3f}, {high:.3f}] ({n_right}/{n})"


def report(found: list[Step], threshold: float) -> str:
    """Return the scores as lines of text."""
    service = [step for step in found if step.wanted not in (RESPOND, DEFER)]
    hard = [step for step in found if step.wanted == DEFER]
    handed = [step for step in found if step.p_defer >= threshold]
    caught = sum(step.wanted == DEFER for step in handed)
    lines = [
        f"tool name       {interval(sum(s.named for s in found), len(found))}",
        f"service exact   {interval(sum(s.exact for s in service), len(service))}",
        f"reply exact     {interval(*_exact(found, RESPOND))}",
        f"defer recall    {interval(caught, len(hard))} at {threshold}",
        f"defer precision {interval(caught, len(handed))}",
    ]
    by_tool: dict[str, list[Step]] = defaultdict(list)
    for step in found:
        by_tool[step.wanted].append(step)
    for name, own in sorted(by_tool.items()):
        lines.append(
            f"  {name:30} named {sum(s.named for s in own)}/{len(own)}"
            f" exact {sum(s.exact for s in own)}"
        )
    return "\n".join(lines)


def _exact(found: list[Step], name: str) -> tuple[int, int]:
    own = [step for step in found if step.wanted == name]
    return sum(step.exact for step in own), len(own)


def curve(found: list[Step]) -> list[tuple[float, float, float]]:
    """Return (threshold, precision, recall) of deferring."""
    n_hard = Counter(step.wanted == DEFER for step in found)[True]
    rows = []
    for threshold in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        handed = [step for step in found if step.p_defer >= threshold]
        caught = sum(step.wanted == DEFER for step in handed)
        rows.append((threshold, caught / max(1, len(handed)), caught / max(1, n_hard)))
    return rows


def tft(path: Path, job: Path) -> Iterator[Dialogue]:
    """Yield the conversations of a TFT file, results of services as tool results."""
    described = json.loads(job.read_text(encoding="utf-8"))
    tools, policy = tuple(described["tools"]), described["task_description"]
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        messages: list[template.Message] = []
        is_result = False
        for message in json.loads(row["question"]):
            if calls := message.get("tool_calls"):
                function = calls[0]["function"]
                messages.append(template.call(function["name"], function["arguments"]))
                is_result = function["name"] != RESPOND
            elif is_result:
                messages.append(template.result(message["content"]))
                is_result = False
            else:
                messages.append(template.user(message["content"]))
        answer = json.loads(row["answer"])
        messages.append(template.call(answer["name"], answer["parameters"]))
        # The file sorts arguments by name; the grammar writes them in the signature's order.
        yield augment.canonical(Dialogue("tft", tools, tuple(messages), policy))


def sgd_test(folder: Path) -> Iterator[Dialogue]:
    """Yield the restaurant dialogues of SGD's test split, which training leaves out."""
    tools = sgd.schemas(folder, "test")
    for recorded in sgd.read(folder, ("test",)):
        if len(recorded.services) == 1 and recorded.services[0].startswith("Restaurants"):
            yield augment.canonical(sgd.dialogue_of(recorded, tools))


def main() -> None:
    """Print the scores of the sources that the options name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="run")
    parser.add_argument("--airline", type=int, default=0, help="held-out episodes")
    parser.add_argument("--orders", type=int, default=0, help="held-out lessons of the shop's desk")
    parser.add_argument("--seed", type=int, default=90001)
    parser.add_argument("--tft", type=Path, help="TFT file beside its job_description.json")
    parser.add_argument("--sgd", type=Path, help="SGD folder: its restaurant test dialogues")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--failures", type=int, default=0, help="wrong service calls to print")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load(WORK / options.run / "last.pt")
    encoder = tokenizers.Tokenizer.from_file(str(WORK / "tokenizer" / "tokenizer.json"))
    sources: dict[str, Iterable[Dialogue]] = {}
    if options.airline:
        # Imported on use: the simulator needs the whole package.
        from models.nano import airline

        sources["airline, held out"] = airline.dialogues(options.seed, options.airline, "held_out")
    if options.orders:
        # Imported on use, as the simulator is.
        from models.nano.orders import lessons

        sources["orders, held out"] = lessons.dialogues(options.seed, options.orders, "held_out")
    if options.tft:
        sources["tft"] = tft(options.tft, options.tft.with_name("job_description.json"))
    if options.sgd:
        sources["sgd, restaurants of the test split"] = sgd_test(options.sgd)
    for name, dialogues in sources.items():
        found = list(steps(model, encoder, dialogues, options.tokens))
        print(f"# {name}\n{report(found, options.threshold)}", flush=True)
        if any(step.wanted == DEFER for step in found):
            for threshold, precision, recall in curve(found):
                print(f"  defer at {threshold:.2f}: precision {precision:.3f} recall {recall:.3f}")
        wrong = [step for step in found if step.wanted not in (RESPOND, DEFER) and not step.exact]
        for step in wrong[: options.failures]:
            print(f"  wanted {step.text!r}\n  wrote  {step.written!r}")


if __name__ == "__main__":
    main()
