"""The build chosen for a device has fast kernels there and fits, and the sum says why."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from convert import qwen3
from convert.devices import (
    DEVICES,
    MIB,
    Build,
    Sizes,
    Target,
    choose,
    explanation,
    ram_size,
    sizes_of,
)
from convert.file_types import Type
from convert.type_plan import Shaped
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import TensorType

GIB = 1024 * MIB
CONFIG: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
}
SMALLER = {**CONFIG, "hidden_size": 1024, "intermediate_size": 3072}
"""Qwen3-0.6B's shapes."""


def sizes(config: dict[str, Any] = CONFIG, *, tied: bool = True) -> Sizes:
    architecture = qwen3.ARCHITECTURE
    tensors = [
        Shaped(weight.target, weight.shape, TensorType.F32)
        for weight in architecture.weights(config)
        if not (tied and weight.source == architecture.head)
    ]
    metadata = {entry.key: entry.value for entry in architecture.hyperparameters(config)}
    return sizes_of(metadata, tensors, architecture.model(config))


def by_kind(builds: list[Build]) -> dict[Type, Build]:
    return {build.choice.kind: build for build in reversed(builds)}


@pytest.mark.parametrize(
    ("kind", "mib"),
    [
        # llama.cpp's own dry run on the same shapes.
        (Type.Q8_0, 1743.8), (Type.Q6_K, 1346.4), (Type.Q5_K_M, 1193.9), (Type.Q4_1, 1083.9),
        (Type.Q4_K_M, 1050.4), (Type.Q4_K_S, 1005.4), (Type.IQ4_NL, 1004.4), (Type.Q4_0, 999.9),
        (Type.IQ4_XS, 963.5), (Type.Q3_K_M, 890.3), (Type.Q2_K, 736.1),
    ],
)  # fmt: skip
def test_the_weights_take_what_llama_cpp_says(kind: Type, mib: float) -> None:
    (found,) = [b for b in choose(sizes(), Target.PI5, 16 * GIB) if b.name == f"--type {kind}"]
    assert found.weight_bytes / MIB == pytest.approx(mib, abs=0.06)


def test_the_context_takes_112_kib_for_each_token() -> None:
    best = choose(sizes(), Target.PI5, 8 * GIB, 3000)[0]
    assert best.context_bytes == 3000 * 112 * 1024
    assert best.work_bytes > 128 * 3000 * 16 * 4
    assert best.needed_bytes == best.weight_bytes + best.context_bytes + best.work_bytes


@pytest.mark.parametrize(
    ("target", "gib", "name", "n_context"),
    [
        (Target.PI5, 2, "--type q4_k_m", 4096),
        (Target.PI5, 4, "--type q4_k_m", 8192),
        (Target.PI5, 16, "--type q4_k_m", 8192),
        (Target.PI4, 2, "--type q4_0 --head-type q8_0", 2048),
        (Target.PI4, 4, "--type q8_0", 8192),
        (Target.LAPTOP, 8, "--type q4_k_m", 8192),
    ],
)
def test_the_choice_for_a_model_of_the_target_size(
    target: Target, gib: int, name: str, n_context: int
) -> None:
    builds = choose(sizes(), target, gib * GIB)
    best = builds[0]
    assert (best.name, best.n_context) == (name, n_context)
    assert best.fits
    assert not best.slow
    assert best.needed_bytes + DEVICES[target].system_bytes <= gib * GIB


def test_a_smaller_model_keeps_more_bits() -> None:
    assert choose(sizes(SMALLER), Target.PI5, 4 * GIB)[0].name == "--type q5_k_m"


def test_a_model_of_a_few_megabytes_is_kept_whole() -> None:
    nano = {
        **CONFIG, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 8192,
        "max_position_embeddings": 2048,
    }  # fmt: skip
    for target in Target:
        best = choose(sizes(nano), target, 3 * GIB)[0]
        assert (best.name, best.n_context) == ("--type q8_0", 2048)


def test_types_without_rearranged_kernels_are_slow_on_a_pi_5() -> None:
    builds = by_kind(choose(sizes(), Target.PI5, 16 * GIB))
    for kind in (Type.Q8_0, Type.Q6_K, Type.Q5_K_M, Type.Q4_K_M, Type.Q4_0, Type.IQ4_NL):
        assert builds[kind].slow == {}, kind
    for kind in (Type.IQ4_XS, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q3_K_M, Type.Q2_K, Type.IQ3_M):
        assert builds[kind].slow, kind
    assert builds[Type.IQ4_XS].slow.keys() == {TensorType.IQ4_XS}


