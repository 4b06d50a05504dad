"""Activations: values, and derivatives that agree with autograd's, also where pieces meet."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from jpmap_fast.kernels.activations import ACTIVATIONS

TORCH = {
    "elu": F.elu,
    "relu": F.relu,
    "silu": F.silu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda a: a,
}
POINTS = [0.0, -0.0, 1e-300, -1e-300, 0.3, -0.7, 5.0, -5.0, 30.0, -30.0, 200.0, -200.0]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_value_and_both_derivatives(name, device):
    act = ACTIVATIONS[name]
    a = torch.tensor(POINTS, dtype=torch.float64, device=device, requires_grad=True)
    h = act.value(a)
    # Softplus of torch is the identity above 20: off by exp(-20).
    torch.testing.assert_close(h, TORCH[name](a), rtol=1e-12, atol=3e-9)
    (slope,) = torch.autograd.grad(h.sum(), a, create_graph=True)
    torch.testing.assert_close(slope, act.derivative(a, h).broadcast_to(a.shape))
    smooth = a.detach() != 0 if name == "elu" else torch.ones_like(a, dtype=torch.bool)
    if slope.requires_grad:
        (bend,) = torch.autograd.grad(slope.sum(), a)
        expected = act.second(a, h).broadcast_to(a.shape)
        torch.testing.assert_close(bend[smooth], expected[smooth])
