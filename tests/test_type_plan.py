"""Each tensor's type is llama.cpp's own choice, for every file type and shape of model.

Its quantizer is asked in a dry run on files of the true shapes that hold no weights: holes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from convert.file_types import Type, file_type, tensor_type
from convert.gguf_file import Entry, Slot, f32, head, size_bytes, text, u32
from convert.recipes import Model
from convert.type_plan import Choice, Shaped, overrides, plan
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import TensorType, ValueType

SCRIPT = Path(__file__).with_name("llama_quantizer.py")
UNSET = 43
"""GGML_TYPE_COUNT, which means that no type was asked for."""


@dataclass(frozen=True)
class Shape:
    """A model as the recipes see it."""

    architecture: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    is_tied: bool
    n_experts: int = 0

    @property
    def model(self) -> Model:
        return Model(self.architecture, self.n_layers, self.n_head, self.n_head_kv, self.n_experts)

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        n_q, n_kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        yield "token_embd.weight", (64, self.n_embd)
        for n in range(self.n_layers):
            yield f"blk.{n}.attn_norm.weight", (self.n_embd,)
            yield f"blk.{n}.attn_q.weight", (n_q, self.n_embd)
            yield f"blk.{n}.attn_k.weight", (n_kv, self.n_embd)
            yield f"blk.{n}.attn_v.weight", (n_kv, self.n_embd)
            yield f"blk.{n}.attn_v.bias", (n_kv,)
            yield f"blk.{n}.attn_output.weight", (self.n_embd, n_q)
            yield f"blk.{n}.ffn_norm.weight", (self.n_embd,)
            suffix, experts = ("_exps", (self.n_experts,)) if self.n_experts else ("", ())
            if self.n_experts:
                yield f"blk.{n}.ffn_gate_inp.weight", (self.n_experts, self.n_embd)
            yield f"blk.{n}.ffn_gate{suffix}.weight", (*experts, self.n_ff, self.n_embd)
            yield f"blk.{n}.ffn_up{suffix}.weight", (*experts, self.n_ff, self.n_embd)
            yield f"blk.{n}.ffn_down{suffix}.weight", (*experts, self.n_embd, self.n_ff)
        yield "output_norm.weight", (self.n_embd,)
        if not self.is_tied:
            yield "output.weight", (64, self.n_embd)

    def entries(self) -> Iterator[Entry]:
        a = self.architecture
        yield text("general.architecture", a)
        yield u32("general.file_type", 0)
        yield u32(f"{a}.block_count", self.n_layers)
        yield u32(f"{a}.context_length", 4096)
        yield u32(f"{a}.embedding_length", self.n_embd)
        yield u32(f"{a}.feed_forward_length", self.n_ff)
        yield u32(f"{a}.attention.head_count", self.n_head)
        yield u32(f"{a}.attention.head_count_kv", self.n_head_kv)
        yield u32(f"{a}.attention.key_length", self.head_dim)
        yield u32(f"{a}.attention.value_length", self.head_dim)
        yield f32(f"{a}.attention.layer_norm_rms_epsilon", 1e-6)
        if self.n_experts:
            yield u32(f"{a}.expert_count", self.n_experts)
            yield u32(f"{a}.expert_used_count", 2)
        yield text("tokenizer.ggml.model", "no_vocab")
        yield Entry("tokenizer.ggml.tokens", ValueType.STRING, [f"t{i}" for i in range(64)])

    def write(self, path: Path) -> Path:
        """Write a file whose weights are a hole; it takes a few kilobytes of the disk."""
        slots = [Slot(name, TensorType.F32, shape) for name, shape in self.tensors()]
        entries = list(self.entries())
        path.write_bytes(head(entries, slots))
        with path.open("r+b") as file:
            file.truncate(size_bytes(entries, slots))
        return path


QWEN3_1_7B = Shape("qwen3", 28, 2048, 6144, 16, 8, 128, is_tied=True)
SHAPES = {
    "Qwen3-0.6B": Shape("qwen3", 28, 1024, 3072, 16, 8, 128, is_tied=True),
    "Qwen3-1.7B": QWEN3_1_7B,
    "Qwen3-1.7B with a head of its own": replace(QWEN3_1_7B, is_tied=False),
    "Qwen3-14B": Shape("qwen3", 40, 5120, 17408, 40, 8, 128, is_tied=False),
    "Qwen2.5-0.5B, rows of 896": Shape("qwen2", 24, 896, 4864, 14, 2, 64, is_tied=True),
    "Qwen2.5-7B": Shape("qwen2", 28, 3584, 18944, 28, 4, 128, is_tied=False),
    "Llama-3.2-1B": Shape("llama", 16, 2048, 8192, 32, 8, 64, is_tied=True),
    "Llama 70B": Shape("llama", 80, 8192, 28672, 64, 8, 128, is_tied=False),
    "Mixtral, 8 experts": Shape("llama", 32, 4096, 14336, 32, 8, 128, False, n_experts=8),
    "16 experts": Shape("llama", 20, 1024, 512, 8, 8, 128, True, n_experts=16),
    "rows that nothing fits": Shape("qwen3", 9, 80, 96, 4, 2, 20, is_tied=True),
    "nano": Shape("qwen3", 6, 256, 768, 4, 2, 64, is_tied=True),
}


def asked(jobs: list[dict]) -> list[dict]:
    """Return llama.cpp's answers to all jobs, from one process."""
    ran = subprocess.run(
        [sys.executable, str(SCRIPT)], input=json.dumps(jobs), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def types_in(log: list[str]) -> dict[str, str]:
    """Return tensor name → type, from the lines of a dry run."""
    found, name = {}, ""
    for line in log:
        began = re.match(r"\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\w+),", line)
        if began:
            name, found[began[1]] = began[1], began[2].upper()
        ended = re.search(r"MiB -> .*MiB \((\w+)\)", line)
        if ended:
            found[name] = ended[1].upper()
    return found


def importance(path: Path, shape: Shape) -> Path:
    """Write an importance matrix that knows one tensor, which is enough to be one."""
    import numpy as np

    np.savez(path, **{"blk.0.attn_q.weight": np.ones(shape.n_embd, np.float32)})
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_every_tensor_of_every_file_type_is_what_llama_cpp_chooses(
    tmp_path: Path, name: str
) -> None:
    shape = SHAPES[name]
    source = shape.write(tmp_path / "hole.gguf")
    matrix = importance(tmp_path / "imatrix.npz", shape)
    tensors = [Shaped(name, dims, TensorType.F32) for name, dims in shape.tensors()]
    everything = {tensor.name for tensor in tensors}
    cases = [(kind, known) for kind in Type for known in (None, everything)]
    jobs = [
        {"source": str(source), "out": "", "file_type": kind.number, "dry_run": True}
        | ({"imatrix": str(matrix)} if known else {})
        for kind, known in cases
    ]
    n_compared = 0
    for (kind, known), answer in zip(cases, asked(jobs), strict=True):
        needs_matrix = any("will require an imatrix" in line for line in answer["log"])
        if needs_matrix or answer["code"] == 1:
            with pytest.raises(ConversionError):
                plan(tensors, shape.model, Choice(kind), known)
            continue
        planned = plan(tensors, shape.model, Choice(kind), known)
        assert answer["code"] == 0, (kind, answer["log"][-3:])
        ours = dict(zip([t.name for t in tensors], [t.name for t in planned.types], strict=True))
        assert ours == types_in(answer["log"]), kind
        n_compared += len(ours)
    assert n_compared > 40 * len(tensors)


OVERRIDES = [
    ["ffn_down=q8_0"],
    [r"blk\.0\.ffn_down=f16", r"ffn_(up|gate)=iq4_nl"],
    [r"attn_v=q5_1", r"attn_v=q8_0"],
    [r"^token_embd\.weight$=q4_k"],
    [r"blk\.[0-4]\.=q6_k"],
    ["_norm=q8_0"],
]


@pytest.mark.parametrize("name", ["Qwen3-1.7B", "Qwen2.5-0.5B, rows of 896", "Qwen3-14B"])
def test_overrides_act_and_shift_the_count_as_in_llama_cpp(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name]
    source = shape.write(tmp_path / "hole.gguf")
    tensors = [Shaped(name, dims, TensorType.F32) for name, dims in shape.tensors()]
    choices = [
        Choice(kind, found, is_pure=is_pure)
        for kind in (Type.Q4_K_M, Type.Q3_K_M, Type.Q4_0)
        for found in map(overrides, OVERRIDES)
        for is_pure in (False, True)
    ]
    ends = (TensorType.Q8_0, TensorType.Q5_1, None)
    choices += [Choice(Type.Q4_K_S, (), end, embedding) for end in ends for embedding in ends]
    jobs = [
        {
            "source": str(source),
            "out": "",
            "file_type": choice.kind.number,
            "dry_run": True,
            "pure": choice.is_pure,
            "overrides": [[p.pattern, int(kind)] for p, kind in choice.overrides],
            "output_tensor_type": UNSET if choice.head is None else int(choice.head),
            "token_embedding_type": UNSET if choice.embedding is None else int(choice.embedding),
        }
        for choice in choices
    ]
    for choice, answer in zip(choices, asked(jobs), strict=True):
        planned = plan(tensors, shape.model, choice, None)
        ours = dict(zip([t.name for t in tensors], [t.name for t in planned.types], strict=True))
        assert ours == types_in(answer["log"]), choice


def chosen(choice: Choice, shape: Shape = QWEN3_1_7B) -> dict[str, str]:
    tensors = [Shaped(name, dims, TensorType.F32) for name, dims in shape.tensors()]
    planned = plan(tensors, shape.model, choice, None)
    return {t.name: kind.name for t, kind in zip(tensors, planned.types, strict=True)}


def test_what_a_person_asks_of_a_tied_head_is_done_where_llama_cpp_is_silent() -> None:
    pure = Choice(Type.Q4_0, head=TensorType.Q8_0, is_pure=True)
    assert chosen(pure)["token_embd.weight"] == "Q8_0"
    floats = Choice(Type.F16, overrides(["ffn_down=q8_0"]))
    assert chosen(floats)["blk.3.ffn_down.weight"] == "Q8_0"
    assert chosen(floats)["blk.3.ffn_up.weight"] == "F16"


@pytest.mark.parametrize(
    ("choice", "important", "says"),
    [
        (Choice(Type.IQ2_XXS), None, r"blk.0.attn_k.weight as IQ2_XXS needs an importance"),
        (Choice(Type.IQ2_XXS), {"blk.0.attn_k.weight"}, r"blk.0.attn_output.*this one lacks it"),
        (Choice(Type.Q2_K_S), None, "needs an importance matrix"),
        # llama.cpp lets these through, and ggml ends the process.
        (Choice(Type.Q4_0, head=TensorType.IQ2_XS), None, "token_embd.weight as IQ2_XS"),
        (Choice(Type.Q4_0, embedding=TensorType.IQ1_S), None, "token_embd.weight as IQ1_S"),
        (Choice(Type.Q4_0, overrides(["ffn_up=iq1_s"])), None, "blk.0.ffn_up.weight as IQ1_S"),
    ],
)
def test_what_would_abort_is_refused_before_it_begins(
    choice: Choice, important: set[str] | None, says: str
) -> None:
    tensors = [Shaped(name, dims, TensorType.F32) for name, dims in QWEN3_1_7B.tensors()]
    with pytest.raises(ConversionError, match=says):
        plan(tensors, QWEN3_1_7B.model, choice, important)


def test_rows_that_an_asked_type_does_not_fit_are_named() -> None:
    small = SHAPES["Qwen2.5-0.5B, rows of 896"]
    with pytest.raises(ConversionError, match=r"token_embd.weight cannot be Q6_K: its rows of 896"):
        chosen(Choice(Type.Q4_0, head=TensorType.Q6_K), small)
    with pytest.raises(ConversionError, match="falcon"):
        chosen(Choice(Type.Q4_0), replace(small, architecture="falcon"))


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("ffn_down", "is not like"),
        ("=q8_0", "is not like"),
        ("ffn_(=q8_0", "no regular expression"),
        ("ffn=q9", "'q9' is no tensor type"),
        ("ffn=q8_k", "'q8_k' is no tensor type"),
        ("ffn=q4_k_m", "'q4_k_m' is no tensor type"),
        ("ffn=", "'' is no tensor type"),
    ],
)
def test_an_override_that_says_nothing_is_refused(argument: str, says: str) -> None:
    with pytest.raises(ConversionError, match=re.escape(says)):
        overrides([argument])


def test_an_override_that_matches_nothing_is_noted() -> None:
    tensors = [Shaped(name, dims, TensorType.F32) for name, dims in QWEN3_1_7B.tensors()]
    planned = plan(tensors, QWEN3_1_7B.model, Choice(Type.Q8_0, overrides(["ffn_dwn=q8_0"])), None)
    assert planned.notes == ("no tensor's name matches --tensor-type ffn_dwn",)


def test_types_are_known_by_their_usual_names() -> None:
    assert file_type("Q4_K_M") is file_type("q4_k") is Type.Q4_K_M
    assert tensor_type("IQ4_xs") is TensorType.IQ4_XS
    with pytest.raises(ConversionError, match="'q4_2' is no file type; known: f32, f16"):
        file_type("q4_2")
