"""Restorer: what restore finds, at a fixed shape, without waiting for the device."""

from __future__ import annotations

import copy
import pickle
import threading
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
    jf.CSGM(starts=3),
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


def test_the_last_smaller_batch_of_a_loader():
    c, prior = case("denoising"), small_mlp()
    whole = jf.Restorer(c.operator, prior, 0.1, batch_size=4)(c.y)
    found = jf.Restorer(c.operator, prior, 0.1, batch_size=4)(c.y[:3])
    assert torch.equal(found.x, whole.x[:3]) and found.converged.tolist() == [True] * 3
    for sigma, method in ((c.sigma, "jpmap"), (0.1, jf.JPMAP(beta=[1.0, 2.0, 3.0, 4.0]))):
        restorer = jf.Restorer(c.operator, prior, sigma, batch_size=4, method=method)
        with pytest.raises(ValueError, match="expected 4 images, since sigma"):
            restorer(c.y[:3])


@pytest.mark.parametrize("steps", [1, 3, 200])
@pytest.mark.parametrize("fused", [True, False])
def test_max_steps_is_respected(steps, fused):
    c = case("inpainting")
    solver = GaussNewton(max_steps=steps, fused=fused)
    method = jf.JPMAP(starts=1, n2=1, max_iterations=1, z_solver=solver)
    expected = jf.restore(c.y, c.operator, small_mlp(), c.sigma, method=method)
    restorer = jf.Restorer(c.operator, small_mlp(), c.sigma, batch_size=4, method=method)
    found = restorer(c.y)
    assert torch.equal(found.x, expected.x)
    assert torch.equal(found.converged, expected.converged)
    by_name = jf.Restorer(
        c.operator,
        small_mlp(),
        c.sigma,
        batch_size=4,
        steps=steps,
        method=replace(method, z_solver=GaussNewton(fused=fused)),
    )
    assert torch.equal(by_name(c.y).x, found.x)


