"""How far a build's distributions lie from the base's, from what the engine read off both.

Arrays in, arrays and numbers out; knows no file and no engine. The base is kept as the likeliest
256 tokens of each place. What else there is counts as one token, which makes a divergence too
small by at most what `most` says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from edgeagent.engine.readings import Kind, Readings
from edgeagent.messages import Json

TINY = 1e-12
"""Probability below which a tail is nothing: float32 sums are not that exact."""
PERCENTILES = (50, 90, 99)
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Places:
    """A build at every place of a set of passages, shape (n,) each."""

    passage: NDArray[np.int32]
    """Which passage a place is in: places of one are no independent draws."""
    kinds: NDArray[np.uint8]
    written: NDArray[np.float32]
    """Log probability of what stands there."""
    best: NDArray[np.int32]
    kld: Doubles
    """Divergence from the base in nats, the tail counted as one token; 0 for the base itself."""
    most: Doubles
    """What it is at most."""
    tail: Doubles
    """Probability that the base gives to the tail."""
    same: NDArray[np.bool_]
    """Whether the likeliest token is the base's."""


def compared(base: Readings, build: Readings, passage: int) -> Places:
    """Return the places of one passage; the readings are over the same tokens, in `base.ids`."""
    p, q = base.logprobs.astype(np.float64), build.logprobs.astype(np.float64)
    is_there = base.ids >= 0
    # Beyond float32's reach both are -inf, and such a token weighs nothing.
    weight = np.where(is_there & np.isfinite(p), np.exp(p), 0.0)
    with np.errstate(invalid="ignore"):
        terms = np.where(weight > 0, weight * (p - q), 0.0)
    kept = terms.sum(axis=1)
    tail, other = base.tail, np.maximum(build.tail, TINY)
    has_tail = tail > TINY
    lump = np.where(has_tail, tail * np.log(np.maximum(tail, TINY) / other), 0.0)
    # No token of the tail is likelier to the base than the last one kept, nor less likely to the
    # build than its least likely one.
    last = np.where(is_there, p, np.inf).min(axis=1, initial=0.0)
    ceiling = np.where(has_tail, tail * (last - build.least.astype(np.float64)), 0.0)
    kld = np.maximum(kept + lump, 0.0)
    return Places(
        passage=np.full(len(kld), passage, np.int32),
        kinds=build.kinds,
        written=build.written,
        best=build.best,
        kld=kld,
        most=np.maximum(kept + np.maximum(ceiling, lump), kld),
        tail=tail,
        same=base.best == build.best,
    )


def alone(build: Readings, passage: int) -> Places:
    """Return the places of a build that is compared with nothing."""
    n = len(build.written)
    nothing = np.zeros(n)
    return Places(
        np.full(n, passage, np.int32),
        build.kinds,
        build.written,
        build.best,
        nothing,
        nothing,
        nothing,
        np.ones(n, bool),
    )


def joined(parts: Sequence[Places]) -> Places:
    """Return the places of several passages as one."""
    arrays = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts] or [np.zeros(0)])
        for field in fields(Places)
    }
    return Places(**arrays)


def of_kinds(places: Places, kinds: Sequence[Kind]) -> Places:
    """Return only the places of these kinds."""
    chosen = np.isin(places.kinds, [int(kind) for kind in kinds])
    return Places(**{field.name: getattr(places, field.name)[chosen] for field in fields(Places)})


def summary(places: Places, *, has_base: bool) -> dict[str, Json] | None:
    """Return what the places amount to; None where there are none.

    Perplexity is over what stands there; at the places of a call it counts legal tokens only.
    """
    n = len(places.written)
    if not n:
        return None
    found: dict[str, Json] = {
        "n": n,
        "perplexity": _finite(math.exp(min(-float(places.written.mean(dtype=float)), 700.0))),
    }
    if has_base:
        by_size = np.percentile(places.kld, PERCENTILES)
        found |= {
            "kld": _finite(float(places.kld.mean())),
            "kld_at_most": _finite(float(places.most.mean())),
            **{
                f"kld_p{rank}": _finite(float(value))
                for rank, value in zip(PERCENTILES, by_size, strict=True)
            },
            "kld_max": _finite(float(places.kld.max())),
            "tail": _finite(float(places.tail.mean())),
            "same_top": float(places.same.mean()),
        }
    return found


def _finite(value: float) -> float | None:
    """A build whose weights overflow answers with NaN, which JSON cannot write."""
    return value if math.isfinite(value) else None


def as_arrays(places: Places) -> Mapping[str, NDArray[np.generic]]:
    """Return the arrays by name, to be kept in a file."""
    return {field.name: getattr(places, field.name) for field in fields(Places)}


def from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> Places:
    """Return places from what `as_arrays` gave."""
    return Places(**{field.name: arrays[field.name] for field in fields(Places)})  # type: ignore[arg-type]  # by name
