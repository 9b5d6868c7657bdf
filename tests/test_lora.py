"""An adapter merged by `convert.lora` is what PEFT's formulas say, or a named refusal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import lora
from edgeagent.errors import ConversionError
from tests import tiny_adapter, tiny_checkpoint
from tests.tiny_checkpoint import Tiny

Q = "model.layers.0.self_attn.q_proj"
K = "model.layers.1.self_attn.k_proj"
DOWN = "model.layers.1.mlp.down_proj"
EMBEDDING = "model.embed_tokens"
VOCABULARY = 283
WEIGHTS = tiny_checkpoint.weights(Tiny(), VOCABULARY)
SHAPES = {name: values.shape for name, values in WEIGHTS.items()}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def weight(module: str) -> np.ndarray:
    return WEIGHTS[f"{module}.weight"]


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal to what float32 can tell, and computed in it."""
    return found.dtype == np.float32 and bool(
        np.allclose(found, wanted, rtol=3e-6, atol=3e-6 * np.abs(wanted).max())
    )


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"lora_alpha": 3}, 0.75),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"self_attn.q_proj": 20}}, 5.0),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 1, "q_proj": 20}}, 0.25),
        ({"alpha_pattern": {"q_proj": 20, "layers.0.self_attn.q_proj": 1}}, 5.0),  # the first wins
        ({"alpha_pattern": {r"layers\.[1-9]\..*": 20}}, 2.0),
        ({"alpha_pattern": {r".*\.0\..*_proj": 16}, "use_rslora": True}, 8.0),
        ({"alpha_pattern": {"attn.q_proj": 20}}, 2.0),  # not a whole part of the name
        ({"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 6}}, 1.5),
        ({"r": 64, "rank_pattern": {"q_proj": 4}}, 2.0),
        ({"r": 64, "rank_pattern": {"q_proj": 4}, "use_rslora": True}, 4.0),
    ],
)
def test_the_scale_is_what_the_settings_say(
    tmp_path: Path, rng: np.random.Generator, config: dict[str, Any], scale: float
) -> None:
    parts = tiny_adapter.lora(weight(Q), 4, rng)
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {Q: parts}, config))
    adapter.check(SHAPES)
    wanted = tiny_adapter.merged(weight(Q), parts, scale)
    assert close(adapter.merged(f"{Q}.weight", weight(Q)), wanted)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("module", [Q, DOWN])
def test_dora_gives_each_output_its_length(
    tmp_path: Path, rng: np.random.Generator, module: str, turned: bool
) -> None:
    parts = tiny_adapter.lora(weight(module), 4, rng, turned=turned)
    n_out = len(parts["lora_B.weight"])
    parts["lora_magnitude_vector"] = rng.uniform(0.5, 2, n_out).astype(np.float32)
    config = {"use_dora": True, "fan_in_fan_out": turned}
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {module: parts}, config))
    adapter.check(SHAPES)
    found = adapter.merged(f"{module}.weight", weight(module))
    assert close(found, tiny_adapter.merged(weight(module), parts, 2.0, turned=turned))
    lengths = np.linalg.norm(found, axis=0 if turned else 1)
    assert np.allclose(lengths, parts["lora_magnitude_vector"], rtol=1e-5)
    assert adapter.needs_all_rows(f"{module}.weight") == turned


def test_weights_stored_inputs_first_are_updated_transposed(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    parts = tiny_adapter.lora(weight(DOWN), 4, rng, turned=True)
    folder = tiny_adapter.write(tmp_path / "a", {DOWN: parts}, {"fan_in_fan_out": True})
    adapter = lora.read(folder)
    adapter.check(SHAPES)
    wanted = tiny_adapter.merged(weight(DOWN), parts, 2.0, turned=True)
    assert close(adapter.merged(f"{DOWN}.weight", weight(DOWN)), wanted)


def test_the_flag_is_ignored_for_weights_stored_outputs_first_as_peft_ignores_it(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    parts = tiny_adapter.lora(weight(DOWN), 4, rng)
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {DOWN: parts}, {"fan_in_fan_out": True}))
    adapter.check(SHAPES)
    wanted = tiny_adapter.merged(weight(DOWN), parts, 2.0)
    assert close(adapter.merged(f"{DOWN}.weight", weight(DOWN)), wanted)


@pytest.mark.parametrize("dora", [False, True])
def test_rows_in_parts_give_the_whole(tmp_path: Path, rng: np.random.Generator, dora: bool) -> None:
    parts = tiny_adapter.lora(weight(Q), 4, rng)
    if dora:
        parts["lora_magnitude_vector"] = rng.uniform(0.5, 2, len(weight(Q))).astype(np.float32)
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {Q: parts}, {"use_dora": dora}))
    rows = [
        adapter.merged(f"{Q}.weight", weight(Q)[at : at + 13], at)
        for at in range(0, len(weight(Q)), 13)
    ]
    assert close(np.concatenate(rows), tiny_adapter.merged(weight(Q), parts, 2.0))


