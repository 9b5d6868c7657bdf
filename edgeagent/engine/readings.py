"""What the engine says of tokens that are already written: the values of measuring a build.

Frozen and picklable, they cross the pipe. Knows neither llama.cpp nor what the numbers are for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeagent.engine.client import Prompt
from edgeagent.messages import Call

N_TOP = 256
"""Tokens kept per position: 2 KB instead of 594 for a vocabulary of 151,936."""
N_DRAWN = 32
"""Tokens drawn from the rest of each distribution, by their probability: what they say of a
divergence is right on average, where counting the rest as one token would hide half of it."""
N_ROWS = 32
"""Rows of logits that one pass gives while measuring: 19 MB for that vocabulary."""

Ids: TypeAlias = NDArray[np.int32]
Floats: TypeAlias = NDArray[np.float32]


class Kind(IntEnum):
    """What a position decides."""

    TEXT = 0
    NAME = 1
    """Whether to call, and which tool."""
    ARGUMENTS = 2
    """Keys and values of a call that does something."""
    WORDS = 3
    """The text inside a control call: a reply, a thought, a reason."""


@dataclass(frozen=True, slots=True)
class Plain:
    """Running text; the second half of its tokens is read off, the first is what they follow."""

    text: str


@dataclass(frozen=True, slots=True)
class Whole:
    """A conversation as the model reads it; everything behind policy and tools is read off."""

    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Reference:
    """A call that ought to follow; the places where the grammar leaves a choice are read off.

    There probabilities count legal tokens only, as they do when the model writes.
    """

    prompt: Prompt
    call: Call


Passage: TypeAlias = Plain | Whole | Reference


@dataclass(frozen=True, slots=True)
class Readings:
    """The distribution over the next token at each place that was read off, n of them.

    Probabilities are natural logarithms; `ids` pads with -1 and `logprobs` with -inf where fewer
    than k tokens are legal.
    """

    tokens_sha256: str
    """Of everything that was read: only equal ones can be compared place by place."""
    kinds: NDArray[np.uint8]
    """`Kind` of each place, shape (n,)."""
    written: Floats
    """Log probability of the token that stands there, shape (n,)."""
    best: Ids
    """The likeliest legal token, shape (n,)."""
    n_legal: Ids
    """How many tokens are legal, shape (n,)."""
    ids: Ids
    """Tokens that the distribution is given for, shape (n, k)."""
    logprobs: Floats
    """Theirs, shape (n, k)."""
    tail: NDArray[np.float64]
    """Probability of all legal tokens that are not in `ids`, shape (n,)."""
    drawn: Ids
    """Tokens drawn from the tail, with repetition, shape (n, `N_DRAWN`); -1 where there is none."""
    drawn_logprobs: Floats
    """Theirs, of the same shape."""
    is_cut: bool
    """Whether the passage did not fit into the context, or the grammar refused the reference."""

    @property
    def asked(self) -> Ids:
        """The tokens that another build has to be asked for, shape (n, k + `N_DRAWN`)."""
        return np.hstack([self.ids, self.drawn])


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast an idle engine reads and writes."""

    n_prefill: int
    n_decode: int
    prefill_per_s: float
    """Tokens per second of wall time, the best of `n_rounds`."""
    decode_per_s: float
    prefill_cpu_ms: float
    """Processor time per token, all threads together; what other programs do changes it little."""
    decode_cpu_ms: float
    n_rounds: int
    peak_bytes: int
    """Most memory the engine's process has had, model and context included."""
