"""ggml's own row conversions, for `convert/`: the only door to libggml-base.

Finds the library inside the installed llama-cpp-python without importing that package (its
import maps four more libraries and starts the backend, 170 ms). Knows no file format. The
kernels hold no lock and drop the GIL, so several threads may convert at once.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/ggml/include/ggml.h.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeagent.errors import ConversionError
from edgeagent.gguf_header import TensorType

LIBRARY = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(
    sys.platform, "libggml-base.so"
)

Floats: TypeAlias = npt.NDArray[np.float32]
Bytes: TypeAlias = npt.NDArray[np.uint8]

TARGETS = frozenset({TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q8_0})
"""Types that `encode` writes."""


def widen(raw: memoryview, source: TensorType) -> Floats:
    """Return the F32, F16 or BF16 weights in `raw` as float32, shape (n,).

    F32 is a view of `raw`; the others are a copy.
    """
    if source is TensorType.F32:
        return np.frombuffer(raw, np.float32)
    narrow = np.frombuffer(raw, np.uint16)
    wide = np.empty(narrow.size, np.float32)
    rows = _ggml().ggml_fp16_to_fp32_row
    if source is TensorType.BF16:
        rows = _ggml().ggml_bf16_to_fp32_row
    rows(narrow.ctypes.data, wide.ctypes.data, narrow.size)
    return wide


def encode(weights: Floats, target: TensorType, n_per_row: int) -> Bytes:
    """Return the weights, shape (rows * n_per_row,), as the target type's bytes.

    `n_per_row` is a multiple of the type's block: ggml aborts the process otherwise.
    """
    assert target in TARGETS
    assert n_per_row % target.block == 0
    assert weights.size % n_per_row == 0
    encoded = np.empty(target.n_bytes(weights.size), np.uint8)
    n_rows = weights.size // n_per_row
    source = np.ascontiguousarray(weights)
    _ggml().ggml_quantize_chunk(
        target, source.ctypes.data, encoded.ctypes.data, 0, n_rows, n_per_row, None
    )
    return encoded


def library() -> Path:
    """Return where libggml-base lies.

    Raises:
        ConversionError: llama-cpp-python is not installed, or was built without it.
    """
    spec = importlib.util.find_spec("llama_cpp")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for place in ("lib", "bin"):
            path = Path(folder) / place / LIBRARY
            if path.is_file():
                return path
    raise ConversionError(
        f"{LIBRARY} was not found beside llama_cpp; reinstall llama-cpp-python 0.3.36"
    )


@cache
def _ggml() -> ctypes.CDLL:
    ggml = ctypes.CDLL(str(library()))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    for name in ("ggml_bf16_to_fp32_row", "ggml_fp16_to_fp32_row"):
        function = getattr(ggml, name)
        function.argtypes = (pointer, pointer, count)
        function.restype = None
    ggml.ggml_quantize_chunk.argtypes = (
        ctypes.c_int,
        pointer,
        pointer,
        count,
        count,
        count,
        pointer,
    )
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_blck_size.argtypes = (ctypes.c_int,)
    ggml.ggml_blck_size.restype = count
    ggml.ggml_type_size.argtypes = (ctypes.c_int,)
    ggml.ggml_type_size.restype = ctypes.c_size_t
    for target in TARGETS:
        sizes = (ggml.ggml_blck_size(target), ggml.ggml_type_size(target))
        if sizes != (target.block, target.n_bytes(target.block)):
            raise ConversionError(
                f"{library()} stores {target.name} in {sizes} per block, which is not what this "
                "version writes; install llama-cpp-python 0.3.36"
            )
    return ggml
