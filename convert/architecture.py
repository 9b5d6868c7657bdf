"""What a model architecture has to say to be converted; each is one module beside this one.

Knows neither safetensors nor how a GGUF file is written. A second architecture is a module with
an `ARCHITECTURE` and a line in `hf_to_gguf.ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convert.gguf_file import Entry
from convert.recipes import Model
from edgeagent.errors import ConversionError


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor's name and shape on both sides."""

    source: str
    """Name in the checkpoint."""
    target: str
    """Name in the GGUF file."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one family of checkpoints maps to GGUF."""

    name: str
    """Of `general.architecture`, and prefix of its metadata."""
    classes: frozenset[str]
    """Values of config.json's `architectures` that it serves."""
    hyperparameters: Callable[[Mapping[str, Any]], Sequence[Entry]]
    """From config.json, the metadata between `general.*` and `general.file_type`."""
    weights: Callable[[Mapping[str, Any]], Sequence[Weight]]
    """From config.json, every tensor that the model has; the head last."""
    model: Callable[[Mapping[str, Any]], Model]
    """From config.json, what the choice of types wants to know."""
    head: str
    """Source name of the head, which a tied checkpoint may leave out."""
    embedding: str
    """Source name of the tensor that a tied head equals."""


def whole_number(config: Mapping[str, Any], key: str) -> int:
    """Return a setting of config.json that has to be a whole number above zero.

    Raises:
        ConversionError: it is missing or something else.
    """
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConversionError(f"config.json: {key} is {value!r}, not a whole number above zero")
    return value


def number(config: Mapping[str, Any], key: str) -> float:
    """Return a setting of config.json that has to be a number.

    Raises:
        ConversionError: it is missing or something else.
    """
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConversionError(f"config.json: {key} is {value!r}, not a number")
    return float(value)
