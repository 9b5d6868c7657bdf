"""Which build suits a device: types with fast kernels there, that fit beside context and buffers.

Pure functions of shapes and a few measured constants; reads no file and asks no machine. Every
build comes with its sum, so that a person can check the choice.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/ggml/src/ggml-cpu/repack.cpp
`ggml_repack_get_optimal_repack_type`; speeds as each constant says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod

from convert.file_types import Type
from convert.recipes import Model, Role
from convert.type_plan import HEAD, Choice, Shaped, plan, role_of
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import TensorType, Value

MIB = 1 << 20
N_BATCH = 128
"""Tokens that the engine reads at once."""
PROCESS_BYTES = 96 * MIB
"""Python, vocabulary and grammar of the engine; measured 80 MB with 151,936 tokens."""
LOGITS_BYTES = 9 * MIB
"""llama.cpp's work space at one row of logits, measured with 151,936 tokens."""
CONTEXTS = (8192, 4096, 2048, 1024)
"""Tokens of context that are tried, the longest first, where the person names none."""
ROWS_TOGETHER = 8
"""Rows that the kernels for rearranged weights take at once."""
TINY = 32 * MIB
"""Weights below which everything is fast enough everywhere."""


class Target(StrEnum):
    """A device that a build is meant for."""

    PI5 = "pi5"
    PI4 = "pi4"
    LAPTOP = "laptop"


@dataclass(frozen=True, slots=True)
class Device:
    """What decides on a target."""

    title: str
    rearranged: frozenset[TensorType]
    """Types that llama.cpp lays out anew for the processor, which makes prompts 2 times faster."""
    plain: frozenset[TensorType]
    """Types whose ordinary kernels are good."""
    system_bytes: int
    """What is left to the rest of the system."""
    gb_per_s: float | None
    """Bytes of weights that decoding reads at most; None: not measured."""
    rates: Mapping[TensorType, float]
    """The same for types that the processor and not the memory holds up."""

    def is_fast(self, kind: TensorType, shape: Sequence[int]) -> bool:
        """Tell whether a tensor of the type has a kernel made for the device."""
        return kind in self.plain or self.is_rearranged(kind, shape)

    def is_rearranged(self, kind: TensorType, shape: Sequence[int]) -> bool:
        """Tell whether llama.cpp makes a copy of the tensor in another layout."""
        return kind in self.rearranged and shape[-2] % ROWS_TOGETHER == 0


DEVICES: Mapping[Target, Device] = {
    Target.PI5: Device(
        "Raspberry Pi 5 (Cortex-A76, 4 cores, dot products)",
        frozenset({
            TensorType.Q4_0, TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K, TensorType.Q8_0,
            TensorType.IQ4_NL, TensorType.MXFP4,
        }),
        frozenset(),
        400 * MIB,
        # File size times speed from Q2_K to Q8_0: https://github.com/ggml-org/llama.cpp/issues/26484
        10.0,
        {},
    ),
    Target.PI4: Device(
        "Raspberry Pi 4 (Cortex-A72, 4 cores, no dot products)",
        frozenset(),
        frozenset({TensorType.Q8_0, TensorType.Q4_0}),
        400 * MIB,
        # TinyLlama Q8_0, 1.17 GB, at 3 tokens per second: llamafile's table of March 2024.
        3.5,
        # Four cores; vec_dot per core in https://github.com/ggml-org/llama.cpp/pull/8151
        {TensorType.Q4_K: 5.2, TensorType.Q2_K: 3.2},
    ),
    Target.LAPTOP: Device(
        "laptop (x86-64 with AVX2)",
        frozenset({TensorType.Q4_0, TensorType.Q4_K, TensorType.IQ4_NL, TensorType.MXFP4}),
        frozenset({
            TensorType.Q8_0, TensorType.Q6_K, TensorType.Q5_K, TensorType.Q5_0, TensorType.Q5_1,
            TensorType.Q4_1,
        }),
        2048 * MIB,
        None,
        {},
    ),
}  # fmt: skip

