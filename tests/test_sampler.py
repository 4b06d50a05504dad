"""Sampler: what sample draws in its first rounds, at a fixed shape, without asking the device."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from problems import CASE_NAMES, case, small_mlp

import jpmap_fast as jf

METHOD = jf.AMIS(rounds=(64, 64), extra_rounds=0, fallback=None, screen=256, more_starts=())
FIELDS = ("x", "z", "mean", "std", "decoded", "codes", "weights", "ess", "pareto_k", "misfit")
DRAWS = 6
ITERATED = ("linear-operator", "blur-reflect", "masked-blur-per-image", "stack-per-image")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(found: jf.Posterior, rows, name: str) -> torch.Tensor:
    return getattr(found, name)[rows].nan_to_num(7)


def drawn(name: str, device="cpu", dtype=torch.float64):
    """A Sampler's draws of a case, and those of sample."""
    c, prior = case(name, dtype=dtype), small_mlp(dtype=dtype).to(device)
    c.y, operator, sigma = c.y.to(device), c.operator.to(device), c.sigma.to(device)
    options = {"draws": DRAWS, "method": METHOD}
    sampler = jf.Sampler(operator, prior, sigma, batch_size=len(c.y), **options)
    expected = jf.sample(c.y, operator, prior, sigma, generator=seeded(), **options)
    return sampler, c, expected


@pytest.mark.parametrize("name", CASE_NAMES)
def test_draws_what_sample_draws(name):
    sampler, c, expected = drawn(name)
    found = sampler(c.y, seeded())
    assert not sampler.captured
    # Of images whose weights cannot be trusted sample looks for more modes.
    rows = expected.pareto_k <= 1 - 1 / math.log10(128)
    assert bool(rows.any())
    # Where solves iterate a restoration of fixed work ends a little elsewhere.
    apart = 1e-6 if name in ITERATED else 0.0
    for key in FIELDS:
        one, other = (images(p, rows, key) for p in (found, expected))
        torch.testing.assert_close(one, other, rtol=apart, atol=apart, msg=key)


@pytest.mark.cuda
@pytest.mark.parametrize("name", [name for name in CASE_NAMES if name != "linear-operator"])
def test_draws_what_sample_draws_on_a_gpu(name):
    sampler, c, expected = drawn(name, "cuda", torch.float32)
    restorer = jf.Restorer(
        c.operator.to("cuda"), small_mlp(dtype=torch.float32).cuda(), 0.1, batch_size=len(c.y)
    )
    assert sampler.captured == restorer.captured
    rows = expected.pareto_k <= 0.4  # far from what asks for more modes
    moved = c.y.roll(1, 0)
    for _ in range(2):  # a graph holds nothing of the call before
        found = sampler(c.y, seeded())
        for key in ("mean", "std", "decoded", "misfit", "ess"):
            one, other = (getattr(p, key)[rows].double() for p in (found, expected))
            torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
        assert not torch.equal(sampler(moved, seeded()).mean, expected.mean)


def test_an_image_depends_on_nothing_else():
    sampler, c, _ = drawn("denoising")
    y, wrong = c.y.clone(), c.y.clone()
    whole = sampler(y, seeded()).clone()
    wrong[1].view(-1)[0] = math.nan
    found = sampler(wrong, seeded())
    assert found.status[1].startswith("failed: the measurement")
    assert bool(found.mean[1].isnan().all()) and bool(found.x[1].isnan().all())
    rest = torch.tensor([0, 2, 3])
    for key in FIELDS:
        assert torch.equal(images(found, rest, key), images(whole, rest, key)), key
    assert not torch.equal(sampler(y, seeded(1)).x, whole.x)


def test_fewer_images_than_the_batch():
    c, prior = case("denoising"), small_mlp(dtype=torch.float64)
    sampler = jf.Sampler(c.operator, prior, 0.3, batch_size=4, draws=0, method=METHOD)
    whole, part = sampler(c.y[:4], seeded()), sampler(c.y[:3], seeded())
    assert part.x is None and part.mean.shape[0] == 3
    for key in ("mean", "codes", "weights"):
        assert torch.equal(getattr(part, key), getattr(whole, key)[:3])


def test_what_a_status_says_is_what_sample_would_mend():
    """Too few draws are told, not mended."""
    c, prior = case("denoising"), small_mlp(dtype=torch.float64)
    method = replace(METHOD, rounds=(32,), min_ess=1e6)
    found = jf.Sampler(c.operator, prior, c.sigma, batch_size=4, method=method, draws=0)(c.y)
    assert all("raise rounds" in status for status in found.status)


def test_refuses_what_no_fixed_work_does():
    with pytest.raises(TypeError, match="method: expected an AMIS"):
        jf.Sampler(jf.Denoising(), "mnist", 0.4, batch_size=1, method="mala")
    with pytest.raises(ValueError, match="latent codes"):
        jf.Sampler(jf.Denoising(), "photos-grey", 0.4, batch_size=1)
    with pytest.raises(ValueError, match="batch_size"):
        jf.Sampler(jf.Denoising(), "mnist", 0.4, batch_size=0)
    sampler = jf.Sampler(jf.Denoising(), "mnist", 0.4, batch_size=1, draws=0)
    with pytest.raises(ValueError, match="y: expected"):
        sampler(torch.zeros(2, 1, 28, 28))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["denoising", "inpainting", "compressed-sensing"])
def test_a_call_neither_waits_nor_allocates(name):
    prior = jf.load_prior("mnist", device="cuda")
    operators = {
        "denoising": jf.Denoising(),
        "inpainting": jf.Inpainting((torch.rand(28, 28, generator=seeded()) < 0.3).float()),
        "compressed-sensing": jf.CompressedSensing.gaussian(140, (1, 28, 28), seeded()),
    }
    operator = operators[name].to("cuda")
    clean = jf.mnist_test_digits(3)[0].cuda()
    y = operator.A(clean) + 0.1 * torch.randn_like(operator.A(clean))
    sampler = jf.Sampler(operator, prior, 0.1, batch_size=3, draws=4)
    assert sampler.captured
    sampler(y, seeded())
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = sampler(y, seeded())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    assert bool(torch.isfinite(found.mean).all())
