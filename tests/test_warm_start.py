"""restore(z0=...): descents from given codes, and the codes that a history keeps."""

from __future__ import annotations

import pytest
import torch

import jpmap_fast as jf
from jpmap_fast.algorithms import Estimate, PixelSpace, Problem

SIGMA = 10 / 255


@pytest.fixture(scope="module")
def task() -> tuple[torch.Tensor, jf.Operator, jf.Prior]:
    generator = torch.Generator().manual_seed(5)
    operator = jf.Inpainting((torch.rand(28, 28, generator=generator) < 0.2).float())
    clean = jf.mnist_test_digits(6)[0]
    return operator.measure(clean, SIGMA, generator), operator, jf.load_prior("mnist")


@pytest.mark.parametrize("method", [jf.JPMAP(starts=4), jf.CSGM(starts=4), jf.MAPz(alpha=5)])
def test_a_solution_is_where_a_warm_start_stays(task, method):
    y, operator, prior = task
    generator = torch.Generator().manual_seed(0)
    cold = jf.restore(y, operator, prior, SIGMA, method=method, generator=generator)
    warm = jf.restore(y, operator, prior, SIGMA, method=method, z0=cold.z)
    assert bool((warm.objective <= cold.objective * (1 + 1e-5)).all())
    assert bool((warm.z - cold.z).abs().amax() < 2e-2)


def test_a_warm_start_descends_from_its_own_code_in_any_batch(task):
    y, operator, prior = task
    z0 = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    whole = jf.restore(y, operator, prior, SIGMA, z0=z0, record=True)
    cut = jf.restore(y, operator, prior, SIGMA, z0=z0, chunk_size=4)
    one = jf.restore(y[2], operator, prior, SIGMA, z0=z0[2])
    assert torch.equal(whole.history.z[0], z0)
    assert torch.equal(whole.z, cut.z) and torch.equal(whole.z[2], one.z)
    assert bool((whole.candidates[:, :2] == 0).all()), "the encoder has no say in a warm start"


def test_the_codes_of_a_history_explain_its_objectives(task):
    y, operator, prior = task
    result = jf.restore(y, operator, prior, SIGMA, method=jf.MAPz(alpha=5, starts=1), record=True)
    history = result.history
    steps, batch = history.objective.shape
    assert history.z.shape == (steps, batch, 8)
    done = torch.isnan(history.objective)
    assert torch.equal(torch.isnan(history.z).all(dim=2), done)
    for step in range(1, steps):  # row 0 is the published start, x = A^T y
        rows = (~done[step]).nonzero()[:, 0]
        z, beta = history.z[step, rows], history.beta[step, rows]
        decoded = prior.decode(z)
        _, objective, gap = operator.x_update(decoded, y[rows], z, beta, beta * 0 + SIGMA)
        torch.testing.assert_close(objective, history.objective[step, rows], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(gap, history.gap[step, rows], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("z0", "message"),
    [
        (torch.zeros(5, 8), r"z0: expected shape \[6, 8\], one code an image, got \[5, 8\]"),
        (torch.zeros(6, 7), r"expected shape \[6, 8\]"),
        (torch.full((6, 8), torch.nan), "z0: expected finite codes"),
    ],
)
def test_codes_that_do_not_fit_are_refused(task, z0, message):
    y, operator, prior = task
    with pytest.raises(ValueError, match=message):
        jf.restore(y, operator, prior, SIGMA, z0=z0)


class _Adjoint(PixelSpace):
    """x = A^T y."""

    def estimate(self, problem: Problem) -> Estimate:
        x = problem.operator.A_adjoint(problem.y)
        ones = torch.ones(problem.batch, dtype=torch.int64)
        return Estimate(x, ones, ones == 1, torch.zeros_like(problem.sigma))


def test_a_method_in_pixel_space_goes_through_the_same_call(task):
    y, operator, prior = task
    y = y.clone()
    y[1, 0, 3, 3] = torch.nan
    result = jf.restore(y, operator, prior, SIGMA, method=_Adjoint(), record=True)
    good = [0, 2, 3, 4, 5]
    assert torch.equal(result.x[good], operator.A_adjoint(y)[good])
    assert bool(torch.isnan(result.z).all()) and bool(torch.isnan(result.decoded).all())
    assert result.converged.tolist() == [True, False, True, True, True, True]
    assert result.status[1].startswith("failed") and bool(torch.isnan(result.x[1]).all())
    served = jf.Restorer(operator, prior, SIGMA, batch_size=len(y), method=_Adjoint())(y)
    assert torch.equal(served.x[good], result.x[good]) and served.status == result.status
