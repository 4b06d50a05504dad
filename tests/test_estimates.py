"""`restore(..., estimate="mean")`: the mean of the posterior as a restoration."""

from __future__ import annotations

import math

import pytest
import torch
from problems import IMAGE_SHAPE, case, joint_objective, small_mlp
from test_sampling import QUICK, seeded

import jpmap_fast as jf


@pytest.mark.parametrize("name", ["denoising", "inpainting-per-image", "compressed-sensing"])
def test_it_is_the_mean_that_sample_gives(name):
    prior, c = small_mlp(), case(name)
    options = {"method": QUICK, "generator": seeded()}
    posterior = jf.sample(c.y, c.operator, prior, c.sigma, draws=0, **options)
    options["generator"] = seeded()
    found = jf.restore(c.y, c.operator, prior, c.sigma, estimate="mean", **options)
    assert isinstance(found, jf.Result)
    assert torch.equal(found.x, posterior.mean) and torch.equal(found.decoded, posterior.decoded)
    assert torch.equal(found.z, posterior.modes[:, 0]) and found.path == "samples"
    assert torch.equal(found.converged, posterior.converged)
    beta = torch.full_like(c.sigma, 1 / prior.gamma**2)
    assert torch.allclose(found.beta, beta)
    with torch.no_grad():
        decoded = prior.decode(found.z)
    x = c.operator.bind(IMAGE_SHAPE, 4, like=c.y).x_update(decoded, c.y, found.z, beta, c.sigma)[0]
    assert torch.allclose(found.objective, joint_objective(c, x, decoded, found.z, beta))
    gap = (found.x - found.decoded).flatten(1).square().sum(dim=1)
    assert torch.allclose(found.gap, gap) and found.iterations.tolist() == [0] * 4
    one = jf.restore(
        c.y[1],
        c.operator.bind(IMAGE_SHAPE, 4, like=c.y).select(torch.tensor([1])).operator,
        prior,
        c.sigma[1],
        estimate="mean",
        method=QUICK,
        generator=seeded(),
    )
    assert torch.equal(one.x, found.x[1]) and isinstance(one.status, str)


def test_failures_are_told():
    prior, c = small_mlp(), case("denoising")
    y = c.y.clone()
    y[2, 0, 0, 0] = math.nan
    few = jf.AMIS(rounds=(32,), extra_rounds=0, fallback=None, screen=16, more_starts=())
    found = jf.restore(
        y, c.operator, prior, c.sigma, estimate="mean", method=few, generator=seeded()
    )
    assert found.status[2].startswith("failed: the measurement contains NaN")
    assert bool(found.x[2].isnan().all()) and bool(found.objective[2].isnan())
    assert found.status[0].startswith("the draws behind the mean") and not found.converged[0]
    assert bool(torch.isfinite(found.x[[0, 1, 3]]).all())


def test_of_a_residual_model():
    digits = jf.mnist_test_digits(2)[0]
    y = jf.Denoising().measure(digits, 0.4, seeded())
    options = {"residual": "grey", "method": QUICK}
    mean = jf.sample(y, jf.Denoising(), "mnist", 0.4, draws=0, generator=seeded(1), **options).mean
    found = jf.restore(
        y, jf.Denoising(), "mnist", 0.4, estimate="mean", generator=seeded(1), **options
    )
    assert torch.equal(found.x, mean) and bool(torch.isfinite(found.objective).all())


def test_what_has_no_mean_is_refused():
    class NoCodes(jf.MLPVAE):
        def autoencode(self, x, s):
            return x

    y, operator, prior = torch.rand(1, *IMAGE_SHAPE), jf.Denoising(), small_mlp(dtype=torch.float32)
    bare = NoCodes(image_shape=IMAGE_SHAPE, latent_dim=3).eval()
    with pytest.raises(ValueError, match="latent codes"):
        jf.restore(y, operator, bare, 0.1, estimate="mean")
    with pytest.raises(ValueError, match="estimate: expected one of 'map', 'mean'"):
        jf.restore(y, operator, prior, 0.1, estimate="median")
    for wrong in (jf.JPMAP(), "jpmap"):
        with pytest.raises((TypeError, ValueError), match=r"method: expected one of '?amis"):
            jf.restore(y, operator, prior, 0.1, estimate="mean", method=wrong)
    with pytest.raises(TypeError, match="method: expected one of jpmap"):
        jf.restore(y, operator, prior, 0.1, method=jf.AMIS())
    for name in ("record", "progress"):
        with pytest.raises(ValueError, match=f"{name}: expected False"):
            jf.restore(y, operator, prior, 0.1, estimate="mean", **{name: True})
