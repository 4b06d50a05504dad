"""Plug-and-play ADMM: closed forms, the condition of its convergence, and its experiment."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from problems import IMAGE_SHAPE, PIXELS, LinearPrior
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._problems import PAPER, make_problem
from jpmap_fast.algorithms import largest_weight
from jpmap_fast.denoisers import LipschitzDenoiser
from jpmap_fast.experiments import pnp_convergence
from jpmap_fast.experiments.context import Context, Settings
from jpmap_fast.experiments.digit_images import digits

BATCH = 4
OPERATORS = ("denoising", "inpainting", "compressed-sensing")


def quadratic(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Q, symmetric with eigenvalues 1 to 9, and b: of R(x) = x^T Q x / 2 - b^T x."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(PIXELS, PIXELS, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(draw)
    values = torch.linspace(1, 9, PIXELS, dtype=torch.float64)
    b = torch.randn(PIXELS, generator=generator, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T, b


class ProximalMap:
    """D(x, s) = argmin_v R(v) + ||v - x||^2 / (2 s^2) = (I + s^2 Q)^{-1} (x + s^2 b)."""

    def __init__(self, q: Tensor, b: Tensor, device: torch.device | None = None) -> None:
        self.q, self.b = q.to(device), b.to(device)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        system = torch.eye(PIXELS, dtype=x.dtype, device=x.device) + sigma**2 * self.q
        # One image at a time, so that its bits do not depend on the batch.
        rows = [torch.linalg.solve(system, row + sigma**2 * self.b) for row in x.flatten(1)]
        return torch.stack(rows).reshape(x.shape)


def make(kind: str) -> tuple[jf.Operator, Tensor, Tensor]:
    """An operator, its dense matrix [m, n], and measurements [BATCH, ...], float64."""
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(BATCH, *IMAGE_SHAPE, generator=generator, dtype=torch.float64)
    identity = torch.eye(PIXELS, dtype=torch.float64)
    operator: jf.Operator
    if kind == "denoising":
        operator, matrix = jf.Denoising(), identity
    elif kind == "inpainting":
        mask = (torch.rand(IMAGE_SHAPE, generator=generator) < 0.4).double()
        operator, matrix = jf.Inpainting(mask), torch.diag(mask.flatten())
    else:
        matrix = torch.randn(12, PIXELS, generator=generator, dtype=torch.float64) / 12**0.5
        operator = jf.CompressedSensing(matrix)
    return operator, matrix, operator.bind(IMAGE_SHAPE, BATCH).measure(x, 0.1, generator=generator)


def restored(y: Tensor, operator: jf.Operator, method: jf.PnPADMM, sigma=0.3) -> jf.Result:
    return jf.restore(y, operator, LinearPrior(), sigma, method=method)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("weight, denoiser_sigma", [(0.5, 0.4), (4.0, 0.25)])
def test_proximal_map_for_denoiser_gives_the_exact_minimiser(kind, weight, denoiser_sigma):
    operator, matrix, y = make(kind)
    q, b = quadratic()
    sigma = torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=torch.float64)
    method = jf.PnPADMM(
        ProximalMap(q, b), denoiser_sigma, weight, max_iterations=20_000, tolerance=1e-11
    )
    result = restored(y, operator, method, sigma)
    assert bool(result.converged.all())
    for row, s in enumerate(sigma.tolist()):
        # The gradient of ||A x - y||^2 / (2 sigma^2) + lambda R(x) is zero.
        system = matrix.T @ matrix / s**2 + weight * q
        right = matrix.T @ y[row].flatten() / s**2 + weight * b
        exact = torch.linalg.solve(system, right)
        # A change of 1e-11 an iteration at a rate of 0.99 or better is 1e-9 from the end.
        torch.testing.assert_close(result.x[row].flatten(), exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize("lipschitz", [0.3, 0.9])
def test_where_convergence_ends_for_a_denoiser_that_amplifies(lipschitz):
    """D(x) = (1 + L) x has a residual of norm L, and a multiplier that can be worked out.

    With p = 1 / (1 + eta mu) an iteration multiplies by p + (2 p - 1) L, which is 1 at
    lambda = s^2 mu (1 + L) / L: farther out than what is proved, and the end of all convergence.
    """
    s, sigma = 0.2, 0.5
    y = torch.rand(2, *IMAGE_SHAPE, dtype=torch.float64)
    limit = s**2 / sigma**2 * (1 + lipschitz) / lipschitz
    assert largest_weight(lipschitz, s, sigma, 1.0) < limit

    def end(weight: float) -> jf.Result:
        method = jf.PnPADMM(
            lambda x, _: (1 + lipschitz) * x, s, weight, max_iterations=3000, tolerance=1e-12
        )
        return restored(y, jf.Denoising(), method, sigma)

    assert bool(end(0.95 * limit).converged.all())
    beyond = end(1.05 * limit)
    assert not bool(beyond.converged.any())
    assert float(beyond.x.abs().min()) > 1e3


def test_below_the_bound_the_bounded_denoiser_contracts():
    """From two starts the iterates meet: the fixed point is the only one."""
    denoiser = LipschitzDenoiser((1, 6, 6), 0.8, 8, 4)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(torch.randn_like(parameter))
    denoiser.double().requires_grad_(False).normalise()
    problem = make_problem(
        "denoising", torch.rand(BATCH, 1, 6, 6), torch.Generator(), torch.device("cpu"), sigma=0.3
    )
    y = problem.y.double()
    weight = 0.99 * largest_weight(denoiser.lipschitz, 0.2, problem.sigma, 1.0)
    eta = 0.2**2 / weight
    ends = []
    for start in (y, 5 - y):
        v, u = start, torch.zeros_like(start)
        for _ in range(300):
            x = denoiser(v - u, 0.2)
            v = (y / problem.sigma**2 + (x + u) / eta) / (1 / problem.sigma**2 + 1 / eta)
            u = u + x - v
        ends.append(v)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)
    method = jf.PnPADMM(denoiser, 0.2, weight, max_iterations=300, tolerance=1e-12)
    prior = jf.ModulePrior(
        torch.nn.Flatten(), torch.nn.Linear(2, 36), gamma=1.0, latent_dim=2, image_shape=(1, 6, 6)
    )
    result = jf.restore(y, problem.operator, prior.double(), problem.sigma, method=method)
    torch.testing.assert_close(result.x, ends[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_image_does_not_depend_on_its_batch(kind):
    operator, _, y = make(kind)
    method = jf.PnPADMM(ProximalMap(*quadratic()), 0.3, 0.7, tolerance=1e-6)
    sigma = torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=torch.float64)
    whole = restored(y, operator, method, sigma)
    assert len(set(whole.iterations.tolist())) > 1  # they stop apart
    for row in range(BATCH):
        alone = restored(y[row : row + 1], operator, method, sigma[row : row + 1])
        assert torch.equal(alone.x[0], whole.x[row])
        assert int(alone.iterations) == int(whole.iterations[row])


def test_stopping_is_as_documented():
    """An image stops at the first iteration whose moves are small, and says so."""
    operator, _, y = make("inpainting")
    denoiser = ProximalMap(*quadratic())
    method = jf.PnPADMM(denoiser, 0.3, 0.7, tolerance=1e-5)
    result = restored(y, operator, method)
    assert bool((result.iterations < 200).all())
    for row, number in enumerate(result.iterations.tolist()):
        steps = []
        v, u = operator.bind(IMAGE_SHAPE, BATCH).A_adjoint(y)[row : row + 1], torch.zeros(1)
        mask = operator.bind(IMAGE_SHAPE, BATCH).A(torch.ones_like(y))[row]
        beta = 0.7 / 0.3**2
        for _ in range(number):
            x = denoiser(v - u, 0.3)
            new = (mask * y[row] / 0.3**2 + beta * (x + u)) / (mask / 0.3**2 + beta)
            steps.append(float((new - v).norm() + (x - new).norm()) / PIXELS**0.5)
            v, u = new, u + x - new
        torch.testing.assert_close(result.x[row], v[0], rtol=0, atol=1e-12)
        assert steps[-1] < 1e-5 <= min(steps[:-1])
    short = restored(y, operator, jf.PnPADMM(denoiser, 0.3, 0.7, max_iterations=3))
    assert short.iterations.tolist() == [3] * BATCH and not bool(short.converged.any())


def test_what_a_result_holds_and_what_it_cannot():
    operator, _, y = make("denoising")
    result = restored(y, operator, jf.PnPADMM(ProximalMap(*quadratic())))
    assert bool(result.objective.isnan().all()) and bool(result.z.isnan().all())
    assert bool(result.decoded.isnan().all())
    assert result.x.shape == y.shape
    assert restored(y[:0], operator, jf.PnPADMM(ProximalMap(*quadratic()))).x.shape[0] == 0


def test_nan_in_a_measurement_fails_that_image_alone():
    operator, _, y = make("denoising")
    method = jf.PnPADMM(ProximalMap(*quadratic()), tolerance=1e-6)
    good = restored(y, operator, method)
    bad = y.clone()
    bad[1, 0, 2, 3] = torch.nan
    result = restored(bad, operator, method)
    others = [0, 2, 3]
    assert torch.equal(result.x[others], good.x[others])
    assert not bool(result.converged[1]) and bool(result.converged[others].all())
    assert result.status[1] != result.status[0] == good.status[0]


def test_on_a_gpu_as_on_the_cpu(device):
    operator, _, y = make("compressed-sensing")
    q, b = quadratic()
    method = jf.PnPADMM(ProximalMap(q, b), 0.3, 0.7, tolerance=1e-9, max_iterations=2000)
    expected = restored(y, operator, method)
    there = jf.PnPADMM(ProximalMap(q, b, device), 0.3, 0.7, tolerance=1e-9, max_iterations=2000)
    prior = LinearPrior().to(device)
    found = jf.restore(y.to(device), operator.to(device), prior, 0.3, method=there)
    torch.testing.assert_close(found.x.cpu(), expected.x, rtol=0, atol=1e-7)
    assert bool(found.converged.all())


def test_largest_weight_by_hand():
    # mu = 1 / 0.1^2 = 100, s^2 mu = 4; (1 + 0.5 - 2 * 0.25) / 0.5 = 2.
    assert largest_weight(0.5, 0.2, 0.1, 1.0) == pytest.approx(8)
    # (1 + 0.9 - 1.62) / 0.9 = 0.28 / 0.9, half the eigenvalue.
    assert largest_weight(0.9, 0.2, 0.1, 0.5) == pytest.approx(2 * 0.28 / 0.9)
    assert largest_weight(0.9, 0.2, 0.1, 0.0) == 0
    assert largest_weight(1.0, 0.2, 0.1, 1.0) == 0
    assert largest_weight(1.5, 0.2, 0.1, 1.0) == 0
    for arguments, message in (
        ((0.0, 0.2, 0.1, 1.0), "lipschitz: expected a finite number > 0"),
        ((0.5, -1.0, 0.1, 1.0), "denoiser_sigma: expected a finite number > 0"),
        ((0.5, 0.2, math.inf, 1.0), "sigma: expected a finite number > 0"),
        ((0.5, 0.2, 0.1, -1.0), "least_eigenvalue: expected a number >= 0, got -1.0"),
        ((0.5, 0.2, 0.1, math.nan), "least_eigenvalue: expected a number >= 0, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            largest_weight(*arguments)


def test_settings_out_of_range():
    denoiser = ProximalMap(*quadratic())
    with pytest.raises(TypeError, match=r"expected a denoiser D\(x, sigma\), got 3"):
        jf.PnPADMM(3)  # type: ignore[arg-type]
    for settings, message in (
        ({"denoiser_sigma": 0.0}, "PnPADMM: denoiser_sigma: expected a finite number > 0"),
        ({"weight": -1.0}, "PnPADMM: weight: expected a finite number > 0"),
        ({"max_iterations": 0}, "PnPADMM: max_iterations: expected at least 1"),
        ({"tolerance": 0.0}, "PnPADMM: tolerance: expected a finite number > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            jf.PnPADMM(denoiser, **settings)


# --- the experiment ---------------------------------------------------------------------------


@pytest.fixture
def small_denoiser() -> LipschitzDenoiser:
    return LipschitzDenoiser((1, 28, 28), 0.9, 4, 3).requires_grad_(False)


@pytest.mark.parametrize("which", PAPER)
def test_the_recorded_iteration_is_that_of_the_method(which, small_denoiser):
    problem = make_problem(which, digits(2), torch.Generator().manual_seed(0), torch.device("cpu"))
    kept = pnp_convergence.trace(problem, small_denoiser, 0.2, 0.5, 12, keep=(0, 11))
    method = jf.PnPADMM(small_denoiser, 0.2, 0.5, max_iterations=12, tolerance=1e-30)
    result = jf.restore(
        problem.y, problem.operator, jf.load_prior("mnist"), problem.sigma, method=method
    )
    # float32, twelve iterations of values about 1.
    torch.testing.assert_close(kept["v"], result.x, rtol=0, atol=1e-5)
    assert torch.equal(kept["inputs"][0], problem.display)
    assert kept["residual"].shape == (12, 2) and kept["inputs"].shape == (2, 2, 1, 28, 28)


@pytest.mark.parametrize("which", PAPER)
def test_least_eigenvalues_are_those_of_the_operators(which):
    least = 1.0 if which == "denoising" else 0.0
    problem = make_problem(
        which, digits(2)[..., 8:20, 8:20], torch.Generator(), torch.device("cpu")
    )
    assert pnp_convergence.least_eigenvalue(problem) == pytest.approx(least, abs=1e-12)


def test_least_eigenvalue_of_more_measurements_than_pixels():
    clean = digits(2)[..., 10:16, 10:16]
    problem = make_problem(
        "compressed-sensing", clean, torch.Generator(), torch.device("cpu"), measurements=100
    )
    matrix = problem.operator.A(torch.eye(36).reshape(36, 1, 6, 6)).T.double()
    exact = float(torch.linalg.svdvals(matrix)[-1] ** 2)
    assert pnp_convergence.least_eigenvalue(problem) == pytest.approx(exact, rel=1e-4)


def test_the_experiment_says_where_the_condition_holds(tmp_path: Path, monkeypatch, small_denoiser):
    monkeypatch.setattr(pnp_convergence, "load_denoiser", lambda *_: small_denoiser)
    settings = {"denoiser_sigma": 0.3, "weight": 0.1}
    monkeypatch.setattr(pnp_convergence, "tuned", lambda *_: settings)
    sizes = pnp_convergence.Sizes(2, 30, 2, power_iterations=5)
    context = Context(Settings(), tmp_path)
    section = pnp_convergence.run(context, "pnp-convergence", sizes)
    assert (tmp_path / f"{section.figures[0].stem}.png").stat().st_size > 10_000
    condition, weights = section.tables
    bound = largest_weight(small_denoiser.lipschitz, 0.3, 110 / 255, 1.0)
    columns = condition.columns
    holds = {
        row[0].split(",")[0]: (row[columns.index("condition holds")], row[6])
        for row in condition.rows
    }
    assert holds["Denoising"] == ("yes" if bound > 0.1 else "no", pytest.approx(bound))
    assert holds["Inpainting"] == ("no", 0) == holds["Compressed sensing"]
    for row in condition.rows:
        assert 0 < row[2] <= row[1] * (1 + 1e-5) and 0 < row[3] <= row[1] * (1 + 1e-5)
    proved = [row for row in weights.rows if row[2] == "yes"]
    # Half and 0.95 of the bound, and those of the tuned weights that lie below it.
    assert len(proved) == 2 + sum(factor * 0.1 < bound for factor in pnp_convergence.OVER_TUNED)
    again = pnp_convergence.run(context, "pnp-convergence", sizes)
    assert again.tables[1].rows == weights.rows
    section.from_json(section.as_json())
