"""Whether and how a model fits into the machine's memory, asked before llama.cpp is.

llama.cpp would be killed half-way, or take the whole machine with it. Numbers in, a way to hold
the model or an error out.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeagent.errors import ModelLoadError
from edgeagent.gguf_header import Header, TensorType

SMALL_UBATCH = 16
"""Tokens that are computed at once where memory is short: 7 % slower than 128."""
MIN_N_CTX = 256
_STEP = 256
"""Contexts are rounded up to it by llama.cpp."""
_K_BYTES = {"f16": 2.0, "q8_0": 34 / 32}
_V_BYTES = 2
_PER_TOKEN = 820
"""Bytes of one token in llama.cpp's vocabulary, ours and the grammar's tree, as measured."""
_REST = 8 << 20
"""What everything else takes; 5 MB measured."""
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a loaded model takes beside the Python that loads it."""

    weights: int
    """Copies in another layout included."""
    kv: int
    """Keys and values of the whole context."""
    work: int
    """What one pass computes in, and the logits."""
    vocabulary: int
    """Tokens as llama.cpp, Python and the grammar hold them."""

    @property
    def total(self) -> int:
        """Everything, with room for what has no line of its own."""
        return self.weights + self.kv + self.work + self.vocabulary + _REST


@dataclass(frozen=True, slots=True)
class Holding:
    """How a model is held."""

    is_mapped: bool
    """Whether the file itself is the memory; weights in another layout are copies then."""
    repacks: bool
    """Whether llama.cpp puts weights into the layout that it computes with fastest."""
    k_type: str
    """Of the keys in the context."""
    n_ubatch: int
    """Tokens computed at once."""
    need: Need


@dataclass(frozen=True, slots=True)
class _Way:
    """What may be given up for memory, the cheapest first."""

    k_type: str
    n_ubatch: int
    repacked: Collection[TensorType]


def choose(
    header: Header,
    name: str,
    n_ctx: int,
    n_batch: int,
    n_rows: int,
    repacked: Collection[TensorType],
    free: int | None,
) -> Holding:
    """Return the fastest way to hold the model that fits into `free` bytes, None being no limit.

    `n_rows` is how many rows of logits one pass may give; weights of the types in `repacked` are
    put into another layout by llama.cpp.

    Raises:
        ModelLoadError: none fits; the message names the amounts, and what would.
    """
    ways = (
        _Way("f16", n_batch, repacked),
        _Way("f16", SMALL_UBATCH, repacked),
        _Way("q8_0", SMALL_UBATCH, repacked),
        _Way("q8_0", SMALL_UBATCH, ()),  # saves the second form of a head that is the embedding
    )

    def need(n_ctx: int, way: _Way) -> Need:
        is_mapped = _is_mapped(header, way.repacked)
        return needed(
            header, n_ctx, way.n_ubatch, n_rows, way.k_type, way.repacked, is_mapped=is_mapped
        )

    for way in ways:
        if free is None or need(n_ctx, way).total <= free:
            is_mapped = _is_mapped(header, way.repacked)
            return Holding(
                is_mapped, bool(way.repacked), way.k_type, way.n_ubatch, need(n_ctx, way)
            )
    assert free is not None
    raise _refusal(name, n_ctx, need(n_ctx, ways[-1]), need(0, ways[-1]), free)


def check(header: Header, name: str, n_ctx: int, n_batch: int) -> None:
    """Return if the model fits into what is free as it is, mapped and with f16 keys.

    Raises:
        ModelLoadError: it does not; the message names the amounts, and what would.
    """
    need, free = needed(header, n_ctx, n_batch), available()
    if free is not None and need.total > free:
        raise _refusal(name, n_ctx, need, needed(header, 0, n_batch), free)


