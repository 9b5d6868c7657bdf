"""How far a build's distributions lie from the base's, from what the engine read off both.

Arrays in, arrays and numbers out; knows no file and no engine. The base is kept as the likeliest
256 tokens of each place and 32 drawn from the rest. The divergence over the likeliest is exact,
over the rest it is the mean of the drawn ones: right on average, so that a single place may come
out a little below 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from edgeagent.engine.readings import Ids, Kind, Readings
from edgeagent.evals.intervals import bootstrap
from edgeagent.messages import Json

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
    """Divergence from the base in nats; 0 for the base itself."""
    tail: Doubles
    """Probability that the base gives to the tail."""
    same: NDArray[np.bool_]
    """Whether the likeliest token is the base's."""


def compared(base: Readings, build: Readings, passage: int) -> Places:
    """Return the places of one passage; `build` was read at `base.asked`."""
    k = base.ids.shape[1]
    with np.errstate(invalid="ignore"):  # -inf stands where there is no token
        likeliest = _differences(base.logprobs, build.logprobs[:, :k], base.ids)
        kept = (np.exp(base.logprobs.astype(np.float64)) * likeliest).sum(axis=1)
        rest = _differences(base.drawn_logprobs, build.logprobs[:, k:], base.drawn).mean(axis=1)
    kld = kept + base.tail * rest
    return Places(
        passage=np.full(len(kld), passage, np.int32),
        kinds=build.kinds,
        written=build.written,
        best=build.best,
        kld=kld,
        tail=base.tail,
        same=base.best == build.best,
    )


def _differences(p: NDArray[np.float32], q: NDArray[np.float32], ids: Ids) -> Doubles:
    return np.where(ids >= 0, p.astype(np.float64) - q.astype(np.float64), 0.0)


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

    The interval of the mean divergence is a bootstrap over passages. Perplexity is over what
    stands there; at the places of a call it counts legal tokens only.
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
        mean = bootstrap(places.kld.tolist(), places.passage.tolist())
        found |= {
            "kld": _finite(mean.value),
            "kld_low": _finite(mean.low),
            "kld_high": _finite(mean.high),
            **{
                f"kld_p{rank}": _finite(float(value))
                for rank, value in zip(PERCENTILES, by_size, strict=True)
            },
            "kld_max": _finite(float(places.kld.max())),
            "tail": _finite(float(places.tail.mean())),
            "same_top": float(places.same.mean()),
        }
    return found


def _finite(value: float | None) -> float | None:
    """A build whose weights overflow answers with NaN, which JSON cannot write."""
    return value if value is not None and math.isfinite(value) else None


def as_arrays(places: Places) -> Mapping[str, NDArray[np.generic]]:
    """Return the arrays by name, to be kept in a file."""
    return {field.name: getattr(places, field.name) for field in fields(Places)}


def from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> Places:
    """Return places from what `as_arrays` gave."""
    return Places(**{field.name: arrays[field.name] for field in fields(Places)})  # type: ignore[arg-type]  # by name
