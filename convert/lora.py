"""A LoRA adapter in PEFT's layout, merged into its base model one tensor at a time.

Everything is computed in float32; rounding to the file's type is the caller's, and happens once.
Knows no GGUF. An adapter that does what is not merged here is refused, never merged in part.
Source: PEFT 0.17, `tuners/lora/layer.py`, `tuners/lora/dora.py`, `utils/save_and_load.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from convert.checkpoint import Mapped, Stored, read_json, stored_in
from edgeagent.engine import quantizer
from edgeagent.errors import ConversionError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)
WRAPPERS = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")
"""What PEFT puts between a module and its tensor while it is wrapped."""

REFUSED: Mapping[str, str] = {
    "layer_replication": "it repeats layers",
    "target_parameters": "it updates bare parameters",
    "trainable_token_indices": "it trains single tokens",
    "use_qalora": "it is a QA-LoRA adapter",
    "alora_invocation_tokens": "it acts only behind certain tokens",
}
"""Settings that change what an adapter does in ways that are not merged here."""
ALTERS_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations that subtract something from the base weights before the training."""

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Update:
    """What is added to one weight: `scale * B @ A`, transposed for an embedding."""

    module: str
    a: Stored
    """Shape (rank, n_in); of an embedding (rank, n_tokens)."""
    b: Stored
    """Shape (n_out, rank)."""
    magnitude: Stored | None
    """DoRA's length of each output's row, shape (n_out,); None without DoRA."""
    scale: float
    is_embedding: bool

    @property
    def delta_shape(self) -> tuple[int, int]:
        """Shape of `B @ A`."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's tensors, read from the file when they are needed."""

    folder: Path
    base: str
    """What the adapter says that it was trained on; "" where it does not say."""
    updates: Mapping[str, Update]
    """By the name of the weight in the base checkpoint."""
    replacements: Mapping[str, Stored]
    """Tensors that were trained whole (`modules_to_save`, biases), by their name in the base."""
    is_transposed: bool
    """`fan_in_fan_out`: the base stores its weights inputs first."""
    _mapped: Mapped = field(default_factory=Mapped)

    def replaces(self, name: str) -> Stored | None:
        """Return where the whole new tensor lies; None for one that was not trained whole."""
        return self.replacements.get(name)

    def concerns(self, name: str) -> bool:
        """Tell whether the adapter changes the tensor at all."""
        return name in self.updates or name in self.replacements

    def needs_all_rows(self, name: str) -> bool:
        """Tell whether `merged` has to be given the whole tensor at once.

        Only DoRA on transposed weights does: the length it divides by runs down the columns.
        """
        update = self.updates.get(name)
        return update is not None and update.magnitude is not None and self.is_transposed

    def unties(self, head: str, embedding: str) -> bool:
        """Tell whether a head that was tied to the embedding differs from it afterwards.

        An update of the embedding acts where tokens are looked up and not in the head, and the
        other way round, so such a model has to be written with both.
        """
        if head in self.updates or embedding in self.updates:
            return True
        one, other = self.replacements.get(head), self.replacements.get(embedding)
        if one is None and other is None:
            return False
        if one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
            return True
        return bytes(self._mapped.bytes_of(one)) != bytes(self._mapped.bytes_of(other))

    def merged(self, name: str, weight: Floats, first_row: int = 0) -> Floats:
        """Return rows of a weight as the adapter leaves them; untouched ones are the same object.

        `weight` is float32, shape (n_rows, n_columns), and begins with the tensor's row
        `first_row`; where `replaces` gives a tensor, it is that one's. Costs rank times two
        operations per weight, no memory beyond one copy. Threads may call it at once.

        Raises:
            ConversionError: the update holds a NaN or an infinity, or does not fit the weight.
        """
        update = self.updates.get(name)
        if update is None:
            return weight
        a, b = self._matrix(update.a), self._matrix(update.b)
        rows = slice(first_row, first_row + len(weight))
        is_turned = self._is_turned(update, weight.shape[1])
        delta = a[:, rows].T @ b.T if is_turned else b[rows] @ a
        if delta.shape != weight.shape:
            raise ConversionError(
                f"{self.folder}: {update.a.name} and its lora_B make {list(delta.shape)} of "
                f"{name}, which has {list(weight.shape)}; the adapter is for another base"
            )
        delta *= np.float32(update.scale)
        delta += weight
        if update.magnitude is None:
            return delta
        return self._rescaled(delta, update, rows)

    def check(
        self, shapes: Mapping[str, tuple[int, ...]], tied: Mapping[str, str] | None = None
    ) -> None:
        """Return if every tensor of the adapter finds its place among the base's tensors.

        `tied` gives, for a tensor that the base leaves out, the one that serves in its place.

        Raises:
            ConversionError: one does not; the message names it.
        """
        tied = tied or {}
        for name, stored in self.replacements.items():
            self._check_replacement(name, stored, shapes.get(tied.get(name, name)))
        for name, update in self.updates.items():
            self._check_update(name, update, shapes.get(tied.get(name, name)))

    def _check_replacement(self, name: str, stored: Stored, shape: tuple[int, ...] | None) -> None:
        if shape is None:
            raise self._another_base(stored.name, f"has no tensor {name}")
        if stored.shape == shape:
            return
        if len(shape) == len(stored.shape) == 2 and shape[1] == stored.shape[1]:
            raise ConversionError(
                f"{self.folder}: {stored.name} has {stored.shape[0]} rows and the base's {name} "
                f"has {shape[0]}: the training changed the vocabulary; resize the base model's "
                "embedding (config.json's vocab_size and the tokenizer too) and merge into that"
            )
        raise self._another_base(
            stored.name, f"has {name} in the shape {list(shape)}, not {list(stored.shape)}"
        )

    def _check_update(self, name: str, update: Update, shape: tuple[int, ...] | None) -> None:
        if shape is None:
            raise self._another_base(update.a.name, f"has no tensor {name}")
        n_out, n_in = update.delta_shape
        is_turned = len(shape) == 2 and self._is_turned(update, shape[1])
        if (wanted := (n_in, n_out) if is_turned else (n_out, n_in)) == shape:
            return
        if update.is_embedding and len(shape) == 2 and wanted[1] == shape[1]:
            raise ConversionError(
                f"{self.folder}: {update.a.name} updates {wanted[0]} tokens and the base's {name} "
                f"has {shape[0]}: the training changed the vocabulary; merge into that base"
            )
        raise self._another_base(
            update.a.name, f"has {name} in the shape {list(shape)}, not {list(wanted)}"
        )

    def _another_base(self, tensor: str, why: str) -> ConversionError:
        trained_on = f"; it was trained on {self.base}" if self.base else ""
        return ConversionError(
            f"{self.folder} is for another base: {tensor} cannot be merged, "
            f"the checkpoint {why}{trained_on}"
        )

    def _is_turned(self, update: Update, n_columns: int) -> bool:
        """Tell whether the update is added transposed.

        PEFT ignores `fan_in_fan_out` for a weight stored outputs first; the widths tell.
        """
        if update.is_embedding:
            return True
        return self.is_transposed and update.delta_shape[0] == n_columns

    def _rescaled(self, direction: Floats, update: Update, rows: slice) -> Floats:
        """Give each output's weights DoRA's length."""
        assert update.magnitude is not None
        wanted = self._values(update.magnitude).reshape(-1)
        is_turned = self._is_turned(update, direction.shape[1])
        length = np.sqrt(np.einsum("ij,ij->j" if is_turned else "ij,ij->i", direction, direction))
        if not length.all():
            raise ConversionError(
                f"{self.folder}: {update.magnitude.name} belongs to an output whose weights "
                "are all zero, which no length can be given to"
            )
        direction *= wanted / length if is_turned else (wanted[rows] / length)[:, None]
        return direction

    def _matrix(self, stored: Stored) -> Floats:
        return self._values(stored).reshape(stored.shape)

    def _values(self, stored: Stored) -> Floats:
        values = quantizer.widen(self._mapped.bytes_of(stored), stored.dtype)
        if not np.isfinite(values).all():
            raise ConversionError(
                f"{stored.shard}: {stored.name} holds a NaN or an infinity; the training failed"
            )
        return values


