"""Random Qwen3 and Qwen2 checkpoints of a few hundred kilobytes, in Hugging Face's folder layout.

Written with the standard library and numpy alone, so the readers under test meet files that
they did not write themselves.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
MERGES = (("t", "h"), ("th", "e"), ("e", "r"), ("i", "n"), ("a", "n"), (" ", "a"), (" ", "the"))
TEMPLATE = (
    "{%- if tools %}<|im_start|>system\n"
    "{%- for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class Tiny:
    """What a test may want otherwise; the defaults make a valid tied bf16 checkpoint."""

    family: str = "qwen3"
    """`qwen3`, or `qwen2`: biases on q, k and v, no norm on them, heads of n_embd / n_head."""
    dtype: str = "BF16"
    n_layers: int = 2
    n_embd: int = 64
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 32
    """Not n_embd / n_head, as in Qwen3-0.6B."""
    n_ff: int = 96
    tied: bool = True
    lm_head: str = "none"
    """`none`, `equal` to the embedding, or `other` than it."""
    n_shards: int = 1
    merges: str = "pairs"
    """`pairs` or `strings`."""
    template: str = "config"
    """`config`, `jinja`, `json` or `none`: the file it is in."""
    special_tags: bool = False
    """Whether the tool tags are marked special, as some fine-tunes do."""
    n_unused: int = 11
    """Embedding rows without a token."""
    config: dict[str, Any] = field(default_factory=dict)
    """Overrides of config.json; None removes the key."""
    seed: int = 0


def write(folder: Path, tiny: Tiny | None = None) -> Path:
    """Write the checkpoint into `folder`, which is made, and return it."""
    tiny = tiny or Tiny()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(tiny)
    vocab_size = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"]) + tiny.n_unused
    _dump(folder / "tokenizer.json", tokenizer)
    _write_template(folder, tiny)
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    config = {
        "architectures": [f"{tiny.family.capitalize()}ForCausalLM"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "head_dim": tiny.head_dim if tiny.family == "qwen3" else None,
        "hidden_size": tiny.n_embd,
        "intermediate_size": tiny.n_ff,
        "max_position_embeddings": 512,
        "model_type": tiny.family,
        "num_attention_heads": tiny.n_head,
        "num_hidden_layers": tiny.n_layers,
        "num_key_value_heads": tiny.n_head_kv,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": tiny.tied,
        "vocab_size": vocab_size,
    } | tiny.config
    _dump(folder / "config.json", {k: v for k, v in config.items() if v is not None})
    _write_shards(folder, tiny, weights(tiny, vocab_size))
    return folder


def weights(tiny: Tiny, vocab_size: int) -> dict[str, np.ndarray]:
    """Return the checkpoint's tensors as float32, before they are rounded to its dtype."""
    rng = np.random.default_rng(tiny.seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)

    def norm(size: int) -> np.ndarray:
        return rng.normal(1, 0.1, size).astype(np.float32)

    head_dim = tiny.head_dim if tiny.family == "qwen3" else tiny.n_embd // tiny.n_head
    n_q, n_kv = tiny.n_head * head_dim, tiny.n_head_kv * head_dim
    found = {"model.embed_tokens.weight": rng.normal(0, 1, (vocab_size, tiny.n_embd))}
    for n in range(tiny.n_layers):
        block = {
            "input_layernorm": norm(tiny.n_embd),
            "self_attn.q_proj": matrix(n_q, tiny.n_embd),
            "self_attn.k_proj": matrix(n_kv, tiny.n_embd),
            "self_attn.v_proj": matrix(n_kv, tiny.n_embd),
            "self_attn.o_proj": matrix(tiny.n_embd, n_q),
            "self_attn.q_norm": norm(tiny.head_dim),
            "self_attn.k_norm": norm(tiny.head_dim),
            "post_attention_layernorm": norm(tiny.n_embd),
            "mlp.gate_proj": matrix(tiny.n_ff, tiny.n_embd),
            "mlp.up_proj": matrix(tiny.n_ff, tiny.n_embd),
            "mlp.down_proj": matrix(tiny.n_embd, tiny.n_ff),
        }
        if tiny.family == "qwen2":
            del block["self_attn.q_norm"], block["self_attn.k_norm"]
        found |= {f"model.layers.{n}.{name}.weight": value for name, value in block.items()}
        if tiny.family == "qwen2":
            biases = {"q": norm(n_q), "k": norm(n_kv), "v": norm(n_kv)}
            prefix = f"model.layers.{n}.self_attn"
            found |= {f"{prefix}.{name}_proj.bias": value for name, value in biases.items()}
    found["model.norm.weight"] = norm(tiny.n_embd)
    if tiny.lm_head == "equal":
        found["lm_head.weight"] = found["model.embed_tokens.weight"]
    elif tiny.lm_head == "other" or not tiny.tied:
        found["lm_head.weight"] = matrix(vocab_size, tiny.n_embd)
    return {name: value.astype(np.float32) for name, value in found.items()}


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 values as the checkpoint's dtype: float32, float16, or bf16 as uint16."""
    if dtype == "F32":
        return values.astype(np.float32)
    if dtype == "F16":
        return values.astype(np.float16)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def exact(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 values as they are after a round trip through the checkpoint's dtype."""
    stored = rounded(values, dtype)
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def safetensors(tensors: dict[str, np.ndarray], dtype: str) -> bytes:
    """Return one safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        raw = rounded(values, dtype).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        data += raw
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + data


def _write_shards(folder: Path, tiny: Tiny, tensors: dict[str, np.ndarray]) -> None:
    if tiny.n_shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(tensors, tiny.dtype))
        return
    weight_map = {}
    names = list(tensors)
    for n in range(tiny.n_shards):
        shard = f"model-{n + 1:05}-of-{tiny.n_shards:05}.safetensors"
        part = {name: tensors[name] for name in names[n :: tiny.n_shards]}
        (folder / shard).write_bytes(safetensors(part, tiny.dtype))
        weight_map |= dict.fromkeys(part, shard)
    _dump(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _tokenizer(tiny: Tiny) -> dict[str, Any]:
    alphabet = _byte_alphabet()
    space = alphabet[ord(" ")]
    vocab = {char: i for i, char in enumerate(sorted(alphabet.values()))}
    merges = [[part.replace(" ", space) for part in pair] for pair in MERGES]
    for pair in merges:
        vocab["".join(pair)] = len(vocab)
    added = [*((token, True) for token in SPECIAL), *((tag, tiny.special_tags) for tag in TAGS)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": len(vocab) + n, "content": text, "special": special, **flags}
            for n, (text, special) in enumerate(added)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, {**byte_level, "use_regex": False}],
        },
        "post_processor": {**byte_level, "use_regex": False},
        "decoder": {**byte_level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges if tiny.merges == "pairs" else [" ".join(pair) for pair in merges],
        },
    }


def _write_template(folder: Path, tiny: Tiny) -> None:
    config = {
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    if tiny.template == "config":
        config["chat_template"] = TEMPLATE
    elif tiny.template == "jinja":
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    elif tiny.template == "json":
        _dump(folder / "chat_template.json", {"chat_template": TEMPLATE})
    _dump(folder / "tokenizer_config.json", config)


def _byte_alphabet() -> dict[int, str]:
    """Return GPT-2's printable character for every byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(rest)}


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
