"""A GGUF file to a GGUF file of another type, as llama.cpp's quantizer would write it.

Head and tensors equal llama_model_quantize's byte for byte, in a fraction of its memory. Goes
through the same plan and the same pass as a checkpoint's conversion.

    python -m convert.quantize IN.gguf OUT.gguf q4_k_m --imatrix F
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from convert.checkpoint import Stored
from convert.command_line import add_arguments, asked, run
from convert.gguf_file import Carried, Entry, Slot, head, text, u32
from convert.recipes import Model
from convert.stream import Move, Noted, Step, written
from convert.type_plan import Shaped, order_of, plan
from convert.wish import Wish
from edgeagent import gguf_header
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import ALIGNMENT_KEY, NO_WEIGHTS, Header, Tensor, TensorType

QUANTIZATION_VERSION = 2
SPLIT = ("split.no", "split.count", "split.tensors.count")
SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def quantize(path: Path, out: Path, wish: Wish, n_threads: int | None = None) -> Iterator[Step]:
    """Yield the steps of writing the GGUF file `path` to the GGUF file `out`.

    Costs the file read and the other written; memory is about 5 MB per thread plus the head.
    Nothing is left under `out` unless the last step was yielded.

    Raises:
        ConversionError: the file cannot be quantized as wished, or the other cannot be written.
        ModelLoadError: the file is missing, damaged or cut short.
    """
    header = gguf_header.read(path)
    _check(path, header)
    tensors = sorted(header.tensors, key=lambda tensor: order_of(tensor.name))
    shaped = [Shaped(tensor.name, tensor.shape, tensor.type) for tensor in tensors]
    planned = plan(shaped, model_of(path, header), wish.choice, wish.important)
    moves, notes = [], [*planned.notes]
    for tensor, kind in zip(tensors, planned.types, strict=True):
        _check_source(path, tensor, kind, wish)
        slot = Slot(tensor.name, kind, tensor.shape)
        importance, note = wish.importance_of(slot)
        notes += [note] if note and tensor.type is not kind else []
        stored = Stored(tensor.name, tensor.type, tensor.shape, path, tensor.offset)
        moves.append(Move(stored, slot, importance))
    entries = [*_carried(path, header, wish), *_added(wish)]
    front = head(entries, [move.slot for move in moves])
    yield from map(Noted, notes)
    yield from written(out, front, moves, n_threads)


def model_of(path: Path, header: Header) -> Model:
    """Return what the choice of types wants to know of the model in the file.

    Raises:
        ConversionError: the file does not say it.
    """
    architecture = header.text("general.architecture")
    if not architecture:
        raise ConversionError(f"{path} does not say its architecture; it holds no model")
    n_layers = header.number(f"{architecture}.block_count")
    n_head = _of_first_layer(header, f"{architecture}.attention.head_count")
    if n_layers is None or n_head is None:
        raise ConversionError(f"{path} does not say its blocks and heads ({architecture}.*)")
    n_head_kv = _of_first_layer(header, f"{architecture}.attention.head_count_kv")
    return Model(
        architecture,
        n_layers,
        n_head,
        n_head if n_head_kv is None else n_head_kv,
        header.number(f"{architecture}.expert_count") or 0,
    )


def _of_first_layer(header: Header, key: str) -> int | None:
    """Return a number that some models give for every layer."""
    value = header.metadata.get(key)
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, int) else None


def _check(path: Path, header: Header) -> None:
    if not header.tensors:
        raise ConversionError(f"{path} holds no tensors; there is nothing to quantize")
    if header.number("split.count") not in (None, 0, 1) or SHARD.search(path.name):
        raise ConversionError(
            f"{path} is one part of a model in several files; merge them with llama.cpp's "
            "gguf-split first, or convert the checkpoint"
        )


def _check_source(path: Path, tensor: Tensor, kind: TensorType, wish: Wish) -> None:
    if tensor.type is kind:
        return
    if tensor.type in NO_WEIGHTS:
        raise ConversionError(f"{path}: {tensor.name} is {tensor.type.name}, which is no weights")
    if tensor.type.block > 1 and not wish.may_requantize:
        raise ConversionError(
            f"{path}: {tensor.name} is {tensor.type.name} already and would lose twice; start "
            "from an f16, bf16 or f32 file, or say --allow-requantize"
        )


def _carried(path: Path, header: Header, wish: Wish) -> Iterator[Carried | Entry]:
    """Yield the metadata as it was, without what the new file says anew.

    The alignment is left out: the new file has the usual one.
    """
    anew = {entry.key for entry in _added(wish)} | {*SPLIT, ALIGNMENT_KEY}
    with path.open("rb") as file:
        for key, (begin, end) in header.spans.items():
            if key == "general.name" and wish.name:
                yield text(key, wish.name)
            elif key not in anew:
                file.seek(begin)
                yield Carried(key, file.read(end - begin))


def _added(wish: Wish) -> list[Entry]:
    return [
        u32("general.quantization_version", QUANTIZATION_VERSION),
        u32("general.file_type", wish.choice.kind.number),
        *wish.entries(),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Quantize from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m convert.quantize", description=__doc__)
    parser.add_argument("source", type=Path, help="GGUF file")
    parser.add_argument("out", type=Path, help="GGUF file to write")
    parser.add_argument("type", help="of the new file, such as q4_k_m")
    parser.add_argument("--allow-requantize", action="store_true", help="even if it loses twice")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    return run(given.out, lambda: quantize(given.source, given.out, asked(given)))


if __name__ == "__main__":
    sys.exit(main())
