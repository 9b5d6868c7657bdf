"""What `python -m convert.hf_to_gguf` and `python -m convert.quantize` have in common.

The options for types and importance, progress on stderr, one line for an error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from convert.stream import Converted, Noted, Step
from convert.wish import Wish, wish
from edgeagent.errors import EdgeAgentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a file's tensors are to be written."""
    parser.add_argument("--imatrix", type=Path, help="importance matrix, GGUF or .dat")
    parser.add_argument(
        "--tensor-type", action="append", default=[], metavar="REGEX=TYPE", dest="tensor_types",
        help="type of the tensors whose names match; the first that matches counts",
    )  # fmt: skip
    parser.add_argument("--head-type", help="type of the head, tied to the embedding or not")
    parser.add_argument("--embedding-type", help="type of the embedding; goes before --head-type")
    parser.add_argument("--pure", action="store_true", help="one type for all, no recipe")


def asked(given: argparse.Namespace) -> Wish:
    """Return what the arguments ask for."""
    return wish(
        given.type,
        name=getattr(given, "name", ""),
        imatrix=given.imatrix,
        lora=getattr(given, "lora", None),
        tensor_types=given.tensor_types,
        head_type=given.head_type,
        embedding_type=given.embedding_type,
        is_pure=given.pure,
        may_requantize=getattr(given, "allow_requantize", False),
    )


def run(out: Path, begin: Callable[[], Iterator[Step]]) -> int:
    """Go through the steps and say how it goes; return the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        for step in begin():
            report(step)
    except EdgeAgentError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(out)
    return 0


def report(step: Step) -> None:
    """Print a step for a person, to stderr; progress only where it can be drawn over."""
    match step:
        case Noted(text=note):
            print(f"note: {note}", file=sys.stderr)
        case Converted(done_bytes=done, total_bytes=total) if sys.stderr.isatty():
            end = "\n" if done == total else "\r"
            print(f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB", end=end, file=sys.stderr)
        case Converted():
            pass