def test_nothing_is_copied_on_a_pi_4() -> None:
    assert {b.rearranged_bytes for b in choose(sizes(), Target.PI4, 16 * GIB)} == {0}


def test_a_tied_head_is_held_twice_where_its_type_is_rearranged() -> None:
    head = TensorType.Q6_K.n_bytes(prod((151936, 2048)))
    assert round(head / MIB) == 243
    assert by_kind(choose(sizes(), Target.PI5, 4 * GIB))[Type.Q4_K_M].twice_bytes == head
    assert by_kind(choose(sizes(), Target.LAPTOP, 8 * GIB))[Type.Q4_K_M].twice_bytes == 0
    untied = by_kind(choose(sizes(tied=False), Target.PI5, 4 * GIB))[Type.Q4_K_M]
    assert untied.twice_bytes == 0
    assert untied.weight_bytes > 1200 * MIB


def test_with_importance_the_few_tensors_in_slower_types_are_put_back() -> None:
    """llama.cpp gives the first blocks' ffn_down Q4_1 then, which a Pi 5 has no kernel for."""
    tensors = sizes().tensors
    builds = choose(sizes(), Target.PI5, 4 * GIB, important={tensor.name for tensor in tensors})
    q4_0 = {build.name: build for build in builds if build.choice.kind is Type.Q4_0}
    assert q4_0["--type q4_0"].slow.keys() == {TensorType.Q4_1}
    put_back = q4_0["--type q4_0 --tensor-type ffn_down=q4_0 --head-type q8_0"]
    assert put_back.slow == {}


def test_speed_is_bounded_by_the_bytes_read() -> None:
    builds = by_kind(choose(sizes(), Target.PI5, 16 * GIB))
    for kind, tokens in ((Type.Q8_0, 5.5), (Type.Q4_K_M, 9.1), (Type.Q2_K, 13.0)):
        assert builds[kind].tokens_per_s == pytest.approx(tokens, abs=0.06)
    assert choose(sizes(), Target.LAPTOP, 16 * GIB)[0].tokens_per_s is None


def test_what_fits_nowhere_is_said_with_its_sum() -> None:
    with pytest.raises(ConversionError, match=r"no build .* fits into 1024 MB: --type q2_k"):
        choose(sizes(), Target.PI5, GIB)
    with pytest.raises(ConversionError, match="with a context of 40960 tokens"):
        choose(sizes(), Target.PI5, 2 * GIB, 40960)


def test_no_context_is_longer_than_the_models_own() -> None:
    assert choose(sizes(), Target.PI5, 16 * GIB, 1 << 20)[0].n_context == 40960


@pytest.mark.parametrize("target", list(Target))
def test_the_explanation_adds_up_and_names_every_build(target: Target) -> None:
    ram = 6 * GIB
    builds = choose(sizes(), target, ram)
    lines = list(explanation(builds, target, ram))
    assert builds[0].name in lines[0]
    numbers = [int(line[2:].split(" MB")[0].replace(",", "")) for line in lines[1:5]]
    assert abs(sum(numbers[:3]) - numbers[3]) <= 2  # each is rounded
    assert len([line for line in lines if line.startswith("not ")]) == len(builds) - 1


def test_memory_is_read_from_the_metadata_of_the_header() -> None:
    tensors, model = sizes().tensors, sizes().model
    with pytest.raises(ConversionError, match=r"qwen3\.embedding_length is 0"):
        sizes_of({}, tensors, model)
    with pytest.raises(ConversionError, match=r"qwen3\.context_length is 'long'"):
        sizes_of({"qwen3.embedding_length": 2048, "qwen3.context_length": "long"}, tensors, model)


@pytest.mark.parametrize(
    ("given", "n_bytes"),
    [
        ("2GB", 2 * GIB), ("4G", 4 * GIB), ("8192M", 8 * GIB), ("8 GiB", 8 * GIB),
        ("1.5g", GIB * 3 // 2), ("512mb", 512 * MIB), ("1T", 1024 * GIB),
    ],
)  # fmt: skip
def test_a_size_of_memory_is_read(given: str, n_bytes: int) -> None:
    assert ram_size(given) == n_bytes


@pytest.mark.parametrize(
    "given", ["", "4", "GB", "-2G", "4X", "0G", "100M", "nan", "1e9G", "4 G B"]
)
def test_what_is_no_size_is_refused(given: str) -> None:
    with pytest.raises(ConversionError, match="is no size of memory"):
        ram_size(given)
