"""llama.cpp's recipes: which tensors of a file get another type than the file's main one.

Data more than code: one table per role of a tensor, from file type to the rule that decides.
Knows neither names nor shapes; `convert.type_plan` does.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/src/llama-quant.cpp
`llama_tensor_get_type_impl`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from convert.file_types import Type
from edgeagent.gguf_header import TensorType

EIGHT_EXPERTS = 8
"""Mixtral's number; llama.cpp has rules for exactly it."""
WIDE_GROUPS = 4
"""Query heads per key head from which attn_v is small enough to be given more bits."""
ODD_ARCHITECTURES = frozenset({"falcon", "glm5-next", "bailingmoe3"})
"""Have rules of their own in llama.cpp, which are not here."""


class Role(Enum):
    """What a tensor does in the model, as far as the recipes tell tensors apart."""

    EMBEDDING = auto()
    HEAD = auto()
    VALUES = auto()
    """attn_v, and the joint tensors that it is part of."""
    KEYS = auto()
    QUERIES = auto()
    ATTENTION_OUTPUT = auto()
    GATE = auto()
    UP = auto()
    DOWN = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Model:
    """What the recipes want to know of the whole model."""

    architecture: str
    n_layers: int
    n_head: int = 1
    n_head_kv: int = 1
    """Of the first layer."""
    n_experts: int = 0

    @property
    def is_grouped(self) -> bool:
        """Whether many query heads share a key head."""
        return self.n_head_kv > 0 and self.n_head // self.n_head_kv >= WIDE_GROUPS

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes it for Llama 70B, whose attn_v it spares."""
        is_llama = self.architecture == "llama" and self.n_layers == 80
        return is_llama and self.n_head != self.n_head_kv


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule is asked about."""

    model: Model
    i: int
    """Of the tensors in the same role, in order, this one's number."""
    n: int
    """How many there are."""
    has_importance: bool
    """Whether the file is made with an importance matrix."""
    is_expert: bool
    """Whether the tensor has a third dimension."""

    def is_first(self, share: int) -> bool:
        """Whether it is in the first 1/share of the layers."""
        return self.i < self.n // share

    @property
    def is_outer(self) -> bool:
        """Whether it is in the first or last eighth."""
        return self.is_first(8) or self.i >= 7 * self.n // 8

    @property
    def gets_more_bits(self) -> bool:
        """Whether it is in the first or last eighth, or every third between."""
        return self.is_outer or (self.i - self.n // 8) % 3 == 2


Rule: TypeAlias = Callable[[Place], TensorType | None]
"""None leaves the main type."""


def _always(kind: TensorType) -> Rule:
    return lambda place: kind


def _grouped(kind: TensorType, otherwise: TensorType | None = None) -> Rule:
    return lambda place: kind if place.model.is_grouped else otherwise


def _first(share: int, kind: TensorType, otherwise: TensorType | None = None) -> Rule:
    return lambda place: kind if place.is_first(share) else otherwise


def _unimportant(rule: Rule) -> Rule:
    return lambda place: None if place.has_importance else rule(place)


def _important(rule: Rule) -> Rule:
    return lambda place: rule(place) if place.has_importance else None


def _more_bits(kind: TensorType) -> Rule:
    return lambda place: kind if place.gets_more_bits else None


def _inner(kind: TensorType) -> Rule:
    return lambda place: None if place.is_outer else kind


def _few_first(n: int, kind: TensorType, otherwise: TensorType | None = None) -> Rule:
    return lambda place: kind if place.i < n else otherwise


VERY_LOW = frozenset(
    {Type.IQ1_S, Type.IQ1_M, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S, Type.IQ2_M}
)  # fmt: skip
ROOMIER = frozenset({Type.IQ2_S, Type.IQ2_M})
"""The very low types that spare their important tensors less sparingly."""

VALUES: Mapping[Type, Rule] = {
    Type.Q2_K: _grouped(TensorType.Q4_K, TensorType.Q3_K),
    Type.Q2_K_S: _grouped(TensorType.Q4_K),
    Type.IQ3_XXS: lambda place: (
        _grouped(TensorType.Q4_K)(place) or (None if place.has_importance else TensorType.IQ3_S)
    ),
    Type.IQ3_XS: _grouped(TensorType.Q4_K),
    Type.IQ3_S: _grouped(TensorType.Q4_K),
    Type.IQ3_M: _always(TensorType.Q4_K),
    Type.Q3_K_M: _few_first(2, TensorType.Q5_K, TensorType.Q4_K),
    Type.Q3_K_L: _always(TensorType.Q5_K),
    Type.IQ4_NL: _grouped(TensorType.Q5_K),
    Type.IQ4_XS: _grouped(TensorType.Q5_K),
    Type.Q4_K_S: _few_first(4, TensorType.Q5_K),
    Type.Q4_K_M: _more_bits(TensorType.Q6_K),
    Type.Q5_K_M: _more_bits(TensorType.Q6_K),
}
QUERIES: Mapping[Type, Rule] = {
    Type.IQ3_XS: _always(TensorType.IQ3_XXS),
    Type.IQ3_XXS: _always(TensorType.IQ2_S),
}
KEYS = QUERIES
DOWN: Mapping[Type, Rule] = {
    Type.Q2_K: _always(TensorType.Q3_K),
    Type.Q2_K_S: _first(8, TensorType.Q4_K),
    Type.IQ3_XXS: _unimportant(_first(8, TensorType.Q4_K, TensorType.Q3_K)),
    Type.Q3_K_M: _first(16, TensorType.Q5_K, TensorType.Q4_K),
    Type.Q3_K_L: _always(TensorType.Q5_K),
    Type.IQ3_M: lambda place: (
        TensorType.Q4_K
        if place.is_first(8) or (_has_eight(place) and place.gets_more_bits)
        else None
    ),
    Type.IQ4_NL: _unimportant(_first(8, TensorType.Q5_K)),
    Type.IQ4_XS: _unimportant(_first(8, TensorType.Q5_K)),
    Type.Q4_K_S: _first(8, TensorType.Q5_K),
    Type.Q4_K_M: _more_bits(TensorType.Q6_K),
    Type.Q5_K_M: _more_bits(TensorType.Q6_K),
    Type.Q4_0: _important(_first(8, TensorType.Q4_1)),
    Type.Q5_0: _important(_first(8, TensorType.Q5_1)),
}
ATTENTION_OUTPUT: Mapping[Type, Rule] = {
    Type.Q2_K: _always(TensorType.Q3_K),
    Type.IQ3_XXS: _always(TensorType.IQ3_S),
    Type.Q3_K_M: _always(TensorType.Q4_K),
    Type.Q3_K_L: _always(TensorType.Q5_K),
    Type.IQ3_M: _always(TensorType.Q4_K),
}
WITH_EIGHT_EXPERTS = frozenset({
    Type.Q2_K, Type.IQ3_XS, Type.IQ3_XXS, Type.Q3_K_S, Type.Q3_K_M, Type.IQ4_NL, Type.Q4_K_S,
    Type.Q4_K_M, Type.IQ3_S, Type.IQ3_M, Type.IQ4_XS,
})  # fmt: skip
"""File types whose attn_output is Q5_K in a model of eight experts."""
GATE_AND_UP: Mapping[Type, Rule] = {Type.IQ3_XS: _inner(TensorType.IQ3_XXS)}
EMBEDDING: Mapping[Type, TensorType] = {
    Type.IQ1_S: TensorType.Q2_K,
    Type.IQ1_M: TensorType.Q2_K,
    Type.IQ2_XXS: TensorType.Q2_K,
    Type.IQ2_XS: TensorType.Q2_K,
    Type.IQ2_S: TensorType.IQ3_S,
    Type.IQ2_M: TensorType.IQ3_S,
    Type.IQ3_XXS: TensorType.IQ3_S,
    Type.TQ1_0: TensorType.Q4_K,
    Type.TQ2_0: TensorType.Q4_K,
    Type.Q2_0: TensorType.Q4_K,
}
"""Of an embedding that is not the head as well."""
HEAD_Q5 = VERY_LOW | {Type.IQ3_XXS}
BY_ROLE: Mapping[Role, Mapping[Type, Rule]] = {
    Role.VALUES: VALUES,
    Role.KEYS: KEYS,
    Role.QUERIES: QUERIES,
    Role.ATTENTION_OUTPUT: ATTENTION_OUTPUT,
    Role.GATE: GATE_AND_UP,
    Role.UP: GATE_AND_UP,
    Role.DOWN: DOWN,
}


def recipe(kind: Type, role: Role, place: Place, row: int) -> TensorType:
    """Return the type that llama.cpp gives a tensor whose rows have `row` weights.

    The row is looked at for a head only; otherwise a type that it does not fit may come out.
    """
    if role is Role.HEAD:
        return _head(kind, row)
    if kind is Type.MXFP4_MOE:
        return TensorType.MXFP4 if place.is_expert else TensorType.Q8_0
    if role is Role.EMBEDDING:
        return EMBEDDING.get(kind, kind.main)
    if kind in VERY_LOW:
        return _very_low(kind, role, place)
    rule = BY_ROLE.get(role, {}).get(kind)
    found = (rule(place) if rule else None) or kind.main
    return _with_experts(kind, role, _spared(found, place) if role is Role.VALUES else found, place)


def _head(kind: Type, row: int) -> TensorType:
    if kind is Type.MXFP4_MOE or row % kind.main.block or kind is Type.Q8_0:
        return TensorType.Q8_0
    return TensorType.Q5_K if kind in HEAD_Q5 else TensorType.Q6_K


def _very_low(kind: Type, role: Role, place: Place) -> TensorType:
    spared = TensorType.IQ3_S if kind in ROOMIER else TensorType.Q2_K
    has_experts = place.model.n_experts >= WIDE_GROUPS
    found: TensorType | None = None
    if role is Role.VALUES:
        found = TensorType.Q4_K if place.model.is_grouped or has_experts else spared
    elif role is Role.KEYS and _has_eight(place):
        found = TensorType.Q4_K
    elif role is Role.DOWN and place.is_first(8):
        found = spared
    elif role is Role.ATTENTION_OUTPUT and _has_eight(place):
        found = TensorType.Q5_K
    elif role is Role.ATTENTION_OUTPUT and kind in (Type.IQ1_S, Type.IQ1_M):
        found = TensorType.IQ2_XXS
    elif role is Role.ATTENTION_OUTPUT and kind in ROOMIER:
        found = TensorType.IQ3_S
    return found or kind.main


def _spared(found: TensorType, place: Place) -> TensorType:
    is_low = found in (TensorType.Q3_K, TensorType.Q4_K)
    return TensorType.Q5_K if place.model.is_70b and is_low else found


def _with_experts(kind: Type, role: Role, found: TensorType, place: Place) -> TensorType:
    if not _has_eight(place):
        return found
    if role in (Role.VALUES, Role.KEYS):
        return TensorType.Q8_0
    if role is Role.ATTENTION_OUTPUT:
        return TensorType.Q5_K if kind in WITH_EIGHT_EXPERTS else kind.main
    return found


def _has_eight(place: Place) -> bool:
    return place.model.n_experts == EIGHT_EXPERTS