def test_an_embedding_is_updated_transposed(tmp_path: Path, rng: np.random.Generator) -> None:
    table = weight(EMBEDDING)
    a = rng.normal(0, 0.3, (4, VOCABULARY)).astype(np.float32)
    b = rng.normal(0, 0.3, (table.shape[1], 4)).astype(np.float32)
    parts = {"lora_embedding_A": a, "lora_embedding_B": b}
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {EMBEDDING: parts}))
    adapter.check(SHAPES)
    wanted = table + 2.0 * (b.astype(np.float64) @ a).T
    assert close(adapter.merged(f"{EMBEDDING}.weight", table), wanted)
    assert close(adapter.merged(f"{EMBEDDING}.weight", table[40:50], 40), wanted[40:50])
    assert adapter.unties("lm_head.weight", f"{EMBEDDING}.weight")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_an_adapter_may_be_stored_in_any_float(
    tmp_path: Path, rng: np.random.Generator, dtype: str
) -> None:
    parts = tiny_adapter.lora(weight(K), 4, rng)
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {K: parts}, dtype=dtype))
    stored = {name: tiny_checkpoint.exact(values, dtype) for name, values in parts.items()}
    wanted = tiny_adapter.merged(weight(K), stored, 2.0)
    assert close(adapter.merged(f"{K}.weight", weight(K)), wanted)


def test_what_the_adapter_does_not_concern_is_returned_untouched(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    adapter = lora.read(
        tiny_adapter.write(tmp_path / "a", {Q: tiny_adapter.lora(weight(Q), 4, rng)})
    )
    assert adapter.merged(f"{K}.weight", weight(K)) is weight(K)
    assert not adapter.concerns(f"{K}.weight")
    assert adapter.replaces(f"{Q}.weight") is None
    assert not adapter.unties("lm_head.weight", f"{EMBEDDING}.weight")


@pytest.mark.parametrize(
    "spelled",
    ["model.norm.weight", "model.norm.modules_to_save.weight",
     "model.norm.modules_to_save.default.weight"],
)  # fmt: skip
def test_modules_trained_whole_are_found_by_the_bases_name(tmp_path: Path, spelled: str) -> None:
    norm = np.linspace(0, 1, 64, dtype=np.float32)
    head = np.ones((VOCABULARY, 64), np.float32)
    whole = {spelled: norm, "lm_head.weight": head}
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {}, whole=whole))
    adapter.check(SHAPES, tied={"lm_head.weight": f"{EMBEDDING}.weight"})
    stored = adapter.replaces("model.norm.weight")
    assert stored is not None
    raw = stored.shard.read_bytes()[stored.offset : stored.offset + stored.n_bytes]
    assert raw == norm.tobytes()
    assert adapter.unties("lm_head.weight", f"{EMBEDDING}.weight")


def test_a_head_trained_whole_and_equal_to_the_embedding_stays_tied(tmp_path: Path) -> None:
    table = np.ones((VOCABULARY, 64), np.float32)
    whole = {"lm_head.weight": table, f"{EMBEDDING}.weight": table}
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {}, whole=whole))
    assert not adapter.unties("lm_head.weight", f"{EMBEDDING}.weight")


def test_a_base_embedding_saved_beside_its_update_replaces_and_is_updated(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """PEFT saves `base_layer` with the update where the embedding was resized."""
    table = weight(EMBEDDING) + 1
    a = rng.normal(0, 0.3, (4, VOCABULARY)).astype(np.float32)
    b = rng.normal(0, 0.3, (64, 4)).astype(np.float32)
    parts = {"lora_embedding_A": a, "lora_embedding_B": b, "base_layer.weight": table}
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {EMBEDDING: parts}))
    assert adapter.replaces(f"{EMBEDDING}.weight") is not None
    wanted = table + 2.0 * (b.astype(np.float64) @ a).T
    assert close(adapter.merged(f"{EMBEDDING}.weight", table), wanted)


def wrong_shape(parts: dict[str, np.ndarray]) -> None:
    parts["lora_A.weight"] = parts["lora_A.weight"][:, :-8]


def without_b(parts: dict[str, np.ndarray]) -> None:
    del parts["lora_B.weight"]


def other_rank(parts: dict[str, np.ndarray]) -> None:
    parts["lora_B.weight"] = parts["lora_B.weight"][:, :3]


def with_magnitude(parts: dict[str, np.ndarray]) -> None:
    parts["lora_magnitude_vector"] = np.ones(128, np.float32)


def with_bias(parts: dict[str, np.ndarray]) -> None:
    parts["lora_B.bias"] = np.ones(128, np.float32)


def with_nan(parts: dict[str, np.ndarray]) -> None:
    parts["lora_B.weight"][3, 1] = np.nan


Change = Callable[[dict[str, np.ndarray]], None]


