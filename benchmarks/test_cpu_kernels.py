"""CPU kernels under pytest-benchmark, so that a regression shows: ``make bench``."""

from __future__ import annotations

import pytest
import torch
from bench_kernels import cases
from bench_restore import DEGRADATIONS, make_problem

import jpmap_fast as jf
from jpmap_fast import kernels
from jpmap_fast.objective import Projection
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.solvers import GaussNewton


@pytest.mark.parametrize("batch, pixels", [(1, 784), (1024, 784), (64, 12_288)])
@pytest.mark.parametrize("name", sorted(cases(1, 4, torch.device("cpu"))))
def test_kernel(benchmark, name, batch, pixels):
    """One operator at one size, timed by pytest-benchmark."""
    torch.manual_seed(0)
    _, arguments = cases(batch, pixels, torch.device("cpu"))[name]
    benchmark(getattr(kernels, name), *arguments)


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("name", sorted(DEGRADATIONS))
def test_solve(benchmark, name, batch):
    """Compiled solves from z = 0."""
    prior, device = jf.load_prior("mnist"), torch.device("cpu")
    problem = make_problem(name, batch, device)
    ones = torch.ones(batch)
    f = Projection(problem.operator.bind((1, 28, 28), batch), make_decoder(prior))(
        problem.y, ones / prior.gamma**2, problem.sigma * ones
    )
    benchmark(GaussNewton().minimise, f, torch.zeros(batch, 8))


@pytest.mark.parametrize("name", sorted(DEGRADATIONS))
def test_restorer(benchmark, name):
    """One image by a Restorer."""
    prior, device = jf.load_prior("mnist"), torch.device("cpu")
    problem = make_problem(name, 1, device)
    benchmark(jf.Restorer(problem.operator, prior, problem.sigma, batch_size=1), problem.y)