def read(folder: Path) -> Adapter:
    """Return the adapter in the folder. Costs the headers only, no tensor is touched.

    Raises:
        ConversionError: a file is missing or damaged, or the adapter is of a kind that cannot
            be merged.
    """
    if not folder.is_dir():
        raise ConversionError(f"{folder} is not a folder with a LoRA adapter")
    if not (folder / CONFIG).is_file():
        raise ConversionError(f"{folder} has no {CONFIG}; it is not a PEFT adapter")
    config = read_json(folder / CONFIG)
    _check_kind(config, folder)
    if not (folder / WEIGHTS).is_file():
        has_pickle = (folder / "adapter_model.bin").is_file()
        raise ConversionError(
            f"{folder} has no {WEIGHTS}; "
            + (
                "its .bin file is a pickle, which runs code when read: save it as safetensors"
                if has_pickle
                else "download the adapter again"
            )
        )
    parts, replacements = _sorted_out(stored_in(folder / WEIGHTS), folder)
    updates = [_update(module, found, config, folder) for module, found in parts.items()]
    if not updates and not replacements:
        raise ConversionError(f"{folder / WEIGHTS} holds no tensor; the adapter is empty")
    base = config.get("base_model_name_or_path")
    return Adapter(
        folder,
        base if isinstance(base, str) else "",
        {f"{update.module}.weight": update for update in updates},
        replacements,
        bool(config.get("fan_in_fan_out", False)),
    )


