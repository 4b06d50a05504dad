"""Total variation, and operators as physics of DeepInverse."""

from __future__ import annotations

import math

import pytest
import torch
from baseline_problems import digits_problem, shape_only, smooth_images
from problems import CASE_NAMES, IMAGE_SHAPE, case
from torch import nn

import jpmap_fast as jf

deepinv = pytest.importorskip("deepinv")


from jpmap_fast.deepinv.physics import OperatorPhysics  # noqa: E402
from jpmap_fast.experiments.baselines import (  # noqa: E402
    TotalVariation,
)


@pytest.mark.parametrize("name", CASE_NAMES)
def test_physics_has_the_matrix_of_the_operator(name):
    c = case(name)
    operator = c.operator.bind(IMAGE_SHAPE, 4)
    physics = OperatorPhysics(operator, c.sigma)
    x = torch.randn(4, *IMAGE_SHAPE, dtype=torch.float64)
    expected = (c.matrix @ x.flatten(1)[:, :, None])[:, :, 0]
    torch.testing.assert_close(physics.A(x).flatten(1), expected)
    back = (c.matrix.mT @ c.y.flatten(1)[:, :, None])[:, :, 0]
    torch.testing.assert_close(physics.A_adjoint(c.y).flatten(1), back)
    torch.testing.assert_close(physics.noise_model.sigma, c.sigma.float())


@pytest.mark.parametrize("name", CASE_NAMES)
def test_proximal_map_is_the_dense_solution(name):
    """(gamma A^T A + I) x = gamma A^T y + z, another gamma for each image."""
    c = case(name)
    physics = OperatorPhysics(c.operator.bind(IMAGE_SHAPE, 4), 0.1)
    z = torch.randn(4, *IMAGE_SHAPE, dtype=torch.float64)
    gamma = torch.tensor([0.2, 1.0, 7.0, 50.0], dtype=torch.float64)
    weight = gamma[:, None, None]
    identity = torch.eye(z[0].numel(), dtype=torch.float64)
    system = weight * (c.matrix.mT @ c.matrix) + identity
    right = weight * (c.matrix.mT @ c.y.flatten(1)[:, :, None]) + z.flatten(1)[:, :, None]
    expected = torch.linalg.solve(system, right)[:, :, 0]
    for given in (gamma, gamma[:, None, None, None]):
        found = physics.prox_l2(z, c.y, given)
        # Conjugate gradients of operators known as functions stop at 1e-10 of the residual.
        torch.testing.assert_close(found.flatten(1), expected, rtol=1e-7, atol=1e-8)
    number = physics.prox_l2(None, c.y, 2.0)
    torch.testing.assert_close(number, physics.prox_l2(torch.zeros_like(z), c.y, 2.0))


def test_physics_draws_noise_of_each_image_s_level():
    levels = torch.tensor([0.01, 0.5])
    physics = OperatorPhysics(jf.Denoising().bind((1, 40, 40)), levels)
    x = torch.zeros(2, 1, 40, 40)
    # 1,600 draws: a standard deviation is known to 1 / sqrt(3200) = 1.8%; five times that.
    torch.testing.assert_close(physics(x).flatten(1).std(dim=1), levels, rtol=0.09, atol=0)


def test_physics_moves_with_its_operator():
    operator = jf.Inpainting(torch.ones(1, 3, 3)).bind((1, 3, 3))
    physics = OperatorPhysics(operator, 0.1).to(torch.float64)
    x = torch.rand(1, 1, 3, 3, dtype=torch.float64)
    assert physics.A(x).dtype == physics.prox_l2(x, x, 1.0).dtype == torch.float64
    kept = OperatorPhysics(operator.to(dtype=torch.float64), 0.1).to("cpu")
    assert kept.prox_l2(x, x, 1.0).dtype == torch.float64


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, [0.1, math.inf]])
def test_physics_refuses_noise_levels(sigma):
    with pytest.raises(ValueError, match="sigma: expected finite values > 0"):
        OperatorPhysics(jf.Denoising(), torch.tensor(sigma))
    with pytest.raises(ValueError, match="gamma: expected finite values > 0"):
        y = torch.zeros(2, 1, 2, 2)
        OperatorPhysics(jf.Denoising(), 1.0).prox_l2(y, y, torch.tensor(sigma))


def test_physics_refuses_other_things_than_operators():
    with pytest.raises(TypeError, match="operator: expected one of jpmap_fast, got Linear"):
        OperatorPhysics(nn.Linear(1, 1), 0.1)


