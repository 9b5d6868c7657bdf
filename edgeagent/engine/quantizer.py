"""ggml's own row conversions, for `convert/`: the only door to libggml.

Finds the libraries inside the installed llama-cpp-python without importing that package (its
import maps four more libraries and starts the backend, 170 ms). Knows no file format. The
kernels hold no lock and drop the GIL, so several threads may convert at once.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/ggml/include/ggml.h and ggml-cpu.h.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeagent.errors import ConversionError
from edgeagent.gguf_header import NO_WEIGHTS, TensorType

LIBRARY = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(
    sys.platform, "libggml-base.so"
)
CPU_LIBRARY = LIBRARY.replace("base", "cpu")

Floats: TypeAlias = npt.NDArray[np.float32]
Bytes: TypeAlias = npt.NDArray[np.uint8]
ROWS = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

TARGETS = frozenset(TensorType) - NO_WEIGHTS
"""Types that `encode` writes and `widen` reads."""
LARGEST_SCALE = 65504.0
"""The largest finite f16; below it no scale of a block can overflow."""


def widen(raw: memoryview, source: TensorType, room: Floats | None = None) -> Floats:
    """Return the weights in `raw` as float32, shape (n,), in `room` if it is given.

    F32 is a view of `raw`; the others are a copy.
    """
    if source is TensorType.F32:
        floats: Floats = _aligned(np.frombuffer(raw, np.float32))
        return floats
    assert source in TARGETS
    n = len(raw) // source.n_bytes(source.block) * source.block
    wide = np.empty(n, np.float32) if room is None else room[:n]
    narrow = _aligned(np.frombuffer(raw, np.uint8 if source.block > 1 else np.uint16))
    _widener(source)(narrow.ctypes.data, wide.ctypes.data, n)
    return wide


def encode(
    weights: Floats,
    target: TensorType,
    n_per_row: int,
    importance: Floats | None = None,
    room: Bytes | None = None,
) -> Bytes:
    """Return the weights, shape (rows * n_per_row,), as the target type's bytes.

    They are in `room` if it is given. `importance`, shape (n_per_row,), weighs a row's columns
    against each other. `n_per_row` is a multiple of the type's block, and the types that ggml
    refuses to write without importance have it: ggml aborts the process otherwise.

    Raises:
        ConversionError: the weights hold NaN or infinity, or are too large for the type.
    """
    assert target in TARGETS
    assert n_per_row % target.block == 0
    assert weights.size % n_per_row == 0
    assert importance is not None or not requires_importance(target)
    assert importance is None or importance.size == n_per_row
    largest = _largest(weights)
    n_bytes = target.n_bytes(weights.size)
    encoded = np.empty(n_bytes, np.uint8) if room is None else room[:n_bytes]
    source = np.ascontiguousarray(weights)
    if target is TensorType.F16:
        _halves()(source.ctypes.data, encoded.ctypes.data, source.size)
    else:
        weighed = None if importance is None else importance.ctypes.data
        _ggml().ggml_quantize_chunk(
            target,
            source.ctypes.data,
            encoded.ctypes.data,
            0,
            weights.size // n_per_row,
            n_per_row,
            weighed,
        )
    if largest > LARGEST_SCALE and not np.isfinite(widen(encoded.data, target)).all():
        raise ConversionError(f"a weight of {largest:g} is too large for {target.name}")
    # Where this fails ggml also writes a line to file descriptor 2, hence the checks before it.
    if target.block > 1 and not _ggml().ggml_validate_row_data(
        target, encoded.ctypes.data, encoded.size
    ):
        raise ConversionError(f"{target.name} gave a NaN or an infinity that llama.cpp refuses")
    return encoded


def requires_importance(target: TensorType) -> bool:
    """Say whether ggml aborts the process when it writes the type without importance."""
    required: bool = _ggml().ggml_quantize_requires_imatrix(target)
    return required


def library() -> Path:
    """Return where libggml-base lies.

    Raises:
        ConversionError: llama-cpp-python is not installed, or was built without it.
    """
    path = _installed(LIBRARY)
    if path is None:
        raise ConversionError(
            f"{LIBRARY} was not found beside llama_cpp; reinstall llama-cpp-python 0.3.36"
        )
    return path


def _installed(name: str) -> Path | None:
    spec = importlib.util.find_spec("llama_cpp")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for place in ("lib", "bin"):
            path = Path(folder) / place / name
            if path.is_file():
                return path
    return None


def _largest(weights: Floats) -> float:
    """Return the largest magnitude, which is where NaN and infinity show."""
    if not weights.size:
        return 0.0
    largest = max(float(weights.max()), -float(weights.min()))
    if not np.isfinite(largest):
        raise ConversionError("a weight is NaN or infinite")
    return largest


def _aligned(found: npt.NDArray[np.generic]) -> Any:
    # A safetensors header may have any length; ggml reads whole words.
    return found if found.flags.aligned else found.copy()


class _Traits(ctypes.Structure):
    """ggml_type_traits."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("block_interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ROWS),
        ("from_float", ctypes.c_void_p),
    )


@cache
def _widener(source: TensorType) -> Callable[[int, int, int], None]:
    if source is TensorType.F16 and _cpu() is not None:
        found: Callable[[int, int, int], None] = _cpu().ggml_cpu_fp16_to_fp32
        return found
    traits: _Traits = _ggml().ggml_get_type_traits(source).contents
    if traits.type_name.decode().upper() != source.name or not traits.to_float:
        raise ConversionError(f"{library()} cannot read {source.name}")
    return traits.to_float  # type: ignore[no-any-return]  # ctypes' field


@cache
def _halves() -> Callable[[int, int, int], None]:
    # The one in libggml-base is a loop over bits: 1.6 ns per weight against 0.06 (x86, 2026-11).
    cpu = _cpu()
    found: Callable[[int, int, int], None] = (
        _ggml().ggml_fp32_to_fp16_row if cpu is None else cpu.ggml_cpu_fp32_to_fp16
    )
    return found


@cache
def _cpu() -> Any:
    """Return libggml-cpu, or None where this build of llama.cpp has one per processor kind."""
    path = _installed(CPU_LIBRARY)
    if path is None:
        return None
    cpu = ctypes.CDLL(str(path))
    for name in ("ggml_cpu_fp32_to_fp16", "ggml_cpu_fp16_to_fp32"):
        function = getattr(cpu, name)
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        function.restype = None
    cpu.ggml_cpu_init()
    return cpu


@cache
def _ggml() -> ctypes.CDLL:
    ggml = ctypes.CDLL(str(library()))
    pointer, count, size, kind = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t, ctypes.c_int
    signatures = {
        "ggml_fp32_to_fp16_row": (None, pointer, pointer, count),
        "ggml_quantize_chunk": (size, kind, pointer, pointer, count, count, count, pointer),
        "ggml_quantize_requires_imatrix": (ctypes.c_bool, kind),
        "ggml_validate_row_data": (ctypes.c_bool, kind, pointer, size),
        "ggml_get_type_traits": (ctypes.POINTER(_Traits), kind),
        "ggml_blck_size": (count, kind),
        "ggml_type_size": (size, kind),
    }
    for name, (returned, *taken) in signatures.items():
        function = getattr(ggml, name)
        function.argtypes = taken
        function.restype = returned
    for target in TARGETS:
        sizes = (ggml.ggml_blck_size(target), ggml.ggml_type_size(target))
        if sizes != (target.block, target.n_bytes(target.block)):
            raise ConversionError(
                f"{library()} stores {target.name} in {sizes} per block, which is not what this "
                "version writes; install llama-cpp-python 0.3.36"
            )
    return ggml
