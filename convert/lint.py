"""Whether a build is fit to be shipped: what is wrong in it, and what a person should know.

Checks what usually breaks between a training and an agent: the template, the end of a turn, the
tool tags, the tie, single weights; and with the source at hand every weight, the vocabulary,
tokens and logits.

    python -m convert.lint FILE.gguf --source CHECKPOINT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import TypeAlias

from convert import comparison
from convert.checkpoint import Mapped
from convert.comparison import Logits, Source, Weights
from convert.inspect import rendered, template_verdict
from convert.tokenizer import END_OF_TURN, PRE, TAGS, TokenType
from edgeagent import gguf_header
from edgeagent.errors import EdgeAgentError, EngineError, ModelLoadError
from edgeagent.gguf_header import NO_WEIGHTS, Header, TensorType

LOST: Mapping[TensorType, float] = {
    TensorType.F32: 0.0, TensorType.F16: 0.0005, TensorType.BF16: 0.003,
    TensorType.Q8_0: 0.0054, TensorType.Q6_K: 0.0178, TensorType.Q5_K: 0.0361,
    TensorType.Q5_0: 0.0427, TensorType.Q5_1: 0.040, TensorType.Q4_K: 0.0714,
    TensorType.IQ4_NL: 0.0761, TensorType.IQ4_XS: 0.0767, TensorType.Q4_1: 0.0783,
    TensorType.Q4_0: 0.0859, TensorType.MXFP4: 0.12, TensorType.Q3_K: 0.151,
    TensorType.IQ3_S: 0.166, TensorType.IQ3_XXS: 0.213, TensorType.Q2_K: 0.297,
    TensorType.IQ2_S: 0.265, TensorType.IQ2_XS: 0.30, TensorType.IQ2_XXS: 0.35,
}  # fmt: skip
"""Relative error of normally distributed weights in each type, measured on 256 rows of 6,144."""
UNUSUAL = 2.5
"""Times that error from which a tensor is worth a note: it has outliers, or is damaged."""
DAMAGED = 0.9
"""Relative error from which a tensor has nothing to do with its source."""
LOGITS_DAMAGED = 0.7
"""The same for logits."""
FEW_BITS, LOGITS_DAMAGED_FEW_BITS = 3.5, 1.2
"""Below so many bits per weight a small model's logits are off by more, and meant to be: nano in
IQ2_XXS by 0.79."""
LOGITS_UNQUANTIZED = 0.05
"""What rounding activations to half precision costs at most."""
UNQUANTIZED = frozenset({TensorType.F32, TensorType.F16, TensorType.BF16})
QWEN = frozenset({"qwen2", "qwen3"})
"""Architectures whose tokenizer is known by name."""
FEW = 3
"""Names that a finding lists."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    detail: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """So many bytes of weights were read."""

    done_bytes: int
    total_bytes: int


Step: TypeAlias = Finding | Scanned | Weights | Logits


def lint(path: Path, source: Path | None = None) -> Iterator[Step]:
    """Yield findings, progress, and what was measured of each tensor and of the logits.

    Costs a read of the file, 2 ns per weight, and as much again for a source, which is also
    loaded by llama.cpp or run in numpy on some tokens.

    Raises:
        ModelLoadError: the file is no whole GGUF file.
        ConversionError: the source is none.
    """
    header = gguf_header.read(path)
    yield from head_findings(header)
    yield _tie(path, header)
    given = comparison.open_source(source) if source is not None else None
    yield from _weight_findings(path, header, given)
    if given is not None:
        yield from _facts(header, given)
        yield from _run(path, header, given)


def head_findings(header: Header) -> Iterator[Finding]:
    """Yield what the file's head tells: template, ends, tool tags, pre-tokenizer."""
    verdict = template_verdict(header.text("tokenizer.chat_template"))
    level = Level.OK if verdict == "renders tools" else Level.ERROR
    yield Finding("template", level, verdict)
    tokens = _texts(header)
    types = header.metadata.get("tokenizer.ggml.token_type")
    kinds = types if isinstance(types, list) else []
    by_text = dict(zip(tokens, kinds, strict=False))
    yield _ends(header, tokens, by_text)
    yield _tags(by_text)
    yield _pre_tokenizer(header)


