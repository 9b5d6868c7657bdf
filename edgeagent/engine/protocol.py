"""The values that cross the pipe between the app and the engine's worker, beside the public ones.

Frozen and picklable. Knows nothing of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal[
    "load", "check", "warm", "step", "prepare", "park", "read", "speed", "replay"
]


@dataclass(frozen=True, slots=True)
class Request:
    """What the parent asks the worker to do."""

    kind: Kind
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """An error of ours on its way to the parent."""

    kind: str
    """Class name in `edgeagent.errors`."""
    args: tuple[Any, ...]
    """Arguments that make the same error again."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The request is done; `value` is its answer where it has one."""

    value: Any = None
