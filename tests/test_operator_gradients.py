"""A and its adjoint differentiate: the gradient of one is the other."""

from __future__ import annotations

import pytest
import torch
from operator_kinds import KINDS, MASK, MATRIX, SHAPE, bound, images
from torch.autograd import gradcheck, gradgradcheck

import jpmap_fast as jf


@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_of_A_is_the_adjoint(name):
    operator = bound(name)
    x = images().requires_grad_()
    y = operator.A(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad((y * weight).sum(), x)
    torch.testing.assert_close(found, operator.A_adjoint(weight), rtol=1e-5, atol=1e-5)
    y = weight.requires_grad_()
    back = operator.A_adjoint(y)
    (found,) = torch.autograd.grad((back * x.detach()).sum(), y)
    torch.testing.assert_close(found, operator.A(x.detach()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_both_orders_in_float64(name):
    operator = bound(name)
    x = images(torch.float64).requires_grad_()
    y = operator.A(x).detach().requires_grad_()
    for function, point in ((operator.A, x), (operator.A_adjoint, y)):
        assert gradcheck(function, (point,), fast_mode=True)

        def curved(v, function=function):
            return function(v).square()

        assert gradgradcheck(curved, (point,), fast_mode=True)


@pytest.mark.parametrize("name", KINDS)
def test_a_data_term_has_its_gradient_after_a_restoration_without(name):
    """What is kept was made without gradients, and takes none away."""
    operator = bound(name)
    x = images()
    with torch.no_grad():
        y = operator.A(x)
        operator.x_update(x, y, torch.zeros(3, 2), torch.ones(3), torch.ones(3))
    guess = torch.zeros_like(x).requires_grad_()
    (0.5 * (operator.A(guess) - y).square().sum()).backward()
    torch.testing.assert_close(guess.grad, -operator.A_adjoint(y), rtol=1e-5, atol=1e-5)


def test_a_kernel_may_be_learned():
    """Its gradient goes through every call, and what was kept does not outlive a step."""
    x = images(torch.float64)
    kernel = (torch.ones(3, 3, dtype=torch.float64) / 9).requires_grad_()
    for operator in (jf.Blur(kernel), jf.Blur(kernel, "zero"), jf.SuperResolution(2, kernel)):
        for _ in range(2):
            (found,) = torch.autograd.grad(operator.A(x).sum(), kernel)
            assert found.abs().sum() > 0
    blur = jf.Blur(kernel)
    before = blur.A(x)
    with torch.no_grad():
        kernel.mul_(2)
    torch.testing.assert_close(blur.A(x), 2 * before)


@pytest.mark.parametrize(
    "made",
    [
        lambda blur: jf.Stack([jf.Denoising(), blur]),
        lambda blur: jf.Composition(jf.Inpainting(MASK), blur),
        lambda blur: jf.Composition(blur, jf.Inpainting(MASK)),
        lambda blur: jf.Composition(jf.CompressedSensing(MATRIX), blur),
        lambda blur: jf.Stack([jf.Composition(jf.Inpainting(MASK), blur)]),
    ],
)
def test_a_kernel_may_be_learned_within_a_compound(made):
    """In another precision, too: what is converted is kept for others."""
    kernel = (torch.ones(3, 3) / 9).requires_grad_()
    compound, x = made(jf.Blur(kernel)), images(torch.float64)
    with torch.no_grad():
        compound.bind(SHAPE, like=x).A(x)
    for _ in range(2):
        bound = compound.bind(SHAPE, like=x)
        y = bound.A(x)
        torch.testing.assert_close(y, made(jf.Blur(kernel.detach())).bind(SHAPE, like=x).A(x))
        (found,) = torch.autograd.grad(y.square().sum(), kernel)
        assert found.abs().sum() > 0
        assert bound.data_term() is not bound.data_term()
        with torch.no_grad():
            kernel.mul_(2)
