"""Which type every tensor of a file gets: llama.cpp's recipes, overrides, and what they need.

A pure function of names, shapes and a few facts of the model; reads no file and runs no kernel.
Its answers equal llama_model_quantize's for every type, except where a person asks for something
that llama.cpp passes over in silence; `Choice` says where.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/src/llama-quant.cpp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from convert.file_types import Type, tensor_type
from convert.recipes import ODD_ARCHITECTURES, VERY_LOW, Model, Place, Role, recipe
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import TensorType

NEEDS_IMPORTANCE = frozenset({
    TensorType.IQ1_S, TensorType.IQ1_M, TensorType.IQ2_XXS, TensorType.IQ2_XS, TensorType.IQ2_S,
    TensorType.IQ3_XXS,
})  # fmt: skip
"""Garbage without an importance matrix, says llama.cpp, and refuses."""
ABORTS_WITHOUT = frozenset({TensorType.IQ1_S, TensorType.IQ2_XXS, TensorType.IQ2_XS})
"""ggml ends the process when it is asked for these without one."""

FALLBACKS = {
    **dict.fromkeys(
        (
            TensorType.IQ1_S, TensorType.IQ1_M, TensorType.IQ2_XXS, TensorType.IQ2_XS,
            TensorType.IQ2_S, TensorType.IQ3_XXS, TensorType.IQ3_S, TensorType.IQ4_XS,
        ),
        TensorType.IQ4_NL,
    ),
    **dict.fromkeys(
        (
            TensorType.Q2_0, TensorType.Q2_K, TensorType.Q3_K, TensorType.TQ1_0,
            TensorType.TQ2_0,
        ),
        TensorType.Q4_0,
    ),
    TensorType.Q4_K: TensorType.Q5_0,
    TensorType.Q5_K: TensorType.Q5_1,
    TensorType.Q6_K: TensorType.Q8_0,
}  # fmt: skip
"""What is written where a row is no multiple of the type's block; F16 where that fails too."""

EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
HEAD = "output.weight"
ROLES = (
    ("attn_qkv.weight", Role.VALUES),
    ("attn_kv_b.weight", Role.VALUES),
    ("attn_v.weight", Role.VALUES),
    ("attn_k.weight", Role.KEYS),
    ("attn_q.weight", Role.QUERIES),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_up", Role.UP),
    ("ffn_gate", Role.GATE),
    ("ffn_down", Role.DOWN),
)
"""Part of a tensor's name → role, the first that is found."""
KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel",
    "per_layer_model_proj", "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight",
    "indexer.q_proj.weight", "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight",
    "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight",
    "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight",
    "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight", "attn_rel_b.weight", ".position_embd", "sam.pos_embd",
    "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook",
    "mm.a.code_embd",
)  # fmt: skip
"""Parts of names whose tensors stay as they are: small ones, and ones that do not bear it."""
KEPT_NAMES = ("position_embd.weight", "token_types.weight")
BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Shaped:
    """A tensor that a type is wanted for."""

    name: str
    shape: tuple[int, ...]
    """Rows first, numpy's order."""
    type: TensorType
    """What it has, and keeps where it is not quantized."""

    @property
    def may_change(self) -> bool:
        """Whether llama.cpp quantizes a tensor of this name and shape at all."""
        has_rows = any(n > 1 for n in self.shape[:-1])
        is_weight = self.name.endswith("weight") and self.name not in KEPT_NAMES
        return has_rows and is_weight and not any(part in self.name for part in KEPT)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person asked for.

    Differs from llama.cpp in three places. Its overrides do nothing where the file type is f32,
    f16 or bf16; its head type does nothing for a tied head in a pure file or beside an override
    that matches; and a head or embedding type that the rows do not fit ends its process.
    """

    kind: Type
    overrides: tuple[tuple[re.Pattern[str], TensorType], ...] = ()
    """The first pattern that is found in a tensor's name decides."""
    head: TensorType | None = None
    """Of the head, which in a tied model is the embedding."""
    embedding: TensorType | None = None
    """Of the embedding, tied or not; goes before `head`."""
    is_pure: bool = False
    """Whether to leave recipes alone and give every tensor the main type."""

    @property
    def options(self) -> str:
        """The same in words, as options of `edgeagent convert`."""
        said = [f"--type {self.kind}"]
        said += [f"--tensor-type {p.pattern}={kind.name.lower()}" for p, kind in self.overrides]
        said += [f"--head-type {self.head.name.lower()}"] if self.head is not None else []
        if self.embedding is not None:
            said.append(f"--embedding-type {self.embedding.name.lower()}")
        return " ".join([*said, "--pure"] if self.is_pure else said)


