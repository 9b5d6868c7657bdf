"""Measuring what passes cost on this device, to choose how a model is run.

A context as deep as a long conversation is made from one short prefill, whose state is loaded as
often as it takes: 64 tokens are computed instead of 3,072. Times are processor time divided by
the threads, which other programs disturb least, and the least of the repetitions counts.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edgeagent.engine import table_store
from edgeagent.engine.costs import CAUTION, DRIFT, LEAST_CLOSE, MAX_PASS, SIZES, Costs, is_noise
from edgeagent.engine.tables import MEASURED, Measured, Setting, Table, untuned

log = logging.getLogger(__name__)

PIECE = 64
"""Tokens that are computed; the depth is a multiple."""
MAX_DEPTH = 3072
SHARE = 3 / 8
"""Of the context that is measured at: two such contexts take less than the one to come."""
N_REPEATS = 3
BUDGET_S = 4.0
"""After so long a start measures nothing that it can do without."""
GIVE_UP_S = 12.0
"""A device whose first round takes so long is too slow or too busy to be measured at a start."""
RETRY_S = 86_400
"""After so long a device whose timings were noise gets another chance."""
PROBED = (1, 4)
"""Sizes that tell whether another setting is worth more."""
LEAST_GAIN = 0.9
"""A setting other than the default has to take less than so much of its time."""
PRICE_OF_DRIFT = 1.15
"""Where rows read among others differ, close choices are read again: a third more passes on nano,
fewer on a model that is surer of itself."""
N_ROW_TEST = 8
K_IDS = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0}
Clock: TypeAlias = Callable[[], float]
Times: TypeAlias = list[list[float]]


class Stopped(Exception):
    """The abort flag was raised."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured."""

    model: Any
    """llama.cpp's model; it is only read."""
    n_ctx: int
    """Of the context that will be opened."""
    default: Setting
    rivals: tuple[Setting, ...]
    """What is tried beside it."""
    is_small: bool
    """Whether a pass takes so little that rivals are only tried when asked for."""
    abort: Callable[[Any], None]
    """Makes a context stop when the abort flag is raised."""

    @property
    def depth(self) -> int:
        """Tokens that the context holds while it is measured."""
        return max(PIECE, int(min(MAX_DEPTH, self.n_ctx * SHARE)) // PIECE * PIECE)


class Rig:
    """A context filled to the depth; close it."""

    def __init__(self, subject: Subject, setting: Setting, clock: Clock) -> None:
        """Open and fill it; costs a prefill of `PIECE` tokens.

        Raises:
            ValueError: llama.cpp does not open such a context.
            Stopped: the abort flag was raised.
        """
        self.setting = setting
        self.clock = clock
        """Whose seconds count; processor time is divided by the threads that it adds up."""
        n_seqs = subject.depth // PIECE
        params = context_params(subject.depth + MAX_PASS, PIECE, setting)
        params.n_seq_max, params.kv_unified = n_seqs, True
        params.n_outputs_max = max(n_seqs, MAX_PASS)
        params.n_threads_batch = setting.n_threads
        self._pointer = llama.llama_init_from_model(subject.model, params)
        if not self._pointer:
            raise ValueError(f"llama.cpp opens no context with {setting}")
        subject.abort(self._pointer)
        self._n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(subject.model))
        self._batch = llama.llama_batch_init(PIECE, 0, 1)
        self._memory = llama.llama_get_memory(self._pointer)
        try:
            self._fill(n_seqs)
        except (ValueError, Stopped):
            self.close()
            raise

    def close(self) -> None:
        """Give the memory back."""
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._pointer)

    def ms(self, n: int, n_rows: int = 1) -> float:
        """Return the milliseconds of a pass over `n` tokens with `n_rows` rows of logits."""
        started = self.clock()
        self._read(n, PIECE, n_rows)
        spent = (self.clock() - started) * 1000
        if self.clock is time.process_time:
            spent /= self.setting.n_threads
        llama.llama_memory_seq_rm(self._memory, 0, PIECE, -1)
        return spent

    def drift(self) -> float:
        """Return by how many logits rows differ when their tokens are read in one pass.

        Costs `MAX_PASS` passes of one token and one of all.
        """
        self._read(MAX_PASS, PIECE, MAX_PASS)
        among = [self._row(place).copy() for place in range(MAX_PASS)]
        llama.llama_memory_seq_rm(self._memory, 0, PIECE, -1)
        worst = 0.0
        for place, row in enumerate(among):
            self._read(1, PIECE + place, 1, first=place)
            worst = max(worst, float(np.abs(self._row(0) - row).max()))
        llama.llama_memory_seq_rm(self._memory, 0, PIECE, -1)
        return worst

    def _row(self, place: int) -> NDArray[np.float32]:
        row = llama.llama_get_logits_ith(self._pointer, place)
        return np.ctypeslib.as_array(row, shape=(self._n_vocab,))

    def _fill(self, n_seqs: int) -> None:
        self._read(PIECE, 0, 1)
        size = llama.llama_state_seq_get_size(self._pointer, 0)
        state = (ctypes.c_uint8 * size)()
        llama.llama_state_seq_get_data(self._pointer, state, size, 0)
        for other in range(1, n_seqs):
            if not llama.llama_state_seq_set_data(self._pointer, state, size, other):
                raise ValueError("llama.cpp does not take its own state")
            # Sequence 0 attends to the copies too, whatever their positions.
            llama.llama_memory_seq_cp(self._memory, other, 0, -1, -1)

    def _read(self, n: int, start: int, n_rows: int, first: int = 0) -> None:
        batch = self._batch
        batch.n_tokens = n
        for index in range(n):
            batch.token[index] = first + index
            batch.pos[index] = start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index >= n - n_rows
        status = llama.llama_decode(self._pointer, batch)
        if status == 2:
            raise Stopped
        if status != 0:
            raise ValueError(f"llama.cpp could not read {n} tokens (status {status})")


