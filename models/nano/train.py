"""Train nano: one command, CPU or GPU, stoppable at any time, exactly resumable.

    python -m models.nano.train --mix sgd=3,diet=1 --steps 2000

Run it again with the same options to go on from `work/<run>/last.pt`. A line every few steps
shows loss, tokens per second, time left, the loss of each source, and copying as a curve of its
own: how many values of a call that stand in the context come out letter by letter.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import queue
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.nano import induction
from models.nano.batches import BUCKETS, Batch, Shard, batch, load
from models.nano.fast import passes
from models.nano.fast.passes import Pass
from models.nano.model import Nano, Shape
from models.nano.optim import optimizers
from models.nano.windows import CALL, COPY, NAME

WORK = Path(__file__).parent / "work"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a step does."""

    n_tokens: int = 2560
    """Of one pass; fewer keep a CPU's cache warm. A longer window goes through alone."""
    n_micros: int = 8
    """Passes that make one step."""
    chosen: float = 0.4
    """Share of a row's places where the head is computed."""
    matrix_lr: float = 0.004
    other_lr: float = 0.002
    warmup: int = 40
    steps: int = 2000
    decay: int = 0
    """Last steps, in which the rates fall to a twentieth."""
    customer: float = 0.1
    """Weight of the customer's words."""
    seed: int = 1
    start: str = "copying"
    """Initial weights: `copying` or `small`."""

    def rate(self, step: int) -> float:
        """Return the factor on the learning rates at `step`."""
        left = self.steps - step
        falling = max(0.05, left / self.decay) if self.decay and left < self.decay else 1.0
        return min(1.0, (step + 1) / self.warmup) * falling


