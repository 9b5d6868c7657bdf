"""Checkpoint to a Hugging Face folder that `convert/` takes like any other model.

python -m models.nano.export --run RUN --out DIR
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.nano.model import Shape
from models.nano.template import TEMPLATE_FILE

WORK = Path(__file__).parent / "work"
MAX_POSITIONS = 4096


def config_of(shape: Shape) -> dict[str, Any]:
    """Return `config.json` for a network of `shape` and nano's tokenizer."""
    end, start = shape.n_vocab - 7, shape.n_vocab - 9
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": start,
        "eos_token_id": end,
        "head_dim": shape.head,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": MAX_POSITIONS,
        "max_window_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_hidden_layers": shape.n_layers,
        "num_key_value_heads": shape.n_kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.n_vocab,
    }


def export(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """Write the folder; weights stay float32, because the file is small and rounding comes once."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {f"model.{name}": w.float().contiguous() for name, w in state["model"].items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(out / "model.safetensors"), {"format": "pt"})
    config = config_of(Shape(**state["shape"]))
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"eos_token_id": [config["eos_token_id"]], "do_sample": False}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    shutil.copyfile(tokenizer / "tokenizer.json", out / "tokenizer.json")
    # Lessons were rendered with the template as it is now; the folder's may be an older one.
    told = json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    told["chat_template"] = TEMPLATE_FILE.read_text(encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Export the last checkpoint of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="run")
    parser.add_argument("--tokenizer", type=Path, default=WORK / "tokenizer")
    parser.add_argument("--out", type=Path, default=WORK / "nano-hf")
    options = parser.parse_args()
    export(WORK / options.run / "last.pt", options.tokenizer, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
