"""Opens a GGUF file with llama.cpp: the seam to its C interface.

Speaks the raw interface only; llama-cpp-python's own classes keep a copy of every logit and lose
long tokens. What llama.cpp says goes to file descriptor 2, which in the worker is the log file.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from edgeagent import gguf_header
from edgeagent.engine import amx, memory
from edgeagent.engine.context import N_BATCH, Context
from edgeagent.engine.costs import MAX_PASS
from edgeagent.engine.tables import K_TYPES, Setting, Table, untuned
from edgeagent.engine.tuning import Subject, context_params
from edgeagent.engine.vocabulary import Vocabulary
from edgeagent.engine.waiting import Crowd, Waiting, others, processors
from edgeagent.errors import ModelLoadError

DEFAULT_N_CTX = 8192
MIN_N_CTX = 256
_SMALL = 64 << 20
_LEVEL_INFO, _LEVEL_WARN = 2, 3


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is ready to run."""

    context: Context
    table: Table
    """What it runs with."""
    template: str
    """Its chat template, empty where it has none."""
    name: str
    quant: str
    n_params: int
    size_bytes: int


def open_model(
    path: Path,
    n_ctx: int | None,
    n_threads: int | None,
    abort_address: int,
    n_outputs: int = 1,
    choose: Callable[[Subject], Table] = lambda subject: untuned(subject.default, "not asked for"),
) -> Opened:
    """Load the file; a byte other than 0 at `abort_address` stops a running pass within 1 ms.

    `n_outputs` is how many rows of logits one pass has to give; each takes a float per token.
    `choose` is asked once, with the weights loaded, what to run with.

    Raises:
        ModelLoadError: the file is not a whole GGUF model, or does not fit into memory.
    """
    header = gguf_header.read(path)
    architecture = header.text("general.architecture")
    if not architecture or not header.tensors:
        raise ModelLoadError(f"{path} holds no model; use the file with the weights")
    trained = header.number(f"{architecture}.context_length") or DEFAULT_N_CTX
    n_ctx = min(n_ctx or DEFAULT_N_CTX, trained)
    if n_ctx < MIN_N_CTX:
        raise ModelLoadError(f"a context of {n_ctx} tokens is too small; use at least {MIN_N_CTX}")
    listen()
    llama.llama_backend_init()
    repacked = memory.repacked_types(llama.llama_print_system_info().decode())
    holding = memory.choose(
        header, path.name, n_ctx, N_BATCH, max(n_outputs, MAX_PASS), repacked, memory.available()
    )
    size_bytes, name = header.size_bytes, header.text("general.name") or path.stem
    template, quant = header.text("tokenizer.chat_template"), _quant(header)
    del header  # 150,000 tokens and as many merges take 30 MB in Python
    few, many = threads(size_bytes, n_threads)
    waiting = Waiting(many, Crowd(), others)
    model = load_weights(path, is_mapped=holding.is_mapped, repacks=holding.repacks)
    waiting.look()
    default = Setting(few, k_type=holding.k_type)
    is_small = size_bytes < _SMALL
    # strlen of "" is 0 and of "\x01" is 1: an abort callback that never waits for Python.
    strlen = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)

    def abort(pointer: Any) -> None:
        llama.llama_set_abort_callback(pointer, strlen, abort_address)

    table = choose(Subject(model, n_ctx, default, _rivals(default, n_threads), is_small, abort))
    if holding.k_type != table.setting.k_type and holding.k_type != K_TYPES[0]:
        # What is kept was measured when there was more room.
        table = replace(table, setting=replace(table.setting, k_type=holding.k_type))
    params = context_params(n_ctx, N_BATCH, table.setting)
    params.n_ubatch = holding.n_ubatch
    params.n_threads_batch = many
    params.n_outputs_max = max(n_outputs, table.n_rows)
    pointer = _make_context(model, path, params)
    abort(pointer)
    vocabulary = Vocabulary(llama.llama_model_get_vocab(model))
    context = Context(pointer, vocabulary, n_ctx, waiting)
    return Opened(
        context,
        table,
        template,
        name,
        quant,
        int(llama.llama_model_n_params(model)),
        size_bytes,
    )


