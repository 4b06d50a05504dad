"""Measurement operators: transposes, noise, exact x-updates, shapes and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import CASE_NAMES, IMAGE_SHAPE, PIXELS, case, joint_objective

import jpmap_fast as jf


@pytest.mark.parametrize("name", CASE_NAMES)
def test_adjoint_is_the_transpose(name):
    c = case(name)
    g = torch.Generator().manual_seed(1)
    u = torch.randn(4, *IMAGE_SHAPE, generator=g, dtype=torch.float64)
    image = c.operator.A(u)
    v = torch.randn(image.shape, generator=g, dtype=torch.float64)
    left = (image * v).sum()
    right = (u * c.operator.A_adjoint(v).reshape(u.shape)).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASE_NAMES)
def test_operator_is_its_matrix(name):
    c = case(name)
    u = torch.rand(4, *IMAGE_SHAPE, dtype=torch.float64)
    dense = (c.matrix @ u.flatten(1)[:, :, None])[:, :, 0]
    torch.testing.assert_close(c.operator.A(u).flatten(1), dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", CASE_NAMES)
def test_x_update_solves_the_normal_equations(name, dtype, tolerance):
    """Against a dense float64 solve of (A^T A / sigma^2 + beta I) x = A^T y / sigma^2 + beta G.

    float32: rounding 6e-8 times the condition of the m x m system, at most about 100 here.
    """
    c = case(name, dtype=dtype)
    g = torch.Generator().manual_seed(2)
    decoded = torch.rand(4, *IMAGE_SHAPE, generator=g, dtype=dtype)
    z = torch.randn(4, 3, generator=g, dtype=dtype)
    beta = torch.tensor([1.0, 20.0, 83.0, 500.0], dtype=dtype)
    x, objective, gap = c.operator.x_update(decoded, c.y, z, beta, c.sigma)

    a, y, flat = c.matrix.double(), c.y.double().flatten(1), decoded.double().flatten(1)
    precision = 1 / c.sigma.double().square()
    system = precision[:, None, None] * a.mT @ a
    system = system + beta.double()[:, None, None] * torch.eye(PIXELS, dtype=torch.float64)
    rhs = precision[:, None] * (a.mT @ y[:, :, None])[:, :, 0] + beta.double()[:, None] * flat
    expected = torch.linalg.solve(system, rhs)
    error = (x.flatten(1).double() - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < tolerance
    exact = joint_objective(c, expected.reshape(decoded.shape), decoded, z, beta)
    assert ((objective.double() - exact).abs() / exact).max() < tolerance
    exact_gap = (expected - flat).square().sum(1)
    assert ((gap.double() - exact_gap).abs() / exact_gap).max() < 10 * tolerance


@pytest.mark.parametrize("name", CASE_NAMES)
def test_infinite_beta_ties_x_to_the_decoder(name):
    c = case(name)
    decoded = torch.rand(4, *IMAGE_SHAPE, dtype=torch.float64)
    z = torch.zeros(4, 3, dtype=torch.float64)
    beta = torch.full((4,), torch.inf, dtype=torch.float64)
    x, objective, gap = c.operator.x_update(decoded, c.y, z, beta, c.sigma)
    torch.testing.assert_close(x, decoded)
    assert torch.equal(gap, torch.zeros_like(gap))
    exact = joint_objective(c, decoded, decoded, z, torch.ones_like(beta))
    torch.testing.assert_close(objective, exact)


def test_measure_adds_noise_of_the_asked_deviation_and_repeats_with_its_seed():
    x = torch.zeros(3, 1, 100, 100)
    sigma = torch.tensor([0.1, 0.5, 2.0])
    operator = jf.Denoising()
    y = operator.measure(x, sigma, generator=torch.Generator().manual_seed(3))
    # 10,000 draws: the sample deviation is within 5 standard errors (0.7% each).
    assert ((y.flatten(1).std(dim=1) / sigma - 1).abs() < 5 * 0.0071).all()
    again = operator.measure(x, sigma, generator=torch.Generator().manual_seed(3))
    assert torch.equal(y, again)


def test_gaussian_matrix_has_variance_one_over_m():
    operator = jf.CompressedSensing.gaussian(
        50, (1, 28, 28), generator=torch.Generator().manual_seed(0)
    )
    assert operator.matrix.shape == (50, 784)
    assert abs(float(operator.matrix.var()) * 50 - 1) < 5 * (2 / (50 * 784)) ** 0.5


def test_factor_is_computed_once_and_shared_by_bound_copies():
    operator = jf.CompressedSensing(torch.randn(7, PIXELS, dtype=torch.float64))
    bound = operator.bind(IMAGE_SHAPE)
    assert bound.operator.factor is operator.factor
    u, lam = operator.factor.basis.weight, operator.factor.values
    torch.testing.assert_close(u @ torch.diag(lam) @ u.T, operator.matrix @ operator.matrix.T)


@pytest.mark.parametrize(
    "mask, message",
    [
        (torch.full((6, 5), 1.5), r"mask: expected values in \[0, 1\]"),
        (torch.full((6, 5), -0.1), r"mask: expected values in \[0, 1\]"),
        (torch.full((6, 5), torch.nan), r"mask: expected values in \[0, 1\]"),
        (torch.ones(5), r"mask: expected shape \[H, W\]"),
    ],
)
def test_bad_masks_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        jf.Inpainting(mask)


def test_integer_mask_of_grey_levels_is_refused_with_advice():
    with pytest.raises(TypeError, match="mask > 127"):
        jf.Inpainting(torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8))
    zero_one = jf.Inpainting(np.array([[0, 1], [1, 0]], dtype=np.uint8))
    assert zero_one.mask.is_floating_point()


def test_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"mask: expected one for images of shape \[1, 6, 5\]"):
        jf.Inpainting(torch.ones(7, 5)).bind(IMAGE_SHAPE)
    with pytest.raises(ValueError, match="each of 4 images, got 3"):
        jf.Inpainting(torch.ones(3, *IMAGE_SHAPE)).bind(IMAGE_SHAPE, 4)


def test_bad_matrices_are_refused():
    with pytest.raises(ValueError, match=r"A: expected a matrix \[m, n\]"):
        jf.CompressedSensing(torch.ones(5))
    with pytest.raises(TypeError, match="floating-point"):
        jf.CompressedSensing(torch.ones(5, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="finite"):
        jf.CompressedSensing(torch.full((2, 4), torch.nan))
    with pytest.raises(ValueError, match="expected 30 columns"):
        jf.CompressedSensing(torch.ones(2, 4), IMAGE_SHAPE)
    with pytest.raises(ValueError, match=r"y: expected shape \[B, 5\]"):
        jf.CompressedSensing(torch.ones(5, 4)).A_adjoint(torch.ones(2, 4))


def test_functions_that_are_no_transposes_are_refused():
    wrong = jf.LinearOperator(lambda x: 2 * x, lambda y: 3 * y)
    with pytest.raises(ValueError, match="expected the transpose of A"):
        wrong.measurement_shape(IMAGE_SHAPE, torch.zeros(()))
    with pytest.raises(TypeError, match="A_adjoint: expected a function"):
        jf.LinearOperator(lambda x: x, None)  # type: ignore[arg-type]


def test_conjugate_gradients_stop_row_by_row():
    """A row whose system is the identity is done at once, its neighbour goes on and is right."""
    from jpmap_fast._conjugate_gradient import conjugate_gradient

    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 40, generator=g, dtype=torch.float64))[0]
    hard = basis @ torch.diag(torch.logspace(0, 4, 40, dtype=torch.float64)) @ basis.T
    systems = torch.stack((torch.eye(40, dtype=torch.float64), hard))
    rhs = torch.randn(2, 40, generator=g, dtype=torch.float64)
    found = conjugate_gradient(
        lambda v: (systems @ v[:, :, None])[:, :, 0], rhs, tolerance=1e-10, max_iterations=500
    )
    assert found.converged.all()
    assert found.iterations[0] == 1 and found.iterations[1] > 10
    residual = rhs - (systems @ found.x[:, :, None])[:, :, 0]
    assert (residual.norm(dim=1) <= 1.01e-10 * rhs.norm(dim=1)).all()
    short = conjugate_gradient(
        lambda v: (systems @ v[:, :, None])[:, :, 0], rhs, tolerance=1e-10, max_iterations=3
    )
    assert short.converged.tolist() == [True, False]


@pytest.mark.cuda
def test_a_generator_of_the_cpu_gives_a_gpu_the_same_noise():
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = [
        jf.Denoising().measure(x.to(device), 0.3, torch.Generator().manual_seed(1))
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(found[1].cpu(), found[0])


@pytest.mark.cuda
def test_a_generator_of_the_cpu_draws_for_a_gpu_too():
    decoded, y = torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for device in ("cpu", "cuda"):
        here = decoded.to(device)
        one = torch.ones(1, device=device)
        bound = jf.Denoising().bind((1, 8, 8), like=here)
        given = here, 4 * one, 0.3 * one, y.to(device)
        found.append(bound.sample_x(*given, torch.Generator().manual_seed(1)).cpu())
    torch.testing.assert_close(*found)
