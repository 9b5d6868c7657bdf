"""A Hugging Face checkpoint to one GGUF file, in one pass from safetensors.

Needs no torch and no transformers, holds a few chunks of rows in memory, and uses every core.
The tensors equal those of llama.cpp's own converter, and of its quantizer behind it, byte for
byte, except that a head is dropped that equals the embedding it is tied to.

    python -m convert.hf_to_gguf CHECKPOINT OUT.gguf --type q8_0
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import yaml

from convert import qwen2, qwen3, tokenizer
from convert.architecture import Architecture, Weight, whole_number
from convert.checkpoint import Checkpoint, Mapped, Stored, read_json
from convert.checkpoint import read as read_checkpoint
from convert.command_line import add_arguments, asked, run
from convert.devices import Sizes, sizes_of
from convert.file_types import Type
from convert.gguf_file import Entry, Slot, head, text, u32
from convert.lora import Adapter
from convert.stream import Move, Noted, Step, written
from convert.type_plan import Choice, Shaped, plan
from convert.wish import Wish
from edgeagent.engine.quantizer import Floats
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import TensorType, Value, ValueType

ARCHITECTURES = (qwen3.ARCHITECTURE, qwen2.ARCHITECTURE)

COMPARED_BYTES = 4 << 20
"""Of two tensors at a time."""
QUANTIZATION_VERSION = 2
GENERATION = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Pair:
    """A stored tensor and its place in the file."""

    stored: Stored
    """Where the weights lie: in the checkpoint, or in an adapter that was trained whole."""
    weight: Weight

    def shaped(self) -> Shaped:
        """Return what a type is chosen for; what is not quantized is F32, as llama.cpp has it."""
        return Shaped(self.weight.target, self.weight.shape, TensorType.F32)


def convert(
    source: Path, out: Path, wish: Wish | Type, n_threads: int | None = None
) -> Iterator[Step]:
    """Yield the steps of writing the checkpoint in `source` to the GGUF file `out`.

    A bare type wishes for nothing else. Costs two bytes read and the file written per weight;
    memory is about 5 MB per thread plus the tokenizer. Nothing is left under `out` unless the
    last step was yielded.

    Raises:
        ConversionError: the checkpoint cannot be converted, or the file cannot be written.
    """
    wish = Wish(Choice(wish)) if isinstance(wish, Type) else wish
    checkpoint = read_checkpoint(source)
    architecture = _architecture(checkpoint.config)
    pairs, notes = _match(checkpoint, architecture, wish.adapter)
    words = tokenizer.read(source, whole_number(checkpoint.config, "vocab_size"))
    model = architecture.model(checkpoint.config)
    planned = plan([pair.shaped() for pair in pairs], model, wish.choice, wish.important)
    entries = [
        text("general.architecture", architecture.name),
        text("general.type", "model"),
        *_general(source, wish.name, sum(pair.stored.n_weights for pair in pairs)),
        *architecture.hyperparameters(checkpoint.config),
        u32("general.file_type", wish.choice.kind.number),
        u32("general.quantization_version", QUANTIZATION_VERSION),
        *tokenizer.entries(words),
        *wish.entries(),
    ]
    notes += [*words.notes, *planned.notes]
    moves = []
    for pair, kind in zip(pairs, planned.types, strict=True):
        slot = Slot(pair.weight.target, kind, pair.weight.shape)
        importance, note = wish.importance_of(slot)
        notes += [note] if note else []
        moves.append(_move(pair, slot, importance, wish.adapter))
    front = head(entries, [move.slot for move in moves])
    yield from map(Noted, notes)
    yield from written(out, front, moves, n_threads)


def sizes(source: Path, adapter: Adapter | None = None) -> Sizes:
    """Return what a build's choice for a device wants to know of the checkpoint in `source`.

    Raises:
        ConversionError: the checkpoint cannot be converted.
    """
    checkpoint = read_checkpoint(source)
    architecture = _architecture(checkpoint.config)
    pairs, _ = _match(checkpoint, architecture, adapter)
    metadata = {entry.key: entry.value for entry in architecture.hyperparameters(checkpoint.config)}
    model = architecture.model(checkpoint.config)
    return sizes_of(metadata, [pair.shaped() for pair in pairs], model)


def sources(source: Path) -> dict[str, Stored]:
    """Return where each tensor of a GGUF file of the checkpoint comes from, by its name there.

    Raises:
        ConversionError: the checkpoint cannot be converted.
    """
    checkpoint = read_checkpoint(source)
    pairs, _ = _match(checkpoint, _architecture(checkpoint.config), None)
    return {pair.weight.target: pair.stored for pair in pairs}


def hyperparameters(source: Path) -> Sequence[Entry]:
    """Return what a GGUF file of the checkpoint says of its architecture.

    Raises:
        ConversionError: the checkpoint cannot be converted.
    """
    config = read_checkpoint(source).config
    architecture = _architecture(config)
    return [
        text("general.architecture", architecture.name),
        *architecture.hyperparameters(config),
    ]


def _move(pair: Pair, slot: Slot, importance: Floats | None, adapter: Adapter | None) -> Move:
    name = pair.weight.source
    if adapter is None or name not in adapter.updates:
        return Move(pair.stored, slot, importance)
    change = partial(adapter.merged, name)
    return Move(pair.stored, slot, importance, change, adapter.needs_all_rows(name))


def _architecture(config: Mapping[str, Any]) -> Architecture:
    classes = config.get("architectures") or []
    for architecture in ARCHITECTURES:
        if isinstance(classes, list) and any(name in classes for name in architecture.classes):
            return architecture
    known = ", ".join(sorted(name for a in ARCHITECTURES for name in a.classes))
    raise ConversionError(f"config.json: the architecture {classes} is not known; known: {known}")


def _match(
    checkpoint: Checkpoint, architecture: Architecture, adapter: Adapter | None
) -> tuple[list[Pair], list[str]]:
    """Pair every stored tensor with its place, in the order they are stored."""
    weights = {weight.source: weight for weight in architecture.weights(checkpoint.config)}
    notes = _untie(checkpoint, architecture, adapter, weights)
    pairs = []
    for name, stored in checkpoint.tensors.items():
        weight = weights.pop(name, None)
        if weight is not None:
            pairs.append(_pair(stored, weight))
        elif name != architecture.head:
            raise ConversionError(
                f"{stored.shard} has the tensor {name}, which {architecture.name} does not; "
                "config.json may be of another model"
            )
    embedding = checkpoint.tensors.get(architecture.embedding)
    if weights.keys() == {architecture.head} and _is_tied(checkpoint) and embedding is not None:
        pairs.append(_pair(embedding, weights.pop(architecture.head)))
    if weights:
        raise ConversionError(
            f"{checkpoint.folder} lacks the tensor {next(iter(weights))} "
            f"({len(weights)} missing in all); download the checkpoint again"
        )
    return (pairs if adapter is None else _adapted(pairs, checkpoint, architecture, adapter)), notes


def _adapted(
    pairs: list[Pair], checkpoint: Checkpoint, architecture: Architecture, adapter: Adapter
) -> list[Pair]:
    """Check that the adapter belongs to the checkpoint; put in what it trained whole."""
    shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    has_no_head = _is_tied(checkpoint) and architecture.head not in shapes
    adapter.check(shapes, {architecture.head: architecture.embedding} if has_no_head else {})
    return [
        Pair(adapter.replaces(pair.weight.source) or pair.stored, pair.weight) for pair in pairs
    ]


def _pair(stored: Stored, weight: Weight) -> Pair:
    if stored.shape != weight.shape:
        raise ConversionError(
            f"{stored.shard}: {stored.name} has the shape {list(stored.shape)}, but config.json "
            f"asks for {list(weight.shape)}"
        )
    return Pair(stored, weight)


def _is_tied(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.config.get("tie_word_embeddings", False))


def _untie(
    checkpoint: Checkpoint,
    architecture: Architecture,
    adapter: Adapter | None,
    weights: dict[str, Weight],
) -> list[str]:
    """Take the head out of `weights` where the embedding serves as head; return what to note."""
    stored = checkpoint.tensors.get(architecture.head)
    embedding = checkpoint.tensors.get(architecture.embedding)
    if not _is_tied(checkpoint):
        return []
    if adapter is not None and adapter.unties(architecture.head, architecture.embedding):
        return [f"the adapter breaks the tie of head and embedding; {architecture.head} is kept"]
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
    return all(
        left[at : at + COMPARED_BYTES] == right[at : at + COMPARED_BYTES]
        for at in range(0, len(left), COMPARED_BYTES)
    )


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m convert.hf_to_gguf", description=__doc__)
    parser.add_argument("source", type=Path, help="folder with a Hugging Face checkpoint")
    parser.add_argument("out", type=Path, help="GGUF file to write")
    parser.add_argument("--type", default="q8_0", help="one of: " + ", ".join(Type))
    parser.add_argument("--name", default="", help="general.name, instead of the folder's")
    parser.add_argument("--lora", type=Path, help="folder with an adapter to merge in")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    return run(given.out, lambda: convert(given.source, given.out, asked(given)))


if __name__ == "__main__":
    sys.exit(main())
