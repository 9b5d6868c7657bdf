"""A Hugging Face checkpoint to one GGUF file, in one pass from safetensors.

Needs no torch and no transformers, holds a few chunks of rows in memory, and uses every core.
The tensors equal llama.cpp's own converter's byte for byte, except that a tied head is dropped.

    python -m convert.hf_to_gguf CHECKPOINT OUT.gguf --type q8_0
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import yaml

from convert import qwen3, tokenizer
from convert.architecture import Architecture, Weight, whole_number
from convert.checkpoint import Checkpoint, Mapped, Stored, read_json
from convert.checkpoint import read as read_checkpoint
from convert.gguf_file import Entry, Slot, head, padding, replacing, text, u32
from edgeagent.engine import quantizer
from edgeagent.errors import ConversionError, EdgeAgentError
from edgeagent.gguf_header import TensorType, Value, ValueType

ARCHITECTURES = (qwen3.ARCHITECTURE,)

CHUNK_WEIGHTS = 1 << 20
"""Weights that one thread converts at a time: 4 MiB as float32."""
QUANTIZATION_VERSION = 2
GENERATION = "generation_config.json"


class Type(StrEnum):
    """What a file is called after: the type of its large tensors."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"


FILE_TYPES: Mapping[Type, tuple[TensorType, int]] = {
    Type.F32: (TensorType.F32, 0),
    Type.F16: (TensorType.F16, 1),
    Type.BF16: (TensorType.BF16, 32),
    Type.Q8_0: (TensorType.Q8_0, 7),
}
"""Tensor type, and the number that `general.file_type` gives it."""


@dataclass(frozen=True, slots=True)
class Noted:
    """Something about the checkpoint that the person should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Converted:
    """One more tensor is in the file."""

    name: str
    done_bytes: int
    total_bytes: int
    """Of the file."""


Step: TypeAlias = Noted | Converted


def convert(
    source: Path, out: Path, kind: Type, name: str = "", n_threads: int | None = None
) -> Iterator[Step]:
    """Yield the steps of writing the checkpoint in `source` to the GGUF file `out`.

    `name` goes into `general.name`; without it the model card or the folder's name does.
    Costs two bytes read and the file written per weight; memory is about 12 MB per thread plus
    the tokenizer. Nothing is left under `out` unless the last step was yielded.

    Raises:
        ConversionError: the checkpoint cannot be converted, or the file cannot be written.
    """
    checkpoint = read_checkpoint(source)
    architecture = _architecture(checkpoint.config)
    pairs, notes = _match(checkpoint, architecture)
    words = tokenizer.read(source, whole_number(checkpoint.config, "vocab_size"))
    yield from (Noted(note) for note in (*notes, *words.notes))
    target, file_type = FILE_TYPES[kind]
    slots = [Slot(weight.target, _type(weight, target), weight.shape) for _, weight in pairs]
    entries = [
        text("general.architecture", architecture.name),
        text("general.type", "model"),
        *_general(source, name, sum(stored.n_weights for stored, _ in pairs)),
        *architecture.hyperparameters(checkpoint.config),
        u32("general.file_type", file_type),
        u32("general.quantization_version", QUANTIZATION_VERSION),
        *tokenizer.entries(words),
    ]
    yield from _write(out, entries, slots, [stored for stored, _ in pairs], n_threads)


def _architecture(config: Mapping[str, Any]) -> Architecture:
    classes = config.get("architectures") or []
    for architecture in ARCHITECTURES:
        if architecture.classes.intersection(classes):
            return architecture
    known = ", ".join(sorted(name for a in ARCHITECTURES for name in a.classes))
    raise ConversionError(f"config.json: the architecture {classes} is not known; known: {known}")


def _match(
    checkpoint: Checkpoint, architecture: Architecture
) -> tuple[list[tuple[Stored, Weight]], list[str]]:
    """Pair every stored tensor with its place, in the order they are stored."""
    weights = {weight.source: weight for weight in architecture.weights(checkpoint.config)}
    notes = _untie(checkpoint, architecture, weights)
    pairs = []
    for name, stored in checkpoint.tensors.items():
        weight = weights.pop(name, None)
        if weight is None:
            if name == architecture.head:
                continue
            raise ConversionError(
                f"{stored.shard} has the tensor {name}, which {architecture.name} does not; "
                "config.json may be of another model"
            )
        if stored.shape != weight.shape:
            raise ConversionError(
                f"{stored.shard}: {name} has the shape {list(stored.shape)}, but config.json "
                f"asks for {list(weight.shape)}"
            )
        pairs.append((stored, weight))
    if weights:
        raise ConversionError(
            f"{checkpoint.folder} lacks the tensor {next(iter(weights))} "
            f"({len(weights)} missing in all); download the checkpoint again"
        )
    return pairs, notes


def _untie(
    checkpoint: Checkpoint, architecture: Architecture, weights: dict[str, Weight]
) -> list[str]:
    """Take the head out of `weights` where the embedding serves as head; return what to note."""
    stored = checkpoint.tensors.get(architecture.head)
    embedding = checkpoint.tensors.get(architecture.embedding)
    if not checkpoint.config.get("tie_word_embeddings", False):
        return []
    if stored is None or embedding is None:
        del weights[architecture.head]
        return []
    if _are_equal(stored, embedding):
        del weights[architecture.head]
        return [
            f"{stored.name} equals the embedding it is tied to and was left out, "
            f"which saves {stored.n_weights:,} weights"
        ]
    return [
        f"{stored.name} differs from the embedding that config.json ties it to; "
        "kept, the training broke the tie"
    ]


def _are_equal(one: Stored, other: Stored) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    left, right = Mapped().bytes_of(one), Mapped().bytes_of(other)
    step = 4 * CHUNK_WEIGHTS
    return all(left[at : at + step] == right[at : at + step] for at in range(0, len(left), step))


def _type(weight: Weight, target: TensorType) -> TensorType:
    """Return the type that llama.cpp's converter gives the tensor."""
    if len(weight.shape) < 2 or weight.target.endswith("_norm.weight"):
        return TensorType.F32
    return TensorType.F16 if weight.shape[-1] % target.block else target


