"""A checkpoint with more blocks: the network says what it said before, and has room to learn.

Each new block is a copy of the one before it whose two last projections are zero, so at first it
adds nothing; its other weights are useful at once. New blocks are spread evenly. Their momenta
start empty, those of the others stay.

    python -m models.nano.grow --run RUN --layers 12
"""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from models.nano.model import Nano, Shape
from models.nano.optim import optimizers

WORK = Path(__file__).parent / "work"
SILENT = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
"""What writes a block's findings into the stream."""
_BLOCK = re.compile(r"layers\.(\d+)\.(.+)")


def origins(n_old: int, n_new: int) -> list[tuple[int, bool]]:
    """Return for each of `n_new` blocks which old one it is made of, and whether it is a copy.

    Raises:
        ValueError: a network cannot get smaller, nor more than twice as deep.
    """
    if not n_old <= n_new <= 2 * n_old:
        raise ValueError(f"{n_old} blocks cannot become {n_new}")
    n_more = n_new - n_old
    found: list[tuple[int, bool]] = []
    for old in range(n_old):
        found.append((old, False))
        if (old + 1) * n_more // n_old > old * n_more // n_old:
            found.append((old, True))
    return found


def grown(state: dict[str, Any], n_layers: int) -> dict[str, Any]:
    """Return a checkpoint of `n_layers` blocks that computes what `state` does."""
    old = Shape(**state["shape"])
    shape = replace(old, n_layers=n_layers)
    blocks = origins(old.n_layers, n_layers)
    weights = _moved(state["model"], blocks)
    before, after = Nano(old), Nano(shape)
    made = []
    for saved, former, own in zip(state["optimizers"], _names(before), _names(after), strict=True):
        number = {name: index for index, name in enumerate(former)}
        came_from = [_origin(name, blocks) for name in own]
        momenta = {
            index: saved["state"][number[name]]
            for index, name in enumerate(came_from)
            if name is not None and number[name] in saved["state"]
        }
        group = {**saved["param_groups"][0], "params": list(range(len(own)))}
        made.append({"state": momenta, "param_groups": [group]})
    return {**state, "model": weights, "optimizers": made, "shape": asdict(shape)}


def _moved(weights: dict[str, Any], blocks: list[tuple[int, bool]]) -> dict[str, Any]:
    moved = {name: w for name, w in weights.items() if not _BLOCK.fullmatch(name)}
    for number, (old, is_copy) in enumerate(blocks):
        prefix = f"layers.{old}."
        for name, weight in weights.items():
            if name.startswith(prefix):
                part = name.removeprefix(prefix)
                is_silent = is_copy and part in SILENT
                moved[f"layers.{number}.{part}"] = (
                    torch.zeros_like(weight) if is_silent else weight.clone()
                )
    return moved


def _names(model: Nano) -> list[list[str]]:
    """Return the names of the parameters of each optimiser, in its order."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [
        [names[id(weight)] for weight in optimizer.param_groups[0]["params"]]
        for optimizer in optimizers(model, 0.0, 0.0)
    ]


def _origin(name: str, blocks: list[tuple[int, bool]]) -> str | None:
    """Return the name that a parameter had before; None for one of a copied block."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    old, is_copy = blocks[int(match[1])]
    return None if is_copy else f"layers.{old}.{match[2]}"


def main() -> None:
    """Grow the checkpoint of the run that the command line names, in place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="run")
    parser.add_argument("--layers", type=int, required=True)
    options = parser.parse_args()
    path = WORK / options.run / "last.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)
    torch.save(grown(state, options.layers), path)


if __name__ == "__main__":
    main()
