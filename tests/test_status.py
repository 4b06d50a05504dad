"""Status: "converged" is said where a descent has converged, and nothing is descended twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from problems import IMAGE_SHAPE, case, small_mlp

import jpmap_fast as jf
from jpmap_fast.algorithms.starts import Starts
from jpmap_fast.solvers import GaussNewton

# What a descent from a converged image may still find, relative to J1.
WITHIN = 1e-3


def digits(count: int = 60) -> tuple[torch.Tensor, jf.Operator, float]:
    """Inpainting with 80% missing: the problem with the longest descents."""
    generator = torch.Generator().manual_seed(0)
    operator = jf.Inpainting((torch.rand(28, 28, generator=generator) < 0.2).float())
    sigma = 10 / 255
    y = operator.measure(jf.mnist_test_digits(count)[0], sigma, generator=generator)
    return y, operator, sigma


@pytest.mark.parametrize(
    "method",
    [
        jf.JPMAP(starts=1, n2=1),
        jf.JPMAP(),
        jf.JPMAP(selection="exhaustive", n2=2, max_iterations=5),
        jf.JPMAP(coupling="alternating", starts=1, n2=1, max_iterations=40),
        jf.JPMAP(n1=2, n2=3, starts=1),
        jf.AlternateConvexSearch(tolerance=1e-2),
        jf.AlternateConvexSearch(tolerance=1e-5),
    ],
    ids=repr,
)
@pytest.mark.parametrize("max_steps", [1, 2, 5])
@pytest.mark.parametrize("fused", [True, False])
def test_converged_is_within_a_descent_of_the_end(method, max_steps, fused):
    y, operator, sigma = digits()
    if isinstance(method, jf.JPMAP):
        method = replace(method, z_solver=GaussNewton(max_steps=max_steps, fused=fused))
    elif max_steps > 1 or not fused:
        pytest.skip("has no solver")
    prior = jf.load_prior("mnist")
    found = jf.restore(y, operator, prior, sigma, method=method)
    further = jf.restore(y, operator, prior, sigma, method=jf.JPMAP(n2=0), z0=found.z)
    left = (found.objective - further.objective) / found.objective
    assert not bool((found.converged & (left > WITHIN)).any())
    for converged, status in zip(found.converged.tolist(), found.status, strict=True):
        assert converged == (status == "converged")


def test_a_large_tolerance_is_no_convergence():
    c = case("inpainting")
    method = jf.JPMAP(tolerance=1e9, z_solver=GaussNewton(max_steps=1), starts=1)
    found = jf.restore(c.y, c.operator, small_mlp(), c.sigma, method=method)
    assert not bool(found.converged.any())
    assert all("below tolerance" in status and "max_steps" in status for status in found.status)


def test_one_iteration_is_enough_for_a_solve_that_converges():
    y, operator, sigma = digits(8)
    whole = jf.restore(y, operator, "mnist", sigma, method=jf.JPMAP(starts=1, n2=1))
    one = jf.restore(y, operator, "mnist", sigma, method=jf.JPMAP(starts=1, n2=1, max_iterations=1))
    assert bool(one.converged.all()) and torch.equal(one.x, whole.x)
    assert whole.iterations.tolist() == [1] * 8


@pytest.mark.parametrize("method", [jf.JPMAP(), jf.JPMAP(starts=1, n2=1), jf.JPMAP(n2=0)])
def test_nothing_that_converged_is_descended_again(method, monkeypatch):
    c = case("denoising")
    again = []
    solve = GaussNewton.minimise

    def watched(self, objective, z, scale=None, known=None):
        found = solve(self, objective, z, scale, known)
        again.extend(found.steps[found.converged].tolist())
        return found

    monkeypatch.setattr(GaussNewton, "minimise", watched)
    # Recorded: what runs in one compiled call cannot be watched.
    found = jf.restore(c.y, c.operator, small_mlp(), c.sigma, method=method, record=True)
    assert bool(found.converged.all())
    # A descent that begins where another ended on the same objective takes no step.
    assert again and 0 not in again


def test_repeated_steps_that_are_all_refused_end_at_once():
    """Nothing moves and nothing will: no iteration more, and no claim to have converged."""
    y, operator, sigma = digits(200)
    method = jf.JPMAP(starts=1, n2=1, z_solver=GaussNewton(max_steps=1))
    found = jf.restore(y, operator, "mnist", sigma, method=method)
    stuck = ~found.converged
    assert bool(stuck.any())
    assert int(found.iterations[stuck].max()) < 500


def test_the_encoder_standing_still_is_not_convergence():
    """An encoder may map to the same code for ever, far from every minimum of J1."""
    c = case("denoising")
    inner = small_mlp()
    prior = jf.ModulePrior(
        lambda x: torch.ones(len(x), 3, dtype=x.dtype), inner.decode, 0.15, 3, IMAGE_SHAPE
    )
    method = jf.AlternateConvexSearch(starts=1)
    found = jf.restore(c.y, c.operator, prior, c.sigma, method=method)
    assert not bool(found.converged.any())


@pytest.mark.parametrize("max_steps", [3, 10])
def test_a_second_start_replaces_only_the_descent_it_makes(max_steps, monkeypatch):
    """The encoder's start gives way where it is refused at once, and nowhere else."""
    operator, sigma = jf.Denoising(), 0.4
    generator = torch.Generator().manual_seed(0)
    y = operator.measure(jf.mnist_test_digits(60)[0], sigma, generator=generator)
    method = jf.JPMAP(z_solver=GaussNewton(max_steps=max_steps))
    found = jf.restore(y, operator, "mnist", sigma, method=method)
    repeated = Starts._repeated.func

    def with_every_descent(self):
        algorithm, problem, start = repeated(self)
        return algorithm, problem, replace(start, covered=False)

    monkeypatch.setattr(Starts, "_repeated", property(with_every_descent))
    expected = jf.restore(y, operator, "mnist", sigma, method=method, record=True)
    assert bool((found.objective <= expected.objective * (1 + 1e-5)).all())
    assert found.status == expected.status


def test_a_row_of_a_history_is_of_one_beta():
    """J1(x_n, z_n) of a row is that at its beta, at which the candidate was taken."""
    y, operator, sigma = digits(2)
    prior = jf.load_prior("mnist")
    history = jf.restore(y, operator, prior, sigma, method=jf.MAPz(starts=1), record=True).history
    first = history.beta[0]
    rows = (history.beta == first).sum(dim=0)
    assert bool((rows >= 2).all()), "the end of the first stage is recorded at its beta"
    falls = history.objective[1] < history.objective[0]
    assert bool((falls | (history.candidate[1] == 0)).all())
    assert torch.equal(history.beta[1], first)