def physical_cores() -> int:
    """Return the cores that this process may use, hyper-threads counted once."""
    allowed = processors()
    cores: set[tuple[str, str]] = set()
    try:
        blocks = Path("/proc/cpuinfo").read_text().strip().split("\n\n")
    except OSError:
        blocks = []
    for block in blocks:
        lines = [line.partition(":") for line in block.splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in lines}
        if "core id" in facts and int(facts.get("processor", -1)) in allowed:
            cores.add((facts.get("physical id", "0"), facts["core id"]))
    # ARM boards list no core ids and have no hyper-threads.
    return len(cores) or len(allowed)


def threads(size_bytes: int, asked: int | None) -> tuple[int, int]:
    """Return how many threads read one token of a model of that size, and how many a batch."""
    # One token of a small model takes less time than threads take to meet 200 times.
    return asked or (1 if size_bytes < _SMALL else physical_cores()), asked or physical_cores()


def load_weights(path: Path, *, is_mapped: bool = True, repacks: bool = True) -> Any:
    """Return llama.cpp's model of the file, on the CPU alone.

    Where it is not mapped, the weights are read: none is in memory in two layouts. `repacks` lets
    llama.cpp choose the layout that it computes with fastest.

    Raises:
        ModelLoadError: llama.cpp cannot load it.
    """
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    # Without its other layouts llama.cpp uses no tiles either.
    params.use_extra_bufts = amx.shut_out() and repacks
    if not is_mapped:
        params.load_mode = llama.LLAMA_LOAD_MODE_NONE
    _complaints.clear()
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ModelLoadError(
            f"llama.cpp cannot load {path}: {complaint()}; use another build or convert it again"
        )
    return model


def _rivals(default: Setting, asked: int | None) -> tuple[Setting, ...]:
    """Return what is worth trying beside the default, the likeliest first."""
    attention, narrow = replace(default, flash_attention=True), replace(default, k_type="q8_0")
    half = default.n_threads // 2
    # Where memory is what is waited for, fewer threads read it as fast.
    fewer = (replace(default, n_threads=half),) if half and asked is None else ()
    rivals = (narrow, attention, replace(attention, k_type="q8_0"), *fewer)
    return tuple(rival for rival in dict.fromkeys(rivals) if rival != default)


def _make_context(model: Any, path: Path, params: Any) -> Any:
    # The second sequence holds no tokens of its own: through it a part of the first is saved.
    params.n_seq_max, params.kv_unified = 2, True
    params.n_outputs_max = max(2, params.n_outputs_max)  # llama.cpp wants a row for each sequence
    _complaints.clear()
    pointer = llama.llama_init_from_model(model, params)
    if not pointer:
        raise ModelLoadError(
            f"llama.cpp cannot open a context of {params.n_ctx} tokens for {path}: {complaint()}; "
            "lower model.n_ctx"
        )
    return pointer


def _quant(header: gguf_header.Header) -> str:
    """Return the weight type that most bytes have."""
    sizes: dict[str, int] = {}
    for tensor in header.tensors:
        sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.n_bytes
    return max(sizes, key=lambda name: sizes[name])


_complaints: deque[str] = deque(maxlen=8)


@llama.llama_log_callback  # type: ignore[untyped-decorator]  # llama_cpp has no types
def _on_log(level: int, text: bytes, _: Any) -> None:
    if level >= _LEVEL_INFO:
        os.write(2, text)
    if level >= _LEVEL_WARN and text.strip():
        _complaints.append(text.decode("utf-8", "replace").strip())


def listen() -> None:
    """Send what llama.cpp says to file descriptor 2, and remember its complaints."""
    llama.llama_log_set(_on_log, ctypes.c_void_p(0))


def complaint() -> str:
    """Return the first of what llama.cpp complained of since it was last asked to do something."""
    return _complaints[0] if _complaints else "it gave no reason"
