"""The forward pass of a checkpoint in numpy, layer by layer: what a build's logits are held to.

Reads Hugging Face's names and layout, so that a conversion's mistake in names, order or rotation
shows. Serves decoders of Llama's shape (RMSNorm, grouped queries, rotation of halves, SwiGLU),
with biases and norms on q and k where the checkpoint has them.
Source: transformers 4.57, `modeling_llama.py`, `modeling_qwen2.py`, `modeling_qwen3.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convert.architecture import number, whole_number
from convert.checkpoint import Checkpoint, Mapped, Stored
from edgeagent.engine import quantizer
from edgeagent.engine.quantizer import Floats
from edgeagent.errors import ConversionError

HEAD_ROWS = 8192
"""Rows of the head that are widened at a time: 64 MB at 2,048 columns."""


class Forward:
    """A checkpoint that can be run on a few tokens; memory is that of its largest layer matrix."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Read the settings.

        Raises:
            ConversionError: a setting is missing, or is one that this pass does not know.
        """
        config = checkpoint.config
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, Mapping) else rope
        if kind not in (None, "default"):
            raise ConversionError(f"the reference pass does not know RoPE scaling {kind!r}")
        if config.get("use_sliding_window"):
            raise ConversionError("the reference pass does not know sliding windows")
        theta = rope.get("rope_theta", config.get("rope_theta"))
        self._theta = number({"rope_theta": theta}, "rope_theta")
        self._eps = number(config, "rms_norm_eps")
        self._n_layers = whole_number(config, "num_hidden_layers")
        self._n_head = whole_number(config, "num_attention_heads")
        self._n_kv = int(config.get("num_key_value_heads") or self._n_head)
        self._dim = int(
            config.get("head_dim") or whole_number(config, "hidden_size") // self._n_head
        )
        self._tensors = checkpoint.tensors
        self._mapped = Mapped()

    def logits(self, tokens: Sequence[int]) -> Floats:
        """Return the logits after every token, shape (len(tokens), vocab_size), float32.

        Raises:
            ConversionError: a token has no row in the embedding.
        """
        x = self._embedded(tokens)
        for n in range(self._n_layers):
            x = self._layer(x, f"model.layers.{n}.")
        x = self._normed(x, "model.norm.weight")
        return self._headed(x)

    def _layer(self, x: Floats, p: str) -> Floats:
        x = x + self._attention(self._normed(x, f"{p}input_layernorm.weight"), f"{p}self_attn.")
        normed = self._normed(x, f"{p}post_attention_layernorm.weight")
        gate = self._times(normed, f"{p}mlp.gate_proj")
        inner = gate / (1 + np.exp(-gate)) * self._times(normed, f"{p}mlp.up_proj")
        return x + self._times(inner, f"{p}mlp.down_proj")

    def _attention(self, x: Floats, p: str) -> Floats:
        q, k, v = (
            self._heads(x, f"{p}{part}_proj", n)
            for part, n in (("q", self._n_head), ("k", self._n_kv), ("v", self._n_kv))
        )
        if f"{p}q_norm.weight" in self._tensors:
            q, k = self._normed(q, f"{p}q_norm.weight"), self._normed(k, f"{p}k_norm.weight")
        q, k = self._rotated(q), self._rotated(k)
        k, v = (np.repeat(part, self._n_head // self._n_kv, axis=0) for part in (k, v))
        scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(self._dim))
        scores[:, np.triu(np.ones(scores.shape[1:], np.bool_), 1)] = -np.inf
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        return self._times(mixed.swapaxes(0, 1).reshape(len(x), -1), f"{p}o_proj")

    def _heads(self, x: Floats, name: str, n: int) -> Floats:
        made = self._times(x, name).reshape(len(x), n, self._dim)
        return np.ascontiguousarray(made.swapaxes(0, 1))

    def _rotated(self, x: Floats) -> Floats:
        half = self._dim // 2
        angles = np.arange(x.shape[1])[:, None] * self._theta ** (-np.arange(half) / half)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def _normed(self, x: Floats, name: str) -> Floats:
        scale = np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(self._eps))
        made: Floats = x / scale * self._tensor(name)
        return made

    def _times(self, x: Floats, module: str) -> Floats:
        made: Floats = x @ self._tensor(f"{module}.weight").T
        if f"{module}.bias" in self._tensors:
            made += self._tensor(f"{module}.bias")
        return made

    def _embedded(self, tokens: Sequence[int]) -> Floats:
        stored = self._tensors["model.embed_tokens.weight"]
        if max(tokens, default=0) >= stored.shape[0]:
            raise ConversionError(f"token {max(tokens)} is not among the {stored.shape[0]} it has")
        return np.concatenate([self._rows(stored, token, token + 1) for token in tokens])

    def _headed(self, x: Floats) -> Floats:
        name = (
            "lm_head.weight" if "lm_head.weight" in self._tensors else "model.embed_tokens.weight"
        )
        stored = self._tensors[name]
        n = stored.shape[0]
        parts = (
            x @ self._rows(stored, at, min(at + HEAD_ROWS, n)).T for at in range(0, n, HEAD_ROWS)
        )
        return np.concatenate(list(parts), axis=1)

    def _tensor(self, name: str) -> Floats:
        stored = self._tensors[name]
        raw = self._mapped.bytes_of(stored)
        return quantizer.widen(raw, stored.dtype).reshape(stored.shape)

    def _rows(self, stored: Stored, first: int, last: int) -> Floats:
        row_bytes = stored.dtype.n_bytes(stored.shape[1])
        raw = self._mapped.bytes_of(stored)[first * row_bytes : last * row_bytes]
        return quantizer.widen(raw, stored.dtype).reshape(-1, stored.shape[1])


def knows(config: Mapping[str, Any]) -> bool:
    """Tell whether the checkpoint's classes are of the shape that this pass computes."""
    known = {"Qwen3ForCausalLM", "Qwen2ForCausalLM", "LlamaForCausalLM"}
    return bool(known.intersection(config.get("architectures") or []))