@pytest.mark.parametrize(
    "settings", [{"max_iterations": 1}, {"tolerance": 1e9}, {"max_iterations": 2}, {"n2": 0}, {}]
)
def test_every_setting_gives_the_bits_of_restore(settings):
    c, prior = case("inpainting", batch=16), small_mlp()
    method = jf.JPMAP(**settings)
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    options = {"method": method, "generator": draws[0]}
    expected = jf.restore(c.y, c.operator, prior, c.sigma, **options)
    options["generator"] = draws[1]
    found = jf.Restorer(c.operator, prior, c.sigma, batch_size=16, **options)(c.y)
    for name in ("x", "z", "decoded", "objective", "converged"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_path_is_what_runs():
    c, prior = case("denoising"), small_mlp()
    for solver in (
        GaussNewton(),
        GaussNewton(fused=False),
        GaussNewton(linear_solver="conjugate-gradient"),
    ):
        method = jf.JPMAP(z_solver=solver)
        restorer = jf.Restorer(c.operator, prior, c.sigma, batch_size=4, method=method)
        expected = jf.restore(c.y, c.operator, prior, c.sigma, method=method)
        assert restorer.path == expected.path


def test_no_descent_is_wasted(monkeypatch):
    """Without proposals there is nothing to ask the encoder for, nor a start to descend twice."""
    c, prior = case("denoising"), small_mlp()
    seen = []
    solve = GaussNewton.minimise_on_device

    def counted(self, objective, z, *rest):
        seen.append(len(z))
        return solve(self, objective, z, *rest)

    monkeypatch.setattr(GaussNewton, "minimise_on_device", counted)
    # In torch: what runs in one compiled call cannot be watched.
    method = jf.JPMAP(starts=1, n2=0, z_solver=GaussNewton(fused=False))
    jf.Restorer(c.operator, prior, c.sigma, batch_size=4, method=method)(c.y)
    assert seen == [4]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_copies_and_pickles_have_the_same_starts(copied):
    c, prior = case("inpainting"), small_mlp()
    options = {"batch_size": 4, "method": jf.JPMAP(starts=4)}
    restorer = jf.Restorer(c.operator, prior, c.sigma, **options)
    assert torch.equal(copied(restorer)(c.y).z, restorer(c.y).z)


def test_a_pickle_carries_no_buffers():
    restorer = jf.Restorer(jf.Denoising(), jf.load_prior("mnist"), 0.1, batch_size=256)
    weights = sum(p.numel() for p in jf.load_prior("mnist").parameters()) * 4
    assert len(pickle.dumps(restorer)) < 1.1 * weights
    by_name = jf.Restorer(jf.Denoising(), "mnist", 0.1, batch_size=256)
    assert len(pickle.dumps(by_name)) < 1e5


def test_codes_of_the_frame_before():
    c, prior = case("inpainting"), small_mlp()
    restorer = jf.Restorer(c.operator, prior, c.sigma, batch_size=4)
    before = restorer(c.y)
    later = c.y + 0.01
    expected = jf.restore(later, c.operator, prior, c.sigma, z0=before.z)
    found = restorer(later, z0=before.z)
    assert isinstance(found, jf.Restoration)  # its name before
    for name in ("x", "z", "objective", "converged", "status", "iterations", "candidates"):
        assert str(getattr(found, name)) == str(getattr(expected, name)), name
    assert torch.equal(found.x, expected.x)
    with pytest.raises(ValueError, match=r"z0: expected shape \[4, 3\]"):
        restorer(later, z0=before.z[:, :2])
    with pytest.raises(ValueError, match="z0: expected finite codes"):
        restorer(later, z0=before.z * torch.nan)
    pixels = jf.Restorer(
        c.operator, prior, c.sigma, batch_size=4, method=jf.PnPADMM(lambda x, s: x)
    )
    with pytest.raises(ValueError, match="z0: expected None for PnPADMM"):
        pixels(later, z0=before.z)


def test_later_changes_of_the_callers_sigma_change_nothing():
    c, prior = case("inpainting"), small_mlp()
    sigma = c.sigma.clone()
    restorer = jf.Restorer(c.operator, prior, sigma, batch_size=4, method=jf.JPMAP(starts=1))
    before = restorer(c.y)
    sigma.mul_(4)
    assert torch.equal(restorer(c.y).x, before.x)
    assert torch.equal(copy.deepcopy(restorer)(c.y).x, before.x)


def test_a_copy_has_what_a_physics_was_and_pickles():
    deepinv = pytest.importorskip("deepinv")
    digits = jf.mnist_test_digits(2)[0]
    mask = (torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    noise = deepinv.physics.GaussianNoise(0.1)
    physics = deepinv.physics.Inpainting((1, 28, 28), mask=mask, noise_model=noise)
    restorer = jf.Restorer(physics, "mnist", batch_size=2)
    y = digits * mask
    before = restorer(y).x
    pickled = pickle.dumps(restorer)
    physics.update_parameters(mask=torch.ones(1, 1, 28, 28))
    physics.noise_model.sigma = torch.tensor(0.5)
    for made in (restorer, copy.deepcopy(restorer), pickle.loads(pickled)):
        assert torch.equal(made(y).x, before)


def test_bad_arguments_are_refused():
    c = case("denoising")
    prior = small_mlp()
    for method in ("alternate-convex-search", jf.PnPADMM(lambda x, s: x)):
        with pytest.raises(ValueError, match="steps: expected None for .*, which makes no desc"):
            jf.Restorer(c.operator, prior, 0.1, batch_size=2, method=method, steps=3)
    with pytest.raises(ValueError, match="batch_size"):
        jf.Restorer(c.operator, prior, 0.1, batch_size=0)
    with pytest.raises(ValueError, match="sigma"):
        jf.Restorer(c.operator, prior, -0.1, batch_size=2)
    restorer = jf.Restorer(c.operator, prior, 0.1, batch_size=2)
    with pytest.raises(ValueError, match=r"y: expected \[2, 1, 6, 5\], .* got \[3, 1, 6, 5\]"):
        restorer(c.y[:3])
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
def test_codes_of_the_frame_before_neither_wait_nor_allocate():
    y, operator, prior = digits_on_gpu()
    restorer = jf.Restorer(operator, prior, 10 / 255, batch_size=16)
    before = restorer(y[:16]).clone()
    later = y[:16] + 0.01
    found = restorer(later, z0=before.z).clone()
    expected = jf.restore(later, operator, prior, 10 / 255, z0=before.z)
    assert float((found.objective <= 1.001 * expected.objective).double().mean()) >= 0.9
    torch.cuda.synchronize()
    allocated = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        restorer(later, z0=before.z)
        again = restorer(y[:16])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == allocated
    assert torch.equal(again.x, before.x)
    # What the first graph reads is nobody else's, whatever the second one made and freed.
    torch.cuda.empty_cache()
    filled = [torch.full((size,), torch.nan, device="cuda") for size in (64, 4096, 1 << 18)] * 50
    assert torch.equal(restorer(y[:16]).x, before.x) and filled


@pytest.mark.cuda
@pytest.mark.parametrize("method", ["map-z", "map-z-splitting", "alternate-convex-search"])
def test_methods_that_no_graph_holds_run_as_in_restore(method):
    y, operator, prior = digits_on_gpu()
    restorer = jf.Restorer(operator, prior, 10 / 255, batch_size=16, method=method)
    assert not restorer.captured
    found = restorer(y[:16])
    expected = jf.restore(y[:16], operator, prior, 10 / 255, method=method)
    assert torch.equal(found.x, expected.x) and found.status == expected.status


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


@pytest.mark.cuda
def test_a_graph_is_of_the_priors_device_whatever_device_is_current():
    """torch's own capture stream is one of the device that was current at its first use."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    y, operator, prior = digits_on_gpu()
    first = jf.Restorer(operator, prior, 10 / 255, batch_size=64)(y).clone()
    there = torch.device("cuda", 1)
    with torch.cuda.device(0):
        restorer = jf.Restorer(
            operator.to(there), jf.load_prior("mnist", device=there), 10 / 255, batch_size=64
        )
        found = restorer(y.to(there)).clone()
        other = restorer(1 - y.to(there)).clone()
    assert restorer.captured and found.x.device == there
    torch.testing.assert_close(found.objective.cpu(), first.objective.cpu(), rtol=1e-3, atol=0)
    assert not torch.equal(found.x, other.x)


@pytest.mark.cuda
def test_other_threads_may_allocate_while_a_graph_is_captured():
    y, operator, prior = digits_on_gpu()
    stop = threading.Event()

    def allocate() -> None:
        while not stop.is_set():
            torch.empty(1 << 20, device="cuda").fill_(1)
            torch.cuda.empty_cache()

    thread = threading.Thread(target=allocate)
    thread.start()
    try:
        restorers = [jf.Restorer(operator, prior, 10 / 255, batch_size=64) for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    assert torch.equal(restorers[0](y).clone().x, restorers[2](y).clone().x)


@pytest.mark.cuda
@pytest.mark.parametrize("around", ["autocast", "tf32", "inference"])
def test_surroundings_change_nothing_on_a_gpu(around):
    y, operator, prior = digits_on_gpu()
    faces = jf.load_prior("faces", device="cuda")
    image = torch.rand(2, 3, 64, 64, device="cuda")
    sensing = jf.CompressedSensing.gaussian(100, (1, 28, 28)).to("cuda")

    def everything() -> list[torch.Tensor]:
        measured = sensing.A(y)
        return [
            jf.restore(y, operator, prior, 0.1).x,
            jf.restore(measured, sensing, prior, 0.1).x,
            jf.restore(image, jf.Denoising(), faces, 0.1).objective,
            jf.Restorer(operator, prior, 0.1, batch_size=64)(y).clone().x,
            measured,
            sensing.A_adjoint(measured),
        ]

    expected = everything()
    if around == "autocast":
        with torch.autocast("cuda", torch.bfloat16):
            found = everything()
    elif around == "inference":
        with torch.inference_mode():
            found = everything()
    else:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            found = everything()
        finally:
            torch.set_float32_matmul_precision(before)
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        if index == 2:  # libraries sum convolutions in an order of their own each time
            torch.testing.assert_close(a, b, rtol=1e-4, atol=0)
        else:
            assert torch.equal(a, b), index


@pytest.mark.cuda
def test_max_steps_is_respected_by_a_captured_graph():
    y, operator, prior = digits_on_gpu()
    for steps, expected in ((None, 25), (3, 3), (40, 40)):
        method = jf.JPMAP(starts=1, n2=1, z_solver=GaussNewton(max_steps=steps, fused=False))
        restorer = jf.Restorer(operator, prior, 10 / 255, batch_size=64, method=method)
        found = restorer(y).clone()
        plain = replace(method, max_iterations=1, z_solver=GaussNewton(max_steps=expected))
        reached = jf.restore(y, operator, prior, 10 / 255, method=plain)
        close = (found.objective / reached.objective - 1).abs() < 1e-2
        assert float(close.double().mean()) > 0.9, steps
