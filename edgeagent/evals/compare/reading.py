"""A build read along the passages of a comparison, with the base's readings beside it.

Yields how far it is, and at the end its places. The base's readings can be kept as arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from edgeagent.engine import meter
from edgeagent.engine.client import Engine
from edgeagent.engine.readings import Passage, Readings
from edgeagent.evals.compare import divergence
from edgeagent.evals.compare.divergence import Places
from edgeagent.evals.rows import Progress

_BY_PLACE = (
    "kinds",
    "written",
    "best",
    "n_legal",
    "ids",
    "logprobs",
    "tail",
    "drawn",
    "drawn_logprobs",
)


@dataclass(frozen=True, slots=True)
class Incomparable:
    """The build's distributions cannot be laid beside the base's."""

    reason: str


def of_base(
    engine: Engine, passages: Sequence[Passage], n_most: int | None
) -> Iterator[Progress | list[Readings]]:
    """Yield the readings of the passages, as many as hold `n_most` places; None: all."""
    found: list[Readings] = []
    n_places = 0
    for passage in passages:
        if n_most is not None and n_places >= n_most:
            break
        yield Progress(len(found), len(passages)) if n_most is None else Progress(n_places, n_most)
        found.append(meter.read(engine, passage))
        n_places += len(found[-1].written)
    yield found


def of_build(
    engine: Engine, passages: Sequence[Passage], base: Sequence[Readings]
) -> Iterator[Progress | Places | Incomparable]:
    """Yield the build's places, compared with the base's readings of the same passages.

    Ends with why not where the build reads them as other tokens.
    """
    found: list[Places] = []
    for number, (passage, theirs) in enumerate(zip(passages, base, strict=False)):
        yield Progress(number, len(base))
        ours = meter.read(engine, passage, theirs.asked)
        if ours.tokens_sha256 != theirs.tokens_sha256:
            yield Incomparable(
                "its tokenizer or chat template makes other tokens of the same text than the base's"
            )
            return
        found.append(divergence.compared(theirs, ours, number))
    yield divergence.joined(found)


def alone(readings: Sequence[Readings]) -> Places:
    """Return the places of a build that is compared with nothing."""
    return divergence.joined(
        [divergence.alone(found, number) for number, found in enumerate(readings)]
    )


def as_arrays(readings: Sequence[Readings]) -> Mapping[str, NDArray[np.generic]]:
    """Return readings as arrays by name, to be kept in a file."""
    arrays: dict[str, NDArray[np.generic]] = {
        "sha256": np.array([found.tokens_sha256 for found in readings], dtype="U64"),
        "n": np.array([len(found.written) for found in readings], np.int64),
        "is_cut": np.array([found.is_cut for found in readings], bool),
    }
    for name in _BY_PLACE:
        arrays[name] = np.concatenate([getattr(found, name) for found in readings])
    return arrays


def from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> list[Readings]:
    """Return readings from what `as_arrays` gave."""
    ends = np.cumsum(arrays["n"])
    columns = {name: np.split(arrays[name], ends[:-1]) for name in _BY_PLACE}
    assert {field.name for field in fields(Readings)} == {"tokens_sha256", "is_cut", *_BY_PLACE}
    return [
        Readings(
            tokens_sha256=str(sha256),
            is_cut=bool(is_cut),
            **{name: column[number] for name, column in columns.items()},
        )
        for number, (sha256, is_cut) in enumerate(
            zip(arrays["sha256"], arrays["is_cut"], strict=True)
        )
    ]
