"""A Hugging Face checkpoint folder: its config, and where each tensor's bytes lie.

Reads safetensors' own format with nothing but the standard library, and maps the files instead
of loading them. Knows no architecture and no tokenizer.
Source: https://huggingface.co/docs/safetensors, format section (8 bytes little-endian header
length, JSON header, data).
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgeagent.errors import ConversionError
from edgeagent.gguf_header import TensorType

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEADER_LIMIT = 100_000_000
"""Bytes; the limit that the safetensors library sets too."""

DTYPES: Mapping[str, TensorType] = {
    "F32": TensorType.F32,
    "F16": TensorType.F16,
    "BF16": TensorType.BF16,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor as it lies in a safetensors file."""

    name: str
    dtype: TensorType
    shape: tuple[int, ...]
    shard: Path
    offset: int
    """Bytes from the start of the shard."""

    @property
    def n_weights(self) -> int:
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.dtype.n_bytes(self.n_weights)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that can be converted as far as its files go."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    """By name; shard by shard, within a shard by name: the order that reads forward."""


def read(folder: Path) -> Checkpoint:
    """Return the checkpoint in the folder. Costs the headers only, no tensor is touched.

    Raises:
        ConversionError: no config or tensors, a shard missing or cut short, an index that
            contradicts its shards, or weights that are already quantized.
    """
    if not folder.is_dir():
        raise ConversionError(f"{folder} is not a folder with a Hugging Face checkpoint")
    config = read_json(folder / "config.json")
    quantized = config.get("quantization_config")
    if quantized is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise ConversionError(
            f"{folder} is already quantized ({method}); convert the checkpoint that it was made "
            "from, or save it de-quantized first"
        )
    weight_map = _weight_map(folder)
    tensors: dict[str, Stored] = {}
    for shard in sorted(set(weight_map.values())) if weight_map else [SINGLE]:
        for name, stored in sorted(stored_in(folder / shard).items()):
            if weight_map and weight_map.get(name) != shard:
                raise ConversionError(
                    f"{folder / INDEX} places {name} in {weight_map.get(name)}, but {shard} has "
                    "it; download the checkpoint again"
                )
            tensors[name] = stored
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        raise ConversionError(
            f"{folder / INDEX} places {missing[0]} in {weight_map[missing[0]]}, which does not "
            f"have it ({len(missing)} missing in all); download the checkpoint again"
        )
    return Checkpoint(folder, config, tensors)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file.

    Raises:
        ConversionError: it is missing, is not JSON, or is not an object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConversionError(f"cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConversionError(f"{path} is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ConversionError(f"{path} holds no JSON object")
    return found


class Mapped:
    """A shard's bytes, mapped; pages are read when they are looked at and cost no memory of ours.

    Keep one at a time: a new shard's map replaces the old one.
    """

    def __init__(self) -> None:
        self._shard: Path | None = None
        self._raw = memoryview(b"")

    def bytes_of(self, stored: Stored) -> memoryview:
        """Return a view of the tensor's bytes, valid as long as anything refers to it."""
        if stored.shard != self._shard:
            with stored.shard.open("rb") as file:
                self._raw = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            self._shard = stored.shard
        return self._raw[stored.offset : stored.offset + stored.n_bytes]


def _weight_map(folder: Path) -> dict[str, str]:
    """Return tensor name to shard name, empty for a checkpoint in one file."""
    if (folder / SINGLE).is_file():
        return {}
    if not (folder / INDEX).is_file():
        raise ConversionError(f"{folder} has no {SINGLE} and no {INDEX}; {_instead(folder)}")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConversionError(f"{folder / INDEX} has no weight_map; download it again")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ConversionError(f"{folder / INDEX} places {name} in {shard!r}, no file beside it")
        if not (folder / shard).is_file():
            raise ConversionError(
                f"{folder / shard} is missing ({name} lies in it); download the checkpoint again"
            )
    return weight_map


def _instead(folder: Path) -> str:
    """Return what a person can do with what the folder holds in place of safetensors."""
    if (folder / "adapter_config.json").is_file():
        return "it holds a LoRA adapter: merge it into its base model first"
    if any(folder.glob("*.bin")):
        return "its .bin files are pickles, which run code when read: save it as safetensors first"
    return "download the checkpoint again"


def stored_in(shard: Path) -> dict[str, Stored]:
    """Return what the safetensors file lists, every tensor checked to lie inside the file.

    Raises:
        ConversionError: it cannot be read, is damaged or cut short, or holds another dtype.
    """
    try:
        with shard.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_LIMIT):
                raise ConversionError(
                    f"{shard} is cut short: {size} bytes, its header alone needs {length + 8}"
                )
            header = json.loads(file.read(length))
    except OSError as exc:
        raise ConversionError(f"cannot read {shard}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConversionError(f"{shard} is not a safetensors file: its header is no JSON") from exc
    if not isinstance(header, dict):
        raise ConversionError(f"{shard} is not a safetensors file: its header is no JSON object")
    return {
        name: _stored(name, entry, shard, 8 + length, size)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _stored(name: str, entry: Any, shard: Path, start: int, size: int) -> Stored:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        well_formed = all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as exc:
        raise ConversionError(f"{shard} describes {name} without dtype, shape or offsets") from exc
    if dtype not in DTYPES:
        raise ConversionError(
            f"{shard} stores {name} as {dtype}, not as F32, F16 or BF16; "
            "save the checkpoint in one of these first"
        )
    stored = Stored(name, DTYPES[dtype], shape, shard, start + begin) if well_formed else None
    if stored is None or end - begin != stored.n_bytes:
        raise ConversionError(f"{shard} gives {name} the shape {shape} in {begin}..{end} bytes")
    if start + end > size:
        raise ConversionError(
            f"{shard} is cut short: {name} ends at byte {start + end}, the file has {size}; "
            "download it again"
        )
    return stored