def _general(source: Path, name: str, n_weights: int) -> Iterator[Entry]:
    """Yield what gguf-py gathers from the model card, generation config and folder name."""
    try:
        metadata = gguf.Metadata.load(None, source, name or None, n_weights)
    except (yaml.YAMLError, ValueError) as exc:
        raise ConversionError(
            f"{source}: README.md or its neighbours are malformed: {exc}"
        ) from exc
    # transformers' name for it; gguf-py 0.19 knows only its own, llama.cpp's copy knows both.
    if metadata.sampling_penalty_repeat is None and (source / GENERATION).is_file():
        penalty = read_json(source / GENERATION).get("repetition_penalty")
        metadata.sampling_penalty_repeat = penalty
    metadata.name = metadata.name or source.resolve().name
    metadata.size_label = metadata.size_label or gguf.size_label(n_weights, n_weights, 0, 0)
    # A writer without a file collects the keys, their order and their types.
    collected = gguf.GGUFWriter(None, "")
    metadata.set_gguf_meta_model(collected)
    for key, found in collected.kv_data[0].items():
        if key != "general.architecture":
            element = found.sub_type if found.sub_type is not None else found.type
            value: Value = found.value
            if isinstance(value, list):
                element = gguf.GGUFValueType.get_type(value[0]) if value else element
            yield Entry(key, ValueType(int(element)), value)


def _write(
    out: Path,
    entries: Sequence[Entry],
    slots: Sequence[Slot],
    stored: Sequence[Stored],
    n_threads: int | None,
) -> Iterator[Converted]:
    front = head(entries, slots)
    total = len(front) + sum(slot.n_bytes + padding(slot.n_bytes) for slot in slots)
    _check_room(out, total)
    done = len(front)
    n_threads = n_threads or os.cpu_count() or 1
    with replacing(out) as file, ThreadPoolExecutor(n_threads) as pool:
        file.write(front)
        mapped = Mapped()
        for slot, tensor in zip(slots, stored, strict=True):
            for chunk in _chunks(mapped.bytes_of(tensor), tensor, slot, pool, n_threads):
                file.write(chunk)
            file.write(bytes(padding(slot.n_bytes)))
            done += slot.n_bytes + padding(slot.n_bytes)
            yield Converted(slot.name, done, total)


def _check_room(out: Path, n_bytes: int) -> None:
    if out.is_dir() or not out.parent.is_dir():
        raise ConversionError(f"{out} cannot be written: name a file in a folder that exists")
    free = shutil.disk_usage(out.parent).free
    if free < n_bytes:
        raise ConversionError(
            f"{out} needs {n_bytes:,} bytes and the disk has {free:,} left; make room first"
        )


def _chunks(
    raw: memoryview, tensor: Stored, slot: Slot, pool: ThreadPoolExecutor, n_threads: int
) -> Iterator[memoryview]:
    """Yield the tensor's bytes in the slot's type, in order, a few chunks ahead of the reader."""
    n_per_row = slot.shape[-1]
    step = tensor.dtype.n_bytes(max(1, CHUNK_WEIGHTS // n_per_row) * n_per_row)
    parts = (raw[at : at + step] for at in range(0, len(raw), step))
    if tensor.dtype is slot.type:
        yield from parts
        return
    ahead: deque[Future[memoryview]] = deque()
    for part in parts:
        ahead.append(pool.submit(_chunk, part, tensor.dtype, slot.type, n_per_row))
        if len(ahead) > n_threads:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _chunk(part: memoryview, source: TensorType, target: TensorType, n_per_row: int) -> memoryview:
    return quantizer.encode(quantizer.widen(part, source), target, n_per_row).data


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m convert.hf_to_gguf", description=__doc__)
    parser.add_argument("source", type=Path, help="folder with a Hugging Face checkpoint")
    parser.add_argument("out", type=Path, help="GGUF file to write")
    parser.add_argument("--type", dest="kind", type=Type, choices=list(Type), default=Type.Q8_0)
    parser.add_argument("--name", default="", help="general.name, instead of the folder's")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        for step in convert(given.source, given.out, given.kind, given.name):
            report(step)
    except EdgeAgentError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(given.out)
    return 0


def report(step: Step) -> None:
    """Print a step for a person, to stderr; progress only where it can be drawn over."""
    match step:
        case Noted(text=note):
            print(f"note: {note}", file=sys.stderr)
        case Converted(done_bytes=done, total_bytes=total) if sys.stderr.isatty():
            end = "\n" if done == total else "\r"
            print(f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB", end=end, file=sys.stderr)
        case Converted():
            pass


if __name__ == "__main__":
    sys.exit(main())
