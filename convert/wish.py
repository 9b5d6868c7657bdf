"""What a person wants of a GGUF file, beside its tensors: types, importance, adapter, name.

Shared by `convert.hf_to_gguf` and `convert.quantize`, so that the same wish gives the same bytes
whether it starts from a checkpoint or from a GGUF file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.file_types import file_type, tensor_type
from convert.gguf_file import Entry, Slot, text, u32
from convert.importance import Importance
from convert.importance import read as read_importance
from convert.lora import Adapter
from convert.lora import read as read_adapter
from convert.type_plan import EMBEDDINGS, Choice, overrides
from edgeagent.engine.quantizer import Floats
from edgeagent.errors import ConversionError

LONGEST_TEXT = 127
"""Bytes of a text that llama.cpp's quantizer adds; it cuts the rest off."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a person wants the file."""

    choice: Choice
    name: str = ""
    """For `general.name`; "" leaves it to what was there before."""
    importance: Importance | None = None
    importance_file: str = ""
    """Where it was read from, as the person said it; the file keeps it."""
    adapter: Adapter | None = None
    """What is merged into a checkpoint's weights on their way."""
    may_requantize: bool = False
    """Whether weights that are already quantized may be quantized again, and lose twice."""

    @property
    def important(self) -> Collection[str] | None:
        """Names of the tensors that the importance matrix knows; None where there is none."""
        return None if self.importance is None else self.importance.sums.keys()

    def importance_of(self, slot: Slot) -> tuple[Floats | None, str]:
        """Return what each column of the tensor weighs, and what to tell the person of it or "".

        Raises:
            ConversionError: the matrix is of a tensor with other rows.
        """
        found = None if self.importance is None else self.importance.weights(slot.name)
        if self.importance is None or slot.type.block == 1:
            return None, ""
        if found is None:
            return None, f"the importance matrix has nothing for {slot.name}"
        n_matrices = slot.shape[0] if len(slot.shape) > 2 else 1
        if found.size == n_matrices * slot.shape[-1]:
            return np.ascontiguousarray(found, np.float32), ""
        message = (
            f"the importance matrix has {found.size} columns for {slot.name}, which has "
            f"{n_matrices * slot.shape[-1]}"
        )
        # llama.cpp goes on without it there, and nowhere else.
        if slot.name in EMBEDDINGS:
            return None, message
        raise ConversionError(f"{message}; it is of another model")

    def entries(self) -> Iterator[Entry]:
        """Yield what llama.cpp's quantizer writes of an importance matrix, in its order."""
        if self.importance is None:
            return
        yield text("quantize.imatrix.file", _cut(self.importance_file))
        if self.importance.datasets:
            yield text("quantize.imatrix.dataset", _cut(self.importance.datasets[0]))
        yield u32("quantize.imatrix.entries_count", len(self.importance.sums))
        if self.importance.chunk_count > 0:
            yield u32("quantize.imatrix.chunks_count", self.importance.chunk_count)


def wish(
    kind: str,
    *,
    name: str = "",
    imatrix: Path | None = None,
    lora: Path | None = None,
    tensor_types: Sequence[str] = (),
    head_type: str | None = None,
    embedding_type: str | None = None,
    is_pure: bool = False,
    may_requantize: bool = False,
) -> Wish:
    """Return what was asked for in words; reads the importance matrix and the adapter's head.

    Raises:
        ConversionError: a type or a pattern is not known, or a file cannot be used.
        ModelLoadError: the importance matrix is a damaged GGUF file.
    """
    return Wish(
        Choice(
            file_type(kind),
            overrides(tensor_types),
            tensor_type(head_type) if head_type else None,
            tensor_type(embedding_type) if embedding_type else None,
            is_pure,
        ),
        name,
        read_importance(imatrix) if imatrix else None,
        str(imatrix or ""),
        read_adapter(lora) if lora else None,
        may_requantize,
    )


def _cut(value: str) -> str:
    return value.encode()[:LONGEST_TEXT].decode(errors="ignore")