def _check_kind(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type", "LORA")
    if str(kind).upper() != "LORA":
        raise ConversionError(f"{folder} is a {kind} adapter; only LoRA adapters are merged")
    for key, why in REFUSED.items():
        if config.get(key):
            raise ConversionError(
                f"{folder} cannot be merged: {why} ({CONFIG}, {key}); merge it with PEFT first"
            )
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(ALTERS_BASE):
        raise ConversionError(
            f"{folder} cannot be merged: it started from altered base weights "
            f"(init_lora_weights is {start!r}); save it converted to a plain LoRA adapter"
        )


def _sorted_out(
    stored: Mapping[str, Stored], folder: Path
) -> tuple[dict[str, dict[str, Stored]], dict[str, Stored]]:
    """Return the parts of each module's update, and the tensors that were trained whole."""
    parts: dict[str, dict[str, Stored]] = {}
    replacements: dict[str, Stored] = {}
    for full, tensor in stored.items():
        name = full.removeprefix(PREFIX)
        if (match := PARTS.fullmatch(name)) is not None:
            parts.setdefault(match["module"], {})[match["part"]] = tensor
        elif re.search(r"\.(lora_|token_adapter\.)", name):
            raise ConversionError(
                f"{folder}: {full} is a kind of update that is not merged here; "
                "merge the adapter with PEFT first"
            )
        else:
            replacements[WRAPPERS.sub("", name)] = tensor
    return parts, replacements


def _update(
    module: str, parts: Mapping[str, Stored], config: Mapping[str, Any], folder: Path
) -> Update:
    is_embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    kind = "lora_embedding" if is_embedding else "lora"
    one = next(iter(parts.values()))
    for part in (f"{kind}_A", f"{kind}_B"):
        if part not in parts:
            raise ConversionError(f"{folder / WEIGHTS} has {one.name}, but no {part} for {module}")
    a, b = parts[f"{kind}_A"], parts[f"{kind}_B"]
    rank = _setting("r", "rank_pattern", module, config, folder)
    alpha = _setting("lora_alpha", "alpha_pattern", module, config, folder)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise ConversionError(
            f"{folder}: {a.name} of {list(a.shape)} and {b.name} of {list(b.shape)} do not multiply"
        )
    if rank != a.shape[0] or not rank:
        raise ConversionError(
            f"{folder}: {a.name} has the rank {a.shape[0]}, but {CONFIG} gives {module} {rank:g}"
        )
    magnitude = parts.get("lora_magnitude_vector")
    if bool(config.get("use_dora", False)) != (magnitude is not None):
        has, says = ("has a", "not ") if magnitude is not None else ("has no", "")
        raise ConversionError(
            f"{folder}: {module} {has} lora_magnitude_vector, but {CONFIG} does {says}use DoRA"
        )
    if magnitude is not None and is_embedding:
        raise ConversionError(
            f"{folder}: {magnitude.name} is DoRA on an embedding; merge it with PEFT first"
        )
    if magnitude is not None and magnitude.n_weights != b.shape[0]:
        raise ConversionError(
            f"{folder}: {magnitude.name} has {magnitude.n_weights} values for {b.shape[0]} outputs"
        )
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora", False) else rank)
    return Update(module, a, b, magnitude, scale, is_embedding)


def _setting(
    key: str, patterns_key: str, module: str, config: Mapping[str, Any], folder: Path
) -> float:
    """Return the number for the module: the first pattern that ends its name decides."""
    value, place = config.get(key), key
    patterns = config.get(patterns_key) or {}
    if not isinstance(patterns, dict):
        raise ConversionError(f"{folder / CONFIG}: {patterns_key} is {patterns!r}, not a table")
    for pattern, other in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as exc:
            raise ConversionError(
                f"{folder / CONFIG}: {patterns_key} has {pattern!r}, no regular expression: {exc}"
            ) from exc
        if matches:
            value, place = other, f"{patterns_key}.{pattern}"
            break
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ConversionError(f"{folder / CONFIG}: {place} is {value!r}, not a number")
    return float(value)