@dataclass(frozen=True, slots=True)
class Plan:
    """A type for each tensor, in the order they were asked for, and what to tell the person."""

    types: tuple[TensorType, ...]
    notes: tuple[str, ...]


def plan(
    tensors: Sequence[Shaped], model: Model, choice: Choice, important: Collection[str] | None
) -> Plan:
    """Return what to write each tensor in.

    `important` names the tensors that the importance matrix knows; None means there is none.
    The order of `tensors` does not matter.

    Raises:
        ConversionError: a type needs an importance matrix that is not there, does not fit a
            tensor's rows, or is chosen by rules that only llama.cpp has.
    """
    if model.architecture in ODD_ARCHITECTURES and choice.kind.is_quantized:
        raise ConversionError(
            f"the types of a {model.architecture} model are chosen by rules that are not known "
            "here; use llama.cpp's own quantizer"
        )
    chosen: dict[str, TensorType] = {}
    notes: list[str] = []
    asker = _Asker(tensors, model, choice, has_importance=important is not None)
    for tensor in sorted(tensors, key=lambda one: order_of(one.name)):
        kind, note = asker.type_of(tensor)
        chosen[tensor.name] = kind
        notes += [note] if note else []
        if kind is not tensor.type:
            _check_importance(tensor, kind, choice.kind, important)
    notes += [
        f"no tensor's name matches --tensor-type {pattern.pattern}"
        for pattern, _ in choice.overrides
        if not any(pattern.search(tensor.name) for tensor in tensors if tensor.may_change)
    ]
    return Plan(tuple(chosen[tensor.name] for tensor in tensors), tuple(notes))


def order_of(name: str) -> tuple[int, bytes]:
    """Return what llama.cpp sorts tensors by: the number of the block, then the name."""
    block = BLOCK.match(name)
    return (int(block[1]) if block else -1, name.encode())


def overrides(given: Iterable[str]) -> tuple[tuple[re.Pattern[str], TensorType], ...]:
    """Return the patterns and types of arguments like `ffn_down=q8_0`.

    Raises:
        ConversionError: an argument has no `=`, a broken pattern, or an unknown type.
    """
    found = []
    for argument in given:
        pattern, equals, kind = argument.rpartition("=")
        if not equals or not pattern:
            raise ConversionError(f"--tensor-type {argument!r} is not like ffn_down=q8_0")
        try:
            found.append((re.compile(pattern), tensor_type(kind)))
        except re.error as exc:
            raise ConversionError(
                f"--tensor-type {argument!r}: {pattern!r} is no regular expression: {exc}"
            ) from exc
    return tuple(found)


def role_of(name: str, is_tied: bool) -> Role:
    """Return what the recipes take a tensor of that name for."""
    if name == HEAD or (is_tied and name in EMBEDDINGS):
        return Role.HEAD
    if name in EMBEDDINGS:
        return Role.EMBEDDING
    return next((role for part, role in ROLES if part in name), Role.OTHER)


