"""Qwen2ForCausalLM, Qwen2.5 too: the dense decoder with biases on queries, keys and values.

Source: llama-cpp-python 0.3.36, vendor/llama.cpp/conversion/qwen.py and src/models/qwen2.cpp.
"""

from __future__ import annotations

from convert.dense import architecture

ARCHITECTURE = architecture(
    "qwen2",
    frozenset({"Qwen2ForCausalLM"}),
    {
        "self_attn.q_proj.bias": "attn_q.bias",
        "self_attn.k_proj.bias": "attn_k.bias",
        "self_attn.v_proj.bias": "attn_v.bias",
    },
    has_head_dim=False,
)
