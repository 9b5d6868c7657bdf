"""What a forward pass costs on this device, and how many guessed tokens are worth reading along.

Plain numbers: knows neither llama.cpp nor the clock, and is read by `doctor` too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

SIZES = (1, 2, 3, 4, 8, 16)
"""Tokens per pass that are measured."""
MAX_PASS = 16
"""Tokens per pass beyond which nothing is guessed: every further one costs the same."""
DRIFT = 0.25
"""Kernels round differently for a token read by itself and one read among others. Of 3,944 places
in nano's answers (Q8_0, K f16, no flash attention) the distance of the two best tokens differed in
47 %, by 0.14 at most; this is nearly twice that. With K q8_0, or flash attention, the rows are the
same to the bit."""
LEAST_CLOSE, CAUTION = 1e-3, 8.0
MOST_SPREAD = 1.5
"""Between the two least times of a size; on a quiet machine they differ by a few percent."""
LEAST_GROWTH = 0.8
"""Between a size and the next; a table that falls faster has measured something else."""
_REPACKED = 4
"""Repacked weights are multiplied by four rows at a time and each row left over by itself.

Source: llama.cpp 0c1e57098, ggml/src/ggml-cpu/repack.cpp, `forward_mul_mat`.
"""


@dataclass(frozen=True, slots=True)
class Costs:
    """Milliseconds of a pass over so many tokens, at the depth of a usual conversation."""

    ms: tuple[float, ...]
    """Of as many tokens as `SIZES` says, in its order, with one row of logits."""
    row_ms: float = 0.0
    """Of each row of logits beyond the first."""
    drift: float = DRIFT
    """Logits, by which a row differed at most when its token was read among others."""

    @property
    def close(self) -> float:
        """Logits; tokens nearer to each other are told apart in rows read by themselves."""
        return min(DRIFT, max(LEAST_CLOSE, CAUTION * self.drift))

    def of(self, n: int) -> float:
        """Return the cost of a pass over `n` tokens, n > 0."""
        known = dict(zip(SIZES, self.ms, strict=True))
        if n in known:
            return known[n]
        if self.is_repacked:
            whole, left = divmod(n, _REPACKED)
            alone = (
                0.0,
                known[2] - known[1],
                known[3] - known[1],
                known[3] + known[2] - 2 * known[1],
            )
            return self._line(whole * _REPACKED) + alone[left]
        return self._line(n)

    def padded(self, n: int) -> int:
        """Return the cheapest size of at least `n` tokens."""
        more = -(-n // _REPACKED) * _REPACKED
        return more if self.of(more) < self.of(n) else n

    @property
    def is_repacked(self) -> bool:
        """Whether four tokens cost less than three."""
        known = dict(zip(SIZES, self.ms, strict=True))
        return known[4] < known[3]

    def _line(self, n: int) -> float:
        """Return the value on the line through the two measured sizes next to `n`."""
        high = next((i for i, size in enumerate(SIZES) if size >= n), len(SIZES) - 1)
        low = high - 1
        slope = (self.ms[high] - self.ms[low]) / (SIZES[high] - SIZES[low])
        return self.ms[low] + slope * (n - SIZES[low])


@dataclass(frozen=True, slots=True)
class Guess:
    """A token that may follow."""

    token: int
    chance: float
    """That it and every guess before it are right."""
    is_choice: bool
    """Whether it spares a pass; a token that the grammar forces after a guess does not."""
    n_same: int = 0
    """Tokens that its source and the text have in common before it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is read beside the tokens that have to be."""

    n_guesses: int
    n_padding: int
    """Tokens without meaning that make the pass cheaper."""


def plan(costs: Costs, n_must: int, guesses: Sequence[Guess], room: int) -> Plan:
    """Return what to add to a pass over `n_must` tokens where `room` more fit into the context.

    A right choice spares a pass of one token, a token forced after it is not read later; adding
    costs what the table says.
    """
    if n_must >= MAX_PASS:
        return Plan(0, 0)
    ms, padded = _by_size(costs)
    room = min(room, MAX_PASS - n_must)
    best, gain = Plan(0, 0), 0.0
    spared, n_rows = 0.0, 0
    later = (ms[8] - ms[1]) / 7
    for n_guesses in range(min(len(guesses), room) + 1):
        if n_guesses:
            guess = guesses[n_guesses - 1]
            spared += guess.chance * (ms[1] if guess.is_choice else later)
            n_rows += guess.is_choice
        n = n_must + n_guesses
        size = padded[n] if padded[n] - n_must <= room else n
        now = spared - (ms[size] + n_rows * costs.row_ms - ms[n_must])
        if now > gain + 1e-9:
            best, gain = Plan(n_guesses, size - n), now
    return best


@lru_cache(maxsize=4)
def _by_size(costs: Costs) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return cost and cheapest size for every number of tokens up to `MAX_PASS`; [0] is unused."""
    sizes = range(1, MAX_PASS + 1)
    return (0.0, *map(costs.of, sizes)), (0, *map(costs.padded, sizes))


def pays(costs: Costs) -> bool:
    """Tell whether any guess could: even a certain one may cost more than it spares."""
    certain = [Guess(0, 1.0, True)] * (MAX_PASS - 1)
    return any(plan(costs, n, certain, MAX_PASS).n_guesses for n in range(1, MAX_PASS))


def is_noise(samples: Sequence[Sequence[float]]) -> str | None:
    """Return what is wrong with the milliseconds of each of `SIZES`, repeated; None if nothing is.

    The least of each is what counts, so a few disturbed repetitions are no harm.
    """
    least = [min(row) for row in samples]
    if any(not math.isfinite(ms) or ms <= 0 for ms in least):
        return "a pass took no time"
    for size, row in zip(SIZES, samples, strict=True):
        second = sorted(row)[1] if len(row) > 1 else math.inf
        if second > MOST_SPREAD * min(row):
            return f"passes of {size} tokens took {min(row):.1f} and {second:.1f} ms at best"
    for i in range(1, len(SIZES)):
        # Four tokens may cost less than three, and sixteen never less than eight.
        if least[i] < LEAST_GROWTH * least[i - 1] and SIZES[i] != _REPACKED:
            return f"{SIZES[i]} tokens took less than {SIZES[i - 1]}"
    if least[-1] < least[0]:
        return f"{SIZES[-1]} tokens took less than one"
    return None
