"""A build held against what it was made from: every weight, the vocabulary, tokens and logits.

The source is a checkpoint's folder, which is read by code that knows no GGUF, or another GGUF
file. Streams both sides a few rows at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from convert import forward, hf_to_gguf, tokenizer
from convert.architecture import whole_number
from convert.bpe import Reference, first_difference
from convert.checkpoint import Mapped, Stored
from convert.checkpoint import read as read_checkpoint
from edgeagent import gguf_header
from edgeagent.engine import quantizer
from edgeagent.engine.observer import Answer, Question, ask
from edgeagent.engine.quantizer import Floats
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import NO_WEIGHTS, Header, TensorType, Value

Doubles: TypeAlias = npt.NDArray[np.float64]

CHUNK_WEIGHTS = 1 << 20
LARGEST_F16 = 65504.0
SMALLEST_F16 = 2.0**-25
"""Half of the smallest f16 above zero; anything nearer to zero becomes zero."""
BEYOND = 1e9
"""Stands for a relative error that is no number."""
N_SAMPLED = 48
"""Tokens that logits are compared on."""

SAMPLES = (
    "I would like to change my flight from JFK to SEA on 2024-05-20, reservation ZFA04Y, please.\n",
    '<tool_call>\n{"name": "get_user", "arguments": {"id": "ann_42"}}\n</tool_call><|im_end|>\n',
    "It's 12,345.67 €   —  isn't it?\r\n\r\n\tYES!!! \u00e9t\u00e9, na\u00efve, Stra\u00dfe",
    "Xin ch\u00e0o, t\u00f4i mu\u1ed1n \u0111\u1eb7t b\u00e0n cho hai ng\u01b0\u1eddi. "
    "\u4f60\u597d\u4e16\u754c \u3053\u3093 \U0001f600\U0001f44d\U0001f3fd",
    "def f(x):\n    return [i**2 for i in range(10) if i % 3 != 0]  # done\n\n\n",
)
"""Sentences that differ where tokenizers do: digits, blanks, contractions, scripts, emoji, tags."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a build was made from."""

    path: Path
    tensors: Mapping[str, Stored]
    """By the name in the build."""
    facts: Mapping[str, Value]
    """Hyperparameters and tokenizer, as the build should have them."""
    is_checkpoint: bool


@dataclass(frozen=True, slots=True)
class Weights:
    """What one tensor's weights are like."""

    name: str
    type: TensorType
    n_weights: int
    n_broken: int
    """NaN or infinite."""
    n_large: int
    """Finite, and beyond what f16 holds."""
    n_small: int
    """Not zero, and zero in f16."""
    is_zero: bool
    rel_rmse: float | None
    """Root of the squared error over the source's squared weights; None without a source."""


@dataclass(frozen=True, slots=True)
class Part:
    """What some of a tensor's weights are like; the sums are of squares."""

    n_broken: int
    n_large: int
    n_small: int
    is_zero: bool
    error: float
    total: float


@dataclass(frozen=True, slots=True)
class Logits:
    """How far a build's logits are from the source's, on a sample."""

    n_tokens: int
    rel_rms: float
    """Root of the squared difference over the source's squared logits, each row's mean left out."""
    largest: float
    """The largest difference."""
    kld: float
    """Mean KL divergence from the source's distribution, nats."""
    same_top: float
    """Share of the tokens after which both think the same token likeliest."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a build and its source read the same samples."""

    differ: tuple[str, ...]
    """A sentence for every sample that becomes other tokens."""
    logits: Logits | None
    why_not: str
    """Why there are no logits to compare; "" where there are."""
    is_broken: bool = False
    """Whether that is the build's fault: it makes logits that are no numbers."""


def open_source(path: Path) -> Source:
    """Return the source at the path.

    Raises:
        ConversionError: it is a folder, and no checkpoint that can be converted.
        ModelLoadError: it is a file, and no whole GGUF file.
    """
    if path.is_dir():
        checkpoint = read_checkpoint(path)
        words = tokenizer.read(path, whole_number(checkpoint.config, "vocab_size"))
        entries = [*hf_to_gguf.hyperparameters(path), *tokenizer.entries(words)]
        facts = {entry.key: entry.value for entry in entries}
        return Source(path, hf_to_gguf.sources(path), facts, is_checkpoint=True)
    header = gguf_header.read(path)
    architecture = header.text("general.architecture")
    facts = {
        key: value
        for key, value in header.metadata.items()
        if key.startswith(("tokenizer.", f"{architecture}."))
    }
    return Source(path, stored_in(path, header), facts, is_checkpoint=False)


def stored_in(path: Path, header: Header) -> dict[str, Stored]:
    """Return where the tensors of a GGUF file lie, by name."""
    return {t.name: Stored(t.name, t.type, t.shape, path, t.offset) for t in header.tensors}


