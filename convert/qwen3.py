"""Qwen3ForCausalLM: tensor names, shapes and hyperparameters.

No transpose, no permutation of q and k (llama.cpp rotates Qwen3 in NEOX order), no biases.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/conversion/base.py and qwen.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from convert.architecture import Architecture, Weight, number, whole_number
from convert.gguf_file import Entry, f32, text, u32
from convert.recipes import Model
from edgeagent.errors import ConversionError

NAME = "qwen3"

BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
YARN = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def _hyperparameters(config: Mapping[str, Any]) -> list[Entry]:
    rope = _rope(config)
    head_dim = _head_dim(config)
    return [
        u32(f"{NAME}.block_count", whole_number(config, "num_hidden_layers")),
        u32(f"{NAME}.context_length", whole_number(config, "max_position_embeddings")),
        u32(f"{NAME}.embedding_length", whole_number(config, "hidden_size")),
        u32(f"{NAME}.feed_forward_length", whole_number(config, "intermediate_size")),
        u32(f"{NAME}.attention.head_count", whole_number(config, "num_attention_heads")),
        u32(f"{NAME}.attention.head_count_kv", whole_number(config, "num_key_value_heads")),
        *_rope_scaling(rope),
        f32(f"{NAME}.rope.freq_base", number(rope, "rope_theta")),
        f32(f"{NAME}.attention.layer_norm_rms_epsilon", number(config, "rms_norm_eps")),
        u32(f"{NAME}.attention.key_length", head_dim),
        u32(f"{NAME}.attention.value_length", head_dim),
    ]


def _weights(config: Mapping[str, Any]) -> list[Weight]:
    n_embd = whole_number(config, "hidden_size")
    vocabulary = (whole_number(config, "vocab_size"), n_embd)
    shapes = _block_shapes(config)
    return [
        Weight("model.embed_tokens.weight", "token_embd.weight", vocabulary),
        *(
            Weight(f"model.layers.{n}.{source}.weight", f"blk.{n}.{target}.weight", shapes[target])
            for n in range(whole_number(config, "num_hidden_layers"))
            for source, target in BLOCK.items()
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
        "attn_norm": (n_embd,),
        "attn_q": (n_q, n_embd),
        "attn_k": (n_kv, n_embd),
        "attn_v": (n_kv, n_embd),
        "attn_output": (n_embd, n_q),
        "attn_q_norm": (head_dim,),
        "attn_k_norm": (head_dim,),
        "ffn_norm": (n_embd,),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }


def _head_dim(config: Mapping[str, Any]) -> int:
    # Written even where it equals n_embd / n_head: in the 0.6B and 4B models it does not.
    if config.get("head_dim") is not None:
        return whole_number(config, "head_dim")
    return whole_number(config, "hidden_size") // whole_number(config, "num_attention_heads")


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the RoPE settings in one table: transformers 5 moved them to `rope_parameters`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ConversionError(f"config.json: the RoPE settings are {rope!r}, not a table")
    theta = rope.get("rope_theta", config.get("rope_theta"))
    return {**rope, "rope_theta": theta, "rope_type": rope.get("rope_type", rope.get("type"))}


def _rope_scaling(rope: Mapping[str, Any]) -> Iterator[Entry]:
    kind = rope["rope_type"]
    if kind in (None, "default"):
        return
    if kind not in ("linear", "yarn"):
        raise ConversionError(f"config.json: RoPE scaling {kind!r} is neither linear nor yarn")
    yield text(f"{NAME}.rope.scaling.type", kind)
    yield f32(f"{NAME}.rope.scaling.factor", number(rope, "factor"))
    if kind == "linear":
        return
    original = whole_number(rope, "original_max_position_embeddings")
    yield u32(f"{NAME}.rope.scaling.original_context_length", original)
    for source, target in YARN.items():
        if rope.get(source) is not None:
            yield f32(f"{NAME}.rope.scaling.{target}", number(rope, source))


def _model(config: Mapping[str, Any]) -> Model:
    return Model(
        NAME,
        n_layers=whole_number(config, "num_hidden_layers"),
        n_head=whole_number(config, "num_attention_heads"),
        n_head_kv=whole_number(config, "num_key_value_heads"),
    )


ARCHITECTURE = Architecture(
    name=NAME,
    classes=frozenset({"Qwen3ForCausalLM"}),
    hyperparameters=_hyperparameters,
    weights=_weights,
    model=_model,
    head="lm_head.weight",
    embedding="model.embed_tokens.weight",
)
