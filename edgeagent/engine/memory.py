"""Whether a model fits into the machine's memory, asked before llama.cpp is.

llama.cpp would be killed half-way, or take the whole machine with it. Numbers in, an error out.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from edgeagent.errors import ModelLoadError
from edgeagent.gguf_header import Header

_BYTES_F16 = 2
_OVERHEAD = 96 << 20
"""Python, numpy, llguidance and the vocabulary; measured 80 MB with 151,936 tokens."""


def check(header: Header, name: str, n_ctx: int, n_batch: int) -> None:
    """Return if the model with so much context fits into what is free.

    Raises:
        ModelLoadError: it does not; the message names both amounts.
    """
    need, free = needed(header, n_ctx, n_batch), available()
    if free is not None and need > free:
        raise ModelLoadError(
            f"{name} with a context of {n_ctx} tokens needs about {_mb(need)} MB of memory "
            f"and {_mb(free)} MB are free; close other programs, take a smaller build, "
            "or lower model.n_ctx"
        )


def needed(header: Header, n_ctx: int, n_batch: int) -> int:
    """Return the bytes that weights, key-value memory and work space take."""
    arch = header.text("general.architecture")

    def number(key: str, default: int) -> int:
        return header.number(f"{arch}.{key}") or default

    n_layer, n_embd = number("block_count", 1), number("embedding_length", 1)
    n_head = number("attention.head_count", 1)
    per_head = header.metadata.get(f"{arch}.attention.head_count_kv", n_head)
    n_kv = sum(map(int, per_head)) if isinstance(per_head, list) else n_layer * int(per_head)
    k_length = number("attention.key_length", n_embd // n_head)
    v_length = number("attention.value_length", k_length)
    kv = n_ctx * n_kv * (k_length + v_length) * _BYTES_F16
    # Without flash attention a batch's scores over the whole context stand in memory at once.
    scores = n_batch * n_ctx * n_head * 4
    return header.size_bytes + kv + scores + _OVERHEAD


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still take; None where the system does not say."""
    amounts = [_meminfo(root), _cgroup(root)]
    return min((amount for amount in amounts if amount is not None), default=None)


def peak_bytes() -> int:
    """Return the most memory this process has had.

    Linux's ru_maxrss begins at what the parent had when it started us, its VmHWM does not.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, UnicodeDecodeError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _meminfo(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup(root: Path) -> int | None:
    """Return what is left under a container's limit; its file cache can be given up."""
    folder = root / "sys/fs/cgroup"
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        cache = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return int(limit) - used + int(cache.get("inactive_file", 0)) + int(cache.get("active_file", 0))


def _mb(n_bytes: int) -> int:
    return round(n_bytes / 1e6)
