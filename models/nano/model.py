"""The network: Qwen3's block in plain PyTorch, small enough for two CPU cores.

Names of parameters follow Hugging Face's Qwen3 without the `model.` prefix, so export copies them.
Knows nothing of data or optimisation.
Source: transformers' modeling_qwen3 (RMSNorm on queries and keys, rotate-half RoPE, SwiGLU).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

IMPOSSIBLE = -1e4
"""Logit of a token that could not follow."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network; rows are multiples of 256, so K-quants apply."""

    n_vocab: int = 8192
    n_layers: int = 12
    width: int = 256
    n_heads: int = 4
    n_kv_heads: int = 2
    head: int = 64
    ffn: int = 768
    rope_theta: float = 1_000_000.0
    norm_eps: float = 1e-6


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight for each channel."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, (..., width), at unit root mean square times the weight, in x's dtype."""
        full = x.float()
        scale = torch.rsqrt(full.square().mean(-1, keepdim=True) + self.eps)
        return (full * scale * self.weight).to(x.dtype)


def rope(n: int, shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of positions 0..n-1, each (n, head)."""
    exponents = torch.arange(0, shape.head, 2, device=device).float() / shape.head
    angles = torch.outer(torch.arange(n, device=device).float(), shape.rope_theta**-exponents)
    return torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return (x * cos + turned * sin).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.width, shape.n_heads * shape.head, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.n_kv_heads * shape.head, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.n_kv_heads * shape.head, bias=False)
        self.o_proj = nn.Linear(shape.n_heads * shape.head, shape.width, bias=False)
        self.q_norm = RMSNorm(shape.head, shape.norm_eps)
        self.k_norm = RMSNorm(shape.head, shape.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the causal attention's output for `x` (B, T, width)."""
        batch, n, _ = x.shape
        shape = self.shape
        q = self.q_norm(self.q_proj(x).view(batch, n, shape.n_heads, shape.head)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(batch, n, shape.n_kv_heads, shape.head)).transpose(1, 2)
        v = self.v_proj(x).view(batch, n, shape.n_kv_heads, shape.head).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        n_groups = shape.n_heads // shape.n_kv_heads
        k, v = k.repeat_interleave(n_groups, 1), v.repeat_interleave(n_groups, 1)
        mixed = functional.scaled_dot_product_attention(q, k.to(q.dtype), v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, n, -1))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width)."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.norm_eps)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the stream after this block, (B, T, width)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Nano(nn.Module):
    """Tokens to hidden states; the head is the embedding, transposed."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.n_vocab, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        self.norm = RMSNorm(shape.width, shape.norm_eps)

    def hidden(self, ids: Tensor) -> Tensor:
        """Return normed states (B, T, width) of `ids`, int64 (B, T)."""
        cos, sin = rope(ids.shape[1], self.shape, ids.device)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., n_vocab) for states (..., width)."""
        return functional.linear(hidden, self.embed_tokens.weight)

    def forward(
        self, ids: Tensor, chosen: Tensor, targets: Tensor, barred: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return loss in nats and correctness of the tokens after the `chosen` places.

        `chosen` int64 (B, K) are places in each row, `targets` (B, K) the tokens that follow,
        `barred` (B, K) a token that could not follow there, or -1.
        Only there is the head computed: most tokens of a window are not learnt.
        """
        states = self.hidden(ids)
        picked = states.gather(1, chosen[..., None].expand(-1, -1, states.shape[-1]))
        logits = self.logits(picked).float()
        rows = barred >= 0
        logits[rows, barred[rows]] = IMPOSSIBLE
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view_as(targets), logits.detach().argmax(-1) == targets
