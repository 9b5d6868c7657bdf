"""An adapter is merged in the same pass: in float32, rounded once, whatever the file's type."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from convert import lora
from convert.file_types import Type
from convert.hf_to_gguf import convert, main
from convert.quantize import quantize
from convert.stream import Noted
from convert.type_plan import Choice
from convert.wish import Wish
from edgeagent import gguf_header
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import TensorType
from tests import tiny_adapter, tiny_checkpoint
from tests.tiny_checkpoint import Tiny

TINY = Tiny(dtype="F32", n_embd=256, n_ff=256, head_dim=64)
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
NORM = "model.layers.1.input_layernorm.weight"
SCALE = 2.0


class Made:
    """A base checkpoint, its weights, and room for adapters."""

    def __init__(self, folder: Path, tiny: Tiny = TINY) -> None:
        self.folder = folder
        self.base = tiny_checkpoint.write(folder / "base", tiny)
        config = json.loads((self.base / "config.json").read_text())
        self.weights = tiny_checkpoint.weights(tiny, config["vocab_size"])
        self.rng = np.random.default_rng(7)

    def update(self, module: str) -> dict[str, np.ndarray]:
        return tiny_adapter.lora(self.weights[f"{module}.weight"], 4, self.rng)

    def converted(
        self, adapter: Path, kind: Type = Type.F32, name: str = "out.gguf"
    ) -> tuple[Path, list[str]]:
        out = self.folder / name
        steps = list(convert(self.base, out, Wish(Choice(kind), adapter=lora.read(adapter))))
        return out, [step.text for step in steps if isinstance(step, Noted)]


def floats(path: Path) -> dict[str, np.ndarray]:
    raw = path.read_bytes()
    return {
        t.name: np.frombuffer(raw[t.offset : t.offset + t.n_bytes], np.float32).reshape(t.shape)
        for t in gguf_header.read(path).tensors
    }


def contents(path: Path) -> dict[str, tuple[TensorType, bytes]]:
    raw = path.read_bytes()
    tensors = gguf_header.read(path).tensors
    return {t.name: (t.type, raw[t.offset : t.offset + t.n_bytes]) for t in tensors}


@pytest.mark.parametrize("chunk", [1 << 19, 700], ids=["whole", "in pieces"])
@pytest.mark.parametrize("is_dora", [False, True], ids=["LoRA", "DoRA"])
def test_updates_and_whole_tensors_are_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, is_dora: bool
) -> None:
    monkeypatch.setattr("convert.stream.CHUNK_WEIGHTS", chunk)
    made = Made(tmp_path)
    modules = {Q: made.update(Q), DOWN: made.update(DOWN)}
    for module, parts in modules.items() if is_dora else ():
        n_out = len(made.weights[f"{module}.weight"])
        parts["lora_magnitude_vector"] = made.rng.uniform(1, 2, n_out).astype(np.float32)
    norm = made.rng.normal(1, 0.1, 256).astype(np.float32)
    adapter = tiny_adapter.write(tmp_path / "a", modules, {"use_dora": is_dora}, {NORM: norm})
    out, _ = made.converted(adapter)
    found = floats(out)
    for module, target in ((Q, "blk.0.attn_q.weight"), (DOWN, "blk.1.ffn_down.weight")):
        wanted = tiny_adapter.merged(made.weights[f"{module}.weight"], modules[module], SCALE)
        np.testing.assert_allclose(found[target], wanted, rtol=2e-5, atol=2e-6)
    assert np.array_equal(found["blk.1.attn_norm.weight"], norm)
    untouched = made.weights["model.layers.1.self_attn.q_proj.weight"]
    assert np.array_equal(found["blk.1.attn_q.weight"], untouched)


@pytest.mark.parametrize("kind", [Type.BF16, Type.Q8_0, Type.Q4_K_M])
def test_the_merged_weights_are_rounded_once(tmp_path: Path, kind: Type) -> None:
    made = Made(tmp_path)
    adapter = tiny_adapter.write(tmp_path / "a", {Q: made.update(Q), DOWN: made.update(DOWN)})
    exact, _ = made.converted(adapter)
    direct, _ = made.converted(adapter, kind, "direct.gguf")
    list(quantize(exact, tmp_path / "twice.gguf", Wish(Choice(kind))))
    assert contents(direct) == contents(tmp_path / "twice.gguf")


def test_an_update_of_a_tied_head_makes_it_a_head_of_its_own(tmp_path: Path) -> None:
    made = Made(tmp_path)
    embedding = made.weights["model.embed_tokens.weight"]
    head = tiny_adapter.lora(embedding, 4, made.rng)
    adapter = tiny_adapter.write(tmp_path / "a", {"lm_head": head})
    out, notes = made.converted(adapter)
    found = floats(out)
    wanted = tiny_adapter.merged(embedding, head, SCALE)
    np.testing.assert_allclose(found["output.weight"], wanted, rtol=2e-5, atol=2e-6)
    assert np.array_equal(found["token_embd.weight"], embedding)
    assert any("breaks the tie" in note for note in notes)
    small, _ = made.converted(adapter, Type.Q4_K_M, "small.gguf")
    types = {t.name: t.type for t in gguf_header.read(small).tensors}
    assert types["output.weight"] is TensorType.Q6_K
    assert types["token_embd.weight"] is TensorType.Q4_K


def test_an_embedding_and_a_head_that_were_saved_alike_stay_one(tmp_path: Path) -> None:
    made = Made(tmp_path)
    new = made.rng.normal(0, 1, made.weights["model.embed_tokens.weight"].shape)
    new = new.astype(np.float32)
    whole = {"model.embed_tokens.weight": new, "lm_head.weight": new}
    adapter = tiny_adapter.write(tmp_path / "a", {Q: made.update(Q)}, None, whole)
    found = floats(made.converted(adapter)[0])
    assert "output.weight" not in found
    assert np.array_equal(found["token_embd.weight"], new)


def test_an_adapter_for_another_base_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(tmp_path)
    wrong = tiny_adapter.lora(np.zeros((32, 48), np.float32), 4, made.rng)
    adapter = tiny_adapter.write(tmp_path / "a", {Q: wrong})
    out = tmp_path / "m.gguf"
    with pytest.raises(ConversionError, match=r"is for another base: .*q_proj.*lora_A"):
        list(convert(made.base, out, Wish(Choice(Type.Q8_0), adapter=lora.read(adapter))))
    assert main([str(made.base), str(out), "--lora", str(adapter)]) == 2
    assert "is for another base" in capsys.readouterr().err
    assert main([str(made.base), str(out), "--lora", str(tmp_path / "none")]) == 2
    assert not out.exists()
