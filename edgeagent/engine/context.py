"""What the model has read so far: a token log and the memory of llama.cpp that mirrors it.

Knows no prompt and no grammar. One thread only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edgeagent.engine.costs import MAX_PASS
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.waiting import Waiting
from edgeagent.errors import EngineError

N_BATCH = 128
"""Tokens per forward pass of a prefill: progress about once a second on a slow board, and
within 3 % of the speed of larger batches. Fixed, so that the same prompt gives the same bits."""
_ABORTED = 2
_ASIDE = 1
"""A sequence that shares cells with the context's own while a part of it is saved or loaded."""


class Context:
    """One sequence of tokens in a loaded model.

    Holds `log`, the tokens in the context, in order; memory and log always agree.
    """

    def __init__(self, pointer: Any, vocabulary: Vocabulary, n_ctx: int, waiting: Waiting) -> None:
        self._pointer = pointer
        self._memory = llama.llama_get_memory(pointer)
        self._batch = llama.llama_batch_init(N_BATCH, 0, 1)
        for index in range(N_BATCH):
            self._batch.n_seq_id[index] = 1
            self._batch.seq_id[index][0] = 0
        self._row = ctypes.c_float * vocabulary.n_tokens
        self.vocabulary = vocabulary
        self.n_ctx = n_ctx
        self.log: list[int] = []
        self.n_passes = 0
        """Forward passes since the model was loaded."""
        model = llama.llama_get_model(pointer)
        self.can_go_back = not (
            llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)
        )
        """Whether `keep` can drop any last part; otherwise it drops everything."""
        self._n_threads = llama.llama_n_threads(pointer)
        self._n_threads_batch = llama.llama_n_threads_batch(pointer)
        self._waiting = waiting

    def keep(self, n: int) -> int:
        """Drop what follows the first `n` tokens; return how many are left.

        A recurrent model cannot go back to any place and drops everything.
        """
        if n < len(self.log):
            if n == 0 or not llama.llama_memory_seq_rm(self._memory, 0, n, -1):
                llama.llama_memory_clear(self._memory, True)
                n = 0
            del self.log[n:]
        return len(self.log)

    def decode(self, tokens: Sequence[int], *, logits: bool, rows: Collection[int] = ()) -> bool:
        """Read at most `N_BATCH` more tokens; `logits` asks for the row after the last.

        `rows` asks for the rows after other places in `tokens` too; the context must have been
        opened for so many outputs.

        Returns False, with the log as before, when the abort flag was raised meanwhile.

        Raises:
            EngineError: llama.cpp failed; what it said is in the log file.
        """
        start, n = len(self.log), len(tokens)
        assert 0 < n <= N_BATCH, n
        batch = self._batch
        batch.n_tokens = n
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = start + index
            batch.logits[index] = index in rows
        batch.logits[n - 1] |= logits
        # llama.cpp would read two tokens with the threads that are meant for a hundred.
        many = self._n_threads if n <= MAX_PASS else self._n_threads_batch
        llama.llama_set_n_threads(self._pointer, self._n_threads, many)
        self._waiting.look()
        status = llama.llama_decode(self._pointer, batch)
        self.n_passes += 1
        self.log.extend(tokens)
        if status == 0:
            return True
        # Part of the batch may have been read already.
        self.keep(start)
        if status == _ABORTED:
            return False
        raise EngineError(
            f"llama.cpp could not read {n} tokens at position {start} (status {status}); "
            "its reason is in the engine's log file"
        )

    def logits(self, place: int = -1) -> NDArray[np.float32]:
        """Return the logits after the last token, shape (n_tokens,); valid until the next pass.

        `place` names another token of the last pass, one of its `rows`.
        """
        row = llama.llama_get_logits_ith(self._pointer, place)
        # numpy's own way to wrap a pointer makes a new class each time, 60 us.
        held = self._row.from_address(ctypes.addressof(row.contents))
        return np.frombuffer(memoryview(held), dtype=np.float32)

    def n_state_bytes(self, first: int = 0) -> int:
        """Return about how many bytes `save` would write."""
        size = int(llama.llama_state_seq_get_size(self._pointer, 0)) + 4 * len(self.log)
        return size * (len(self.log) - first) // max(1, len(self.log))

    def save(self, path: Path, first: int = 0) -> bool:
        """Write what follows the first tokens to a file; False when it could not be written."""
        part = self.log[first:]
        tokens = (llama.llama_token * len(part))(*part)
        sequence = _ASIDE if first else 0
        if first:
            llama.llama_memory_seq_cp(self._memory, 0, _ASIDE, first, -1)
        n = llama.llama_state_seq_save_file(
            self._pointer, str(path).encode(), sequence, tokens, len(part)
        )
        if first:
            llama.llama_memory_seq_rm(self._memory, _ASIDE, -1, -1)
        return int(n) > 0

    def load(self, path: Path, tokens: Sequence[int], first: int = 0) -> bool:
        """Replace what follows the first tokens by a saved part, so that the log is `tokens`.

        False if the file does not hold that; the context then ends after the first ones.
        """
        if self.keep(first) < first:
            return False
        wanted = list(tokens[first:])
        read = (llama.llama_token * len(wanted))()
        n_read = ctypes.c_size_t(0)
        sequence = _ASIDE if first else 0
        n = llama.llama_state_seq_load_file(
            self._pointer, str(path).encode(), sequence, read, len(wanted), ctypes.byref(n_read)
        )
        is_right = bool(n) and n_read.value == len(wanted) and list(read) == wanted
        if first:
            if is_right:
                llama.llama_memory_seq_cp(self._memory, _ASIDE, 0, -1, -1)
            llama.llama_memory_seq_rm(self._memory, _ASIDE, -1, -1)
        elif not is_right:
            llama.llama_memory_clear(self._memory, True)
        if is_right:
            self.log += wanted
        return is_right
