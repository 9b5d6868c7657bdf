"""The shipped build back to a tokenizer and a checkpoint, so that training can go on from it.

Checkpoints are not kept in the tree, the build is. Its weights are rounded to Q8_0, which training
does not notice; the optimisers start with empty momenta.

    python -m models.nano.restart models/nano/nano-q8_0.gguf --run RUN
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from models.nano import tokenizer
from models.nano.model import Nano, Shape
from models.nano.optim import optimizers

WORK = Path(__file__).parent / "work"

_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names of a block's parts to the network's."""


def weights(build: gguf.GGUFReader) -> dict[str, torch.Tensor]:
    """Return the network's parameters in float32, by the network's names."""
    found = {}
    for tensor in build.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        shape = tuple(int(n) for n in reversed(tensor.shape))
        found[_name(tensor.name)] = torch.from_numpy(np.array(values, np.float32).reshape(shape))
    return found


def _name(name: str) -> str:
    match name.split("."):
        case ["blk", number, part, "weight"]:
            return f"layers.{number}.{_PARTS[part]}.weight"
        case ["token_embd", "weight"]:
            return "embed_tokens.weight"
        case ["output_norm", "weight"]:
            return "norm.weight"
    raise ValueError(f"not a tensor of nano: {name!r}")


def vocabulary(build: gguf.GGUFReader) -> dict[str, Any]:
    """Return `tokenizer.json` as a value, with the build's tokens and merges."""
    tokens: Sequence[str] = build.fields["tokenizer.ggml.tokens"].contents()
    merges: Sequence[str] = build.fields["tokenizer.ggml.merges"].contents()
    n_bare = len(tokens) - len(tokenizer.SPECIAL) - len(tokenizer.MARKERS)
    learnt = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens[:n_bare])},
            "merges": [merge.split(" ") for merge in merges],
        },
    }
    return tokenizer.finished(learnt)


def restart(build: Path, run: Path, tokenizer_folder: Path) -> None:
    """Write the tokenizer and `run/last.pt` at step 0."""
    reader = gguf.GGUFReader(build)
    tokenizer.write(tokenizer_folder, vocabulary(reader))
    model = Nano(Shape(n_layers=reader.fields["qwen3.block_count"].contents()))
    model.load_state_dict(weights(reader))
    run.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers(model, 0.0, 0.0)],
        "step": 0,
        "n_tokens": 0,
        "shape": asdict(model.shape),
    }
    torch.save(state, run / "last.pt")


def main() -> None:
    """Restart from the build that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("--run", default="run")
    options = parser.parse_args()
    restart(options.build, WORK / options.run, WORK / "tokenizer")
    print(WORK / options.run / "last.pt")


if __name__ == "__main__":
    main()
