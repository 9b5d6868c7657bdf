"""The mean of checkpoints of one run, where a stage began and where it ended.

Whole conversations were served better by the mean than by either end; a score of single steps
does not show it. Optimisers and counts are those of the last checkpoint named.

    python -m models.nano.average BEGUN.pt ENDED.pt --run RUN
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

WORK = Path(__file__).parent / "work"


def average(checkpoints: Sequence[Path]) -> dict[str, Any]:
    """Return a checkpoint whose weights are the mean of those of all.

    Raises:
        ValueError: they are not of one shape.
    """
    states = [torch.load(path, map_location="cpu", weights_only=True) for path in checkpoints]
    if any(state["shape"] != states[0]["shape"] for state in states):
        raise ValueError("checkpoints of different shapes have no mean")
    weights = {
        name: torch.stack([state["model"][name].float() for state in states]).mean(0)
        for name in states[0]["model"]
    }
    return {**states[-1], "model": weights}


def main() -> None:
    """Average the checkpoints that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--run", default="run")
    options = parser.parse_args()
    made = average(options.checkpoints)
    folder = WORK / options.run
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(made, folder / "last.pt")
    print(folder / "last.pt")


if __name__ == "__main__":
    main()