class _Asker:
    """Goes through the tensors in llama.cpp's order and counts, for its rules depend on both."""

    def __init__(
        self, tensors: Sequence[Shaped], model: Model, choice: Choice, has_importance: bool
    ) -> None:
        self._model = model
        self._choice = choice
        self._has_importance = has_importance
        self._is_tied = all(tensor.name != HEAD for tensor in tensors)
        roles = Counter(role_of(tensor.name, self._is_tied) for tensor in tensors)
        self._n_values = roles[Role.VALUES]
        self._asked: Counter[Role] = Counter()

    def type_of(self, tensor: Shaped) -> tuple[TensorType, str]:
        """Return the tensor's type, and what to tell the person of it or ""."""
        choice = self._choice
        if not tensor.may_change:
            return tensor.type, ""
        asked = self._asked_for(tensor)
        if asked is not None:
            _check_rows(tensor, asked)
            return asked, ""
        wanted = next((kind for p, kind in choice.overrides if p.search(tensor.name)), None)
        if wanted is None and not choice.kind.is_quantized:
            return choice.kind.main, ""
        if wanted is None:
            wanted = choice.kind.main if choice.is_pure else self._by_recipe(tensor)
        return _fitting(tensor, wanted)

    def _asked_for(self, tensor: Shaped) -> TensorType | None:
        role = role_of(tensor.name, self._is_tied)
        if tensor.name in EMBEDDINGS and self._choice.embedding is not None:
            return self._choice.embedding
        return self._choice.head if role is Role.HEAD else None

    def _by_recipe(self, tensor: Shaped) -> TensorType:
        role = role_of(tensor.name, self._is_tied)
        i = self._asked[role]
        self._asked[role] += 1
        if role in (Role.DOWN, Role.GATE, Role.UP):
            n = self._model.n_layers
            # Experts do not come in order, so llama.cpp reads the name there.
            if self._model.n_experts > 1 and self._choice.kind not in VERY_LOW:
                i = _block_number(tensor.name, n)
        else:
            n = self._n_values
        place = Place(
            self._model, i, n, self._has_importance, len(tensor.shape) > 2 and tensor.shape[0] > 1
        )
        return recipe(self._choice.kind, role, place, tensor.shape[-1])


def _block_number(name: str, n_layers: int) -> int:
    block = BLOCK.match(name)
    if block is None or int(block[1]) >= n_layers:
        raise ConversionError(f"{name} is in none of the model's {n_layers} blocks")
    return int(block[1])


def _fitting(tensor: Shaped, wanted: TensorType) -> tuple[TensorType, str]:
    row = tensor.shape[-1]
    if row % wanted.block == 0:
        return wanted, ""
    if wanted not in FALLBACKS and wanted.block > 32:
        _check_rows(tensor, wanted)
    found = FALLBACKS.get(wanted, wanted)
    if row % found.block:
        found = TensorType.F16
    return found, (
        f"{tensor.name} is written as {found.name}: its rows of {row} weights are no multiple of "
        f"the {wanted.block} that {wanted.name} needs"
    )


def _check_rows(tensor: Shaped, kind: TensorType) -> None:
    if tensor.shape[-1] % kind.block:
        raise ConversionError(
            f"{tensor.name} cannot be {kind.name}: its rows of {tensor.shape[-1]} weights are no "
            f"multiple of {kind.block}; choose another type for it"
        )


def _check_importance(
    tensor: Shaped, kind: TensorType, file_type: Type, important: Collection[str] | None
) -> None:
    if important is not None and tensor.name in important:
        return
    is_end = tensor.name in EMBEDDINGS or tensor.name == HEAD
    is_small = kind is TensorType.Q2_K and file_type is Type.Q2_K_S
    if (not is_end and (kind in NEEDS_IMPORTANCE or is_small)) or kind in ABORTS_WITHOUT:
        lack = "make one with: edgeagent imatrix" if important is None else "this one lacks it"
        raise ConversionError(
            f"{tensor.name} as {kind.name} needs an importance matrix (--imatrix); {lack}"
        )
