"""The types that a GGUF file can be made in: their names, numbers and main tensor types.

A file's type is a recipe that gives its tensors different types; `convert.type_plan` has the
recipes. The names are llama.cpp's in lower case.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/include/llama.h `llama_ftype`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from edgeagent.errors import ConversionError
from edgeagent.gguf_header import NO_WEIGHTS, TensorType


class Type(StrEnum):
    """What a file is called after: the type of most of its large tensors."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q6_K = "q6_k"
    Q5_K_M = "q5_k_m"
    Q5_K_S = "q5_k_s"
    Q5_1 = "q5_1"
    Q5_0 = "q5_0"
    Q4_K_M = "q4_k_m"
    Q4_K_S = "q4_k_s"
    Q4_1 = "q4_1"
    Q4_0 = "q4_0"
    IQ4_NL = "iq4_nl"
    IQ4_XS = "iq4_xs"
    Q3_K_L = "q3_k_l"
    Q3_K_M = "q3_k_m"
    Q3_K_S = "q3_k_s"
    IQ3_M = "iq3_m"
    IQ3_S = "iq3_s"
    IQ3_XS = "iq3_xs"
    IQ3_XXS = "iq3_xxs"
    Q2_K = "q2_k"
    Q2_K_S = "q2_k_s"
    IQ2_M = "iq2_m"
    IQ2_S = "iq2_s"
    IQ2_XS = "iq2_xs"
    IQ2_XXS = "iq2_xxs"
    IQ1_M = "iq1_m"
    IQ1_S = "iq1_s"
    TQ2_0 = "tq2_0"
    TQ1_0 = "tq1_0"
    MXFP4_MOE = "mxfp4_moe"
    Q2_0 = "q2_0"
    Q1_0 = "q1_0"

    @property
    def number(self) -> int:
        """What `general.file_type` says."""
        return NUMBERS[self][0]

    @property
    def main(self) -> TensorType:
        """The tensor type that the recipe starts from."""
        return NUMBERS[self][1]

    @property
    def is_quantized(self) -> bool:
        """Whether a recipe chooses the tensors' types, rather than one type for all."""
        return self.main.block > 1


NUMBERS: Mapping[Type, tuple[int, TensorType]] = {
    Type.F32: (0, TensorType.F32),
    Type.F16: (1, TensorType.F16),
    Type.Q4_0: (2, TensorType.Q4_0),
    Type.Q4_1: (3, TensorType.Q4_1),
    Type.Q8_0: (7, TensorType.Q8_0),
    Type.Q5_0: (8, TensorType.Q5_0),
    Type.Q5_1: (9, TensorType.Q5_1),
    Type.Q2_K: (10, TensorType.Q2_K),
    Type.Q3_K_S: (11, TensorType.Q3_K),
    Type.Q3_K_M: (12, TensorType.Q3_K),
    Type.Q3_K_L: (13, TensorType.Q3_K),
    Type.Q4_K_S: (14, TensorType.Q4_K),
    Type.Q4_K_M: (15, TensorType.Q4_K),
    Type.Q5_K_S: (16, TensorType.Q5_K),
    Type.Q5_K_M: (17, TensorType.Q5_K),
    Type.Q6_K: (18, TensorType.Q6_K),
    Type.IQ2_XXS: (19, TensorType.IQ2_XXS),
    Type.IQ2_XS: (20, TensorType.IQ2_XS),
    Type.Q2_K_S: (21, TensorType.Q2_K),
    Type.IQ3_XS: (22, TensorType.IQ3_S),
    Type.IQ3_XXS: (23, TensorType.IQ3_XXS),
    Type.IQ1_S: (24, TensorType.IQ1_S),
    Type.IQ4_NL: (25, TensorType.IQ4_NL),
    Type.IQ3_S: (26, TensorType.IQ3_S),
    Type.IQ3_M: (27, TensorType.IQ3_S),
    Type.IQ2_S: (28, TensorType.IQ2_XS),
    Type.IQ2_M: (29, TensorType.IQ2_S),
    Type.IQ4_XS: (30, TensorType.IQ4_XS),
    Type.IQ1_M: (31, TensorType.IQ1_M),
    Type.BF16: (32, TensorType.BF16),
    Type.TQ1_0: (36, TensorType.TQ1_0),
    Type.TQ2_0: (37, TensorType.TQ2_0),
    Type.MXFP4_MOE: (38, TensorType.MXFP4),
    Type.Q1_0: (40, TensorType.Q1_0),
    Type.Q2_0: (41, TensorType.Q2_0),
}
"""Number and main tensor type."""

ALIASES: Mapping[str, Type] = {
    "q3_k": Type.Q3_K_M,
    "q4_k": Type.Q4_K_M,
    "q5_k": Type.Q5_K_M,
}
"""Short names that llama.cpp's quantizer takes too."""


def file_type(name: str) -> Type:
    """Return the file type of that name, in any case of letters.

    Raises:
        ConversionError: there is none.
    """
    lower = name.lower()
    if lower in ALIASES:
        return ALIASES[lower]
    try:
        return Type(lower)
    except ValueError:
        known = ", ".join(Type)
        raise ConversionError(f"{name!r} is no file type; known: {known}") from None


def tensor_type(name: str) -> TensorType:
    """Return the tensor type of that name, in any case of letters, if tensors can be written in it.

    Raises:
        ConversionError: there is none, or llama.cpp cannot write it.
    """
    found = TensorType.__members__.get(name.upper())
    if found is None or found in NO_WEIGHTS:
        known = ", ".join(kind.name.lower() for kind in TensorType if kind not in NO_WEIGHTS)
        raise ConversionError(f"{name!r} is no tensor type that can be written; known: {known}")
    return found
