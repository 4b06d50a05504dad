"""Descents that are told of a minimum, and give up where they would go back to it."""

from __future__ import annotations

import pytest
import torch

import jpmap_fast as jf
from jpmap_fast._problems import compressed_sensing, denoising
from jpmap_fast.algorithms.step import minima
from jpmap_fast.kernels import mlp
from jpmap_fast.objective import Projection
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.solvers import GaussNewton
from jpmap_fast.solvers.device_steps import DeviceSteps

DIGITS = 24


@pytest.fixture(scope="module", params=["denoising", "compressed sensing"])
def descent(request):
    """f of digits in float64, minima of it, and codes not far from these."""
    prior = jf.load_prior("mnist", dtype=torch.float64)
    digits = jf.mnist_test_digits(DIGITS)[0].double()
    g = torch.Generator().manual_seed(0)
    kind = denoising() if request.param == "denoising" else compressed_sensing((1, 28, 28), g)
    operator, sigma = kind.operator.to(dtype=torch.float64), kind.sigma
    y = operator.measure(digits, sigma, generator=g)
    ones = torch.ones(DIGITS, dtype=torch.float64)
    bound = operator.bind((1, 28, 28), DIGITS)
    f = Projection(bound, make_decoder(prior))(y, ones / prior.gamma**2, sigma * ones)
    ends = GaussNewton(tolerance=1e-8).minimise(f, torch.zeros(DIGITS, 8, dtype=torch.float64))
    assert ends.converged.all()
    near = ends.z + 0.1 * torch.randn(DIGITS, 8, generator=g, dtype=torch.float64)
    return f, ends, near


def test_a_descent_back_to_a_known_minimum_is_given_up(descent):
    f, ends, near = descent
    free = GaussNewton().minimise(f, near)
    told = GaussNewton().minimise(f, near, known=ends.z)
    back = (free.z - ends.z).square().mean(dim=1).sqrt() < 1e-3
    given_up = ~told.converged
    assert int(back.sum()) > DIGITS / 2
    # Most of those that lead back, at less than half the steps; none of the others.
    assert int((given_up & back).sum()) >= 0.9 * int(back.sum())
    assert not (given_up & ~back).any()
    assert int(told.steps[given_up].sum()) < 0.5 * int(free.steps[given_up].sum())
    # Where it stands is no better than what is known.
    assert (told.objective[given_up] >= ends.objective[given_up]).all()
    same = ~given_up
    assert torch.equal(told.z[same], free.z[same]) and torch.equal(
        told.steps[same], free.steps[same]
    )


def test_a_descent_to_another_minimum_goes_on(descent):
    f, ends, near = descent
    free = GaussNewton().minimise(f, near)
    for known in (ends.z + 3, torch.full_like(near, torch.nan)):
        told = GaussNewton().minimise(f, near, known=known)
        assert torch.equal(told.z, free.z) and torch.equal(told.converged, free.converged)


@pytest.mark.parametrize("which", ["torch", "blind", "one by one"])
def test_everybody_gives_up_alike(descent, which):
    f, ends, near = descent
    known = minima(ends.z, torch.arange(DIGITS) % 4 > 0)
    expected = GaussNewton().minimise(f, near, known=known)
    assert expected.path == "compiled"
    if which == "torch":
        plain = GaussNewton(fused=False).minimise(f, near, known=known)
        z, steps, converged = plain.z, plain.steps, plain.converged
    elif which == "blind":
        z, _, steps, converged = DeviceSteps(1e-4, 0.1, True, 200, 80)(f, near, known=known)
    else:
        each = [
            GaussNewton().minimise(f.select(torch.tensor([i])), near[i : i + 1], None, known[[i]])
            for i in range(DIGITS)
        ]
        z, steps = torch.cat([one.z for one in each]), torch.cat([one.steps for one in each])
        converged = torch.cat([one.converged for one in each])
        assert torch.equal(z, expected.z)
    assert torch.equal(steps, expected.steps) and torch.equal(converged, expected.converged)
    torch.testing.assert_close(z, expected.z, rtol=1e-6, atol=1e-6)


def test_some_images_alone_are_told(descent):
    f, ends, near = descent
    active = torch.arange(DIGITS) % 3 > 0
    for fused in (True, False):
        solver = GaussNewton(fused=fused)
        every = solver.minimise(f, near, known=ends.z)
        some = solver.minimise_on_device(f, near, active, known=ends.z)
        assert torch.equal(some.steps[active], every.steps[active])
        torch.testing.assert_close(some.z[active], every.z[active], rtol=1e-9, atol=1e-9)
        assert torch.equal(some.z[~active], near[~active])


def test_without_the_hessian_nothing_is_given_up(descent):
    f, ends, near = descent
    solver = GaussNewton(second_order=False)
    free, told = (solver.minimise(f, near, known=known) for known in (None, ends.z))
    assert torch.equal(free.z, told.z)


def test_minima_of_another_shape_are_refused(descent):
    f, ends, near = descent
    with pytest.raises(RuntimeError, match="known"):
        mlp.mlp_restore(near, f.fused(), 1e-4, 10, 0.1, True, known=ends.z[:, :7])


def test_what_the_encoder_proposes_next_costs_next_to_nothing(monkeypatch):
    """JPMAP asks the encoder again at the minimum it has found, which says what it said before."""
    digits = jf.mnist_test_digits(DIGITS)[0]
    kind = denoising()
    y = kind.operator.measure(digits, kind.sigma, generator=torch.Generator().manual_seed(1))
    steps, solve = [], GaussNewton.minimise

    def watched(self, objective, z, scale=None, known=None):
        found = solve(self, objective, z, scale, known)
        steps.append(int(found.steps.sum()))
        return found

    monkeypatch.setattr(GaussNewton, "minimise", watched)
    # Recorded: what runs in one compiled call cannot be watched.
    jf.restore(y, kind.operator, "mnist", kind.sigma, method=jf.JPMAP(starts=1), record=True)
    first, *more = steps
    assert more and sum(more) < 0.5 * first


@pytest.mark.parametrize("batch", [1, DIGITS, 300])
def test_no_second_proposal_that_leads_back_is_taken(batch, device):
    """One that descends to the same minimum ends lower or higher by rounding, as chance has it."""
    digits = jf.mnist_test_digits(min(batch, DIGITS))[0].repeat(-(-batch // DIGITS), 1, 1, 1)[
        :batch
    ]
    kind = denoising()
    y = kind.operator.measure(digits, kind.sigma, generator=torch.Generator().manual_seed(1))
    prior = jf.load_prior("mnist", device=device)
    method = jf.JPMAP(starts=1, n2=3)
    found = jf.restore(y.to(device), kind.operator.to(device), prior, kind.sigma, method=method)
    # Descents of the encoder's proposals: the first, and the few that have found another minimum.
    assert float((found.candidates[:, 1] > 1).double().mean()) < 0.05


@pytest.mark.parametrize("fused", [True, False])
def test_minima_of_another_type_are_refused(descent, fused):
    f, ends, near = descent
    solver = GaussNewton(fused=fused)
    for minimise in (solver.minimise, solver.minimise_on_device):
        for wrong in (ends.z[:1], ends.z[0]):
            with pytest.raises(ValueError, match="known"):
                minimise(f, near, known=wrong)
        with pytest.raises(TypeError, match="known"):
            minimise(f, near, known=ends.z.float())
