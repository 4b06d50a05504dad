"""ADMM with the constraint x = G(z): against plain formulas, closed forms, and its promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from problems import CASE_NAMES, KINDS, PIXELS, Case, LinearPrior, case, small_mlp
from test_algorithms import exact_latent_map
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.objective import coupled
from jpmap_fast.solvers.gradient_step import gradient_step

EXACT = jf.GaussNewton(tolerance=1e-10)
BOTH = pytest.mark.parametrize(
    "method", [jf.ADMM(z_solver=EXACT), jf.LinearisedADMM()], ids=["exact", "linearised"]
)


def least(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """A local minimum of f from z [k], by Newton steps that are shortened until f falls."""
    for _ in range(50):
        g = torch.func.grad(f)(z)
        values, vectors = torch.linalg.eigh(torch.func.hessian(f)(z))
        d = -vectors @ ((vectors.mT @ g) / values.abs().clamp_min(1e-3))
        if float(d.norm()) < 1e-9:
            break
        length, now = 1.0, f(z)
        while f(z + length * d) > now and length > 1e-6:
            length /= 2
        z = z + length * d
    return z


def one_step(f: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor], beta: float):
    """z -> the step of ``LinearisedADMM`` on f, by autograd and a Jacobian."""

    def step(z: Tensor) -> Tensor:
        g = torch.func.grad(f)(z)
        tangent = torch.func.jacrev(decode)(z) @ g
        length = g.square().sum() / (g.square().sum() + beta * tangent.square().sum())
        while f(z - length * g) > f(z) - 1e-4 * length * g.square().sum():
            length = length / 2
        return z - length * g

    return step


def by_formulas(
    c: Case, prior: jf.MLPVAE, image: int, z: Tensor, method: jf.ADMM | jf.LinearisedADMM
) -> tuple[list[Tensor], list[float], Tensor, Tensor]:
    """Codes, penalties, the last x and the last multiplier of scaled ADMM on one image."""
    a, y, sigma = c.matrix[image], c.y[image].flatten(), float(c.sigma[image])
    beta, identity = float(method.beta0), torch.eye(PIXELS, dtype=torch.float64)

    def decode(z: Tensor) -> Tensor:
        return prior.decode(z[None]).flatten()

    def nearest(target: Tensor, beta: float) -> Tensor:
        system = a.mT @ a / sigma**2 + beta * identity
        return torch.linalg.solve(system, a.mT @ y / sigma**2 + beta * target)

    x, u = nearest(decode(z), beta), torch.zeros(PIXELS, dtype=torch.float64)
    codes, betas = [z], [beta]
    for _ in range(method.max_iterations):
        aim = x + u

        def f(z: Tensor, aim: Tensor = aim, beta: float = beta) -> Tensor:
            return 0.5 * (beta * (aim - decode(z)).square().sum() + z.square().sum())

        z = least(f, z) if isinstance(method, jf.ADMM) else one_step(f, decode, beta)(z)
        before, x = x, nearest(decode(z) - u, beta)
        gap, multiplier = x - decode(z), beta * (u + x - decode(z))
        codes.append(z)
        betas.append(beta)
        if float(gap.norm()) > float((x - before).norm()):
            beta *= method.growth
        u = multiplier / beta
    return codes, betas, x, multiplier


@BOTH
@pytest.mark.parametrize("name", CASE_NAMES)
def test_iterates_are_those_of_the_formulas(name, method):
    c, prior = case(name), small_mlp().requires_grad_(False)
    short = replace(method, beta0=20.0, growth=1.5, max_iterations=6, tolerance=1e-12)
    z0 = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    found = jf.restore(c.y, c.operator, prior, c.sigma, method=short, z0=z0, record=True)
    assert found.iterations.tolist() == [6] * 4
    assert len(set(found.history.beta.flatten().tolist())) > 1
    for image in (0, 2):
        codes, betas, x, _ = by_formulas(c, prior, image, z0[image], short)
        expected = torch.stack(codes)
        torch.testing.assert_close(found.history.z[:, image], expected, rtol=1e-6, atol=1e-7)
        assert found.history.beta[:, image].tolist() == pytest.approx(betas)
        torch.testing.assert_close(found.x[image].flatten(), x, rtol=1e-6, atol=1e-7)


@BOTH
@pytest.mark.parametrize("name", KINDS)
def test_a_linear_gaussian_model_ends_at_its_latent_map(name, method):
    c, prior = case(name), LinearPrior()
    expected = exact_latent_map(c, prior, torch.full((4,), torch.inf, dtype=torch.float64))
    long = replace(method, tolerance=1e-9, max_iterations=50_000)
    found = jf.restore(c.y, c.operator, prior, c.sigma, method=long)
    assert found.converged.all(), found.status
    torch.testing.assert_close(found.z, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.x, found.decoded, rtol=0, atol=1e-7)
    assert bool(found.beta.isinf().all())


@BOTH
@pytest.mark.parametrize("name", KINDS)
def test_the_constraint_is_met_where_the_latent_objective_is_stationary(name, method):
    c, prior = case(name), small_mlp()
    found = jf.restore(c.y, c.operator, prior, c.sigma, method=replace(method, tolerance=1e-6))
    assert found.converged.all(), found.status
    assert float(found.gap.max()) <= PIXELS * 1e-12
    further = jf.restore(
        c.y, c.operator, prior, c.sigma, method=jf.CSGM(z_solver=EXACT), z0=found.z
    )
    torch.testing.assert_close(further.z, found.z, rtol=0, atol=1e-4)
    torch.testing.assert_close(further.objective, found.objective, rtol=1e-8, atol=0)


def test_the_multiplier_is_the_slope_of_the_data_term():
    """beta u = A^T (y - A x) / sigma^2, whatever the penalty has been."""
    c, prior = case("inpainting"), small_mlp().requires_grad_(False)
    method = jf.ADMM(beta0=5.0, growth=1.3, max_iterations=5)
    z0 = torch.zeros(3, dtype=torch.float64)
    for image in (1, 3):
        _, _, x, multiplier = by_formulas(c, prior, image, z0, method)
        a = c.matrix[image]
        slope = a.mT @ (c.y[image].flatten() - a @ x) / float(c.sigma[image]) ** 2
        torch.testing.assert_close(multiplier, slope)


@BOTH
def test_penalties_grow_by_the_factor_or_stay(method):
    c, prior = case("compressed-sensing"), small_mlp()
    found = jf.restore(
        c.y, c.operator, prior, c.sigma, method=replace(method, growth=1.25), record=True
    )
    ratio = (found.history.beta[1:] / found.history.beta[:-1]).flatten()
    ratio = ratio[~ratio.isnan()]
    assert bool((((ratio - 1).abs() < 1e-12) | ((ratio - 1.25).abs() < 1e-12)).all())
    assert bool((ratio > 1).any())
    constant = replace(method, growth=1.0, beta0=7.0, max_iterations=5)
    found = jf.restore(c.y, c.operator, prior, c.sigma, method=constant, record=True)
    assert bool((found.history.beta.nan_to_num(nan=7.0) == 7).all())


def test_a_huge_factor_leaves_numbers():
    c = case("denoising", dtype=torch.float32)
    method = jf.ADMM(growth=1e30, max_iterations=20, tolerance=1e-30)
    prior = small_mlp(dtype=torch.float32)
    found = jf.restore(c.y, c.operator, prior, c.sigma, method=method, record=True)
    assert bool(found.x.isfinite().all())
    assert float(found.history.beta.nan_to_num(nan=0.0).max()) > 1e15


def test_a_step_lowers_what_it_descends_and_stands_at_a_minimum():
    prior = small_mlp()
    aim = torch.rand(5, PIXELS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    f = coupled(prior.decoder(aim), aim, torch.full((5, 1), 300.0, dtype=torch.float64))
    z = 3 * torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert bool((f.value(gradient_step(f, z)) < f.value(z)).all())
    end = EXACT.minimise(f, z).z
    # A descent ends where a Newton step promises less than f resolves, and H is at least I there.
    resolved = float((8 * torch.finfo(end.dtype).eps * f.value(end).abs()).sqrt().max())
    torch.testing.assert_close(gradient_step(f, end), end, rtol=0, atol=resolved)
    assert torch.equal(
        gradient_step(f.select(torch.tensor([3])), z[3:4])[0], gradient_step(f, z)[3]
    )


def test_the_model_of_the_residual_has_no_part_in_the_end():
    digits = jf.mnist_test_digits(4)[0]
    y = jf.Denoising().measure(digits, 0.3, generator=torch.Generator().manual_seed(2))
    white, coloured = (
        jf.restore(y, jf.Denoising(), "mnist", 0.3, method=jf.ADMM(tolerance=1e-4), residual=model)
        for model in ("white", "covariance")
    )
    assert bool((coloured.objective <= white.objective * 1.001).all())
    assert bool(coloured.converged.all())
    with pytest.raises(ValueError, match="variance by grey value.*'admm'"):
        jf.restore(y, jf.Denoising(), "mnist", 0.3, method="admm", residual="grey")


def test_digits_reach_the_constraint_and_less_than_continuation():
    """Real digits with 80% missing, from one start: x = G(z), and ADMM ends below MAPz."""
    digits = jf.mnist_test_digits(16)[0]
    generator = torch.Generator().manual_seed(0)
    operator = jf.Inpainting((torch.rand(28, 28, generator=generator) < 0.2).float())
    y = operator.measure(digits, 10 / 255, generator=generator)
    methods = (jf.ADMM(starts=1), jf.LinearisedADMM(starts=1), jf.MAPz(starts=1))
    exact, linearised, continuation = (
        jf.restore(y, operator, "mnist", 10 / 255, method=method) for method in methods
    )
    for found in (exact, linearised):
        assert float(found.converged.float().mean()) >= 0.9
        assert float(found.gap.max()) <= 784 * (1 / 2550) ** 2
    assert float(exact.objective.mean()) < float(continuation.objective.mean())
    assert exact.path == "compiled" and "not compiled" in linearised.reason


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        ({"beta0": 0}, ValueError, "beta0: expected finite values > 0"),
        ({"growth": 0.99}, ValueError, r"growth: expected a finite factor >= 1, got 0\.99"),
        ({"growth": math.inf}, ValueError, "growth: expected a finite number"),
        ({"growth": None}, TypeError, "growth: expected a number"),
        ({"max_iterations": 0}, ValueError, "max_iterations: expected at least 1"),
        ({"tolerance": 0}, ValueError, "tolerance: expected a finite number > 0"),
        ({"starts": 0}, ValueError, "starts: expected at least 1"),
    ],
)
@pytest.mark.parametrize("kind", [jf.ADMM, jf.LinearisedADMM])
def test_settings_out_of_range_are_refused(kind, bad, error, text):
    with pytest.raises(error, match=f"{kind.__name__}: {text}"):
        kind(**bad)


def test_a_solver_that_is_none_is_refused():
    with pytest.raises(ValueError, match="ADMM: z_solver: expected one of 'gauss-newton', 'adam'"):
        jf.ADMM(z_solver="newton")
