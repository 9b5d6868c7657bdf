"""A build with an adapter merged in on the way holds PEFT's weights, rounded once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert import lora
from convert.hf_to_gguf import convert
from convert.stream import Noted
from convert.wish import wish
from edgeagent.errors import ConversionError
from tests import tiny_adapter, tiny_checkpoint
from tests.test_convert import target_name
from tests.tiny_checkpoint import Tiny

ROOT = Path(__file__).parents[1]
MODULES = (
    "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj",
    "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.gate_proj",
)  # fmt: skip
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
VOCABULARY = 283
SHAPED = Tiny(n_embd=256, n_ff=512)


def stored(tiny: Tiny) -> dict[str, np.ndarray]:
    """Return the checkpoint's weights as they are after rounding to its dtype."""
    return {
        name: tiny_checkpoint.exact(values, tiny.dtype)
        for name, values in tiny_checkpoint.weights(tiny, VOCABULARY).items()
    }


def written(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_k_m"])
@pytest.mark.parametrize("dora", [False, True])
def test_every_tensor_is_the_merged_one_rounded_once(tmp_path: Path, kind: str, dora: bool) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", SHAPED)
    weights, rng = stored(SHAPED), np.random.default_rng(4)
    modules = {name: tiny_adapter.lora(weights[f"{name}.weight"], 4, rng) for name in MODULES}
    if dora:
        for parts in modules.values():
            n_out = len(parts["lora_B.weight"])
            parts["lora_magnitude_vector"] = rng.uniform(0.5, 2, n_out).astype(np.float32)
    norm = rng.normal(1, 0.1, 256).astype(np.float32)
    adapter = tiny_adapter.write(
        tmp_path / "adapter", modules, {"use_dora": dora}, {"model.norm.weight": norm}
    )
    out, plain = tmp_path / "out.gguf", tmp_path / "plain.gguf"
    list(convert(folder, out, wish(kind, lora=adapter)))
    list(convert(folder, plain, wish(kind)))
    ours, before = written(out), written(plain)
    read = lora.read(adapter)
    for name, values in weights.items():
        tensor = ours[target_name(name)]
        module = name.removesuffix(".weight")
        if name == "model.norm.weight":
            assert tensor.data.tobytes() == norm.tobytes()
        elif module not in modules:
            assert tensor.data.tobytes() == before[tensor.name].data.tobytes()
        else:
            wanted = tiny_adapter.merged(values, modules[module], 2.0)
            decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            error = np.sqrt(((decoded - wanted) ** 2).sum() / (wanted**2).sum())
            assert error < {"f32": 1e-6, "f16": 5e-4, "bf16": 4e-3, "q8_0": 0.01}.get(kind, 0.1)
            if kind in ("f16", "bf16", "q8_0"):
                single = read.merged(name, values)
                rounded = gguf.quants.quantize(single, tensor.tensor_type)
                assert tensor.data.tobytes() == rounded.tobytes()


def test_an_adapter_of_the_embedding_unties_the_head_and_leaves_it_as_it_was(
    tmp_path: Path,
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", Tiny(dtype="F32"))
    table, rng = stored(Tiny(dtype="F32"))[f"{EMBEDDING}.weight"], np.random.default_rng(4)
    a = rng.normal(0, 0.3, (4, VOCABULARY)).astype(np.float32)
    b = rng.normal(0, 0.3, (table.shape[1], 4)).astype(np.float32)
    parts = {"lora_embedding_A": a, "lora_embedding_B": b}
    adapter = tiny_adapter.write(tmp_path / "adapter", {EMBEDDING: parts})
    steps = list(convert(folder, tmp_path / "out.gguf", wish("f32", lora=adapter)))
    ours = written(tmp_path / "out.gguf")
    assert ours["output.weight"].data.tobytes() == table.tobytes()
    wanted = table + 2.0 * (b.astype(np.float64) @ a).T
    assert np.allclose(ours["token_embd.weight"].data, wanted, rtol=1e-5, atol=1e-5)
    assert any("breaks the tie" in step.text for step in steps if isinstance(step, Noted))


def test_an_adapter_of_a_tied_head_is_merged_into_a_head_of_its_own(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", Tiny(dtype="F32"))
    table = stored(Tiny(dtype="F32"))[f"{EMBEDDING}.weight"]
    parts = tiny_adapter.lora(table, 4, np.random.default_rng(4))
    adapter = tiny_adapter.write(tmp_path / "adapter", {HEAD: parts})
    list(convert(folder, tmp_path / "out.gguf", wish("f32", lora=adapter)))
    ours = written(tmp_path / "out.gguf")
    assert ours["token_embd.weight"].data.tobytes() == table.tobytes()
    wanted = tiny_adapter.merged(table, parts, 2.0)
    assert np.allclose(ours["output.weight"].data, wanted, rtol=1e-5, atol=1e-5)


def test_chunks_and_threads_do_not_show_in_merged_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny", SHAPED)
    weights, rng = stored(SHAPED), np.random.default_rng(4)
    modules = {name: tiny_adapter.lora(weights[f"{name}.weight"], 4, rng) for name in MODULES}
    adapter = tiny_adapter.write(tmp_path / "adapter", modules)
    list(convert(folder, tmp_path / "whole.gguf", wish("q8_0", lora=adapter), n_threads=1))
    monkeypatch.setattr("convert.stream.CHUNK_WEIGHTS", 5000)
    list(convert(folder, tmp_path / "parts.gguf", wish("q8_0", lora=adapter), n_threads=3))
    whole, parts = written(tmp_path / "whole.gguf"), written(tmp_path / "parts.gguf")
    for name, tensor in whole.items():
        one, other = (gguf.quants.dequantize(t.data, t.tensor_type) for t in (tensor, parts[name]))
        assert np.allclose(one, other, atol=0.02)  # the last bit of a product may round otherwise


def test_qwen2s_biases_can_be_trained_whole(tmp_path: Path) -> None:
    tiny = Tiny(family="qwen2", n_embd=256, n_head=4, n_head_kv=1, n_ff=512, dtype="F32")
    folder = tiny_checkpoint.write(tmp_path / "tiny", tiny)
    module = "model.layers.0.self_attn.q_proj"
    weights = stored(tiny)
    parts = tiny_adapter.lora(weights[f"{module}.weight"], 4, np.random.default_rng(4))
    bias = np.linspace(-1, 1, 256, dtype=np.float32)
    adapter = tiny_adapter.write(
        tmp_path / "adapter", {module: parts}, {"bias": "lora_only"},
        {f"{module}.base_layer.bias": bias},
    )  # fmt: skip
    list(convert(folder, tmp_path / "out.gguf", wish("f32", lora=adapter)))
    ours = written(tmp_path / "out.gguf")
    assert ours["blk.0.attn_q.bias"].data.tobytes() == bias.tobytes()
    wanted = tiny_adapter.merged(weights[f"{module}.weight"], parts, 2.0)
    assert np.allclose(ours["blk.0.attn_q.weight"].data, wanted, rtol=1e-5, atol=1e-5)


def test_an_adapter_for_another_base_leaves_no_file(tmp_path: Path) -> None:
    folder = tiny_checkpoint.write(tmp_path / "tiny")
    parts = tiny_adapter.lora(np.zeros((2048, 2048)), 4, np.random.default_rng(4))
    adapter = tiny_adapter.write(tmp_path / "adapter", {MODULES[0]: parts})
    with pytest.raises(ConversionError, match="another base"):
        list(convert(folder, tmp_path / "out.gguf", wish("f16", lora=adapter)))
    ran = subprocess.run(
        [sys.executable, "-m", "edgeagent", "convert", str(folder), str(tmp_path / "out.gguf"),
         "--lora", str(adapter)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 2
    assert f"{MODULES[0]}.lora_A.weight" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out.gguf").exists()
