"""Rows of windows for one training step, a function of shards, seed and step number alone.

So a run resumed at step N reads exactly what an uninterrupted run would have read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.nano.windows import CALL, COPY, CUSTOMER, NAME

COPY_WEIGHT = 2.5
NAME_WEIGHT = 4.0
"""Against 1 for any other token of a call: replies are long, and a wrong tool spoils the turn."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The windows of one source."""

    name: str
    share: float
    """Of the tokens of a batch; shares are relative to each other."""
    ids: NDArray[np.uint16]
    flags: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def window(self, index: int) -> slice:
        """Return where window `index` lies."""
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of packed windows; all arrays but `sources` are int64."""

    ids: NDArray[np.int64]
    """(rows, T)"""
    documents: NDArray[np.int64]
    """(rows, T): number of the window in its row; -1 is padding."""
    chosen: NDArray[np.int64]
    """(rows, K): places whose next token is learnt."""
    targets: NDArray[np.int64]
    """(rows, K)"""
    weights: NDArray[np.float32]
    """(rows, K): 1 for calls, less for the customer's words, 0 for filling."""
    flags: NDArray[np.int64]
    """(rows, K) of the targets."""
    sources: NDArray[np.int64]
    """(rows, K): index of the shard."""


def load(folder: Path, shares: dict[str, float]) -> list[Shard]:
    """Return the shards named in `shares`, memory-mapped where the format allows."""
    shards = []
    for name, share in shares.items():
        arrays = np.load(folder / f"{name}.npz")
        shards.append(Shard(name, share, arrays["ids"], arrays["flags"], arrays["ends"]))
    return shards


def batch(
    shards: Sequence[Shard],
    n_rows: int,
    n_row: int,
    n_chosen: int,
    customer: float,
    key: Sequence[int],
) -> Batch:
    """Return `n_rows` rows of `n_row` tokens drawn with the random numbers of `key`."""
    rng = np.random.default_rng(list(key))
    means = np.array([shard.ends[-1] / len(shard.ends) for shard in shards])
    odds = np.array([shard.share for shard in shards]) / means
    drawn: list[tuple[int, slice]] = []
    # Drawing more than fits, and dropping the shortest, fills the rows.
    n_wanted = int(n_rows * n_row * 1.15)
    while n_wanted > 0:
        source = int(rng.choice(len(shards), p=odds / odds.sum()))
        window = shards[source].window(int(rng.integers(len(shards[source].ends))))
        drawn.append((source, window))
        n_wanted -= min(window.stop - window.start, n_row)
    return _fill(shards, _pack(drawn, n_rows, n_row), n_row, n_chosen, customer)


def _pack(drawn: list[tuple[int, slice]], n_rows: int, n_row: int) -> list[list[tuple[int, slice]]]:
    """Put windows into rows, longest first, each where it fits; what fits nowhere is dropped."""
    rows: list[list[tuple[int, slice]]] = [[] for _ in range(n_rows)]
    room = [n_row] * n_rows
    for source, window in sorted(drawn, key=lambda item: item[1].start - item[1].stop):
        n = min(window.stop - window.start, n_row)
        for row in range(n_rows):
            if room[row] >= n:
                rows[row].append((source, slice(window.start, window.start + n)))
                room[row] -= n
                break
    return rows


def _fill(
    shards: Sequence[Shard],
    rows: list[list[tuple[int, slice]]],
    n_row: int,
    n_chosen: int,
    customer: float,
) -> Batch:
    n_rows = len(rows)
    ids = np.zeros((n_rows, n_row), np.int64)
    documents = np.full((n_rows, n_row), -1, np.int64)
    flags = np.zeros((n_rows, n_row), np.int64)
    sources = np.zeros((n_rows, n_row), np.int64)
    for row, windows in enumerate(rows):
        at = 0
        for number, (source, window) in enumerate(windows):
            place = slice(at, at + window.stop - window.start)
            ids[row, place] = shards[source].ids[window]
            flags[row, place] = shards[source].flags[window]
            documents[row, place] = number
            sources[row, place] = source
            at = place.stop
    # A place is learnt for the flags of the token behind it; a window's first token has none.
    shape = (n_rows, n_chosen)
    chosen, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    weights, kept = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    origin = np.zeros(shape, np.int64)
    for row in range(n_rows):
        calls = np.flatnonzero(flags[row, 1:] & CALL)
        words = np.flatnonzero(flags[row, 1:] & CUSTOMER)
        places = np.concatenate((calls, words))[:n_chosen]
        n = len(places)
        chosen[row, :n], targets[row, :n] = places, ids[row, places + 1]
        kept[row, :n], origin[row, :n] = flags[row, places + 1], sources[row, places + 1]
        weights[row, :n] = _weights(kept[row, :n], customer)
    return Batch(ids, documents, chosen, targets, weights, kept, origin)


def _weights(flags: NDArray[np.int64], customer: float) -> NDArray[np.float32]:
    """Return how much each target counts: the choice of the tool most, then copied values."""
    weights = np.where(flags & CALL, 1.0, customer)
    weights[flags & COPY > 0] = COPY_WEIGHT
    weights[flags & NAME > 0] = NAME_WEIGHT
    return weights.astype(np.float32)
