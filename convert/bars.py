"""What a conversion costs against llama.cpp's own tools, on random weights in Qwen3-1.7B's shapes.

Makes the checkpoint (3.4 GB, needs 12 GB of disk), runs every tool in a process of its own, and
prints CPU seconds, wall seconds and the largest anonymous memory. llama.cpp's converter runs
where its script is given, with a Python that has torch and transformers:

    python -m convert.bars FOLDER --converter llama.cpp/convert_hf_to_gguf.py --python PYTHON
    python -m convert.bars FOLDER --checkpoint NANO --types all --imatrix F --ours
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product
from math import prod
from pathlib import Path

import numpy as np

from convert import qwen3
from convert.architecture import Weight
from convert.checkpoint import INDEX
from convert.file_types import Type
from convert.tokenizer import END_OF_TEXT, END_OF_TURN, SPLIT, TAGS

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
N_MERGES = 151387
N_ADDED = 26
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
POLL_S = 0.02

QUANTIZER = """
import ctypes, sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(sys.argv[3]), int(sys.argv[4])
source, out = (name.encode() for name in sys.argv[1:3])
sys.exit(llama_cpp.llama_model_quantize(source, out, ctypes.byref(params)))
"""
CONVERTER = """
import pathlib, sys
folder = pathlib.Path(sys.argv.pop(1)).parent
sys.path[:0] = [str(folder), str(folder / "gguf-py")]
import convert_hf_to_gguf
from conversion import base
# It knows tokenizers by a hash of what they make of a text, and this one is made of nothing.
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
convert_hf_to_gguf.main()
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took."""

    run: str
    cpu_s: float
    """User and system, of all threads."""
    wall_s: float
    anon_mb: float
    """The largest anonymous memory that was seen, 50 looks a second."""
    out_mb: float


def make_checkpoint(folder: Path, config: dict[str, object] | None = None) -> Path:
    """Write a checkpoint of random weights, in two shards, unless it is there; return it."""
    if (folder / INDEX).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = config or CONFIG
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder)
    weights = list(qwen3.ARCHITECTURE.weights(config))[:-1]
    half = len(weights) // 2
    weight_map: dict[str, str] = {}
    for shard, part in zip(SHARDS, (weights[:half], weights[half:]), strict=True):
        _write_shard(folder / shard, part)
        weight_map |= dict.fromkeys((weight.source for weight in part), shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def cost_of(run: str, command: Sequence[str], out: Path) -> Cost:
    """Run the command to its end; return what it took. Its output goes to a log beside `out`.

    Raises:
        RuntimeError: it failed.
    """
    began = time.monotonic()
    with out.with_suffix(".log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        anon = 0.0
        while True:
            found, status, used = os.wait4(child.pid, os.WNOHANG)
            if found:
                break
            anon = max(anon, _anon_mb(child.pid))
            time.sleep(POLL_S)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{run} failed: see {log.name}")
    wall, size = time.monotonic() - began, out.stat().st_size
    return Cost(
        run, round(used.ru_utime + used.ru_stime, 1), round(wall, 1), round(anon, 1),
        round(size / 1e6, 1),
    )  # fmt: skip


def runs(given: argparse.Namespace) -> Iterator[Cost]:
    """Yield the cost of each run, ours before theirs; what it wrote is deleted."""
    checkpoint = given.checkpoint or make_checkpoint(given.folder / "checkpoint")
    out, f16 = given.folder / "out.gguf", given.folder / "f16.gguf"
    ours = [sys.executable, "-m", "convert.hf_to_gguf", str(checkpoint)]
    ours += ["--imatrix", str(given.imatrix)] if given.imatrix else []
    kinds = list(Type) if given.types == "all" else [Type(kind) for kind in given.types.split(",")]
    for kind in kinds:
        target = f16 if kind is Type.F16 else out
        yield cost_of(f"ours, {kind}", [*ours, str(target), "--type", kind], target)
    for kind in kinds if given.converter else ():
        if kind in (Type.F16, Type.BF16, Type.F32, Type.Q8_0):
            theirs = [given.python, "-c", CONVERTER, str(given.converter), str(checkpoint)]
            theirs += ["--outtype", kind, "--outfile", str(out)]
            yield cost_of(f"llama.cpp's converter, {kind}", theirs, out)
    out.unlink(missing_ok=True)
    for kind in kinds:
        if kind.is_quantized and f16.exists() and not given.ours:
            again = [sys.executable, "-m", "convert.quantize", str(f16), str(out), kind]
            yield cost_of(f"ours, f16 to {kind}", again, out)
            theirs = [sys.executable, "-c", QUANTIZER, str(f16), str(out)]
            theirs += [str(kind.number), str(os.cpu_count())]
            yield cost_of(f"llama.cpp's quantizer, f16 to {kind}", theirs, out)
    for left in (out, f16):
        left.unlink(missing_ok=True)


def _anon_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = (line.split() for line in status.splitlines() if line.startswith("RssAnon"))
    return sum(int(words[1]) for words in lines) / 1024


def _write_shard(path: Path, weights: Sequence[Weight]) -> None:
    rng = np.random.default_rng(0)
    # Numbers of one block over and over: what they are costs the same, making them does not.
    block = (rng.normal(0, 0.02, 1 << 22).astype(np.float32).view(np.uint32) >> 16).astype("<u2")
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for weight in weights:
        begin, end = end, end + 2 * prod(weight.shape)
        header[weight.source] = {
            "dtype": "BF16", "shape": weight.shape, "data_offsets": [begin, end],
        }  # fmt: skip
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for weight in weights:
            left = prod(weight.shape)
            while left:
                part = block[: min(left, block.size)]
                file.write(part.data)
                left -= part.size


def _write_tokenizer(folder: Path) -> None:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in plain] + [chr(256 + n) for n in range(256 - len(plain))]
    pairs = ["".join(pair) for pair in product(letters, letters)]
    merges = list(islice([*product(letters, letters), *product(pairs[:400], letters)], N_MERGES))
    vocabulary = [*letters, *("".join(merge) for merge in merges)]
    names = [END_OF_TEXT, "<|im_start|>", END_OF_TURN, *TAGS]
    names += [f"<|extra_{n}|>" for n in range(N_ADDED - len(names))]
    added = [
        {"id": len(vocabulary) + n, "content": name, "special": name not in TAGS}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for n, name in enumerate(names)
    ]
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    level |= {"use_regex": False}
    model: dict[str, object] = {"type": "BPE", "byte_fallback": False, "fuse_unk": False}
    model |= {"vocab": {t: n for n, t in enumerate(vocabulary)}, "merges": merges}
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": level,
        "decoder": level,
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    chosen = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": END_OF_TURN}
    chosen |= {"pad_token": END_OF_TEXT, "chat_template": "{{ messages }}{{ tools }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(chosen))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, one line per run as it ends, and a line of JSON; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m convert.bars", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write; the checkpoint stays in it")
    parser.add_argument("--checkpoint", type=Path, help="to convert, instead of a random one")
    parser.add_argument("--types", default="bf16,f16,q8_0,q4_0,q4_k_m", help="with commas, or all")
    parser.add_argument("--imatrix", type=Path, help="importance matrix for our conversions")
    parser.add_argument("--ours", action="store_true", help="leave llama.cpp's quantizer out")
    parser.add_argument("--converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--python", default=sys.executable, help="that the converter runs in")
    given = parser.parse_args(arguments)
    costs = []
    print(f"{'':<40} {'CPU s':>7} {'wall s':>7} {'anon MB':>8} {'out MB':>8}")
    for cost in runs(given):
        costs.append(asdict(cost))
        print(
            f"{cost.run:<40} {cost.cpu_s:>7} {cost.wall_s:>7} {cost.anon_mb:>8} {cost.out_mb:>8}",
            flush=True,
        )
    print(json.dumps(costs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
