"""The verdict to defer, read where the model chooses the name of its call.

Names may share tokens, so the probability is followed down the path that they share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeagent.messages import DEFER, Verdict

AGAIN = -1
"""Instead of a token: the first row is to be read again with other names."""


@dataclass(frozen=True, slots=True)
class Fork:
    """How the tokens that the grammar allows divide the names."""

    defer: tuple[int, ...]
    """After these only the deferral call is left."""
    shared: tuple[int, ...]
    """After these the deferral call and others are left."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one row of logits says of deferring."""

    verdict: Verdict | None
    """None: the name is still open, walk on with `token`."""
    token: int
    """The model's choice under the verdict, or `AGAIN`."""


class DeferralReader:
    """Follows the probability of the deferral call through one step."""

    def __init__(
        self, heads: Mapping[str, bytes], pieces: Sequence[bytes], threshold: float | None
    ) -> None:
        """Read calls that begin with `heads`, name to bytes; `threshold` None: greedy decides."""
        self._heads = heads
        self._pieces = pieces
        self._threshold = threshold
        self._settled = 0.0
        self._weight = 1.0

    def read(self, row: NDArray[np.float32], allowed: NDArray[np.intp], written: bytes) -> Reading:
        """Read one row; `allowed` are the tokens that the grammar takes after `written`."""
        share = softmax(row[allowed])
        greedy = int(allowed[int(np.argmax(share))])
        fork = self._fork(allowed.tolist(), written)
        by_token = dict(zip(allowed.tolist(), share.tolist(), strict=True))
        self._settled += self._weight * sum(by_token[token] for token in fork.defer)
        open_share = self._weight * sum(by_token[token] for token in fork.shared)
        if self._threshold is None:
            if greedy in fork.shared:
                return self._walk(greedy, by_token)
            return Reading(self._verdict(greedy in fork.defer), greedy)
        if self._settled >= self._threshold and fork.defer:
            best = max(fork.defer, key=by_token.__getitem__)
            return Reading(self._verdict(True), best)
        if fork.shared and self._settled + open_share >= self._threshold:
            return self._walk(max(fork.shared, key=by_token.__getitem__), by_token)
        keeps = greedy not in fork.defer and greedy not in fork.shared
        return Reading(self._verdict(False), greedy if keeps else AGAIN)

    def _walk(self, token: int, by_token: Mapping[int, float]) -> Reading:
        self._weight *= by_token[token]
        return Reading(None, token)

    def _verdict(self, deferred: bool) -> Verdict:
        reason = "greedy" if self._threshold is None else "threshold"
        return Verdict(deferred, min(1.0, self._settled), reason)

    def _fork(self, allowed: Iterable[int], written: bytes) -> Fork:
        defer: list[int] = []
        shared: list[int] = []
        head = self._heads[DEFER]
        others = [other for name, other in self._heads.items() if name != DEFER]
        for token in allowed:
            text = written + self._pieces[token]
            if _agree(text, head):
                (shared if any(_agree(text, other) for other in others) else defer).append(token)
        return Fork(tuple(defer), tuple(shared))


def softmax(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities that the logits stand for."""
    powers = np.exp(values.astype(np.float64) - float(values.max()))
    total: NDArray[np.float64] = powers / powers.sum()
    return total


def _agree(first: bytes, second: bytes) -> bool:
    return first.startswith(second) or second.startswith(first)
