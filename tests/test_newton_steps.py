"""The model of a step with a share of the Hessian, and Newton's own step as the last one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import jpmap_fast as jf
from jpmap_fast import kernels
from jpmap_fast._problems import compressed_sensing, denoising
from jpmap_fast.kernels.damped_systems import HESSIAN_SHARES
from jpmap_fast.objective import Projection
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.solvers import GaussNewton
from jpmap_fast.solvers.device_steps import DeviceSteps
from jpmap_fast.solvers.quadratic_model import Step

DIGITS = 16


@pytest.fixture(scope="module")
def descents():
    """f of digits that are measured in two ways, in float64, and codes to begin at."""
    prior = jf.load_prior("mnist", dtype=torch.float64)
    digits = jf.mnist_test_digits(DIGITS)[0].double()
    g = torch.Generator().manual_seed(0)
    starts = torch.randn(DIGITS, prior.latent_dim, generator=g, dtype=torch.float64)
    starts[::2] = 0
    found = []
    for kind in (denoising(), compressed_sensing((1, 28, 28), g)):
        operator, sigma = kind.operator.to(dtype=torch.float64), kind.sigma
        y = operator.measure(digits, sigma, generator=g)
        ones = torch.ones(DIGITS, dtype=torch.float64)
        bound = operator.bind((1, 28, 28), DIGITS)
        f = Projection(bound, make_decoder(prior))(y, ones / prior.gamma**2, sigma * ones)
        found.append((f, starts))
    return found


def test_torch_and_compiled_descents_take_the_same_steps(descents):
    for f, starts in descents:
        compiled = GaussNewton().minimise(f, starts)
        plain = GaussNewton(fused=False).minimise(f, starts)
        assert compiled.path == "compiled" and plain.path != "compiled"
        recorded = DeviceSteps(1e-4, 0.1, True, 200, 80)(f, starts)
        for steps, z in ((plain.steps, plain.z), (recorded[2], recorded[0])):
            # Rounding decides between two minima for few.
            same = steps == compiled.steps
            assert int(same.sum()) >= DIGITS - 1
            torch.testing.assert_close(z[same], compiled.z[same], rtol=1e-6, atol=1e-6)


def test_every_share_of_the_hessian_is_used(descents):
    shares = set()
    for f, starts in descents:
        for steps in range(1, 6):
            z = GaussNewton(max_steps=steps).minimise(f, starts).z
            _, gradient, matrix, hessian = f.newton_system(z, True)
            shares |= set(kernels.damped_solve(matrix, hessian, gradient)[1].tolist())
    assert shares == {0.0, *HESSIAN_SHARES}


def test_the_last_step_leaves_as_little_as_its_square(descents):
    """f is that of a descent to far below the tolerance, at fewer evaluations."""
    for f, starts in descents:
        further = GaussNewton(tolerance=1e-11).minimise(f, starts)
        for tolerance in (1e-4, 1e-7):
            ended = GaussNewton(tolerance=tolerance).minimise(f, starts)
            assert ended.converged.all() and further.converged.all()
            excess = (ended.objective - further.objective) / further.objective
            assert float(excess.abs().max()) < 1e-6
            left = (ended.z - further.z).square().mean(dim=1).sqrt()
            assert float(left.median()) < tolerance / 2 and float(left.max()) < 10 * tolerance
            assert (ended.steps <= further.steps).all()


def test_a_last_step_that_is_refused_is_followed_by_damped_ones(descents, monkeypatch):
    f, starts = descents[0]
    expected = GaussNewton(fused=False).minimise(f, starts)
    once, told = [], Step.or_last

    def or_last(step, moved, tolerance):
        d, last = told(step, moved, tolerance)
        # Far too long, f does not fall by the first of them.
        first = last if not once else torch.zeros_like(last)
        once.extend([True] * bool(first.any()))
        return torch.where(first[:, None], 1e3 * d, d), last

    monkeypatch.setattr(Step, "or_last", or_last)
    found = GaussNewton(fused=False).minimise(f, starts)
    assert once and found.converged.all()
    more = found.steps > expected.steps
    assert 1 <= int(more.sum()) < DIGITS
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-5, atol=0)


def test_no_step_is_the_last_without_the_hessian(descents):
    """Gauss-Newton's steps shrink by a factor, not by their square."""
    f, starts = descents[0]
    for solver in (
        GaussNewton(second_order=False),
        GaussNewton(fused=False, linear_solver="conjugate-gradient"),
    ):
        found = solver.minimise(f, starts)
        again = replace(solver, max_steps=1).minimise(f, found.z)
        moved = (again.z - found.z).square().mean(dim=1).sqrt()
        assert found.converged.all() and float(moved.max()) <= 1e-4
