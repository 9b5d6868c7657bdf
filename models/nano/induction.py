"""Weights to start from: a network that can already copy what followed a token before.

Layer 0 has heads that look one and two tokens back and write what they see beside the token;
two later layers have heads that look for the place where the last two tokens stood before and
write what came next into the direction of the embedding. Training may move all of it.
Everything else starts small and random.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.nano.model import Nano

EMBEDDING_STD = 0.1
CONSTANT = 0.6
"""Share of every embedding that says nothing but makes queries without a question possible."""
BACK_GAIN = 0.08
COPY_GAIN = 0.14
COPY_LAYERS = (2, 4)


def small(model: Nano, generator: torch.Generator) -> None:
    """Fill every matrix with small random numbers; norms stay one."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            std = 0.001 if "o_proj" in name or "down_proj" in name else weight.shape[1] ** -0.5
            if "embed" in name:
                std = 0.02
            _fill(weight, torch.randn(weight.shape, generator=generator) * std)


def copying(model: Nano, generator: torch.Generator) -> None:
    """Fill the weights as the module says; needs width 256 in four heads of 64."""
    small(model, generator)
    width = model.shape.width
    basis, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    half, quarter = width // 2, width // 4
    identity, back_1, back_2 = (
        basis[:, :half], basis[:, half : half + quarter], basis[:, half + quarter :]
    )  # fmt: skip
    constant = identity[:, -1]
    tokens = torch.randn(model.shape.n_vocab, half, generator=generator) * EMBEDDING_STD
    tokens[:, -1] = CONSTANT
    rest = torch.randn(model.shape.n_vocab, width, generator=generator) * EMBEDDING_STD * 0.1
    _fill(model.embed_tokens.weight, tokens @ identity.T + rest)
    _fill(model.norm.weight, torch.full((width,), 0.5))
    _look_back(model, constant, identity, (back_1, back_2))
    mixers = torch.randn(2, model.shape.head // 2, quarter, generator=generator) / math.sqrt(
        quarter
    )
    for index in COPY_LAYERS:
        _copy(model, index, identity, (back_1, back_2), mixers)


def _fill(weight: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(value)


def _look_back(
    model: Nano, constant: Tensor, identity: Tensor, targets: tuple[Tensor, Tensor]
) -> None:
    """Make heads 0 and 1 of layer 0 attend one and two tokens back and copy the identity."""
    attention, head = model.layers[0].self_attn, model.shape.head
    n_pairs = head // 2
    angles = model.shape.rope_theta ** (-torch.arange(n_pairs) / n_pairs)
    # Fast pairs tell neighbours apart, slower ones rule out the next turn of the fast ones.
    amplitude = torch.exp(-torch.arange(n_pairs) / 6.0)
    with torch.no_grad():
        key = torch.cat((amplitude.sqrt(), torch.zeros(n_pairs)))
        attention.k_proj.weight[:head] = torch.outer(key, constant)
        for distance, target in enumerate(targets, start=1):
            turn = angles * distance
            # A query turned back by `distance` meets the key of that distance head-on.
            query = torch.cat((turn.cos() * amplitude.sqrt(), -turn.sin() * amplitude.sqrt()))
            rows = slice((distance - 1) * head, distance * head)
            attention.q_proj.weight[rows] = torch.outer(query, constant)
            attention.o_proj.weight[:, rows] = target * BACK_GAIN
        attention.v_proj.weight[:head] = identity[:, :head].T
        attention.q_norm.weight.fill_(2.5)
        attention.k_norm.weight.fill_(2.5)


def _copy(
    model: Nano, index: int, identity: Tensor, backs: tuple[Tensor, Tensor], mixers: Tensor
) -> None:
    """Make heads 0 and 2 of a layer attend behind an earlier copy of the last two tokens."""
    attention, head = model.layers[index].self_attn, model.shape.head
    quarter = head // 4
    # The slow half of the rotary pairs hardly turns within a window: content lives there.
    slow = torch.cat((torch.arange(quarter, 2 * quarter), torch.arange(3 * quarter, 4 * quarter)))
    with torch.no_grad():
        query = mixers[0] @ identity[:, :head].T + 0.7 * mixers[1] @ backs[0].T
        key = mixers[0] @ backs[0].T + 0.7 * mixers[1] @ backs[1].T
        for group in range(2):
            own = slice(group * head, (group + 1) * head)
            out = slice(2 * group * head, (2 * group + 1) * head)
            attention.q_proj.weight[out] = 0
            attention.k_proj.weight[own] = 0
            attention.q_proj.weight[2 * group * head + slow] = query
            attention.k_proj.weight[group * head + slow] = key
            part = identity[:, own]
            attention.v_proj.weight[own] = part.T
            attention.o_proj.weight[:, out] = part * COPY_GAIN
        attention.q_norm.weight.fill_(1.8)
        attention.k_norm.weight.fill_(1.8)
