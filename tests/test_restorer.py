"""Restorer: what restore finds, at a fixed shape, without waiting for the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import CASE_NAMES, IMAGE_SHAPE, case, small_mlp

import jpmap_fast as jf
from jpmap_fast.solvers import GaussNewton

METHODS = [
    jf.JPMAP(),
    jf.JPMAP(starts=1),
    jf.JPMAP(starts=4, n2=1),
    jf.JPMAP(n2=0),
    jf.JPMAP(beta=30.0),
    jf.CSGM(restarts=3),
]


def wrapped(prior: jf.MLPVAE) -> jf.ModulePrior:
    """The same prior as a pair of functions, without the MLP's shortcuts."""
    return jf.ModulePrior(prior.encode, prior.decode, prior.gamma, prior.latent_dim, IMAGE_SHAPE)


@pytest.mark.parametrize("name", CASE_NAMES)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_finds_what_restore_finds(name, method):
    c = case(name)
    prior = small_mlp()
    solver = GaussNewton(tolerance=1e-9)
    method = replace(method, z_solver=solver)
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    expected = jf.restore(c.y, c.operator, prior, c.sigma, method=method, generator=draws[0])
    restorer = jf.Restorer(
        c.operator, prior, c.sigma, batch_size=len(c.y), method=method, generator=draws[1]
    )
    found = restorer(c.y)
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-7, atol=0)
    torch.testing.assert_close(found.x, expected.x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.decoded, expected.decoded, rtol=1e-4, atol=1e-4)
    assert bool(found.converged.all())
    assert restorer.path == expected.path


def test_an_image_that_is_not_finite_fails_alone():
    c = case("inpainting")
    restorer = jf.Restorer(c.operator, small_mlp(), c.sigma, batch_size=len(c.y))
    clean = restorer(c.y)
    broken = c.y.clone()
    broken[1].view(-1)[0] = torch.inf
    found = restorer(broken)
    assert not bool(found.converged[1]) and bool(found.x[1].isnan().all())
    others = torch.arange(len(c.y)) != 1
    assert torch.equal(found.x[others], clean.x[others])
    assert torch.equal(restorer(c.y).x, clean.x)


def test_any_decoder():
    c = case("denoising")
    inner = small_mlp()
    method = jf.JPMAP(z_solver=GaussNewton(second_order=False, tolerance=1e-9))
    expected = jf.restore(c.y, c.operator, inner, c.sigma, method=method)
    free = wrapped(inner)
    options: dict[str, Any] = {"batch_size": len(c.y), "method": method, "dtype": c.y.dtype}
    restorer = jf.Restorer(c.operator, free, c.sigma, steps=100, **options)
    assert restorer.path == "torch"
    found = restorer(c.y)
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-7, atol=0)
    assert bool(found.converged.all())
    short = jf.Restorer(c.operator, free, c.sigma, steps=1, **options)(c.y)
    assert not bool(short.converged.all())
    assert bool((short.objective >= found.objective * (1 - 1e-12)).all())


def test_bad_arguments_are_refused():
    c = case("denoising")
    prior = small_mlp()
    for method in (
        jf.MAPz(),
        jf.JPMAP(coupling="alternating"),
        jf.JPMAP(n1=2),
        jf.JPMAP(z_solver="adam"),
        "alternate-convex-search",
    ):
        with pytest.raises(ValueError, match="expected JPMAP"):
            jf.Restorer(c.operator, prior, 0.1, batch_size=2, method=method)
    with pytest.raises(ValueError, match="batch_size"):
        jf.Restorer(c.operator, prior, 0.1, batch_size=0)
    with pytest.raises(ValueError, match="sigma"):
        jf.Restorer(c.operator, prior, -0.1, batch_size=2)
    restorer = jf.Restorer(c.operator, prior, 0.1, batch_size=2)
    with pytest.raises(ValueError, match="expected"):
        restorer(c.y[:1])
    with pytest.raises(ValueError, match="float"):
        restorer(c.y[:2].float())
    with pytest.raises(TypeError, match="tensor"):
        restorer(c.y[:2].numpy())


def digits_on_gpu() -> tuple[torch.Tensor, jf.Operator, Any]:
    prior = jf.load_prior("mnist", device="cuda")
    g = torch.Generator().manual_seed(0)
    operator = jf.Inpainting((torch.rand(28, 28, generator=g) < 0.2).float())
    y = operator.measure(jf.mnist_test_digits(64)[0], 10 / 255, generator=g)
    return y.cuda(), operator.to("cuda"), prior


def waits_and_allocations(restorer: jf.Restorer, ys: list[torch.Tensor]) -> int:
    """Allocations in calls during which waiting for the device is an error."""
    restorer(ys[0])
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for y in ys:
            restorer(y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    return int(torch.cuda.memory_stats()["allocation.all.allocated"] - before)


@pytest.mark.cuda
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_call_neither_waits_nor_allocates(batch):
    y, operator, prior = digits_on_gpu()
    restorer = jf.Restorer(operator, prior, 10 / 255, batch_size=batch)
    assert restorer.captured and restorer.path == "compiled"
    assert waits_and_allocations(restorer, list(y[: 64 // batch * batch].split(batch))) == 0
    found = torch.cat([restorer(part).clone().objective for part in y[: batch * 3].split(batch)])
    expected = jf.restore(y[: len(found)], operator, prior, 10 / 255).objective
    close = found <= 1.001 * expected
    assert float(close.double().mean()) >= 0.9


@pytest.mark.cuda
def test_any_decoder_neither_waits_nor_allocates():
    y, operator, prior = digits_on_gpu()
    free = jf.ModulePrior(
        prior.encode, prior.decode, prior.gamma, prior.latent_dim, prior.image_shape
    )
    restorer = jf.Restorer(operator, free, 10 / 255, batch_size=16, steps=20)
    assert restorer.captured and restorer.path == "torch"
    assert waits_and_allocations(restorer, list(y.split(16))) == 0
    found = restorer(y[:16])
    expected = jf.restore(y[:16], operator, prior, 10 / 255)
    close = found.objective <= 1.01 * expected.objective
    assert float(close.double().mean()) >= 0.8


@pytest.mark.cuda
def test_a_call_runs_on_the_current_stream():
    y, operator, prior = digits_on_gpu()
    restorer = jf.Restorer(operator, prior, 10 / 255, batch_size=64)
    expected = restorer(y).clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = restorer(y + 0).clone()
    stream.synchronize()
    assert torch.equal(found.x, expected.x)