def _ends(header: Header, tokens: Sequence[str], kinds: Mapping[str, object]) -> Finding:
    found = {}
    for role in ("eos", "eot"):
        number = header.number(f"tokenizer.ggml.{role}_token_id")
        if number is not None:
            if not 0 <= number < len(tokens):
                return Finding("ends", Level.ERROR, f"{role} is token {number}, which is not there")
            found[role] = tokens[number]
    if "eos" not in found:
        return Finding("ends", Level.ERROR, "no token is named that ends a text; it may not stop")
    for role, token in found.items():
        if kinds.get(token) not in (TokenType.CONTROL, TokenType.USER_DEFINED):
            return Finding("ends", Level.ERROR, f"{role} is {token!r}, an ordinary token")
    said = ", ".join(f"{role} {token}" for role, token in found.items())
    turn = rendered(header.text("tokenizer.chat_template"), answered=True)
    known = {*found.values(), END_OF_TURN}
    if turn is not None and not any(token in turn for token in known):
        return Finding("ends", Level.ERROR, f"the template ends no turn with any of {said}")
    if "eot" not in found:
        return Finding("ends", Level.NOTE, f"{said}; no eot is named, llama.cpp guesses one")
    return Finding("ends", Level.OK, said)


def _tags(kinds: Mapping[str, object]) -> Finding:
    hidden = [tag for tag in TAGS if kinds.get(tag) == TokenType.CONTROL]
    missing = [tag for tag in TAGS if tag not in kinds]
    others = [
        tag for tag in TAGS
        if tag in kinds and kinds[tag] not in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]  # fmt: skip
    if hidden:
        return Finding(
            "tags", Level.ERROR,
            f"control tokens, which vanish from what the model says: {' '.join(hidden)}",
        )  # fmt: skip
    if others:
        return Finding("tags", Level.ERROR, f"neither control nor user-defined: {' '.join(others)}")
    if missing:
        return Finding("tags", Level.NOTE, f"no single tokens: {' '.join(missing)}")
    return Finding("tags", Level.OK, "all six are user-defined")


def _pre_tokenizer(header: Header) -> Finding:
    name, model = header.text("tokenizer.ggml.pre"), header.text("tokenizer.ggml.model")
    if model == "gpt2" and name in ("", "default"):
        return Finding("pre-tokenizer", Level.ERROR, "none is named; llama.cpp splits text its way")
    if header.text("general.architecture") not in QWEN or model != "gpt2":
        return Finding("pre-tokenizer", Level.OK, name or model or "none")
    if name != PRE:
        return Finding("pre-tokenizer", Level.ERROR, f"{name}, and Qwen's is {PRE}")
    if header.metadata.get("tokenizer.ggml.add_bos_token"):
        return Finding("pre-tokenizer", Level.ERROR, "a token is put before texts; Qwen has none")
    return Finding("pre-tokenizer", Level.OK, name)


def _tie(path: Path, header: Header) -> Finding:
    by_name = comparison.stored_in(path, header)
    head, embedding = by_name.get("output.weight"), by_name.get("token_embd.weight")
    if head is None:
        return Finding("tie", Level.OK, "the embedding is the head")
    if embedding is None or (head.dtype, head.shape) != (embedding.dtype, embedding.shape):
        return Finding("tie", Level.OK, "the head is its own")
    mapped = Mapped()
    if mapped.bytes_of(head) != mapped.bytes_of(embedding):
        return Finding("tie", Level.OK, "the head is its own")
    return Finding(
        "tie", Level.NOTE,
        f"the head equals the embedding; left out, it would save {head.n_bytes:,} bytes",
    )  # fmt: skip


def _weight_findings(path: Path, header: Header, source: Source | None) -> Iterator[Step]:
    seen: list[Weights] = []
    total = sum(tensor.n_bytes for tensor in header.tensors)
    done = 0
    stored = comparison.stored_in(path, header)
    sources = source.tensors if source is not None else {}
    for name, tensor in stored.items():
        before = sources.get(name)
        if before is None and name == "output.weight":
            before = sources.get("token_embd.weight")
        if before is not None and before.shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, and {list(before.shape)} in the source"
            yield Finding("shapes", Level.ERROR, f"{name}: {shapes}")
            before = None
        if tensor.dtype not in NO_WEIGHTS:
            weights = comparison.weigh(tensor, before)
            seen.append(weights)
            yield weights
        done += tensor.n_bytes
        yield Scanned(done, total)
    yield from _values(seen)
    if source is not None:
        yield from _coverage(stored.keys(), sources.keys())
        yield from _errors(seen)


def _values(seen: Sequence[Weights]) -> Iterator[Finding]:
    broken = [f"{one.name} ({one.n_broken:,})" for one in seen if one.n_broken]
    if broken:
        yield Finding("values", Level.ERROR, f"NaN or infinite weights in {_few(broken)}")
    else:
        yield Finding("values", Level.OK, f"{sum(one.n_weights for one in seen):,} are finite")
    zero = [one.name for one in seen if one.is_zero]
    if zero:
        yield Finding("zeros", Level.NOTE, f"nothing but zeros in {_few(zero)}")
    large = [f"{one.name} ({one.n_large:,})" for one in seen if one.n_large]
    if large:
        yield Finding("f16", Level.NOTE, f"weights that f16 cannot hold in {_few(large)}")
    matrices = [one for one in seen if one.type in UNQUANTIZED and one.n_small]
    if matrices:
        n = sum(one.n_small for one in matrices)
        names = _few([one.name for one in matrices])
        yield Finding("f16", Level.NOTE, f"f16 would make {n:,} weights zero, in {names}")
    if not large and not matrices:
        yield Finding("f16", Level.OK, "holds every weight")


