"""Qwen3's and Qwen2's forward pass in numpy, from the papers: an oracle that shares no code.

Which of the two it is shows in the weights: Qwen3 has RMSNorm on q and k per head, Qwen2 has
biases on q, k and v; both have grouped queries, NEOX rotation and SwiGLU.
Source: the Qwen3 technical report and transformers 4.57 `modeling_qwen3.py`, `modeling_qwen2.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


class _Watched(dict[str, np.ndarray]):
    """The weights; notes what each matrix is multiplied with."""

    def __init__(self, weights: Weights) -> None:
        super().__init__({name: value.astype(np.float64) for name, value in weights.items()})
        self.inputs: Weights = {}

    def times(self, x: np.ndarray, name: str) -> np.ndarray:
        self.inputs[name] = x
        return x @ self[name].T


def logits(weights: Weights, config: dict[str, Any], tokens: list[int]) -> np.ndarray:
    """Return the logits after every token, shape (len(tokens), vocab_size), float64 inside."""
    return _forward(_Watched(weights), config, tokens)


def inputs(weights: Weights, config: dict[str, Any], tokens: list[int]) -> Weights:
    """Return what each matrix is multiplied with, by its name, shape (len(tokens), n_in)."""
    watched = _Watched(weights)
    _forward(watched, config, tokens)
    return watched.inputs


def _forward(w: _Watched, config: dict[str, Any], tokens: list[int]) -> np.ndarray:
    eps, theta = config["rms_norm_eps"], config["rope_theta"]
    x = w["model.embed_tokens.weight"][tokens]
    for n in range(config["num_hidden_layers"]):
        p = f"model.layers.{n}."
        normed = _rms(x, w[p + "input_layernorm.weight"], eps)
        x = x + _attention(normed, w, p + "self_attn.", config, theta)
        normed = _rms(x, w[p + "post_attention_layernorm.weight"], eps)
        gate = w.times(normed, p + "mlp.gate_proj.weight")
        up = w.times(normed, p + "mlp.up_proj.weight")
        x = x + w.times(gate / (1 + np.exp(-gate)) * up, p + "mlp.down_proj.weight")
    x = _rms(x, w["model.norm.weight"], eps)
    return w.times(x, "lm_head.weight" if "lm_head.weight" in w else "model.embed_tokens.weight")


def _attention(
    x: np.ndarray, w: _Watched, prefix: str, config: dict[str, Any], theta: float
) -> np.ndarray:
    n, n_head, n_kv = len(x), config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim", config["hidden_size"] // n_head)

    def heads(name: str, count: int) -> np.ndarray:
        made = w.times(x, f"{prefix}{name}_proj.weight") + w.get(f"{prefix}{name}_proj.bias", 0)
        return made.reshape(n, count, dim).swapaxes(0, 1)

    q, k, v = heads("q", n_head), heads("k", n_kv), heads("v", n_kv)
    if prefix + "q_norm.weight" in w:
        q = _rms(q, w[prefix + "q_norm.weight"], config["rms_norm_eps"])
        k = _rms(k, w[prefix + "k_norm.weight"], config["rms_norm_eps"])
    q, k = _rotate(q, theta), _rotate(k, theta)
    k, v = (np.repeat(a, n_head // n_kv, axis=0) for a in (k, v))
    scores = q @ k.swapaxes(1, 2) / np.sqrt(dim)
    scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    return w.times(mixed.swapaxes(0, 1).reshape(n, n_head * dim), prefix + "o_proj.weight")


def _rms(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _rotate(x: np.ndarray, theta: float) -> np.ndarray:
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
