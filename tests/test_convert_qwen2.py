"""A second family is a table of names: Qwen2, held to bytes and logits like the first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.file_types import Type
from convert.hf_to_gguf import convert
from convert.quantize import quantize
from convert.type_plan import Choice
from convert.wish import Wish
from edgeagent import gguf_header
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import TensorType
from tests import qwen3_forward, tiny_checkpoint
from tests.tiny_checkpoint import Tiny

ROOT = Path(__file__).parents[1]
QWEN2 = Tiny(family="qwen2", n_embd=256, n_head=4, n_head_kv=1, n_ff=512)


def test_tensors_and_metadata_are_those_of_llama_cpps_converter(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", QWEN2)
    out = tmp_path / "out.gguf"
    list(convert(folder, out, Type.F32))
    header = gguf_header.read(out)
    assert [key for key in header.metadata if key.startswith("qwen2.")] == [
        "qwen2.block_count",
        "qwen2.context_length",
        "qwen2.embedding_length",
        "qwen2.feed_forward_length",
        "qwen2.attention.head_count",
        "qwen2.attention.head_count_kv",
        "qwen2.rope.freq_base",
        "qwen2.attention.layer_norm_rms_epsilon",
    ]
    assert header.text("general.architecture") == "qwen2"
    assert header.text("tokenizer.ggml.pre") == "qwen2"
    weights = tiny_checkpoint.weights(
        QWEN2, json.loads((folder / "config.json").read_text())["vocab_size"]
    )
    raw = out.read_bytes()
    found = {t.name: raw[t.offset : t.offset + t.n_bytes] for t in header.tensors}
    assert len(found) == len(weights)
    for source, target in (
        ("self_attn.q_proj.bias", "attn_q.bias"),
        ("self_attn.k_proj.weight", "attn_k.weight"),
        ("self_attn.v_proj.bias", "attn_v.bias"),
        ("mlp.down_proj.weight", "ffn_down.weight"),
    ):
        wanted = tiny_checkpoint.exact(weights[f"model.layers.1.{source}"], "BF16")
        assert found[f"blk.1.{target}"] == wanted.tobytes()


@pytest.mark.parametrize(("kind", "tolerance"), [(Type.F32, 5e-5), (Type.Q8_0, 2.0)])
def test_llama_cpp_computes_the_logits_of_an_independent_forward_pass(
    tmp_path: Path, kind: Type, tolerance: float
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", QWEN2)
    out = tmp_path / "out.gguf"
    list(convert(folder, out, kind))
    config = json.loads((folder / "config.json").read_text())
    weights = tiny_checkpoint.weights(QWEN2, config["vocab_size"])
    exact = {name: tiny_checkpoint.exact(value, "BF16") for name, value in weights.items()}
    tokens = [5, 77, 200, 256, 260, 100, 3, 266, 17, 9]
    (tmp_path / "text").write_text("the <tool_call>")
    command = [sys.executable, str(ROOT / "tests" / "llama_logits.py"), str(out)]
    command += [str(tmp_path / "logits.npy"), str(tmp_path / "text"), *map(str, tokens)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    wanted = qwen3_forward.logits(exact, config, tokens)
    assert np.abs(np.load(tmp_path / "logits.npy") - wanted).max() < tolerance


def test_its_types_are_chosen_and_written_as_well(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", QWEN2)
    wish = Wish(Choice(Type.Q4_K_M))
    list(convert(folder, tmp_path / "direct.gguf", wish))
    list(convert(folder, tmp_path / "bf16.gguf", Type.BF16))
    list(quantize(tmp_path / "bf16.gguf", tmp_path / "twice.gguf", wish))
    contents = []
    for name in ("direct.gguf", "twice.gguf"):
        raw = (tmp_path / name).read_bytes()
        tensors = gguf_header.read(tmp_path / name).tensors
        contents.append({t.name: (t.type, raw[t.offset : t.offset + t.n_bytes]) for t in tensors})
    assert contents[0] == contents[1]
    assert contents[0]["blk.0.attn_k.weight"][0] is TensorType.Q4_K
    assert contents[0]["blk.0.attn_k.bias"][0] is TensorType.F32


def test_a_checkpoint_of_the_other_family_is_named(tmp_path: Path) -> None:
    other = Tiny(family="qwen2", config={"architectures": ["Qwen3ForCausalLM"]})
    folder = tiny_checkpoint.write(tmp_path / "tiny", other)
    with pytest.raises(ConversionError, match=r"the tensor .*_proj\.bias, which qwen3 does not"):
        list(convert(folder, tmp_path / "out.gguf", Type.F32))