def tv_of(x: torch.Tensor) -> torch.Tensor:
    """TV from its definition, [B]."""
    right = torch.zeros_like(x)
    below = torch.zeros_like(x)
    right[..., :-1] = x[..., 1:] - x[..., :-1]
    below[..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    return (right.square() + below.square()).sum(dim=1).sqrt().flatten(1).sum(dim=1)


def test_constant_images_stay_as_they_are():
    x = torch.full((2, 3, 8, 9), 0.3)
    result = jf.restore(x, jf.Denoising(), shape_only(3, 8, 9), 0.1, method=TotalVariation(2.0))
    torch.testing.assert_close(result.x, x)
    assert result.converged.all() and result.iterations.tolist() == [10, 10]
    # Rounding of 0.3, squared: (0.3 * 2^-24)^2 / (2 * 0.1^2) for each of 216 values.
    assert (result.objective < 1e-10).all()


def test_a_large_weight_leaves_the_mean_of_each_channel():
    y = torch.rand(2, 3, 7, 6, dtype=torch.float64)
    method = TotalVariation(1e4, 20_000, 1e-6)
    prior = shape_only(3, 7, 6, dtype=torch.float64)
    result = jf.restore(y, jf.Denoising(), prior, 0.2, method=method)
    expected = y.mean(dim=(2, 3), keepdim=True).expand_as(y)
    torch.testing.assert_close(result.x, expected, rtol=0, atol=1e-4)
    expected_objective = (expected - y).square().sum(dim=(1, 2, 3)) / (2 * 0.2**2)
    torch.testing.assert_close(result.objective, expected_objective, rtol=1e-4, atol=0)


def test_a_step_edge_loses_height_as_known_in_closed_form():
    """Two halves of W/2 columns each, one channel: each level moves by weight sigma^2 2 / W."""
    y = torch.zeros(1, 1, 6, 10, dtype=torch.float64)
    y[..., 5:] = 1.0
    method = TotalVariation(2.0, 50_000, 1e-9)
    prior = shape_only(1, 6, 10, dtype=torch.float64)
    result = jf.restore(y, jf.Denoising(), prior, 0.5, method=method)
    shift = 2.0 * 0.5**2 / 5
    torch.testing.assert_close(result.x, (y - shift).abs(), rtol=0, atol=1e-6)


def test_objective_is_what_is_minimised():
    problem = digits_problem(4)
    method = TotalVariation(1.5)
    result = jf.restore(
        problem.y, problem.operator, shape_only(1, 28, 28), problem.sigma, method=method
    )
    residual = (problem.operator.A(result.x) - problem.y).flatten(1)
    expected = residual.square().sum(dim=1) / (2 * problem.sigma**2) + 1.5 * tv_of(result.x)
    # A float32 sum of 784 terms.
    torch.testing.assert_close(result.objective, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["denoising", "inpainting", "compressed-sensing"])
@pytest.mark.parametrize("weight", [0.5, 4.0])
def test_a_tolerance_bounds_the_excess_over_a_far_longer_run(name, weight):
    problem = digits_problem(4, name)
    prior = shape_only(1, 28, 28)

    def restored(**settings):
        method = TotalVariation(weight, **settings)
        return jf.restore(problem.y, problem.operator, prior, problem.sigma, method=method)

    short, long = restored(), restored(max_iterations=3000, tolerance=1e-9)
    assert short.converged.all()
    assert (short.objective <= long.objective * (1 + 1e-3)).all()


def test_images_that_ran_out_of_iterations_say_so():
    problem = digits_problem(2)
    method = TotalVariation(1.0, max_iterations=13)
    result = jf.restore(
        problem.y, problem.operator, shape_only(1, 28, 28), problem.sigma, method=method
    )
    assert result.iterations.tolist() == [13, 13] and not result.converged.any()
    assert all("iteration limit" in text for text in result.status)


def test_denoising_agrees_with_deepinv():
    """1/2 ||x - y||^2 + gamma TV is sigma^2 times what is minimised here at gamma / sigma^2."""
    y = smooth_images(1, 1, 12, 12).double() + 0.2 * torch.randn(1, 1, 12, 12, dtype=torch.float64)
    gamma, sigma = 0.1, 0.2
    # Its iterates have converged to about 1e-6 at crit = 1e-9.
    expected = deepinv.models.TVDenoiser(n_it_max=20_000, crit=1e-9, tau=0.1)(y, gamma)
    prior = shape_only(1, 12, 12, dtype=torch.float64)
    method = TotalVariation(gamma / sigma**2, 50_000, 1e-9)
    result = jf.restore(y, jf.Denoising(), prior, sigma, method=method)
    assert result.converged.all()
    torch.testing.assert_close(result.x, expected, rtol=0, atol=1e-5)


def test_channels_share_edges():
    """Vectorial TV of a grey image in colour is sqrt(3) times the grey one's."""
    grey = smooth_images(2, 1, 10, 10).double()
    grey = grey + 0.1 * torch.randn(grey.shape, dtype=torch.float64)
    colour = grey.expand(-1, 3, -1, -1).contiguous()
    ends = []
    for y, weight in ((grey, 2.0), (colour, 2.0 * math.sqrt(3))):
        prior = shape_only(*y.shape[1:], dtype=torch.float64)
        method = TotalVariation(weight, 20_000, 1e-7)
        ends.append(jf.restore(y, jf.Denoising(), prior, 0.3, method=method).x)
    torch.testing.assert_close(ends[1], ends[0].expand(-1, 3, -1, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"weight": 0.0}, {"weight": math.nan}, {"weight": 1.0, "max_iterations": 0}],
)
def test_total_variation_refuses_settings(settings):
    with pytest.raises(ValueError, match="TotalVariation: (weight|max_iterations)"):
        TotalVariation(**settings)
