"""Reads off what a model makes of given tokens, and how fast it is: the worker's side.

Every build is read in the same passes, so that a build measured against itself differs by nothing.
Knows tokens, grammar and context; what the numbers are compared with is not its business.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, assert_never

import numpy as np
from numpy.typing import NDArray

from edgeagent.engine import memory, reference
from edgeagent.engine.context import N_BATCH, Context
from edgeagent.engine.grammar import Grammars
from edgeagent.engine.prompt import PromptWriter, n_shared
from edgeagent.engine.readings import (
    N_DRAWN,
    N_ROWS,
    N_TOP,
    Floats,
    Ids,
    Kind,
    Passage,
    Plain,
    Readings,
    Reference,
    Speed,
    Whole,
)
from edgeagent.engine.wire import Wire
from edgeagent.errors import EngineError
from edgeagent.messages import CONTROL_NAMES

N_PREFILL, N_DECODE = 512, 64
Doubles: TypeAlias = NDArray[np.float64]
MIN_ROUNDS = 3
MIN_SPEED_S, MAX_SPEED_S = 3.0, 20.0
"""The speed test goes on for so long: a small model's round is over before other programs let
go of the processor once. No round begins after the latter."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A position whose distribution over the next token is wanted."""

    at: int
    """Index of the last token before it."""
    kind: Kind
    legal: NDArray[np.intp] | None
    """None: every token."""


