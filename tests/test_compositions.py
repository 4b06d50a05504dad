"""Operators made of operators, and the conjugate gradients they are solved by."""

from __future__ import annotations

import pytest
import torch
from operator_properties import BATCH, blur_matrix, check, kernel_of
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.objective import Projection
from jpmap_fast.priors.mlp_decoder import MLPDecoder


def test_masks_may_be_weights_and_operators_may_follow_one_another():
    """Weighted masks of every image after a blur of every image, and Stack of all of it."""
    g = torch.Generator().manual_seed(3)
    shape, dtype = (3, 5, 4), torch.float64
    masks = torch.rand(BATCH, *shape, generator=g, dtype=dtype)
    kernel = kernel_of("image-channels", 3, dtype)
    blur = blur_matrix(kernel, shape, "replicate")
    masked = torch.diag_embed(masks.flatten(1)) @ blur
    operator = jf.Composition(jf.Inpainting(masks), jf.Blur(kernel, "replicate"))
    check(operator, masked, shape, dtype)
    both = jf.Stack([operator, jf.Denoising()], noise=[0.5, 2]).to(dtype=dtype)
    identity = torch.eye(60, dtype=dtype).expand(BATCH, -1, -1)
    check(both, torch.cat((masked / 0.5, identity / 2), dim=1), shape, dtype)


def test_a_stack_weighs_each_measurement_by_its_own_noise():
    """J1 at any x and z is the sum over the measurements, each with the deviation sigma s_i."""
    g = torch.Generator().manual_seed(3)
    shape = (1, 6, 6)
    x, decoded = (torch.rand(2, *shape, generator=g, dtype=torch.float64) for _ in range(2))
    parts = [jf.Denoising(), jf.SuperResolution(2).to(dtype=torch.float64)]
    stack = jf.Stack(parts, noise=[3.0, 0.5]).to(dtype=torch.float64).bind(shape)
    raw = [part.A(x) + 0.1 for part in parts]
    y = stack.join(*raw)
    for back, given in zip(stack.split(y), raw, strict=True):
        torch.testing.assert_close(back, given)
    beta, sigma = torch.full((2,), 5.0).double(), torch.tensor([0.2, 0.4]).double()
    z = torch.zeros(2, 3, dtype=torch.float64)
    found, objective, gap = stack.x_update(decoded, y, z, beta, sigma)
    data = sum(
        (part.A(found) - measured).flatten(1).square().sum(1) / (2 * (sigma * s).square())
        for part, measured, s in zip(parts, raw, stack.operator.noise, strict=True)
    )
    torch.testing.assert_close(objective, data + beta / 2 * gap)


@pytest.mark.parametrize(
    "operator, kind",
    [
        (jf.Composition(jf.Inpainting(torch.rand(6, 6)), jf.Denoising()), jf.Inpainting),
        (jf.Composition(jf.Denoising(), jf.SuperResolution(2)), jf.SuperResolution),
        (jf.Composition(jf.Inpainting(torch.rand(6, 6)), jf.Inpainting(torch.rand(2, 1, 6, 6))),
         jf.Inpainting),
        (jf.Composition(jf.CompressedSensing(torch.rand(4, 9)), jf.SuperResolution(2)),
         jf.CompressedSensing),
        (jf.Composition(jf.Inpainting(torch.rand(6, 6)), jf.Blur(torch.rand(3, 3))),
         jf.Composition),
    ],
)  # fmt: skip
def test_compositions_use_a_closed_form_where_there_is_one(operator, kind):
    bound = operator.bind((1, 6, 6), 2)
    assert type(bound.operator) is kind
    x = torch.rand(2, 1, 6, 6)
    torch.testing.assert_close(bound.A(x), operator.A(x))


def test_warm_starts_save_iterations_and_change_no_result():
    """A second evaluation at the same z begins at its own solution."""
    g = torch.Generator().manual_seed(3)
    kernel = kernel_of("odd", 1, torch.float64)
    operator = jf.Blur(kernel, "zero").bind((1, 8, 8))
    calls = 0
    forward = operator.operator.A

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(x)

    operator.operator.A = counted
    weights = torch.rand(64, 3, generator=g, dtype=torch.float64)
    decoder = MLPDecoder([RowProduct(weights, weights[:, 0])], ["tanh"])
    y = torch.rand(2, 1, 8, 8, generator=g, dtype=torch.float64)
    f = Projection(operator, decoder)(
        y, torch.full((2,), 4.0).double(), torch.full((2,), 0.1).double()
    )
    z = torch.rand(2, 3, generator=g, dtype=torch.float64)
    first = f.normal_equations(z)
    cold, calls = calls, 0
    second = f.select(torch.tensor([1, 0])).normal_equations(z.flip(0))
    assert calls <= 4 < cold  # A G, A of the columns, and one residual for each solve
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b.flip(0), rtol=1e-9, atol=1e-9)
