"""The dense decoder that Qwen2 and Qwen3 share: hyperparameters, tensors, what types go by.

A family is a table of a block's tensors, and whether its heads have a width of their own; see
`convert.qwen3` and `convert.qwen2`. No transpose, no permutation of q and k: llama.cpp rotates
these models in NEOX order, as they were trained.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/conversion/base.py and qwen.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from convert.architecture import Architecture, Weight, number, whole_number
from convert.gguf_file import Entry, f32, text, u32
from convert.recipes import Model
from edgeagent.errors import ConversionError

BLOCK: Mapping[str, str] = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
"""Names of a block's tensors in the checkpoint and in the GGUF file."""
MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS."""
YARN = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def architecture(
    name: str, classes: frozenset[str], own: Mapping[str, str], *, has_head_dim: bool
) -> Architecture:
    """Return a family's architecture.

    `own` has the tensors that a block has beside `BLOCK`. `has_head_dim` says that the width of a
    head is written even where it follows from the other numbers.
    """
    return Architecture(
        name=name,
        classes=classes,
        hyperparameters=partial(_hyperparameters, name, has_head_dim),
        weights=partial(_weights, {**BLOCK, **own}),
        model=partial(_model, name),
        head="lm_head.weight",
        embedding="model.embed_tokens.weight",
    )


def _hyperparameters(name: str, has_head_dim: bool, config: Mapping[str, Any]) -> list[Entry]:
    rope = _rope(config)
    entries = [
        u32(f"{name}.block_count", _n_layers(config)),
        u32(f"{name}.context_length", whole_number(config, "max_position_embeddings")),
        u32(f"{name}.embedding_length", whole_number(config, "hidden_size")),
        u32(f"{name}.feed_forward_length", whole_number(config, "intermediate_size")),
        u32(f"{name}.attention.head_count", whole_number(config, "num_attention_heads")),
        u32(f"{name}.attention.head_count_kv", whole_number(config, "num_key_value_heads")),
        *_rope_scaling(name, rope),
        f32(f"{name}.rope.freq_base", number(rope, "rope_theta")),
        f32(f"{name}.attention.layer_norm_rms_epsilon", number(config, "rms_norm_eps")),
    ]
    if has_head_dim or config.get("head_dim") is not None:
        entries += [
            u32(f"{name}.attention.{part}_length", _head_dim(config)) for part in ("key", "value")
        ]
    return entries


def _n_layers(config: Mapping[str, Any]) -> int:
    n_layers = whole_number(config, "num_hidden_layers")
    if n_layers > MAX_LAYERS:
        raise ConversionError(
            f"config.json: num_hidden_layers is {n_layers}; llama.cpp takes {MAX_LAYERS} at most"
        )
    return n_layers


def _weights(block: Mapping[str, str], config: Mapping[str, Any]) -> list[Weight]:
    n_embd = whole_number(config, "hidden_size")
    vocabulary = (whole_number(config, "vocab_size"), n_embd)
    shapes = _block_shapes(config)
    return [
        Weight("model.embed_tokens.weight", "token_embd.weight", vocabulary),
        *(
            Weight(f"model.layers.{n}.{source}", f"blk.{n}.{target}", shapes[target])
            for n in range(_n_layers(config))
            for source, target in block.items()
        ),
        Weight("model.norm.weight", "output_norm.weight", (n_embd,)),
        Weight("lm_head.weight", "output.weight", vocabulary),
    ]


def _block_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    n_embd = whole_number(config, "hidden_size")
    n_ff = whole_number(config, "intermediate_size")
    head_dim = _head_dim(config)
    n_q = whole_number(config, "num_attention_heads") * head_dim
    n_kv = whole_number(config, "num_key_value_heads") * head_dim
    return {
        "attn_norm.weight": (n_embd,),
        "attn_q.weight": (n_q, n_embd),
        "attn_q.bias": (n_q,),
        "attn_k.weight": (n_kv, n_embd),
        "attn_k.bias": (n_kv,),
        "attn_v.weight": (n_kv, n_embd),
        "attn_v.bias": (n_kv,),
        "attn_output.weight": (n_embd, n_q),
        "attn_q_norm.weight": (head_dim,),
        "attn_k_norm.weight": (head_dim,),
        "ffn_norm.weight": (n_embd,),
        "ffn_gate.weight": (n_ff, n_embd),
        "ffn_up.weight": (n_ff, n_embd),
        "ffn_down.weight": (n_embd, n_ff),
    }


def _head_dim(config: Mapping[str, Any]) -> int:
    if config.get("head_dim") is not None:
        return whole_number(config, "head_dim")
    return whole_number(config, "hidden_size") // whole_number(config, "num_attention_heads")


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the RoPE settings in one table: transformers 5 moved them to `rope_parameters`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ConversionError(f"config.json: the RoPE settings are {rope!r}, not a table")
    theta = rope.get("rope_theta", config.get("rope_theta"))
    # Both spellings of the same factor are about.
    attention = rope.get("attention_factor", rope.get("attn_factor"))
    kind = rope.get("rope_type", rope.get("type"))
    return {**rope, "rope_theta": theta, "rope_type": kind, "attention_factor": attention}


def _rope_scaling(name: str, rope: Mapping[str, Any]) -> Iterator[Entry]:
    kind = rope["rope_type"]
    if kind in (None, "default"):
        return
    if kind not in ("linear", "yarn"):
        raise ConversionError(f"config.json: RoPE scaling {kind!r} is neither linear nor yarn")
    yield text(f"{name}.rope.scaling.type", kind)
    yield f32(f"{name}.rope.scaling.factor", number(rope, "factor"))
    if kind == "linear":
        return
    original = whole_number(rope, "original_max_position_embeddings")
    yield u32(f"{name}.rope.scaling.original_context_length", original)
    for source, target in YARN.items():
        if rope.get(source) is not None:
            yield f32(f"{name}.rope.scaling.{target}", number(rope, source))


def _model(name: str, config: Mapping[str, Any]) -> Model:
    return Model(
        name,
        n_layers=_n_layers(config),
        n_head=whole_number(config, "num_attention_heads"),
        n_head_kv=whole_number(config, "num_key_value_heads"),
    )
