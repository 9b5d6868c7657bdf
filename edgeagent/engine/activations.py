"""Reads tokens through a model and looks at what happens there; a process of its own.

llama.cpp calls back before and after each operation of a pass; the inputs of the weights' matrix
products are looked at where they lie and never copied whole. Started by `observer`.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/ggml/include/ggml.h and ggml-backend.cpp.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edgeagent import gguf_header
from edgeagent.engine import library, memory
from edgeagent.engine.calibration import chunk_size, chunks
from edgeagent.engine.observer import Activations, Advanced, Answer, Plan, Question
from edgeagent.engine.protocol import Failed
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.worker import arguments_of, end_with_parent
from edgeagent.errors import EdgeAgentError, EngineError, ModelLoadError

N_BATCH = 512
"""Tokens per pass, where the vocabulary is small."""
LOGITS_BYTES = 80 << 20
"""Most that a pass's logits may take: 128 tokens of Qwen3, which are as fast as 512."""
N_ROWS = 128
"""Rows that are summed in float32, which costs an error of 1e-6; the rest is float64."""
MIN_CONTEXT = 256
HEADS = frozenset({b"output.weight", b"token_embd.weight"})
"""Weights outside the blocks that have inputs; the second is the head of a tied model."""
GGML_OBJECT_SIZE = 32
F32 = 0


class Tensor(ctypes.Structure):
    """ggml's own description of a tensor, which llama-cpp-python does not declare."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


class Collector:
    """Sums squared inputs by weight, called back by llama.cpp."""

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.weights: NDArray[np.float64] | None = None
        """Of the pass's tokens, shape (n,); None counts each once."""
        self.callback = llama.ggml_backend_sched_eval_callback(self._called)
        self._mul_mat = _mul_mat()
        self._input_of: dict[int, NDArray[np.float64]] = {}
        """Sums of this pass by the address of the input, which several weights may share."""
        self._is_inside = False

    def begin(self, weights: NDArray[np.float64] | None) -> None:
        """Prepare for a pass over tokens of these weights."""
        self.weights = weights
        self._input_of.clear()

    def check(self) -> None:
        """Return if no call was left by an exception, which llama.cpp takes for an answer.

        Raises:
            EngineError: one was; the reason is in the log.
        """
        if self._is_inside:
            raise EngineError("looking at a pass failed; the reason is in the engine's output")
        for name, values in self.sums.items():
            if not np.isfinite(values).all():
                raise EngineError(f"the input of {name} is not finite; the model's file is damaged")

    def _called(self, address: int, asks: bool, _: Any) -> bool:
        self._is_inside = True
        # Most operations are no products, and are asked about 200 times per pass and more.
        is_product = ctypes.c_int.from_address(address + Tensor.op.offset).value == self._mul_mat
        look = self._wants if asks else self._take
        answer = is_product and look(Tensor.from_address(address))
        self._is_inside = False
        return answer

    def _wants(self, tensor: Tensor) -> bool:
        """Tell llama.cpp whether to stop behind this operation; note who shares an input."""
        name = self._weight(tensor)
        if name is None:
            return False
        known = self._input_of.get(ctypes.addressof(tensor.src[1].contents))
        if known is None:
            return True
        self._add(name, known)
        return False

    def _take(self, tensor: Tensor) -> bool:
        name = self._weight(tensor)
        assert name is not None
        source = tensor.src[1].contents
        rows = _rows(source)
        if self.weights is None:
            parts = (rows[at : at + N_ROWS] for at in range(0, len(rows), N_ROWS))
            total = sum(np.einsum("ij,ij->j", part, part).astype(np.float64) for part in parts)
        else:
            assert len(rows) == len(self.weights), (name, rows.shape)
            total = np.einsum("i,ij->j", self.weights, rows * rows)
        self._input_of[ctypes.addressof(source)] = total
        self._add(name, total)
        return True

    def _add(self, name: str, total: NDArray[np.float64]) -> None:
        if name in self.sums:
            self.sums[name] += total
        else:
            self.sums[name] = total.copy()

    def _weight(self, tensor: Tensor) -> str | None:
        """Return the weight that a product multiplies with; None where it is no weight."""
        if tensor.src[1].contents.type != F32:
            return None
        name = bytes(tensor.src[0].contents.name)
        if name in HEADS or (name.startswith(b"blk.") and name.endswith(b".weight")):
            return name.decode("utf-8", "replace")
        return None


def run(plan: Plan) -> Iterator[Advanced | Activations]:
    """Yield progress, then what was collected.

    Raises:
        ModelLoadError: the file cannot be run on this machine.
        ConversionError, TemplateError: `chunks` says when.
        EngineError: a pass failed.
    """
    header = gguf_header.read(plan.path)
    library.listen()
    llama.llama_backend_init()
    model = library.load_weights(plan.path)
    vocabulary = Vocabulary(llama.llama_model_get_vocab(model))
    n_trained = _trained_context(model)
    found = list(chunks(plan, vocabulary, header, n_trained))
    longest = max(len(chunk.tokens) for chunk in found)
    n_batch = _batch_size(vocabulary)
    memory.check(header, plan.path.name, longest, n_batch)
    collector = Collector()
    callback = collector.callback if plan.collects else None
    n_ctx = max(longest, MIN_CONTEXT)
    context = _context(model, plan.path, n_ctx, n_batch, plan.n_threads, callback)
    batch = llama.llama_batch_init(n_batch, 0, 1)
    total, done = sum(len(chunk.tokens) for chunk in found), 0
    started = _cpu_s()
    yield Advanced(0, total)
    for chunk in found:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        for start in range(0, len(chunk.tokens), n_batch):
            part = slice(start, start + n_batch)
            collector.begin(None if chunk.weights is None else chunk.weights[part])
            done += _decode(context, batch, chunk.tokens[part], start)
            collector.check()
            yield Advanced(done, total)
    collector.check()
    weight = sum(float(c.weights.sum()) if c.weights is not None else len(c.tokens) for c in found)
    yield Activations(
        sums=collector.sums,
        n_tokens=total,
        weight=weight,
        n_chunks=len(found),
        n_chunk=chunk_size(plan, n_trained),
        n_call_tokens=sum(chunk.n_call_tokens for chunk in found),
        cpu_s=_cpu_s() - started,
    )