LOSSES: Mapping[Type, float] = {
    Type.Q8_0: 0.0014,
    Type.Q6_K: 0.0055,
    Type.Q5_K_M: 0.0108,
    Type.Q5_1: 0.02,
    Type.Q5_0: 0.0222,
    Type.Q4_K_M: 0.0313,
    Type.IQ4_NL: 0.0357,
    Type.IQ4_XS: 0.0363,
    Type.Q4_K_S: 0.0431,
    Type.Q4_1: 0.0717,
    Type.Q4_0: 0.0719,
    Type.Q3_K_L: 0.0872,
    Type.Q3_K_M: 0.102,
    Type.IQ3_M: 0.103,
    Type.Q3_K_S: 0.228,
    Type.Q2_K: 0.445,
}
"""Mean KL divergence from f16 in nats, of Llama 3 8B on wikitext-2: llama.cpp's
tools/perplexity/README.md, but for Q5_1, which is placed below Q5_0. Only the order and the
limits below are taken from it: smaller models lose more."""

TOLERATED = (
    (1_500_000_000, 0.0313),
    (300_000_000, 0.0108),
    (0, 0.0014),
)
"""Weights of the model from which so much loss is taken for more speed. Tool calls of
Qwen3-1.7B are as good in Q4_K_M as in Q8_0; those of Qwen3-0.6B are worse in Q4_K_M and not in
Q5_K_M (QuantCall: BFCL v4, 3 seeds, bootstrap)."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What has to be known of a model."""

    tensors: tuple[Shaped, ...]
    model: Model
    kv_bytes: int
    """Of keys and values per token of context, half precision."""
    n_head: int
    n_context: int
    """The longest context that the model knows, in tokens."""


@dataclass(frozen=True, slots=True)
class Build:
    """One way to make the file, and what it takes on the device."""

    choice: Choice
    weight_bytes: int
    slow: Mapping[TensorType, int]
    """Bytes in types without a fast kernel there."""
    rearranged_bytes: int
    """What llama.cpp copies; the file's own pages of it are given back when memory is short."""
    twice_bytes: int
    """Of the copy, the tied head: the file's pages of it go on being looked up, row by row."""
    n_context: int
    context_bytes: int
    work_bytes: int
    usable_bytes: int
    """Memory of the device without what is left to the system."""
    loss: float
    tolerated: float
    tokens_per_s: float | None
    """At most, with an empty context; None: not measured on the target."""

    @property
    def needed_bytes(self) -> int:
        """What has to stay in memory."""
        return self.weight_bytes + self.context_bytes + self.work_bytes

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.usable_bytes

    @property
    def is_fast(self) -> bool:
        return not self.slow or self.weight_bytes < TINY

    @property
    def is_good(self) -> bool:
        return self.loss <= self.tolerated

    @property
    def name(self) -> str:
        """The build as options of `edgeagent convert`."""
        return self.choice.options

    @property
    def rank(self) -> tuple[bool, bool, bool, float]:
        """Less is better: fitting, fast kernels, good enough; then speed, or else quality."""
        last = self.weight_bytes if self.fits and self.is_fast and self.is_good else self.loss
        return (not self.fits, not self.is_fast, not self.is_good, last)


def choose(
    sizes: Sizes,
    target: Target,
    ram_bytes: int,
    n_context: int | None = None,
    important: Collection[str] | None = None,
) -> list[Build]:
    """Return the builds for a device, the best first; ones that do not fit are the last.

    Where `n_context` is None, the longest of the usual contexts is taken that a fast and good
    build fits with, or else a fast one, or else any. `important` names the tensors of an
    importance matrix.

    Raises:
        ConversionError: no build fits even the shortest context; says what the smallest takes.
    """
    contexts = [min(n, sizes.n_context) for n in ([n_context] if n_context else CONTEXTS)]
    tried = [_ranked(sizes, target, ram_bytes, n, important) for n in dict.fromkeys(contexts)]
    ranked = min(tried, key=lambda builds: builds[0].rank[:3])
    if not ranked[0].fits:
        smallest = min(tried[-1], key=lambda build: build.needed_bytes)
        raise ConversionError(
            f"no build of this model fits into {_mb(ram_bytes)} MB: {smallest.name} with a context "
            f"of {smallest.n_context} tokens needs {_mb(smallest.needed_bytes)} MB of the "
            f"{_mb(max(0, smallest.usable_bytes))} that are left beside the system"
        )
    return ranked