@pytest.mark.parametrize(
    ("change", "config", "named"),
    [
        (wrong_shape, {}, f"another base: base_model.model.{Q}.lora_A.weight"),
        (wrong_shape, {}, "trained on Qwen/Qwen3-1.7B"),
        (without_b, {}, f"no lora_B for {Q}"),
        (other_rank, {}, "do not multiply"),
        (None, {"r": 16}, "has the rank 4"),
        (None, {"r": 0}, "has the rank 4"),
        (None, {"r": "four"}, "r is 'four', not a number"),
        (None, {"lora_alpha": None}, "lora_alpha is None"),
        (None, {"lora_alpha": math.inf}, "lora_alpha is inf"),
        (None, {"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern.q_proj is 'x'"),
        (None, {"alpha_pattern": {"(": 1}}, "no regular expression"),
        (None, {"alpha_pattern": [1]}, "not a table"),
        (None, {"use_dora": True}, "has no lora_magnitude_vector"),
        (with_magnitude, {}, "does not use DoRA"),
        (with_bias, {}, f"{Q}.lora_B.bias"),
        (with_nan, {}, f"{Q}.lora_B.weight holds a NaN"),
        (None, {"peft_type": "IA3"}, "a IA3 adapter"),
        (None, {"init_lora_weights": "pissa_niter_16"}, "altered base weights"),
        (None, {"layer_replication": [[0, 4]]}, "repeats layers"),
        (None, {"alora_invocation_tokens": [1, 2]}, "behind certain tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused_by_name(
    tmp_path: Path,
    rng: np.random.Generator,
    change: Change | None,
    config: dict[str, Any],
    named: str,
) -> None:
    parts = tiny_adapter.lora(weight(Q), 4, rng)
    if change is not None:
        change(parts)
    folder = tiny_adapter.write(tmp_path / "a", {Q: parts}, config)
    with pytest.raises(ConversionError) as caught:
        merge(folder)
    assert named in str(caught.value)


def merge(folder: Path) -> np.ndarray:
    """Do all that a conversion does with an adapter."""
    adapter = lora.read(folder)
    adapter.check(SHAPES)
    return adapter.merged(f"{Q}.weight", weight(Q))


@pytest.mark.parametrize(
    ("module", "whole", "named"),
    [
        ("model.layers.9.self_attn.q_proj", {}, "layers.9.self_attn.q_proj.lora_A.weight"),
        ("lm_head", {}, "has no tensor lm_head.weight"),
        (Q, {"model.embed_tokens.weight": np.ones((290, 64), np.float32)}, "the vocabulary"),
        (Q, {"model.norm.weight": np.ones(32, np.float32)}, "model.norm.weight"),
        (Q, {f"{Q}.base_layer.bias": np.ones(128, np.float32)}, f"has no tensor {Q}.bias"),
    ],
)
def test_a_tensor_without_a_place_in_the_base_is_named(
    tmp_path: Path,
    rng: np.random.Generator,
    module: str,
    whole: dict[str, np.ndarray],
    named: str,
) -> None:
    parts = tiny_adapter.lora(weight(Q), 4, rng)
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {module: parts}, whole=whole))
    with pytest.raises(ConversionError) as caught:
        adapter.check(SHAPES)
    assert named in str(caught.value)


def test_a_grown_vocabulary_is_named_for_an_updated_embedding_too(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    a = rng.normal(0, 1, (4, VOCABULARY + 2)).astype(np.float32)
    b = rng.normal(0, 1, (64, 4)).astype(np.float32)
    parts = {"lora_embedding_A": a, "lora_embedding_B": b}
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {EMBEDDING: parts}))
    with pytest.raises(ConversionError, match="the training changed the vocabulary"):
        adapter.check(SHAPES)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "not a PEFT adapter"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "download"),
        (
            lambda folder: (folder / "adapter_model.safetensors").rename(
                folder / "adapter_model.bin"
            ),
            "pickle",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 99), "cut short"),
    ],
)
def test_a_damaged_folder_is_refused(
    tmp_path: Path, rng: np.random.Generator, damage: Callable[[Path], object], named: str
) -> None:
    folder = tiny_adapter.write(tmp_path / "a", {Q: tiny_adapter.lora(weight(Q), 4, rng)})
    damage(folder)
    with pytest.raises(ConversionError, match=named):
        lora.read(folder)


def test_an_empty_adapter_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="empty"):
        lora.read(tiny_adapter.write(tmp_path / "a", {}))
    with pytest.raises(ConversionError, match="not a folder"):
        lora.read(tmp_path / "nowhere")


def test_a_length_for_weights_of_zero_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    parts = tiny_adapter.lora(weight(Q), 4, rng)
    parts["lora_B.weight"][7] = 0
    parts["lora_magnitude_vector"] = np.ones(128, np.float32)
    adapter = lora.read(tiny_adapter.write(tmp_path / "a", {Q: parts}, {"use_dora": True}))
    zeroed = weight(Q).copy()
    zeroed[7] = 0
    with pytest.raises(ConversionError, match="all zero"):
        adapter.merged(f"{Q}.weight", zeroed)


def test_a_config_without_the_rare_keys_is_enough(tmp_path: Path, rng: np.random.Generator) -> None:
    parts = tiny_adapter.lora(weight(Q), 4, rng)
    folder = tiny_adapter.write(tmp_path / "a", {Q: parts})
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    wanted = tiny_adapter.merged(weight(Q), parts, 2.0)
    assert close(lora.read(folder).merged(f"{Q}.weight", weight(Q)), wanted)