def context_params(n_ctx: int, n_batch: int, setting: Setting) -> Any:
    """Return how llama.cpp is to open a context on the CPU."""
    params = llama.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = params.n_ubatch = n_batch
    params.n_threads = params.n_threads_batch = setting.n_threads
    params.flash_attn_type = (
        llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if setting.flash_attention
        else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.type_k, params.type_v = K_IDS[setting.k_type], llama.GGML_TYPE_F16
    params.offload_kqv = params.op_offload = False
    params.no_perf = True
    return params


def table_for(
    subject: Subject, path: Path, cache_dir: Path | None, n_threads: int | None, *, again: bool
) -> Table:
    """Return the table that is kept for the model file, measured and kept if there is none.

    A table without figures is tried again after a day; `again` measures in full whatever is kept.
    `n_threads` is what was asked for.
    """
    if cache_dir is None:
        return untuned(subject.default, "nothing is kept, so nothing is measured")
    whose = table_store.owner(path, cache_dir, subject.n_ctx, n_threads)
    kept = None if again else table_store.read(cache_dir, whose)
    if kept is not None:
        age_s = table_store.age_s(cache_dir, whose, time.time())
        if kept.costs is not None or age_s < RETRY_S:
            return kept
    try:
        table = measure(subject, in_full=again)
    except Stopped:
        return untuned(subject.default, "the measurement was stopped")
    table_store.write(cache_dir, whose, table)
    return table


def measure(subject: Subject, *, in_full: bool, clock: Clock = time.process_time) -> Table:
    """Return what the model costs here and what is best.

    `in_full` times every rival at every size, however long it takes; otherwise those that lose at
    two sizes are left, and all of them after `BUDGET_S`.

    Raises:
        Stopped: the abort flag was raised.
    """
    started = time.perf_counter()
    if llama.llama_model_is_recurrent(subject.model) or llama.llama_model_is_hybrid(subject.model):
        return untuned(subject.default, "a recurrent model cannot take guesses back")
    try:
        base = Rig(subject, subject.default, clock)
    except ValueError as exc:
        return untuned(subject.default, str(exc))
    try:
        samples = _timed(base, None if in_full else started)
        if samples is None:
            return untuned(subject.default, f"one round took more than {GIVE_UP_S:.0f} s")
        problem = is_noise(samples)
        first = Measured(base.setting, _rounded(map(min, samples)), _drift(base))
        if problem is not None:
            log.warning("timings are noise, reason=%r", problem)
            return untuned(base.setting, f"the timings are noise: {problem}", (first,))
        row_ms = _row_ms(base)
        until = None if in_full else started + BUDGET_S
        rivals = subject.rivals
        if subject.is_small and not in_full:
            rivals = rivals[: not _is_exact(first)]
        tried = [(first, 1.0), *_rivals(subject, rivals, base, first, until)]
    finally:
        base.close()
    return _chosen(subject, tried, row_ms)


def sample(rig: Rig, sizes: Sequence[int], n_repeats: int) -> Times:
    """Return the milliseconds of each size, repeated; sizes take turns, so that all see the same.

    Raises:
        Stopped: the abort flag was raised.
    """
    rounds = [[rig.ms(n) for n in sizes] for _ in range(n_repeats)]
    return [list(row) for row in zip(*rounds, strict=True)]


def _timed(rig: Rig, started: float | None) -> Times | None:
    """Return the times of every size, repeated until they agree or the time is up.

    None where a single round takes too long; `started` None takes whatever it takes.
    """
    samples = sample(rig, SIZES, 1)
    if started is not None and time.perf_counter() - started > GIVE_UP_S:
        return None
    for n_rounds in range(1, 2 * N_REPEATS):
        is_late = started is not None and time.perf_counter() - started > BUDGET_S
        if n_rounds >= 2 and (is_late or (n_rounds >= N_REPEATS and is_noise(samples) is None)):
            break
        samples = _joined(samples, sample(rig, SIZES, 1))
    return samples


def _joined(first: Times, second: Times) -> Times:
    return [a + b for a, b in zip(first, second, strict=True)]


def _row_ms(rig: Rig) -> float:
    one, all_ = (min(rig.ms(N_ROW_TEST, n) for _ in range(2)) for n in (1, N_ROW_TEST))
    return max(0.0, (all_ - one) / (N_ROW_TEST - 1))


def _rivals(
    subject: Subject, rivals: Sequence[Setting], base: Rig, first: Measured, until: float | None
) -> Iterator[tuple[Measured, float]]:
    """Yield the other settings' times, and each one's share of the default's."""
    helped, clock = False, base.clock
    for setting in rivals:
        if until is not None:
            combines = setting.flash_attention and setting.k_type != subject.default.k_type
            if time.perf_counter() > until or (combines and not helped):
                continue
        try:
            rig = Rig(subject, setting, base.clock)
        except ValueError as exc:
            log.warning("a setting cannot be tried, setting=%s reason=%r", setting, str(exc))
            continue
        try:
            # Processor time does not tell what threads spend waiting for each other.
            if setting.n_threads != base.setting.n_threads:
                rig.clock = base.clock = time.perf_counter
            # The two take turns, so that what disturbs one disturbs the other.
            pairs = [[(rig.ms(n), base.ms(n)) for n in PROBED] for _ in range(N_REPEATS)]
            theirs, ours = (
                [min(turn[i][side] for turn in pairs) for i in range(len(PROBED))]
                for side in (0, 1)
            )
            share = sum(theirs) / sum(ours)
            probed = Measured(setting, (), _drift(rig))
            is_better = _price(probed, share) < LEAST_GAIN * _price(first, 1.0)
            helped |= is_better
            ms: tuple[float | None, ...]
            if is_better or until is None:
                ms = tuple(map(min, sample(rig, SIZES, N_REPEATS)))
            else:
                ms = tuple(dict(zip(PROBED, theirs, strict=True)).get(size) for size in SIZES)
        finally:
            rig.close()
            base.clock = clock
        yield replace(probed, ms=_rounded(ms)), share


def _chosen(subject: Subject, tried: Sequence[tuple[Measured, float]], row_ms: float) -> Table:
    """Return the table of the setting that is clearly the fastest, or of the default."""
    first, best = tried[0][0], min(tried, key=lambda one: _price(*one))
    chosen = best[0] if _price(*best) < LEAST_GAIN * _price(first, 1.0) else first
    figures = tuple(ms for ms in chosen.ms if ms is not None)
    everything = tuple(one for one, _ in tried)
    problem = is_noise([[ms, ms] for ms in figures])
    if problem is not None:
        return untuned(subject.default, f"the timings are noise: {problem}", everything)
    return Table(
        chosen.setting,
        Costs(figures, round(row_ms, 3), chosen.drift),
        MEASURED,
        subject.depth,
        everything,
    )


def _price(one: Measured, share: float) -> float:
    """Return what a setting costs, with what it takes to read again what is too close to tell."""
    return share if _is_exact(one) else share * PRICE_OF_DRIFT


def _is_exact(one: Measured) -> bool:
    return one.drift * CAUTION <= LEAST_CLOSE


def _drift(rig: Rig) -> float:
    found = round(rig.drift(), 6)
    is_known_to = not rig.setting.flash_attention and rig.setting.k_type == "f16"
    # A few tokens may show none: llama.cpp multiplies f16 in another order for several rows.
    return DRIFT if is_known_to and found == 0 else found


def _rounded(ms: Iterable[float | None]) -> tuple[float | None, ...]:
    return tuple(one if one is None else round(one, 3) for one in ms)