def sizes_of(metadata: Mapping[str, Value], tensors: Sequence[Shaped], model: Model) -> Sizes:
    """Return what `choose` wants to know, from a GGUF file's metadata.

    Raises:
        ConversionError: the metadata lacks a number that the context's memory depends on.
    """
    prefix = model.architecture
    n_head, n_head_kv = max(1, model.n_head), max(1, model.n_head_kv)
    n_embd = _number(metadata, f"{prefix}.embedding_length")
    k_length = _number(metadata, f"{prefix}.attention.key_length", n_embd // n_head)
    v_length = _number(metadata, f"{prefix}.attention.value_length", k_length)
    kv_bytes = 2 * model.n_layers * n_head_kv * (k_length + v_length)
    n_context = _number(metadata, f"{prefix}.context_length")
    return Sizes(tuple(tensors), model, kv_bytes, n_head, n_context)


def explanation(ranked: Sequence[Build], target: Target, ram_bytes: int) -> Iterator[str]:
    """Yield why the first is the choice, its sum, and a line for each of the others."""
    best, device = ranked[0], DEVICES[target]
    yield f"for a {device.title} with {_mb(ram_bytes)} MB: {best.name}"
    yield f"  {_mb(best.weight_bytes):6,} MB of weights, {_kernels(best)}"
    per_token = best.context_bytes // max(1, best.n_context)
    yield (
        f"+ {_mb(best.context_bytes):6,} MB for {best.n_context:,} tokens of context, "
        f"{per_token / 1024:g} KiB each"
    )
    yield f"+ {_mb(best.work_bytes):6,} MB for attention, logits and the program"
    yield (
        f"= {_mb(best.needed_bytes):6,} MB of {_mb(best.usable_bytes):,} "
        f"({_mb(device.system_bytes)} MB are left to the system)"
    )
    if best.rearranged_bytes:
        yield (
            f"  {_mb(best.rearranged_bytes):6,} MB of the file are copied into another layout; "
            "the file's own pages are given back when memory is short"
        )
    if best.twice_bytes:
        yield (
            f"  {_mb(best.twice_bytes):6,} MB of these are the head, which is the embedding too: "
            "single rows of it are still read from the file"
        )
    if best.tokens_per_s is not None:
        yield f"  at most {best.tokens_per_s:.1f} tokens per second, by the bytes it reads"
    for other in ranked[1:]:
        yield f"not {other.name}: {_why_not(other, best)}"


def ram_size(given: str) -> int:
    """Return the bytes that text like `2GB`, `4G` or `8192M` means; units are of 1024.

    Raises:
        ConversionError: it is something else, or less than 256 MB.
    """
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,3})?)\s*([MGT])(?:i?B)?\s*", given, re.IGNORECASE)
    factor = {"M": MIB, "G": 1024 * MIB, "T": MIB * MIB}
    n_bytes = int(float(match[1]) * factor[match[2].upper()]) if match else 0
    if n_bytes < 256 * MIB:
        raise ConversionError(f"{given!r} is no size of memory; write it as 2GB, 4G or 8192M")
    return n_bytes


def _ranked(
    sizes: Sizes,
    target: Target,
    ram_bytes: int,
    n_context: int,
    important: Collection[str] | None,
) -> list[Build]:
    builds: list[Build] = []
    for kind in LOSSES:
        choice = Choice(kind)
        found = _build(choice, sizes, target, ram_bytes, n_context, important)
        builds.append(found)
        faster = _all_fast(found, sizes, target, important)
        if faster is not None:
            other = _build(faster, sizes, target, ram_bytes, n_context, important)
            builds += [other] if not other.slow else []
    return sorted(builds, key=lambda build: build.rank)