def weigh(stored: Stored, source: Stored | None) -> Weights:
    """Read a tensor's weights, and the source's where there are some of the same shape.

    Costs 2 ns per weight and thread. Memory is some 12 MB per thread.
    """
    step = max(1, CHUNK_WEIGHTS // stored.shape[-1]) * stored.shape[-1]
    ours = Mapped().bytes_of(stored)
    theirs = None if source is None else Mapped().bytes_of(source)

    def part(at: int) -> Part:
        end = min(at + step, stored.n_weights)
        weights = _widened(ours, stored.dtype, at, end)
        if theirs is None or source is None:
            return _part(weights, None)
        return _part(weights, _widened(theirs, source.dtype, at, end))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        parts = list(pool.map(part, range(0, stored.n_weights, step)))
    error, total = (sum(getattr(one, key) for one in parts) for key in ("error", "total"))
    return Weights(
        stored.name,
        stored.dtype,
        stored.n_weights,
        sum(one.n_broken for one in parts),
        sum(one.n_large for one in parts),
        sum(one.n_small for one in parts),
        all(one.is_zero for one in parts),
        None if source is None else _root(error, total),
    )


def facts_that_differ(header: Header, source: Source) -> Iterator[tuple[str, str]]:
    """Yield the key and a sentence for every fact that the build gives otherwise."""
    for key, wanted in source.facts.items():
        found = header.metadata.get(key)
        if found == wanted or (isinstance(wanted, float) and _near(found, wanted)):
            continue
        if isinstance(wanted, list) and isinstance(found, list):
            at = first_difference(found, wanted)
            assert at is not None
            yield key, f"{_at(found, at)} stands at {at}, and {_at(wanted, at)} in the source"
        else:
            yield key, f"{_short(found)}, and {_short(wanted)} in the source"


def run(path: Path, source: Source) -> Run:
    """Return how tokens and logits of the build compare with the source's, on samples.

    A checkpoint is tokenized in Python and run in numpy, from its own names and layout. Costs a
    load of the build, and of a checkpoint 2 s per billion weights.

    Raises:
        ModelLoadError, EngineDied: llama.cpp cannot run one of the two.
    """
    ours = ask(Question(path, SAMPLES, n_read=N_SAMPLED))
    if not source.is_checkpoint:
        theirs = ask(Question(source.path, SAMPLES, tokens=ours.read))
        differ = _differences(ours.tokens, theirs.tokens)
        return Run(differ, *_logits(ours, theirs.logits))
    checkpoint = read_checkpoint(source.path)
    words = tokenizer.read(source.path, whole_number(checkpoint.config, "vocab_size"))
    reference = Reference(words)
    differ = _differences(ours.tokens, [reference.encode(text) for text in SAMPLES])
    if not forward.knows(checkpoint.config):
        return Run(differ, None, "the reference pass does not know the architecture")
    try:
        return Run(differ, *_logits(ours, forward.Forward(checkpoint).logits(ours.read)))
    except ConversionError as exc:
        return Run(differ, None, str(exc))


def _differences(ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> tuple[str, ...]:
    """Return a sentence for every sample that the build turns into other tokens."""
    found = []
    for text, one, other in zip(SAMPLES, ours, theirs, strict=True):
        at = first_difference(one, other)
        if at is not None:
            here, there = one[at : at + 4], other[at : at + 4]
            found.append(
                f"{text[:40]!r} differs from token {at} on: {here}, and {there} in the source"
            )
    return tuple(found)


def _logits(ours: Answer, theirs: Floats | None) -> tuple[Logits | None, str, bool]:
    if ours.logits is None or theirs is None:
        return None, "the samples have no tokens", False
    if not np.isfinite(ours.logits).all():
        return None, "the build's are not finite", True
    if ours.logits.shape != theirs.shape or not np.isfinite(theirs).all():
        return None, "the source has another vocabulary, or logits that are not finite", False
    return _apart(ours.logits, theirs), "", False


def _apart(ours: Floats, theirs: Floats) -> Logits:
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    one_log, other_log = _log_softmax(one), _log_softmax(other)
    kld = (np.exp(other_log) * (other_log - one_log)).sum(axis=1).mean()
    centred = other - other.mean(axis=1, keepdims=True)
    difference = one - one.mean(axis=1, keepdims=True) - centred
    return Logits(
        len(one),
        float(np.sqrt((difference**2).sum() / max((centred**2).sum(), 1e-300))),
        float(np.abs(one - other).max()),
        float(kld),
        float((one.argmax(axis=1) == other.argmax(axis=1)).mean()),
    )


def _log_softmax(x: Doubles) -> Doubles:
    shifted = x - x.max(axis=1, keepdims=True)
    made: Doubles = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return made


def _widened(raw: memoryview, kind: TensorType, begin: int, end: int) -> Floats:
    if kind in NO_WEIGHTS:
        return np.zeros(end - begin, np.float32)
    return quantizer.widen(raw[kind.n_bytes(begin) : kind.n_bytes(end)], kind)


def _part(weights: Floats, before: Floats | None) -> Part:
    sizes = np.abs(weights)
    largest = float(sizes.max()) if sizes.size else 0.0
    finite = np.isfinite(sizes)
    n_broken = 0 if np.isfinite(largest) else int((~finite).sum())
    n_large = 0 if largest <= LARGEST_F16 else int(((sizes > LARGEST_F16) & finite).sum())
    n_small = int(((sizes < SMALLEST_F16) & (sizes > 0)).sum())
    error = total = 0.0
    if before is not None and not n_broken:
        with np.errstate(over="ignore", invalid="ignore"):
            difference = weights - before
            error, total = float(np.vdot(difference, difference)), float(np.vdot(before, before))
    return Part(n_broken, n_large, n_small, largest == 0, error, total)


def _root(error: float, total: float) -> float:
    ratio = error / total if total else error
    # Squares of damaged weights may leave float32's range.
    return float(np.sqrt(ratio)) if np.isfinite(ratio) else BEYOND


def _near(found: object, wanted: float) -> bool:
    return isinstance(found, int | float) and float(np.float32(wanted)) == float(found)


def _at(values: Sequence[object], at: int) -> str:
    return _short(values[at]) if at < len(values) else "nothing"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