class Meter:
    """Measures with one context, which has to give `N_ROWS` rows of logits per pass."""

    def __init__(
        self, context: Context, writer: PromptWriter, grammars: Grammars, wire: Wire
    ) -> None:
        self._context = context
        self._writer = writer
        self._grammars = grammars
        self._wire = wire

    def read(self, passage: Passage, at: Ids | None) -> Readings:
        """Return the readings of a passage, over the tokens `at`, shape (n, k), of each place.

        None takes the `N_TOP` likeliest and draws from the rest; the same passage, the same draw.
        Costs a forward pass over what the passage does not share with the one before.

        Raises:
            EngineError: the engine was told to stop.
        """
        tokens, places, is_cut = self._laid_out(passage)
        n_ctx = self._context.n_ctx
        if len(tokens) > n_ctx:
            tokens, is_cut = tokens[:n_ctx], True
        places = [place for place in places if place.at + 1 < len(tokens)]
        sha256 = hashlib.sha256(array("i", tokens).tobytes()).hexdigest()
        if at is not None and len(at) != len(places):
            at = None  # other tokens than the base's; the hash tells the caller so
        taken = _Taken(len(places), N_TOP if at is None else at.shape[1])
        for index, row in self._rows(tokens, places):
            place = places[index]
            taken.put(index, row, place, tokens[place.at + 1], None if at is None else at[index])
        return taken.readings(sha256, is_cut)

    def _laid_out(self, passage: Passage) -> tuple[list[int], list[_Place], bool]:
        """Return tokens, the places to read off, and whether something had to be left out."""
        match passage:
            case Plain(text):
                tokens = self._context.vocabulary.encode(text, parse_special=False)
                begin = self._context.vocabulary.begin
                tokens = [begin, *tokens] if begin >= 0 else tokens
                first = len(tokens) // 2
                return tokens, _all_from(first, len(tokens)), False
            case Whole(prompt):
                tokens = self._writer.tokens(prompt)
                prefix = self._writer.prefix(prompt.policy, prompt.tools)
                return tokens, _all_from(n_shared(prefix, tokens), len(tokens)), False
            case Reference(prompt, call):
                self._grammars.use(prompt.tools)
                asked = self._writer.tokens(prompt)
                names = frozenset(tool.name for tool in prompt.tools)
                text = reference.text_of(self._wire, call, prompt.tools)
                matcher = self._grammars.matcher(names)
                path = reference.trace(matcher, self._context.vocabulary, text)
                head = len(f"{self._wire.before}{call.name}{self._wire.between}".encode())
                inner = Kind.WORDS if call.name in CONTROL_NAMES else Kind.ARGUMENTS
                places = [
                    _Place(
                        len(asked) + choice.at - 1,
                        Kind.NAME if choice.n_bytes < head else inner,
                        _legal(choice.mask, self._context.vocabulary.n_tokens),
                    )
                    for choice in path.choices
                ]
                return asked + path.tokens, places, not path.is_whole
            case _:
                assert_never(passage)

    def _rows(
        self, tokens: Sequence[int], places: Sequence[_Place]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Read the tokens and yield the index of each place with its row of logits."""
        if not places:
            return
        context = self._context
        wanted = {place.at: index for index, place in enumerate(places)}
        at = context.keep(min(n_shared(context.log, tokens), places[0].at))
        first, last = places[0].at, places[-1].at + 1
        while at < last:
            # What was in the context already does not move the passes that are read off.
            end = _end_of_pass(at, first if at < first else last, wanted)
            here = [position for position in range(at, end) if position in wanted]
            inside = [position - at for position in here]
            if not context.decode(tokens[at:end], logits=False, rows=inside):
                raise EngineError("the measurement was stopped")
            for position in here:
                yield wanted[position], context.logits(position - at)
            at = end

    def speed(self) -> Speed:
        """Return how fast the engine reads and writes; at most 20 s and a round.

        Raises:
            EngineError: the engine was told to stop.
        """
        context = self._context
        n_decode = min(N_DECODE, context.n_ctx // 4)
        n_prefill = min(N_PREFILL, context.n_ctx - n_decode)
        n_tokens = context.vocabulary.n_tokens
        # Which tokens they are changes nothing: every weight is read for each of them.
        tokens = [(7919 * index + 13) % n_tokens for index in range(n_prefill + n_decode)]
        started = time.perf_counter()
        rounds: list[tuple[float, float, float, float]] = []
        while (passed := time.perf_counter() - started) < MAX_SPEED_S and (
            passed < MIN_SPEED_S or len(rounds) < MIN_ROUNDS
        ):
            context.keep(0)
            begun = _clocks()
            for first in range(0, n_prefill, N_BATCH):
                self._pass(tokens[first : min(first + N_BATCH, n_prefill)])
            between = _clocks()
            for token in tokens[n_prefill:]:
                self._pass([token])
            ended = _clocks()
            rounds.append((*_since(begun, between), *_since(between, ended)))
        prefill_s, prefill_cpu, decode_s, decode_cpu = map(min, zip(*rounds, strict=True))
        context.keep(0)
        return Speed(
            n_prefill,
            n_decode,
            n_prefill / prefill_s,
            n_decode / decode_s,
            1000 * prefill_cpu / n_prefill,
            1000 * decode_cpu / n_decode,
            len(rounds),
            memory.peak_bytes(),
        )

    def _pass(self, tokens: Sequence[int]) -> None:
        if not self._context.decode(tokens, logits=True):
            raise EngineError("the measurement was stopped")


class _Taken:
    """Arrays that fill up while rows are read."""

    def __init__(self, n: int, k: int) -> None:
        self._kinds = np.zeros(n, np.uint8)
        self._written = np.zeros(n, np.float32)
        self._best = np.zeros(n, np.int32)
        self._n_legal = np.zeros(n, np.int32)
        self._ids = np.full((n, k), -1, np.int32)
        self._logprobs = np.full((n, k), -np.inf, np.float32)
        self._tail = np.zeros(n, np.float64)
        self._drawn = np.full((n, N_DRAWN), -1, np.int32)
        self._drawn_logprobs = np.full((n, N_DRAWN), -np.inf, np.float32)

    def put(self, index: int, row: Floats, place: _Place, written: int, at: Ids | None) -> None:
        """Take what is wanted from one row; `written` is the token that stands at the place."""
        legal = place.legal
        values = (row if legal is None else row[legal]).astype(np.float64)
        values -= values.max()
        values -= np.log(np.exp(values).sum())
        # Among legal tokens, position of an id; illegal ones have no place.
        where = _Where(legal, len(row))
        self._kinds[index] = place.kind
        self._n_legal[index] = len(values)
        best = int(values.argmax())
        self._best[index] = best if legal is None else legal[best]
        self._written[index] = values[where.of(np.array([written]))[0]]
        k = self._ids.shape[1]
        if at is None:
            chosen = np.arange(len(values))
            if len(values) > k:
                chosen = np.argpartition(values, len(values) - k)[-k:]
            self._ids[index, : len(chosen)] = chosen if legal is None else legal[chosen]
            self._logprobs[index, : len(chosen)] = values[chosen]
            self._draw(index, values, chosen, legal)
        else:
            self._ids[index] = at
            self._logprobs[index, at >= 0] = values[where.of(at[at >= 0])]

    def _draw(
        self, index: int, values: Doubles, chosen: NDArray[np.intp], legal: NDArray[np.intp] | None
    ) -> None:
        """Take the tail of one row: its probability, and some of its tokens."""
        rest = np.exp(values)
        rest[chosen] = 0
        tail = float(rest.sum())
        if not 0 < tail <= 1:  # nothing is left, or a broken build answered with NaN
            return
        self._tail[index] = tail
        random = np.random.default_rng(index)
        places = np.searchsorted(np.cumsum(rest), random.random(N_DRAWN) * tail, side="right")
        places = np.minimum(places, np.flatnonzero(rest)[-1])
        self._drawn[index] = places if legal is None else legal[places]
        self._drawn_logprobs[index] = values[places]

    def readings(self, sha256: str, is_cut: bool) -> Readings:
        """Return what was taken."""
        return Readings(
            sha256,
            self._kinds,
            self._written,
            self._best,
            self._n_legal,
            self._ids,
            self._logprobs,
            self._tail,
            self._drawn,
            self._drawn_logprobs,
            is_cut,
        )


class _Where:
    """Finds ids among the legal ones, which are sorted."""

    def __init__(self, legal: NDArray[np.intp] | None, n_tokens: int) -> None:
        self._legal = legal
        self._n_tokens = n_tokens

    def of(self, ids: NDArray[np.int32] | NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the positions of ids that are all legal."""
        if self._legal is None:
            return ids.astype(np.intp)
        found = np.searchsorted(self._legal, ids)
        assert np.array_equal(self._legal[found], ids), "two builds differ in what is legal"
        return found


def _all_from(first: int, end: int) -> list[_Place]:
    return [_Place(at, Kind.TEXT, None) for at in range(max(first - 1, 0), end - 1)]


def _legal(mask: bytes, n_tokens: int) -> NDArray[np.intp]:
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")[:n_tokens]
    return np.flatnonzero(bits)


def _end_of_pass(at: int, last: int, wanted: dict[int, int]) -> int:
    """Return where the pass that begins at `at` ends, so that it holds at most `N_ROWS` rows."""
    end, n_rows = at, 0
    while end < min(at + N_BATCH, last):
        n_rows += end in wanted
        if n_rows > N_ROWS:
            break
        end += 1
    return end


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float], ended: tuple[float, float]) -> tuple[float, float]:
    return ended[0] - begun[0], ended[1] - begun[1]