def _build(
    choice: Choice,
    sizes: Sizes,
    target: Target,
    ram_bytes: int,
    n_context: int,
    important: Collection[str] | None,
) -> Build:
    device = DEVICES[target]
    types = plan(sizes.tensors, sizes.model, choice, important).types
    is_tied = all(tensor.name != HEAD for tensor in sizes.tensors)
    slow: Counter[TensorType] = Counter()
    total = rearranged = twice = 0
    seconds = 0.0
    for tensor, kind in zip(sizes.tensors, types, strict=True):
        n_bytes = kind.n_bytes(prod(tensor.shape))
        total += n_bytes
        role = role_of(tensor.name, is_tied)
        if len(tensor.shape) < 2 or role is Role.EMBEDDING:
            continue  # a few rows of an embedding are looked up, whatever its type
        if device.gb_per_s is not None:
            rate = min(device.gb_per_s, device.rates.get(kind, device.gb_per_s))
            seconds += n_bytes / (rate * 1e9)
        if not device.is_fast(kind, tensor.shape):
            slow[kind] += n_bytes
        elif device.is_rearranged(kind, tensor.shape):
            rearranged += n_bytes
            twice += n_bytes if role is Role.HEAD and is_tied else 0
    n_weights = sum(prod(tensor.shape) for tensor in sizes.tensors)
    return Build(
        choice,
        total,
        dict(slow),
        rearranged,
        twice,
        n_context,
        n_context * sizes.kv_bytes,
        N_BATCH * n_context * sizes.n_head * 4 + LOGITS_BYTES + PROCESS_BYTES,
        ram_bytes - device.system_bytes,
        LOSSES[choice.kind],
        next(loss for least, loss in TOLERATED if n_weights >= least),
        1 / seconds if total >= TINY and seconds else None,
    )


def _all_fast(
    found: Build, sizes: Sizes, target: Target, important: Collection[str] | None
) -> Choice | None:
    """Return the build with its slow tensors in other types; None where that is not possible.

    A recipe gives single tensors more bits: the head, and a few of the blocks.
    """
    device, main = DEVICES[target], found.choice.kind.main
    if not found.slow or not device.is_fast(main, (ROWS_TOGETHER, main.block)):
        return None
    is_tied = all(tensor.name != HEAD for tensor in sizes.tensors)
    choice = replace(found.choice, head=TensorType.Q8_0)
    types = plan(sizes.tensors, sizes.model, choice, important).types
    roles = {
        role_of(tensor.name, is_tied)
        for tensor, kind in zip(sizes.tensors, types, strict=True)
        if len(tensor.shape) > 1 and not device.is_fast(kind, tensor.shape)
    }
    overrides = [(re.compile(NAMES[role]), main) for role in sorted(roles & NAMES.keys(), key=str)]
    return replace(choice, overrides=tuple(overrides))


NAMES: Mapping[Role, str] = {
    Role.DOWN: "ffn_down",
    Role.VALUES: "attn_v",
    Role.ATTENTION_OUTPUT: "attn_output",
}
"""What recipes give more bits, by a part of the names."""


def _kernels(build: Build) -> str:
    if build.is_fast:
        return "all in types with fast kernels there" if not build.slow else "few enough anywhere"
    slow = ", ".join(f"{_mb(n)} MB {kind.name}" for kind, n in build.slow.items())
    return f"without fast kernels there: {slow}"


def _why_not(other: Build, best: Build) -> str:
    if not other.fits:
        return f"needs {_mb(other.needed_bytes):,} MB of {_mb(other.usable_bytes):,}"
    if other.slow and not other.is_fast:
        return f"{_mb(other.weight_bytes):,} MB of weights, {_kernels(other)}"
    if not other.is_good:
        return (
            f"{_mb(other.weight_bytes):,} MB of weights, and loses more "
            f"({other.loss:g} nats against {other.tolerated:g} that are tolerated at this size)"
        )
    if other.weight_bytes > best.weight_bytes:
        return f"{_mb(other.weight_bytes):,} MB of weights to read for every token; it loses less"
    return f"{_mb(other.weight_bytes):,} MB of weights, and loses more"


def _number(metadata: Mapping[str, Value], key: str, default: int = 0) -> int:
    value = metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConversionError(f"{key} is {value!r}; the memory of the context is not known")
    return value


def _mb(n_bytes: int) -> int:
    return round(n_bytes / MIB)
