"""One training pass written out, forward and back, on kernels made for it.

PyTorch's own operators leave most of such a processor idle: every one of them sweeps once over
memory, and its attention's gradient takes a quarter of a pass. The same network as model.py, which
says what is computed; `tests/test_nano_fast.py` compares the two. Gradients are added to `.grad`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.nano.model import IMPOSSIBLE, Nano, rope

FOLDER = Path(__file__).parent
HEADS = (4, 2, 64)
"""Query heads, key heads and their width, as the kernels have them."""
FLAGS = ("-O3", "-march=native", "-std=c++17")


@cache
def compiled(name: str) -> Any:
    """Return the functions of `name`.cpp; the first call on a machine compiles them, a minute."""
    from torch.utils import cpp_extension  # 400 ms, and only a training needs it

    return cpp_extension.load(
        name=f"nano_{name}", sources=[str(FOLDER / f"{name}.cpp")], extra_cflags=list(FLAGS)
    )


def is_supported() -> bool:
    """Tell whether this process can run the kernels; without tiles they do with AVX512-BF16."""
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    # Where a model has run in this process, the kernel refuses the tiles (engine/amx.py).
    return bool(not torch.cpu._is_amx_tile_supported() or torch.cpu._init_amx())


@dataclass(slots=True)
class _Layer:
    """What a block keeps for its way back."""

    x: Tensor
    h: Tensor
    scales: Tensor
    joined: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    head_scales: Tensor
    mixed: Tensor
    lse: Tensor
    x2: Tensor
    h2: Tensor
    scales2: Tensor
    joined2: Tensor
    gated: Tensor


class Pass:
    """Forward and back through one model; its weights are read anew for every pass."""

    def __init__(self, model: Nano) -> None:
        """Pass through `model`.

        Raises:
            ValueError: its heads are not those that the kernels are written for.
        """
        shape = model.shape
        if (shape.n_heads, shape.n_kv_heads, shape.head) != HEADS:
            raise ValueError(f"the kernels are for {HEADS} heads, key heads and width: {shape}")
        self._model = model
        self._ops, self._attention = compiled("kernels"), compiled("attention")
        self._weights = compiled("gradient")
        for weight in model.parameters():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    @torch.no_grad()
    def run(
        self, ids: Tensor, chosen: Tensor, targets: Tensor, barred: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return loss in nats and correctness of the tokens after the chosen places, (B, K) each.

        Shapes are those of `Nano.forward`; `weights` (B, K) float32 is what each loss counts for
        in the gradient, which is added to that of the parameters.
        """
        ops, model, shape = self._ops, self._model, self._model.shape
        batch, n = ids.shape
        cos, sin = rope(n, shape, ids.device)
        flat = ids.reshape(-1)
        x = model.embed_tokens.weight[flat]
        kept = []
        for layer in model.layers:
            x, own = self._forward(layer, x, batch, n, cos, sin)
            kept.append(own)
        states, scales = ops.norm(x, model.norm.weight, shape.norm_eps)
        rows = (chosen + torch.arange(batch)[:, None] * n).reshape(-1)
        # Filling has no weight, and no need of a row of logits.
        learnt = torch.nonzero(weights.reshape(-1) > 0).reshape(-1)
        rows, wanted = rows[learnt], targets.reshape(-1)[learnt]
        head = model.embed_tokens.weight.bfloat16()
        picked = states[rows]
        logits = picked @ head.t()
        impossible = barred.reshape(-1)[learnt]
        at = torch.nonzero(impossible >= 0).reshape(-1)
        logits[at, impossible[at]] = IMPOSSIBLE
        loss, right, sums = ops.losses(logits, wanted)
        ops.losses_back(logits, wanted, sums, weights.reshape(-1)[learnt].contiguous())
        self._weights.gradient(logits, picked, model.embed_tokens.weight.grad)
        d_states = torch.zeros_like(states).index_add_(0, rows, logits @ head)
        dx = torch.zeros_like(x)
        ops.norm_back(d_states, x, model.norm.weight, scales, dx, model.norm.weight.grad)
        for layer, own in zip(reversed(model.layers), reversed(kept), strict=True):
            self._back(layer, own, dx, batch, n, cos, sin)
        model.embed_tokens.weight.grad.index_add_(0, flat, dx)
        return _spread(loss, learnt, targets, 0.0), _spread(right, learnt, targets, False)

    def _forward(
        self, layer: Any, x: Tensor, batch: int, n: int, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, _Layer]:
        ops, shape, attention = self._ops, self._model.shape, layer.self_attn
        h, scales = ops.norm(x, layer.input_layernorm.weight, shape.norm_eps)
        joined = h @ _joined(attention.q_proj, attention.k_proj, attention.v_proj).t()
        q, k, v, head_scales = ops.heads(
            joined, attention.q_norm.weight, attention.k_norm.weight, cos, sin, shape.norm_eps
        )
        q, k, v = (part.view(batch, n, -1, shape.head) for part in (q, k, v))
        mixed, lse = self._attention.forward(q, k, v)
        mixed = mixed.view(batch * n, -1)
        x2 = x.clone()
        ops.add(x2, mixed @ attention.o_proj.weight.bfloat16().t())
        h2, scales2 = ops.norm(x2, layer.post_attention_layernorm.weight, shape.norm_eps)
        joined2 = h2 @ _joined(layer.mlp.gate_proj, layer.mlp.up_proj).t()
        gated = ops.gate(joined2)
        out = x2.clone()
        ops.add(out, gated @ layer.mlp.down_proj.weight.bfloat16().t())
        return out, _Layer(
            x, h, scales, joined, q, k, v, head_scales, mixed, lse, x2, h2, scales2, joined2, gated
        )  # fmt: skip

    def _back(
        self, layer: Any, own: _Layer, dx: Tensor, batch: int, n: int, cos: Tensor, sin: Tensor
    ) -> None:
        ops, attention, mlp = self._ops, layer.self_attn, layer.mlp
        d = dx.bfloat16()
        self._weights.gradient(d, own.gated, mlp.down_proj.weight.grad)
        d_joined = ops.gate_back(d @ mlp.down_proj.weight.bfloat16(), own.joined2)
        self._share_out(d_joined, own.h2, mlp.gate_proj, mlp.up_proj)
        norm = layer.post_attention_layernorm.weight
        dh = d_joined @ _joined(mlp.gate_proj, mlp.up_proj)
        ops.norm_back(dh, own.x2, norm, own.scales2, dx, norm.grad)

        d = dx.bfloat16()
        self._weights.gradient(d, own.mixed, attention.o_proj.weight.grad)
        d_mixed = (d @ attention.o_proj.weight.bfloat16()).view(own.q.shape)
        mixed = own.mixed.view(own.q.shape)
        dq, dk, dv = self._attention.backward(d_mixed, own.q, own.k, own.v, mixed, own.lse)
        dq, dk, dv = (part.view(batch * n, -1) for part in (dq, dk, dv))
        q_norm, k_norm = attention.q_norm.weight, attention.k_norm.weight
        d_joined = ops.heads_back(
            dq, dk, dv, own.joined, q_norm, k_norm, cos, sin, own.head_scales,
            q_norm.grad, k_norm.grad,
        )  # fmt: skip
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._share_out(d_joined, own.h, *projections)
        norm = layer.input_layernorm.weight
        ops.norm_back(d_joined @ _joined(*projections), own.x, norm, own.scales, dx, norm.grad)

    def _share_out(self, dy: Tensor, x: Tensor, *projections: Any) -> None:
        """Add the gradient of a joined projection to those of its parts."""
        grad = torch.zeros(dy.shape[1], x.shape[1])
        self._weights.gradient(dy, x, grad)
        at = 0
        for projection in projections:
            n = projection.weight.shape[0]
            projection.weight.grad += grad[at : at + n]
            at += n


def _joined(*projections: Any) -> Tensor:
    return torch.cat([projection.weight for projection in projections]).bfloat16()


def _spread(values: Tensor, places: Tensor, like: Tensor, fill: float | bool) -> Tensor:
    """Return the values at their places in the shape of `like`."""
    whole = torch.full((like.numel(),), fill, dtype=values.dtype)
    whole[places] = values
    return whole.view_as(like)
