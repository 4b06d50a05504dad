"""Images of draws: by what their likelihood's pass left, and by decoding them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from problems import case, small_mlp
from test_sampling import QUICK, seeded

import jpmap_fast as jf
from jpmap_fast._prepared import prepare
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.modes import Modes, find_modes
from jpmap_fast.sampling.moments import completed, moments
from jpmap_fast.sampling.passes import Passing
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.weighted import Weighted

# Whether the last layer is kept, or the last but one; None for nothing, without compiled draws.
KEPT = {
    "denoising": True,
    "inpainting": False,
    "inpainting-per-image": True,
    "compressed-sensing": True,
    "blur-per-image": True,
    "linear-operator": None,
}


def drawn(name: str, dtype: torch.dtype, method: jf.AMIS) -> tuple[Model, Weighted, Modes, Streams]:
    c = case(name, dtype=dtype)
    model = Model(prepare(c.y, c.operator, small_mlp(dtype=dtype), c.sigma).problem)
    streams = Streams.of(1, model.problem.y, model.problem.sigma[:, None])
    own = torch.zeros(len(c.y), 3, dtype=dtype)
    modes = find_modes(model, own, 2, 64, (), streams)
    found, modes = method.draw(model, modes, streams)
    return model, found, modes, streams


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("name", KEPT)
def test_passes_have_the_images_of_decoded_draws(name, dtype, tolerance):
    method = replace(QUICK, extra_rounds=1, min_ess=90.0)  # some images with more draws than others
    model, found, _, streams = drawn(name, dtype, method)
    passing = Passing.of(model)
    assert (None if passing is None else passing.last) == KEPT[name]
    if passing is None:
        assert found.sums is None
        return
    assert found.sums is not None and bool(found.sums.known.all())
    both = (completed(model, one) for one in (found, replace(found, sums=None)))
    quick, slow = (moments(model, sums, streams) for sums in both)
    for field in ("mean", "decoded", "variance"):
        one, other = (getattr(part, field).double() for part in (quick, slow))
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_of_very_many_draws_some_are_kept():
    """Where weights are never trusted, with enough effective draws to go on."""
    method = jf.AMIS(rounds=(1024,), extra_rounds=3, max_pareto_k=1e-9, fallback=None, screen=64)
    _, found, _, _ = drawn("denoising", torch.float64, method)
    assert found.z.shape[1] == 4096 and bool((found.size == 4096).any())
    kept = found.weights[found.size == 4096]
    many = found.ess > 4096
    assert bool(many.any()) and bool((kept.sum(dim=1) - 1).abs().max() < 1e-12)
    assert bool((found.weights[many] == 1 / 4096).all())
    assert int(found.evaluations.max()) == 8192 and found.sums is not None


def test_masses_of_modes_are_those_of_the_nearest():
    c = case("denoising", dtype=torch.float64)
    posterior = jf.sample(
        c.y, c.operator, small_mlp(), c.sigma, draws=0, method=QUICK, generator=seeded()
    )
    total = posterior.mode_weights.nan_to_num(0).sum(dim=1)
    assert bool(((total - 1).abs() < 1e-9).all())