def answer(question: Question) -> Answer:
    """Return the tokens of the texts, and the logits after the tokens.

    Raises:
        ModelLoadError: the file cannot be run on this machine.
        EngineError: the pass failed.
    """
    header = gguf_header.read(question.path)
    library.listen()
    llama.llama_backend_init()
    model = library.load_weights(question.path)
    vocabulary = Vocabulary(llama.llama_model_get_vocab(model))
    encoded = tuple(vocabulary.encode(text, parse_special=True) for text in question.texts)
    read = question.tokens or tuple(chain.from_iterable(encoded))[: question.n_read]
    n = len(read)
    if n == 0:
        return Answer(encoded, read, None)
    n_ctx, n_batch = max(n, MIN_CONTEXT), _batch_size(vocabulary)
    memory.check(header, question.path.name, n_ctx, n_batch)
    context = _context(model, question.path, n_ctx, n_batch, None, None)
    batch = llama.llama_batch_init(n_batch, 0, 1)
    rows = []
    for start in range(0, n, n_batch):
        n_read = _decode(context, batch, read[start : start + n_batch], start)
        found = llama.llama_get_logits(context)
        rows.append(np.ctypeslib.as_array(found, shape=(n_read, vocabulary.n_tokens)).copy())
    return Answer(encoded, read, np.concatenate(rows))


def _decode(context: Any, batch: Any, tokens: Sequence[int], start: int) -> int:
    batch.n_tokens = len(tokens)
    for index, token in enumerate(tokens):
        batch.token[index] = token
        batch.pos[index] = start + index
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = 0
        # Else the last block and the head see the rows that are asked for, and no other.
        batch.logits[index] = 1
    status = llama.llama_decode(context, batch)
    if status != 0:
        raise EngineError(f"llama.cpp could not read {len(tokens)} tokens (status {status})")
    return len(tokens)


def _context(
    model: Any, path: Path, n_ctx: int, n_batch: int, n_threads: int | None, callback: Any
) -> Any:
    params = llama.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = params.n_ubatch = params.n_outputs_max = n_batch
    params.n_seq_max = 1
    params.n_threads = params.n_threads_batch = n_threads or library.physical_cores()
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    # Half precision here would show in the fourth digit of every sum.
    params.type_k = params.type_v = llama.GGML_TYPE_F32
    params.offload_kqv = params.op_offload = False
    params.no_perf = True
    if callback is not None:
        params.cb_eval = callback
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise ModelLoadError(
            f"llama.cpp cannot open a context of {n_ctx} tokens for {path}: "
            f"{library.complaint()}; take smaller chunks"
        )
    return context


def _batch_size(vocabulary: Vocabulary) -> int:
    return max(1, min(N_BATCH, LOGITS_BYTES // (4 * vocabulary.n_tokens)))


def _trained_context(model: Any) -> int:
    return int(llama.llama_model_n_ctx_train(model)) or library.DEFAULT_N_CTX


def _mul_mat() -> int:
    """Return ggml's number for a matrix product, having checked that `Tensor` is its layout.

    Raises:
        ModelLoadError: the installed llama.cpp describes tensors otherwise.
    """
    ggml = ctypes.CDLL(llama._lib._name)
    ggml.ggml_tensor_overhead.restype = ctypes.c_size_t
    ggml.ggml_op_name.restype = ctypes.c_char_p
    if ggml.ggml_tensor_overhead() == ctypes.sizeof(Tensor) + GGML_OBJECT_SIZE:
        for number in range(1, 64):
            if ggml.ggml_op_name(number) == b"MUL_MAT":
                return number
    raise ModelLoadError(
        "the installed llama.cpp lays out tensors otherwise; install llama-cpp-python 0.3.36"
    )


def _rows(tensor: Tensor) -> NDArray[np.float32]:
    """Return a view of a float32 tensor in host memory, shape (rows, n_in)."""
    n_in, rows = tensor.ne[0], tensor.ne[1] * tensor.ne[2] * tensor.ne[3]
    assert tensor.nb[0] == 4
    assert tensor.nb[1] == 4 * n_in, "the input of a weight's product is laid out in one piece"
    memory_there = (ctypes.c_char * (4 * n_in * rows)).from_address(tensor.data)
    return np.frombuffer(memory_there, np.float32).reshape(rows, n_in)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Serve one job on the file descriptor named on the command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    pipe = Connection(int(sys.argv[1]))
    # The parent is gone: there is nobody left to serve.
    with contextlib.suppress(EOFError, ConnectionError):
        job: Plan | Question = pipe.recv()
        try:
            for said in [answer(job)] if isinstance(job, Question) else run(job):
                pipe.send(said)
        except EdgeAgentError as exc:
            pipe.send(Failed(type(exc).__name__, arguments_of(exc)))


if __name__ == "__main__":
    main()
