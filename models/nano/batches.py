"""Rows of windows for one training pass, a function of shards, seed and step number alone.

So a run resumed at step N reads exactly what an uninterrupted run would have read. A row is one
window, filled up to the length of its bucket: causal attention without a mask takes half the time
of attention with one, which is what packed rows would need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.nano.windows import BARRED, CALL, CHOICE, COPY, CUSTOMER, NAME, REPLY

FIRST_WEIGHT = 6.0
COPY_WEIGHT = 2.0
NAME_WEIGHT = 6.0
CHOICE_WEIGHT = 4.0
SET_WEIGHT = 0.5
REPLY_WEIGHT = 0.3
"""Against each other. The tool's name, the first token of a copied value and whatever else does
not follow from the few tokens before it are where a step goes wrong; the rest of a rule-made call
is set phrases. The words of a recorded reply cannot be foreseen and shout down all that.
"""
BUCKETS = (320, 512, 768, 1024, 1536, 2048, 2560, 3072, 4096)
"""Row lengths; each is compiled once. Longer windows are cut."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The windows of one source."""

    name: str
    share: float
    """Of the tokens of many batches; shares are relative to each other."""
    ids: NDArray[np.uint16]
    flags: NDArray[np.uint8]
    ends: NDArray[np.int64]
    buckets: tuple[NDArray[np.int64], ...]
    """Numbers of the windows of each bucket."""
    deferral: int
    """The first token of the deferral tool's name."""

    def window(self, index: int) -> slice:
        """Return where window `index` lies."""
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one window each; all arrays but `weights` are int64."""

    ids: NDArray[np.int64]
    """(rows, T)"""
    n_tokens: int
    """Without filling."""
    chosen: NDArray[np.int64]
    """(rows, K): places whose next token is learnt."""
    targets: NDArray[np.int64]
    """(rows, K)"""
    barred: NDArray[np.int64]
    """(rows, K): a token that could not stand there, -1 where any could."""
    weights: NDArray[np.float32]
    """(rows, K): most for what a call is judged by, 0 for filling."""
    flags: NDArray[np.int64]
    """(rows, K) of the targets."""
    sources: NDArray[np.int64]
    """(rows, K): index of the shard."""


def load(folder: Path, shares: dict[str, float]) -> list[Shard]:
    """Return the shards named in `shares`."""
    shards = []
    for name, share in shares.items():
        arrays = np.load(folder / f"{name}.npz")
        ends = arrays["ends"]
        numbers = np.searchsorted(BUCKETS[:-1], np.diff(ends, prepend=0))
        buckets = tuple(np.flatnonzero(numbers == bucket) for bucket in range(len(BUCKETS)))
        deferral = int(arrays["deferral"])
        shards.append(Shard(name, share, arrays["ids"], arrays["flags"], ends, buckets, deferral))
    return shards


def batch(
    shards: Sequence[Shard], n_tokens: int, chosen: float, customer: float, key: Sequence[int]
) -> Batch:
    """Return as many rows of one length as `n_tokens` holds, drawn with the numbers of `key`.

    `chosen` is the share of a row's places that are learnt at most, `customer` the weight of the
    customer's words.
    """
    rng = np.random.default_rng(list(key))
    odds = _odds(shards)
    n_rows = np.array([max(1, n_tokens // n_row) for n_row in BUCKETS])
    # A pass over short windows takes more of them, so it has to come up less often.
    of_buckets = odds.sum(0) / n_rows
    bucket = int(rng.choice(len(BUCKETS), p=of_buckets / of_buckets.sum()))
    of_sources = odds[:, bucket] / odds[:, bucket].sum()
    rows = []
    for _ in range(n_rows[bucket]):
        source = int(rng.choice(len(shards), p=of_sources))
        rows.append(
            (source, shards[source].window(int(rng.choice(shards[source].buckets[bucket]))))
        )
    return _filled(shards, rows, BUCKETS[bucket], int(BUCKETS[bucket] * chosen), customer)


def _odds(shards: Sequence[Shard]) -> NDArray[np.float64]:
    """Return (shards, buckets): how likely a window drawn is of that source and length."""
    rows = []
    for shard in shards:
        mean = shard.ends[-1] / len(shard.ends)
        counts = np.array([len(bucket) for bucket in shard.buckets])
        rows.append(shard.share / mean * counts / counts.sum())
    odds = np.array(rows)
    return np.asarray(odds / odds.sum(), np.float64)


def _filled(
    shards: Sequence[Shard],
    rows: list[tuple[int, slice]],
    n_row: int,
    n_chosen: int,
    customer: float,
) -> Batch:
    ids = np.zeros((len(rows), n_row), np.int64)
    flags = np.zeros((len(rows), n_row), np.int64)
    n_tokens = 0
    for row, (source, window) in enumerate(rows):
        n = min(window.stop - window.start, n_row)
        window = slice(window.start, window.start + n)
        ids[row, :n], flags[row, :n] = shards[source].ids[window], shards[source].flags[window]
        n_tokens += n
    # A place is learnt for the flags of the token behind it; a window's first token has none.
    shape = (len(rows), n_chosen)
    chosen, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    weights, kept = np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    sources, barred = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    for row, (source, _) in enumerate(rows):
        calls = np.flatnonzero(flags[row, 1:] & CALL)
        words = np.flatnonzero(flags[row, 1:] & CUSTOMER)
        places = np.concatenate((calls, words))[:n_chosen]
        n = len(places)
        chosen[row, :n], targets[row, :n] = places, ids[row, places + 1]
        kept[row, :n], sources[row] = flags[row, places + 1], source
        weights[row, :n] = _weights(kept[row, :n], places, customer)
        barred[row, :n][kept[row, :n] & BARRED > 0] = shards[source].deferral
    return Batch(ids, n_tokens, chosen, targets, barred, weights, kept, sources)


def _weights(
    flags: NDArray[np.int64], places: NDArray[np.int64], customer: float
) -> NDArray[np.float32]:
    """Return how much the target behind each of `places` counts."""
    weights = np.where(flags & CALL, SET_WEIGHT, customer)
    weights[flags & CHOICE > 0] = CHOICE_WEIGHT
    weights[flags & REPLY > 0] = REPLY_WEIGHT
    is_copy = flags & COPY > 0
    weights[is_copy] = COPY_WEIGHT
    follows = np.zeros_like(is_copy)
    follows[1:] = is_copy[:-1] & (places[1:] == places[:-1] + 1)
    weights[is_copy & ~follows] = FIRST_WEIGHT
    weights[flags & NAME > 0] = NAME_WEIGHT
    return weights.astype(np.float32)
