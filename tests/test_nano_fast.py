"""The training pass on its own kernels gives what PyTorch's operators give."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from models.nano import induction  # noqa: E402
from models.nano.fast import passes  # noqa: E402
from models.nano.model import Nano, Shape  # noqa: E402

N_ROWS, N_CHOSEN = 2, 60


def gradients(model: Any) -> dict[str, Any]:
    return {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.skipif(not passes.is_supported(), reason="this processor has no AVX512-BF16")
@pytest.mark.parametrize("length", [97, 320])
def test_losses_and_gradients_are_those_of_the_network_in_full_precision(length: int) -> None:
    rng = torch.Generator().manual_seed(length)
    slow, fast = Nano(Shape(n_layers=5)), Nano(Shape(n_layers=5))
    induction.copying(slow, rng)
    fast.load_state_dict(slow.state_dict())
    ids = torch.randint(0, 8192, (N_ROWS, length), generator=rng)
    ids[:, length // 2 :] = ids[:, : length - length // 2]
    chosen = torch.randint(0, length - 1, (N_ROWS, N_CHOSEN), generator=rng)
    targets = ids.gather(1, chosen + 1)
    weights = torch.rand(N_ROWS, N_CHOSEN, generator=rng)
    weights[:, -7:] = 0  # filling
    barred = torch.full_like(targets, -1)
    barred[:, ::3] = (targets[:, ::3] + 1) % 8192

    losses, _ = slow(ids, chosen, targets, barred)
    (losses * weights).sum().backward()
    found, right = passes.Pass(fast).run(ids, chosen, targets, barred, weights)

    is_learnt = weights > 0
    assert torch.allclose(found[is_learnt], losses.detach()[is_learnt], atol=0.05, rtol=0.02)
    assert not right[~is_learnt].any()
    expected, made = gradients(slow), gradients(fast)
    for name in expected:
        apart = (made[name] - expected[name]).norm() / expected[name].norm()
        # bf16 alone moves the weights of norms by a twelfth; a wrong kernel moves them by all.
        assert apart < 0.15, (name, float(apart))