class Trainer:
    """Model, optimisers and step count; what a checkpoint holds."""

    def __init__(self, recipe: Recipe, shape: Shape, device: str) -> None:
        self.recipe, self.device, self.step, self.n_tokens = recipe, device, 0, 0
        self.model = Nano(shape)
        start = {"copying": induction.copying, "small": induction.small}[recipe.start]
        start(self.model, torch.Generator().manual_seed(recipe.seed))
        self.model.to(device)
        self.optimizers = optimizers(self.model, recipe.matrix_lr, recipe.other_lr)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]
        self._way: Plain | Pass = Plain(self.model, device)

    def hasten(self) -> None:
        """Take steps without a crew the fastest way there is here."""
        self._way = fastest(self.model, self.device)

    def take(self, shards: Sequence[Shard], crew: Crew | None = None) -> Seen:
        """Take one step and return what was seen on the way; `crew` shares the passes."""
        seen = crew.passes(self.step) if crew else self._passes(shards)
        weights = list(self.model.parameters())
        torch._foreach_div_([weight.grad for weight in weights], seen.sums["weight"])
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        rate = self.recipe.rate(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.n_tokens += int(seen.sums["tokens"])
        return seen

    def _passes(self, shards: Sequence[Shard]) -> Seen:
        seen = Seen()
        for micro in range(self.recipe.n_micros):
            seen.merge(one_pass(self._way, shards, self.recipe, self.step, micro, self.device))
        return seen

    def save(self, path: Path) -> None:
        """Write the checkpoint whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "n_tokens": self.n_tokens,
            "shape": dataclasses.asdict(self.model.shape),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of the same shape; rates are the recipe's."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            rates = [group["lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = group["peak"] = lr
        self.step, self.n_tokens = state["step"], state["n_tokens"]


class Plain:
    """Passes through PyTorch's own operators."""

    def __init__(self, forward: Any, device: str) -> None:
        """Pass through `forward`, the network or what was compiled of it."""
        self._forward = forward
        self._device = device

    def run(
        self,
        ids: torch.Tensor,
        chosen: torch.Tensor,
        targets: torch.Tensor,
        barred: torch.Tensor,
        weights: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return losses and correctness as `fast.passes.Pass` does; adds the gradients."""
        with torch.autocast(self._device, torch.bfloat16):
            losses, right = self._forward(ids, chosen, targets, barred)
        (losses * weights).sum().backward()
        return losses.detach(), right


def fastest(model: Nano, device: str) -> Plain | Pass:
    """Return the fastest way to take a pass through `model` here.

    Where that is PyTorch's, each length of row is compiled, half a minute when it first comes up.
    """
    if device == "cpu" and passes.is_supported():
        return Pass(model)
    torch._dynamo.config.recompile_limit = 2 * len(BUCKETS)
    return Plain(torch.compile(model, dynamic=False), device)


def one_pass(
    way: Plain | Pass, shards: Sequence[Shard], recipe: Recipe, step: int, micro: int, device: str
) -> Seen:
    """Add the gradients of one pass, not yet divided by the weights, and return what was seen."""
    part = batch(
        shards, recipe.n_tokens, recipe.chosen, recipe.customer, (recipe.seed, step, micro)
    )
    arrays = (part.ids, part.chosen, part.targets, part.barred, part.weights)
    losses, right = way.run(*(torch.from_numpy(array).to(device) for array in arrays))
    seen = Seen()
    seen.sums["weight"] = float(part.weights.sum())
    seen.sums["tokens"] = float(part.n_tokens)
    seen.add(part, losses.cpu().numpy(), right.cpu().numpy())
    return seen


class Crew:
    """Processes of one thread each that share the passes of a step.

    A thread that other programs keep from running holds up only the pass it is in: whoever is
    free takes the next one. Which process adds which gradient varies, so runs with a crew agree
    in all but the last bits; a run without one agrees exactly.
    """

    def __init__(self, trainer: Trainer, shards: Sequence[Shard], size: int) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self._model, self._n_micros = trainer.model, trainer.recipe.n_micros
        self._model.share_memory()
        # The processes need the cores; what is left here takes a tenth of a step.
        torch.set_num_threads(1)
        self._next = context.Value("q", 0)
        self._orders = [context.Queue() for _ in range(size)]
        self._reports = context.Queue()
        self._grads = []
        for order in self._orders:
            grads = [torch.zeros_like(w).share_memory_() for w in self._model.parameters()]
            self._grads.append(grads)
            context.Process(
                target=_work,
                args=(self._model, grads, shards, trainer.recipe, self._next, order, self._reports),
                daemon=True,
            ).start()

    def passes(self, step: int) -> Seen:
        """Return what the passes of `step` saw, with their gradients summed in the model."""
        self._next.value = 0
        for order in self._orders:
            order.put(step)
        seen = Seen()
        for _ in self._orders:
            seen.merge(self._reports.get())
        for index, weight in enumerate(self._model.parameters()):
            weight.grad = sum(
                (grads[index] for grads in self._grads[1:]), self._grads[0][index].clone()
            )
        for grads in self._grads:
            torch._foreach_zero_(grads)
        return seen


def _work(
    model: Nano,
    grads: list[Any],
    shards: Sequence[Shard],
    recipe: Recipe,
    counter: Any,
    orders: Any,
    reports: Any,
) -> None:
    torch.set_num_threads(1)
    for weight, grad in zip(model.parameters(), grads, strict=True):
        weight.grad = grad
    way = fastest(model, "cpu")
    while True:
        try:
            step, seen = orders.get(timeout=60), Seen()
        except queue.Empty:
            # A trainer that was killed cannot say goodbye.
            parent = torch.multiprocessing.parent_process()
            if parent is not None and parent.is_alive():
                continue
            return
        while True:
            with counter.get_lock():
                micro = counter.value
                counter.value += 1
            if micro >= recipe.n_micros:
                break
            seen.merge(one_pass(way, shards, recipe, step, micro, "cpu"))
        reports.put(seen)


class Seen:
    """Sums over what a few steps predicted."""

    def __init__(self) -> None:
        self.sums: defaultdict[str, float] = defaultdict(float)

    def add(self, part: Batch, losses: Any, right: Any) -> None:
        """Count one pass: losses of calls by source, names, and copied values."""
        flags, sources, places = part.flags, part.sources, part.chosen
        is_call = (flags & CALL) > 0
        for source in np.unique(sources[is_call]):
            own = is_call & (sources == source)
            self._count(f"loss{source}", losses[own])
        self._count("name", right[(flags & NAME) > 0])
        copied = (flags & COPY) > 0
        # A run of neighbouring copied places is one value.
        begins = copied.copy()
        begins[:, 1:] &= ~(copied[:, :-1] & (places[:, 1:] == places[:, :-1] + 1))
        self._count("first", right[begins])
        self._count("next", right[copied & ~begins])
        numbers = begins.ravel().cumsum()[copied.ravel()]
        if len(numbers):
            wrong = np.bincount(numbers, ~right.ravel()[copied.ravel()])[1:]
            self._count("value", wrong == 0)

    def _count(self, key: str, values: Any) -> None:
        self.sums[key] += float(values.sum())
        self.sums[f"n_{key}"] += values.size

    def merge(self, other: Seen) -> None:
        """Add the sums of `other`."""
        for key, value in other.sums.items():
            self.sums[key] += value

    def mean(self, key: str) -> float:
        """Return the mean of what was counted under `key`; NaN if nothing was."""
        n = self.sums[f"n_{key}"]
        return self.sums[key] / n if n else float("nan")


def line(trainer: Trainer, seen: Seen, shards: Sequence[Shard], rate: float) -> str:
    """Return the progress line; `rate` is tokens per second."""
    recipe = trainer.recipe
    per_step = recipe.n_tokens * recipe.n_micros
    minutes = (recipe.steps - trainer.step) * per_step / max(rate, 1) / 60
    sources = " ".join(
        f"{shard.name} {seen.mean(f'loss{i}'):.3f}" for i, shard in enumerate(shards)
    )
    return (
        f"{time.strftime('%H:%M:%S')} step {trainer.step}/{recipe.steps}"
        f" {trainer.n_tokens / 1e6:.2f}M tok {rate:.0f}/s eta {minutes:.0f}m"
        f" lr x{recipe.rate(trainer.step):.2f} | {sources} | name {seen.mean('name'):.3f}"
        f" copy first {seen.mean('first'):.3f} next {seen.mean('next'):.3f}"
        f" value {seen.mean('value'):.3f}"
    )


def run(
    trainer: Trainer,
    shards: Sequence[Shard],
    folder: Path,
    every: int,
    save_s: float,
    crew: Crew | None,
) -> None:
    """Train to the recipe's last step, printing every few steps and saving every `save_s`."""
    seen, began, n_before, saved = Seen(), time.monotonic(), trainer.n_tokens, time.monotonic()
    while trainer.step < trainer.recipe.steps:
        seen.merge(trainer.take(shards, crew))
        now = time.monotonic()
        if trainer.step % every == 0:
            rate = (trainer.n_tokens - n_before) / (now - began)
            print(line(trainer, seen, shards, rate), flush=True)
            seen, began, n_before = Seen(), now, trainer.n_tokens
        if now - saved > save_s:
            trainer.save(folder / "last.pt")
            saved = now
    trainer.save(folder / "last.pt")


def main() -> None:
    """Train with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", default="shards", help="folder under work/")
    parser.add_argument("--mix", default="sgd=1", help="sources and shares: sgd=3,diet=1")
    parser.add_argument("--run", default="run", help="folder of the checkpoints under work/")
    parser.add_argument("--every", type=int, default=10, help="steps between lines")
    parser.add_argument("--save-s", type=float, default=300)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2, help="0: this process does everything")
    for entry in dataclasses.fields(Recipe):
        default = entry.default
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}", type=type(default), default=default
        )
    options = vars(parser.parse_args())
    recipe = Recipe(**{e.name: options[e.name] for e in dataclasses.fields(Recipe)})
    shares = {
        name: float(share) for name, share in (p.split("=") for p in options["mix"].split(","))
    }
    shards = load(WORK / options["shards"], shares)
    folder = WORK / options["run"]
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, Shape(), options["device"])
    if (folder / "last.pt").exists():
        trainer.restore(folder / "last.pt")
    crew = None
    if options["workers"] and options["device"] == "cpu":
        crew = Crew(trainer, shards, options["workers"])
    else:
        trainer.hasten()
    run(trainer, shards, folder, options["every"], options["save_s"], crew)


if __name__ == "__main__":
    main()
