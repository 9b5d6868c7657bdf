"""PEFT adapters for the tiny checkpoints, and what merging them must give, in plain numpy.

The oracle computes in float64 from PEFT's formulas and shares no code with `convert.lora`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny_checkpoint import safetensors

PREFIX = "base_model.model."
BASE = "Qwen/Qwen3-1.7B"


def lora(
    weight: np.ndarray, rank: int, rng: np.random.Generator, *, turned: bool = False
) -> dict[str, np.ndarray]:
    """Return random A and B for a weight; `turned` where it is stored inputs first."""
    n_out, n_in = reversed(weight.shape) if turned else weight.shape
    a = rng.normal(0, 0.3, (rank, n_in)).astype(np.float32)
    b = rng.normal(0, 0.3, (n_out, rank)).astype(np.float32)
    return {"lora_A.weight": a, "lora_B.weight": b}


def write(
    folder: Path,
    modules: dict[str, dict[str, np.ndarray]],
    config: dict[str, Any] | None = None,
    whole: dict[str, np.ndarray] | None = None,
    dtype: str = "F32",
) -> Path:
    """Write an adapter of the modules' tensors into `folder`, which is made, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{PREFIX}{module}.{part}": values
        for module, parts in modules.items()
        for part, values in parts.items()
    }
    tensors |= {PREFIX + name: values for name, values in (whole or {}).items()}
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors, dtype))
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": BASE,
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "fan_in_fan_out": False,
        "bias": "none",
        "init_lora_weights": True,
        "modules_to_save": None,
        "target_modules": sorted(modules),
    } | (config or {})
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def merged(
    weight: np.ndarray,
    parts: dict[str, np.ndarray],
    scale: float,
    *,
    turned: bool = False,
) -> np.ndarray:
    """Return the weight as PEFT would merge it, float64."""
    delta = scale * parts["lora_B.weight"].astype(np.float64) @ parts["lora_A.weight"]
    stored = weight.astype(np.float64)
    whole = (stored.T if turned else stored) + delta
    if "lora_magnitude_vector" in parts:
        length = np.sqrt((whole**2).sum(axis=1, keepdims=True))
        whole = parts["lora_magnitude_vector"].astype(np.float64)[:, None] * whole / length
    return whole.T if turned else whole
