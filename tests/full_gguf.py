"""Makes a model of random weights in the exact shapes of Qwen3-1.7B, with a real vocabulary.

What it says is noise, what it costs is the real thing; `edgeagent bench` needs no more. Weights
are random blocks, so that a gigabyte takes seconds. The vocabulary comes from a file that has it,
llama.cpp's `models/ggml-vocab-qwen2.gguf`, and the chat template from its `models/templates`.

    python -m tests.full_gguf VOCABULARY.gguf TEMPLATE.jinja q4_0 OUT.gguf
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from numpy.typing import NDArray

from convert.file_types import NUMBERS, file_type
from convert.recipes import Model
from convert.type_plan import Choice, Shaped, plan
from edgeagent import gguf_header
from edgeagent.gguf_header import TensorType

FIRST_ADDED = 151646
"""llama.cpp's vocabulary file leaves Qwen3's own tokens from here on unnamed."""
ADDED = (
    *(f"<|{name}|>" for name in (
        "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end",
        "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad",
    )),
    "<tool_call>", "</tool_call>",
    *(f"<|{name}|>" for name in (
        "fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep",
    )),
    "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
LAYOUTS = {
    TensorType.Q4_0: np.dtype([("d", "<f2"), ("rest", "u1", 16)]),
    TensorType.Q4_K: np.dtype([("d", "<f2"), ("dmin", "<f2"), ("rest", "u1", 140)]),
    TensorType.Q6_K: np.dtype([("rest", "u1", 208), ("d", "<f2")]),
}
"""Blocks: a scale beside numbers that may be anything. Source: ggml 0.25.3, ggml-common.h."""
STEPS = {
    TensorType.Q4_0: {"d": 4.3e-3},
    TensorType.Q4_K: {"d": 1.4e-4, "dmin": 1.05e-3},
    TensorType.Q6_K: {"d": 1.5e-5},
}
"""Scales that spread the weights by about 0.02 around 0."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a Qwen3 model with a tied head; those of the 1.7B one."""

    n_layers: int = 28
    n_embd: int = 2048
    n_ff: int = 6144
    n_head: int = 16
    n_kv: int = 8
    head_dim: int = 128
    n_ctx: int = 40960


def write_full(
    vocabulary: Path, template: str, kind: str, out: Path, shapes: Shapes | None = None
) -> Path:
    """Write a model of a file type that needs Q4_0, Q4_K and Q6_K only; return its path.

    Costs the memory of the file. Same arguments, same bytes.
    """
    shapes = shapes or Shapes()
    writer = GGUFWriter(out, "qwen3")
    _write_facts(writer, shapes, out.stem)
    writer.add_file_type(NUMBERS[file_type(kind)][0])
    n_vocab = _write_vocabulary(writer, gguf_header.read(vocabulary))
    writer.add_chat_template(template)
    tensors = list(_tensors(shapes, n_vocab))
    model = Model("qwen3", shapes.n_layers, shapes.n_head, shapes.n_kv)
    types = plan(tensors, model, Choice(file_type(kind)), None).types
    rng = np.random.default_rng(0)
    for tensor, chosen in zip(tensors, types, strict=True):
        if not tensor.may_change:
            writer.add_tensor(tensor.name, np.ones(tensor.shape, dtype=np.float32))
            continue
        n_rows, width = tensor.shape
        raw = _blocks(rng, chosen, n_rows * width).reshape(n_rows, -1)
        writer.add_tensor(tensor.name, raw, raw_dtype=GGMLQuantizationType[chosen.name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _write_facts(writer: GGUFWriter, shapes: Shapes, name: str) -> None:
    writer.add_name(name)
    writer.add_block_count(shapes.n_layers)
    writer.add_context_length(shapes.n_ctx)
    writer.add_embedding_length(shapes.n_embd)
    writer.add_feed_forward_length(shapes.n_ff)
    writer.add_head_count(shapes.n_head)
    writer.add_head_count_kv(shapes.n_kv)
    writer.add_key_length(shapes.head_dim)
    writer.add_value_length(shapes.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)


def _write_vocabulary(writer: GGUFWriter, header: gguf_header.Header) -> int:
    """Copy the vocabulary, name what Qwen3 added to it, and return its size."""
    tokens = _listed(header, "tokens")
    kinds = _listed(header, "token_type")
    if tokens[FIRST_ADDED : FIRST_ADDED + 1] == [f"[PAD{FIRST_ADDED}]"]:
        for token, text in enumerate(ADDED, start=FIRST_ADDED):
            is_control = text.startswith("<|")
            tokens[token] = text
            kinds[token] = TokenType.CONTROL if is_control else TokenType.USER_DEFINED
        for token in range(FIRST_ADDED + len(ADDED), len(tokens)):
            kinds[token] = TokenType.UNUSED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(_listed(header, "merges"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    return len(tokens)


def _listed(header: gguf_header.Header, key: str) -> list[Any]:
    values = header.metadata[f"tokenizer.ggml.{key}"]
    assert isinstance(values, list), "a vocabulary file has a vocabulary"
    return list(values)


def _tensors(shapes: Shapes, n_vocab: int) -> Iterator[Shaped]:
    n_embd, n_ff = shapes.n_embd, shapes.n_ff
    n_query, n_key = shapes.n_head * shapes.head_dim, shapes.n_kv * shapes.head_dim
    yield Shaped("token_embd.weight", (n_vocab, n_embd), TensorType.F32)
    yield Shaped("output_norm.weight", (n_embd,), TensorType.F32)
    of_a_layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (n_embd,),
        "attn_q": (n_query, n_embd),
        "attn_q_norm": (shapes.head_dim,),
        "attn_k": (n_key, n_embd),
        "attn_k_norm": (shapes.head_dim,),
        "attn_v": (n_key, n_embd),
        "attn_output": (n_embd, n_query),
        "ffn_norm": (n_embd,),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }
    for layer in range(shapes.n_layers):
        for name, shape in of_a_layer.items():
            yield Shaped(f"blk.{layer}.{name}.weight", shape, TensorType.F32)


def _blocks(rng: np.random.Generator, kind: TensorType, n_weights: int) -> NDArray[np.uint8]:
    raw = np.frombuffer(rng.bytes(kind.n_bytes(n_weights)), dtype=np.uint8).copy()
    blocks = raw.view(LAYOUTS[kind])
    for field, step in STEPS[kind].items():
        blocks[field] = step
    return raw


if __name__ == "__main__":
    words = sys.argv[1:]
    print(write_full(Path(words[0]), Path(words[1]).read_text("utf-8"), words[2], Path(words[3])))