def needed(
    header: Header,
    n_ctx: int,
    n_batch: int,
    n_rows: int = 1,
    k_type: str = "f16",
    repacked: Collection[TensorType] = (),
    *,
    is_mapped: bool = True,
) -> Need:
    """Return what a model takes with so much context, `n_batch` tokens being computed at once."""
    arch = header.text("general.architecture")

    def number(key: str, default: int) -> int:
        return header.number(f"{arch}.{key}") or default

    n_layer, n_embd = number("block_count", 1), number("embedding_length", 1)
    n_head = number("attention.head_count", 1)
    per_head = header.metadata.get(f"{arch}.attention.head_count_kv", n_head)
    n_kv = sum(map(int, per_head)) if isinstance(per_head, list) else n_layer * int(per_head)
    k_length = number("attention.key_length", n_embd // n_head)
    v_length = number("attention.value_length", k_length)
    n_cells = -(-n_ctx // _STEP) * _STEP
    kv = int(n_cells * n_kv * (k_length * _K_BYTES[k_type] + v_length * _V_BYTES))
    # Without flash attention a batch's scores over the whole context stand in memory at once,
    # beside the mask and the widest layer's two inputs.
    scores = n_batch * n_cells * (n_head + 1) * 4
    wide = n_batch * 2 * max(number("feed_forward_length", 1), n_embd) * 4
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    n_tokens = len(tokens) if isinstance(tokens, list) else 0
    logits = 2 * n_rows * n_tokens * 4  # as they are computed, and as they are kept
    copies = _copied(header, repacked) if is_mapped else _tied(header, repacked)
    return Need(_weights(header) + copies, kv, scores + wide + logits, n_tokens * _PER_TOKEN)


def repacked_types(features: str) -> frozenset[TensorType]:
    """Return the types that llama.cpp puts into another layout on a CPU with these features.

    `features` is what `llama_print_system_info` says.
    Source: llama.cpp 0c1e57098, ggml/src/ggml-cpu/repack.cpp.
    """
    has = {part.split("=")[0].split(":")[-1].strip() for part in features.split("|")}
    if "REPACK" not in has:
        return frozenset()
    if "AVX2" in has:
        types = {TensorType.Q4_0, TensorType.Q4_K, TensorType.IQ4_NL, TensorType.MXFP4}
        return frozenset(types | ({TensorType.Q2_K} if "AVX512" in has else set()))
    if has & {"DOTPROD", "MATMUL_INT8"}:
        return frozenset({
            TensorType.Q4_0, TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K, TensorType.IQ4_NL,
            TensorType.Q8_0, TensorType.MXFP4,
        })  # fmt: skip
    return frozenset()


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still take; None where the system does not say."""
    amounts = [_meminfo(root), *_cgroups(root), _address_space(root)]
    return min((amount for amount in amounts if amount is not None), default=None)


def peak_bytes() -> int:
    """Return the most memory this process has had.

    Linux's ru_maxrss begins at what the parent had when it started us, its VmHWM does not.
    """
    if (peak := _status(Path("/"), "VmHWM")) is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _is_mapped(header: Header, repacked: Collection[TensorType]) -> bool:
    """Tell whether to map the file; where much is copied, it would stay beside the copies."""
    return _copied(header, repacked) * 8 < _weights(header)


def _weights(header: Header) -> int:
    return sum(tensor.n_bytes for tensor in header.tensors)


def _copied(header: Header, repacked: Collection[TensorType]) -> int:
    """Return the bytes of weights that get another layout, a tied head's among them."""
    inner = sum(
        tensor.n_bytes
        for tensor in header.tensors
        if tensor.type in repacked and len(tensor.shape) > 1 and tensor.name != _EMBEDDING
    )
    return inner + _tied(header, repacked)


def _tied(header: Header, repacked: Collection[TensorType]) -> int:
    """Return the bytes of an embedding that is the head too and is therefore held in both forms."""
    sizes = {tensor.name: tensor for tensor in header.tensors}
    embedding = sizes.get(_EMBEDDING)
    if embedding is None or _HEAD in sizes or embedding.type not in repacked:
        return 0
    return embedding.n_bytes


def _refusal(name: str, n_ctx: int, need: Need, empty: Need, free: int) -> ModelLoadError:
    """Return the error that shows the sum and what would fit; `empty` is without a context."""
    per_token = (need.total - empty.total) / n_ctx
    fits = int((free - empty.total) / per_token) // _STEP * _STEP
    ways = [f"lower model.n_ctx to {fits}"] if fits >= MIN_N_CTX else []
    smaller = need.weights - (need.total - free)
    if smaller > 0:
        ways.append(f"take a build of at most {_mb(smaller)} MB")
    ways.append("close other programs" if ways else "close other programs, or take a smaller model")
    return ModelLoadError(
        f"{name} with a context of {n_ctx} tokens needs about {_mb(need.total)} MB of memory "
        f"(weights {_mb(need.weights)}, keys and values {_mb(need.kv)}, work {_mb(need.work)}, "
        f"vocabulary {_mb(need.vocabulary)}, other {_mb(_REST)}) and {_mb(free)} MB are free; "
        f"{', or '.join(ways)}"
    )


def _meminfo(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroups(root: Path) -> Iterator[int | None]:
    """Yield what is left under each limit that a container or a service puts on this process."""
    mount = root / "sys/fs/cgroup"
    yield _cgroup(mount)
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    parts = [part for part in own.split("/") if part not in ("", "..")]
    for depth in range(1, len(parts) + 1):
        yield _cgroup(mount.joinpath(*parts[:depth]))


def _cgroup(folder: Path) -> int | None:
    """Return what is left under the folder's limit; its file cache can be given up."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        cache = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return int(limit) - used + int(cache.get("inactive_file", 0)) + int(cache.get("active_file", 0))


def _address_space(root: Path) -> int | None:
    """Return what is left of the address space where a shell's `ulimit -v` bounds it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _status(root, "VmSize")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _status(root: Path, key: str) -> int | None:
    try:
        lines = (root / "proc/self/status").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = next((line for line in lines if line.startswith(f"{key}:")), None)
    return int(found.split()[1]) * 1024 if found else None


def _mb(n_bytes: int) -> int:
    return round(n_bytes / 1e6)
