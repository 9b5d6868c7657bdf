"""An importance matrix: how strongly each input of each weight is driven, as llama.cpp stores it.

Reads the GGUF form and the older `.dat`, writes both. Knows no model; who collects the sums is
`convert.imatrix`, who uses them is the quantizer.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/tools/imatrix and tools/quantize.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from convert.gguf_file import Entry, Slot, head, padding, text, u32
from convert.output import replacing
from edgeagent import gguf_header
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import MAGIC, Header, TensorType, ValueType

TYPE = "imatrix"
DATASETS = "imatrix.datasets"
CHUNK_COUNT = "imatrix.chunk_count"
CHUNK_SIZE = "imatrix.chunk_size"
SUMS, COUNTS = ".in_sum2", ".counts"

INT32 = struct.Struct("<i")
MAX_ENTRIES = 1 << 20

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sums:
    """What was collected for one weight, or for each of its experts."""

    in_sum2: Floats
    """Sum over the tokens of the squared input, shape (n_experts, n_in)."""
    counts: Floats
    """Tokens that were seen, shape (n_experts,); whole numbers."""


@dataclass(frozen=True, slots=True)
class Importance:
    """A whole importance matrix."""

    sums: Mapping[str, Sums]
    """By the weight's name in the model's GGUF file."""
    datasets: tuple[str, ...]
    """What it was collected on, names of files mostly."""
    chunk_count: int
    chunk_size: int
    """Tokens of a chunk."""

    def weights(self, name: str) -> Floats | None:
        """Return the mean squared inputs of a weight, shape (n_experts * n_in,); None if unseen.

        An expert that no token reached has ones, as llama.cpp gives it.
        """
        found = self.sums.get(name)
        if found is None:
            return None
        counts = np.floor(found.counts + np.float32(0.5))[:, None]  # llama.cpp keeps whole ones
        seen = counts[:, 0] > 0
        counts = np.where(seen[:, None], counts, np.float32(1))
        means = np.where(seen[:, None], found.in_sum2 / counts, np.float32(1))
        return np.ascontiguousarray(means.reshape(-1), np.float32)


def read(path: Path) -> Importance:
    """Return the importance matrix in the file, GGUF or `.dat`.

    Raises:
        ConversionError: the file cannot be read, is damaged, or holds something else.
        ModelLoadError: it begins as a GGUF file and its head is damaged.
    """
    try:
        with path.open("rb") as file:
            begins_as_gguf = file.read(4) == MAGIC
        raw = b"" if begins_as_gguf else path.read_bytes()
    except OSError as exc:
        raise ConversionError(f"cannot read {path}: {exc.strerror or exc}") from exc
    return _read_gguf(path) if begins_as_gguf else _Dat(path, raw).importance()


def write(found: Importance, path: Path) -> None:
    """Write the matrix as GGUF; it appears under its name only when it is whole.

    Raises:
        ConversionError: the file cannot be written.
    """
    entries = [
        text("general.type", TYPE),
        Entry(DATASETS, ValueType.STRING, list(found.datasets)),
        u32(CHUNK_COUNT, found.chunk_count),
        u32(CHUNK_SIZE, found.chunk_size),
    ]
    arrays: dict[str, Floats] = {}
    for name, sums in sorted(found.sums.items()):
        arrays[name + SUMS] = sums.in_sum2
        arrays[name + COUNTS] = sums.counts[:, None]
    slots = [Slot(name, TensorType.F32, values.shape) for name, values in arrays.items()]
    with replacing(path) as file:
        file.write(head(entries, slots))
        for values in arrays.values():
            file.write(np.ascontiguousarray(values, "<f4").tobytes())
            file.write(bytes(padding(values.nbytes)))


def write_dat(found: Importance, path: Path) -> None:
    """Write the matrix in the form from before 2025, which some forks still want.

    Raises:
        ConversionError: the file cannot be written.
    """
    parts = [INT32.pack(len(found.sums))]
    for name in sorted(found.sums):
        means = found.weights(name)
        assert means is not None
        encoded = name.encode()
        n_calls = max(1, found.chunk_count)
        parts += [INT32.pack(len(encoded)), encoded, INT32.pack(n_calls), INT32.pack(means.size)]
        parts.append((means * np.float32(n_calls)).astype("<f4").tobytes())
    dataset = ", ".join(found.datasets).encode()
    parts += [INT32.pack(found.chunk_count), INT32.pack(len(dataset)), dataset]
    with replacing(path) as file:
        file.write(b"".join(parts))


def _read_gguf(path: Path) -> Importance:
    header = gguf_header.read(path)
    kind = header.text("general.type") or TYPE
    if kind != TYPE:
        raise ConversionError(f"{path} holds {kind!r}, not an importance matrix")
    if header.text("general.architecture") and DATASETS not in header.metadata:
        raise ConversionError(f"{path} holds a model, not an importance matrix")
    datasets = header.metadata.get(DATASETS)
    chunks = [header.number(key) for key in (CHUNK_COUNT, CHUNK_SIZE)]
    if not isinstance(datasets, list) or None in chunks:
        raise ConversionError(
            f"{path} is no importance matrix: it lacks {DATASETS}, {CHUNK_COUNT} or {CHUNK_SIZE}"
        )
    sums = {name: _pair(path, header, name) for name in _names(path, header)}
    if not sums:
        raise ConversionError(f"{path} holds no sums; the importance matrix is empty")
    return Importance(sums, tuple(map(str, datasets)), int(chunks[0] or 0), int(chunks[1] or 0))


def _names(path: Path, header: Header) -> list[str]:
    names = dict.fromkeys(
        tensor.name.removesuffix(SUMS).removesuffix(COUNTS) for tensor in header.tensors
    )
    for tensor in header.tensors:
        if not tensor.name.endswith((SUMS, COUNTS)) or not tensor.name.isprintable():
            raise ConversionError(f"{path}: {tensor.name!r} is neither {SUMS} nor {COUNTS}")
    return list(names)


def _pair(path: Path, header: Header, name: str) -> Sums:
    by_name = {tensor.name: tensor for tensor in header.tensors}
    values: list[Floats] = []
    for suffix in (SUMS, COUNTS):
        tensor = by_name.get(name + suffix)
        if tensor is None:
            raise ConversionError(f"{path} has one half of {name}, and no {name}{suffix}")
        if tensor.type is not TensorType.F32:
            raise ConversionError(f"{path}: {tensor.name} is {tensor.type.name}, not F32")
        with path.open("rb") as file:
            file.seek(tensor.offset)
            flat = np.frombuffer(file.read(tensor.n_bytes), "<f4").astype(np.float32)
        values.append(flat.reshape(-1, tensor.shape[-1]))
    in_sum2, counts = values
    if counts.size != len(in_sum2):
        raise ConversionError(
            f"{path}: {name} has sums for {len(in_sum2)} experts and counts for {counts.size}"
        )
    _check_values(path, name, in_sum2, counts)
    return Sums(in_sum2, counts.reshape(-1))


def _check_values(path: Path, name: str, *arrays: Floats) -> None:
    for values in arrays:
        if not np.isfinite(values).all() or (values < 0).any():
            raise ConversionError(f"{path}: {name} holds a NaN, an infinity or a negative sum")


class _Dat:
    """A place in a `.dat` file that moves forward as values are taken."""

    def __init__(self, path: Path, raw: bytes) -> None:
        self._path = path
        self._raw = raw
        self._at = 0

    def importance(self) -> Importance:
        n_entries = self._number("entries", MAX_ENTRIES)
        sums = dict(self._entry() for _ in range(n_entries))
        if not sums:
            raise self._damaged("it has no entries")
        # The first files of this form ended here.
        if self._at == len(self._raw):
            return Importance(sums, (), 0, 0)
        chunk_count = self._number("chunks", 1 << 30)
        dataset = self._bytes(self._number("bytes of a data set's name", len(self._raw)))
        if self._at != len(self._raw):
            raise self._damaged(f"{len(self._raw) - self._at} bytes follow its end")
        return Importance(sums, (dataset.decode("utf-8", "replace"),), chunk_count, 0)

    def _entry(self) -> tuple[str, Sums]:
        name = self._bytes(self._number("bytes of a name", 1 << 12)).decode("utf-8", "replace")
        n_calls = self._number("calls", 1 << 30)
        n_values = self._number("values", len(self._raw) // 4)
        values = np.frombuffer(self._bytes(4 * n_values), "<f4").astype(np.float32)
        if not name or not name.isprintable() or not n_values:
            raise self._damaged("an entry has no name or no values")
        _check_values(self._path, name, values)
        # The form does not say how many experts share the values, and their mean needs it not.
        # Without calls the values are the means already.
        return name, Sums(values[None, :], np.array([max(1, n_calls)], np.float32))

    def _number(self, what: str, limit: int) -> int:
        (n,) = INT32.unpack(self._bytes(4))
        if not 0 <= n <= limit:
            raise self._damaged(f"{n} {what} cannot be")
        return int(n)

    def _bytes(self, n: int) -> bytes:
        if n > len(self._raw) - self._at:
            raise self._damaged(f"it ends at byte {len(self._raw)}, inside an entry")
        taken = self._raw[self._at : self._at + n]
        self._at += n
        return taken

    def _damaged(self, why: str) -> ConversionError:
        return ConversionError(
            f"{self._path} is no importance matrix or a damaged one: {why}; make it again"
        )