def _coverage(ours: Collection[str], theirs: Collection[str]) -> Iterator[Finding]:
    lacking = [name for name in theirs if name not in ours and name != "output.weight"]
    extra = [name for name in ours if name not in theirs and name != "output.weight"]
    if lacking:
        yield Finding("tensors", Level.ERROR, f"lacks {_few(lacking)}")
    if extra:
        yield Finding("tensors", Level.NOTE, f"the source has no {_few(extra)}")


def _errors(seen: Sequence[Weights]) -> Iterator[Finding]:
    compared = [one for one in seen if one.rel_rmse is not None and not one.n_broken]
    damaged, unusual = [], []
    for one in compared:
        error, usual = one.rel_rmse or 0.0, LOST.get(one.type)
        said = f"{one.name} {one.type.name} ({error:.3g})"
        if error > DAMAGED or (one.type is TensorType.F32 and error > 0):
            damaged.append(said)
        elif usual is not None and error > UNUSUAL * usual:
            unusual.append(said)
    if damaged:
        yield Finding("weights", Level.ERROR, f"not the source's: {_few(damaged)}")
    elif unusual:
        yield Finding("weights", Level.NOTE, f"lose more than usual: {_few(unusual)}")
    elif compared:
        worst = max(compared, key=lambda one: one.rel_rmse or 0.0)
        yield Finding(
            "weights", Level.OK,
            f"{len(compared)} tensors, at most {worst.rel_rmse:.3g} off ({worst.name})",
        )  # fmt: skip


def _facts(header: Header, source: Source) -> Iterator[Finding]:
    differ = dict(comparison.facts_that_differ(header, source))
    soft = {"tokenizer.chat_template", "tokenizer.ggml.eot_token_id"}
    for key, detail in differ.items():
        yield Finding("facts", Level.NOTE if key in soft else Level.ERROR, f"{key}: {detail}")
    if not differ:
        yield Finding("facts", Level.OK, f"{len(source.facts)} equal the source's")


def _run(path: Path, header: Header, source: Source) -> Iterator[Step]:
    """Yield how tokens and logits compare; a file that cannot be run is a finding."""
    try:
        ran = comparison.run(path, source)
    except (ModelLoadError, EngineError) as exc:
        yield Finding("runs", Level.ERROR, str(exc))
        return
    for detail in ran.differ:
        yield Finding("tokens", Level.ERROR, detail)
    if not ran.differ:
        yield Finding("tokens", Level.OK, f"{len(comparison.SAMPLES)} samples equal")
    found = ran.logits
    if found is None:
        level = Level.ERROR if ran.is_broken else Level.NOTE
        yield Finding("logits", level, f"not compared: {ran.why_not}")
        return
    yield found
    yield Finding(
        "logits", Level.OK if found.rel_rms <= _tolerated(header) else Level.ERROR,
        f"{found.rel_rms:.3g} off on {found.n_tokens} tokens, KL divergence {found.kld:.3g}, "
        f"same likeliest token {100 * found.same_top:.0f} %",
    )  # fmt: skip


def _tolerated(header: Header) -> float:
    """Return how far logits may be off before the file is called damaged."""
    if {tensor.type for tensor in header.tensors} <= UNQUANTIZED:
        return LOGITS_UNQUANTIZED
    n_bytes = sum(tensor.n_bytes for tensor in header.tensors)
    n_weights = sum(prod(tensor.shape) for tensor in header.tensors)
    return LOGITS_DAMAGED if 8 * n_bytes >= FEW_BITS * n_weights else LOGITS_DAMAGED_FEW_BITS


def _texts(header: Header) -> list[str]:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return [str(token) for token in tokens] if isinstance(tokens, list) else []


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def lines(steps: Sequence[Step]) -> list[str]:
    """Return the findings for a person, worst last."""
    findings = [step for step in steps if isinstance(step, Finding)]
    ordered = sorted(findings, key=lambda one: list(Level).index(one.level))
    return [f"{one.level:<6} {one.check:<14} {' '.join(one.detail.split())}" for one in ordered]


def main(arguments: Sequence[str] | None = None) -> int:
    """Lint from the command line; return 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m convert.lint", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--source", type=Path, help="checkpoint folder, or GGUF file")
    given = parser.parse_args(arguments)
    try:
        steps = list(lint(given.file, given.source))
    except EdgeAgentError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    print("\n".join(lines(steps)))
    return int(any(isinstance(s, Finding) and s.level is Level.ERROR for s in steps))


if __name__ == "__main__":
    sys.exit(main())
