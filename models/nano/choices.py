"""Which tokens of a rule-made call are choices, and which merely follow from the few before them.

Most of a lesson's calls is set phrases: a thought's keys, a reply's frame. What a step is judged
by stands between them in single tokens: a cabin, `yes` or `no`, a number of bags. A token counts
as foreseen where one, two or three tokens before it are followed by it nine times in ten.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.nano.windows import CALL, REPLY

N_CONTEXT = 3
"""Tokens that are looked back on."""
MIN_SEEN = 10
"""A context that came up less often foresees nothing."""
MIN_SHARE = 0.9
"""Of a context's tokens; whatever follows it as often as this is foreseen."""


def choices(ids: NDArray[np.uint16], flags: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which of the tokens (N) of a shard are choices: in calls, foreseen by no context.

    The words of a recorded reply are nobody's rule and are none.
    """
    own = np.flatnonzero((flags & CALL > 0) & (flags & REPLY == 0))
    own = own[own >= N_CONTEXT]
    is_open = np.ones(len(own), np.bool_)
    context = np.zeros(len(own), np.uint64)
    for back in range(1, N_CONTEXT + 1):
        context = _mixed(context, ids[own - back])
        n_context = _counted(context)
        n_both = _counted(_mixed(context, ids[own]))
        is_open &= (n_context < MIN_SEEN) | (n_both < MIN_SHARE * n_context)
    found = np.zeros(len(ids), np.bool_)
    found[own[is_open]] = True
    return found


def _mixed(keys: NDArray[np.uint64], tokens: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Return 64-bit hashes of the old keys and a token more."""
    mixed = (keys ^ (tokens.astype(np.uint64) + np.uint64(1))) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray(mixed ^ (mixed >> np.uint64(29)), np.uint64)


def _counted(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return how often each key comes up."""
    _, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.asarray(counts[places], np.int64)
