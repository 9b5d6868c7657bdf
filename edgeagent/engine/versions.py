"""Which engine computes here: what a number has to name so that it can be computed again.

Reads installed metadata and asks libggml-base alone; llama.cpp is not loaded.
"""

from __future__ import annotations

import ctypes
from importlib import metadata

from edgeagent.engine import quantizer


def versions() -> dict[str, str]:
    """Return the version of each part of the engine; costs 5 ms.

    Raises:
        ConversionError: llama-cpp-python is not installed, or lacks its libraries.
    """
    ggml = ctypes.CDLL(str(quantizer.library()))
    return {
        "llama-cpp-python": metadata.version("llama-cpp-python"),
        "llama.cpp": _text(ggml, "ggml_commit"),
        "ggml": _text(ggml, "ggml_version"),
        "llguidance": metadata.version("llguidance"),
    }


def _text(library: ctypes.CDLL, name: str) -> str:
    function = getattr(library, name)
    function.restype = ctypes.c_char_p
    function.argtypes = ()
    found: bytes = function()
    return found.decode()
