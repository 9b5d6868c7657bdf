"""Qwen3ForCausalLM: the dense decoder with a norm on each head's queries and keys, no biases.

Source: llama-cpp-python 0.3.36, vendor/llama.cpp/conversion/qwen.py.
"""

from __future__ import annotations

from convert.dense import architecture

ARCHITECTURE = architecture(
    "qwen3",
    frozenset({"Qwen3ForCausalLM"}),
    {
        "self_attn.q_norm.weight": "attn_q_norm.weight",
        "self_attn.k_norm.weight": "attn_k_norm.weight",
    },
    # Even where it equals n_embd / n_head: in the 0.6B and 4B models it does not.
    has_head_dim=True,
)
