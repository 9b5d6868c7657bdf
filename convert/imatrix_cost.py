"""What collecting an importance matrix costs over the plain forward pass, in CPU seconds.

Reads the same chunks with and without looking at them, turn by turn, so that a machine that
becomes slower or busier meanwhile burdens both; the least of each is compared, which other work
disturbs least.

    python -m convert.imatrix_cost MODEL.gguf TEXT.txt --chunks 4 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from convert.imatrix import read
from edgeagent.engine.observer import Activations, Plan, observe
from edgeagent.errors import EdgeAgentError


def cost(plan: Plan, n_rounds: int) -> tuple[list[float], list[float], int]:
    """Return the CPU seconds of each round without and with looking, and the tokens of a round.

    Costs twice `n_rounds` passes over the plan's chunks, and as many loads.

    Raises:
        EdgeAgentError: `observe` says when.
    """
    blind: list[float] = []
    looking: list[float] = []
    n_tokens = 0
    for _ in range(n_rounds):
        for seconds, collects in ((blind, False), (looking, True)):
            for said in observe(replace(plan, collects=collects)):
                if isinstance(said, Activations):
                    seconds.append(said.cpu_s)
                    n_tokens = said.n_tokens
    return blind, looking, n_tokens


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m convert.imatrix_cost", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    try:
        material = tuple(part for path in given.texts for part in read(path))
        blind, looking, n_tokens = cost(
            Plan(given.model, material, max_chunks=given.chunks), given.rounds
        )
    except EdgeAgentError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    record = {
        "model": given.model.name,
        "n_tokens": n_tokens,
        "plain_cpu_s": [round(seconds, 3) for seconds in blind],
        "imatrix_cpu_s": [round(seconds, 3) for seconds in looking],
        "overhead_percent": round(100 * (min(looking) / min(blind) - 1), 1),
    }
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
