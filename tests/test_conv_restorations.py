"""Whole restorations with a convolutional prior."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast._metrics import psnr
from jpmap_fast.training import train

SHAPE = (3, 8, 16)
K = 4
TIGHT = jf.GaussNewton(tolerance=1e-8)


def random_prior(blocks: str = "residual", dtype: torch.dtype = torch.float64) -> jf.ConvVAE:
    """Curved enough to be no linear map."""
    torch.manual_seed(2)
    channels = (6, 6, 8, 8) if blocks == "plain" else (6, 8)
    prior = jf.ConvVAE(SHAPE, K, channels, blocks, 16).eval().requires_grad_(False)
    for part in prior.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.2)
            part.running_var.uniform_(0.5, 2)
        elif isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            part.weight.normal_(std=1.3 / math.sqrt(part.weight[0].numel()))
    prior.log_gamma.fill_(math.log(0.1))
    return prior.to(dtype)


def colour_blobs(number: int) -> Tensor:
    """Smooth images with four unknowns: the place of a blob, its size and its colour."""
    g = torch.Generator().manual_seed(0)
    rows, columns = torch.arange(8.0)[:, None], torch.arange(16.0)
    u = torch.rand(number, 4, 1, 1, generator=g)
    square = (rows - 1 - 6 * u[:, 0]) ** 2 + (columns - 2 - 12 * u[:, 1]) ** 2
    blob = torch.exp(-square / (4 + 12 * u[:, 2]))
    hue = u[:, 3]
    return torch.stack((blob * hue, blob * (1 - hue), 0.2 + 0.6 * blob), dim=1)


@pytest.fixture(scope="module")
def trained() -> jf.ConvVAE:
    """A prior of ``colour_blobs``, of a few seconds."""
    return train(
        colour_blobs(512),
        network="conv-residual",
        channels=(12, 16),
        latent_dim=K,
        epochs=25,
        batch_size=32,
        learning_rate=4e-3,
        schedule="cosine",
        gamma="closed-form",
        progress=False,
    )


def operators(dtype: torch.dtype) -> dict[str, jf.Operator]:
    g = torch.Generator().manual_seed(1)
    return {
        "denoising": jf.Denoising(),
        "inpainting": jf.Inpainting((torch.rand(SHAPE[1:], generator=g) < 0.4).to(dtype)),
        "inpainting-colours": jf.Inpainting((torch.rand(SHAPE, generator=g) < 0.4).to(dtype)),
        "compressed-sensing": jf.CompressedSensing.gaussian(60, SHAPE, g).to(dtype=dtype),
        "blur": jf.Blur(torch.ones(3, 3, dtype=dtype) / 9),
        "super-resolution": jf.SuperResolution(2),
    }


NAMES = list(operators(torch.float64))
METHODS = {
    "jpmap": jf.JPMAP(),
    "exhaustive": jf.JPMAP(selection="exhaustive"),
    "alternating": jf.JPMAP(coupling="alternating", max_iterations=15),
    "map-z": jf.MAPz(alpha=10),
    "map-z-splitting": jf.MAPzSplitting(),
    "csgm": jf.CSGM(starts=2),
    "alternate-convex-search": jf.AlternateConvexSearch(),
}


def case(
    name: str, prior: jf.ConvVAE, batch: int = 5, sigma: float = 0.1
) -> tuple[jf.Operator, Tensor, Tensor]:
    """Operator, measurements and clean images out of the prior's range."""
    dtype = prior.log_gamma.dtype
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        clean = prior.decode(torch.randn(batch, K, generator=g, dtype=dtype))
    operator = operators(dtype)[name]
    return operator, operator.measure(clean, sigma, generator=g), clean


# Every operator with the default, every method with two operators.
PAIRS = [(name, "jpmap") for name in NAMES]
PAIRS += [
    (name, m) for name in ("inpainting", "compressed-sensing") for m in METHODS if m != "jpmap"
]


@pytest.mark.parametrize("name, method", PAIRS)
def test_every_method_restores(name, method):
    prior = random_prior()
    operator, y, _ = case(name, prior)
    g = torch.Generator().manual_seed(0)
    result = jf.restore(y, operator, prior, 0.1, method=METHODS[method], generator=g, record=True)
    assert result.x.shape == result.decoded.shape == (5, *SHAPE) and result.z.shape == (5, K)
    assert torch.isfinite(result.objective).all() and result.path in ("torch", "")
    with torch.no_grad():
        torch.testing.assert_close(result.decoded, prior.decode(result.z), rtol=0, atol=1e-9)
    assert result.history is not None
    history, beta = result.history.objective, result.history.beta
    for before, now, held in zip(history, history[1:], beta[1:] == beta[:-1], strict=False):
        judged = held & now.isfinite()
        assert (now <= before * (1 + 1e-12))[judged].all()
    data = (operator.bind(SHAPE, 5).A(result.x) - y).flatten(1).square().sum(1) / (2 * 0.1**2)
    energy = data + result.z.square().sum(1) / 2
    if method in ("jpmap", "exhaustive", "alternating", "alternate-convex-search"):
        coupling = (result.x - result.decoded).flatten(1).square().sum(1)
        energy = energy + coupling / (2 * prior.gamma**2)
        torch.testing.assert_close(result.objective, energy, rtol=1e-8, atol=0)
    elif method == "csgm":
        torch.testing.assert_close(result.objective, energy, rtol=1e-8, atol=0)
        assert torch.equal(result.x, result.decoded)


@pytest.mark.parametrize(
    "name, blocks", [("inpainting", "plain"), ("compressed-sensing", "residual")]
)
def test_an_images_result_does_not_depend_on_its_batch(name, blocks):
    prior = random_prior(blocks)
    operator, y, _ = case(name, prior)
    for solver in (TIGHT, replace(TIGHT, linear_solver="conjugate-gradient")):
        method = jf.JPMAP(z_solver=solver)
        whole = jf.restore(y, operator, prior, 0.1, method=method)
        some = jf.restore(y[[3, 1]], operator, prior, 0.1, method=method)
        torch.testing.assert_close(some.x, whole.x[[3, 1]], rtol=0, atol=1e-5)
        alone = jf.restore(y[4], operator, prior, 0.1, method=method)
        torch.testing.assert_close(alone.x, whole.x[4], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.z, whole.z[4], rtol=0, atol=1e-5)
        cut = jf.restore(y, operator, prior, 0.1, method=method, chunk_size=2)
        torch.testing.assert_close(cut.x, whole.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("linear_solver", ["direct", "conjugate-gradient"])
def test_an_image_that_is_not_finite_fails_alone(linear_solver):
    prior = random_prior()
    method = jf.JPMAP(z_solver=replace(TIGHT, linear_solver=linear_solver))
    operator, y, _ = case("inpainting", prior)
    clean = jf.restore(y, operator, prior, 0.1, method=method)
    y[2, 0, 0, 0] = torch.nan
    dirty = jf.restore(y, operator, prior, 0.1, method=method)
    assert dirty.status[2].startswith("failed") and bool(dirty.x[2].isnan().all())
    others = torch.tensor([0, 1, 3, 4])
    assert dirty.converged[others].all()
    torch.testing.assert_close(dirty.x[others], clean.x[others], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["denoising", "inpainting", "super-resolution"])
@pytest.mark.parametrize("method", [jf.JPMAP(), jf.JPMAP(starts=1, n2=1), jf.CSGM(starts=2)])
def test_a_restorer_finds_what_restore_finds(name, method):
    prior = random_prior()
    operator, y, _ = case(name, prior)
    method = replace(method, z_solver=TIGHT)
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    expected = jf.restore(y, operator, prior, 0.1, method=method, generator=draws[0])
    options = {"batch_size": 5, "steps": 150, "generator": draws[1]}
    restorer = jf.Restorer(operator, prior, 0.1, method=method, **options)
    found = restorer(y)
    assert restorer.path == "torch" and bool(found.converged.all())
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-7, atol=0)
    torch.testing.assert_close(found.x, expected.x, rtol=0, atol=1e-5)
    again = restorer(y)
    assert torch.equal(again.x, found.x)


def test_a_chain_and_the_same_network_as_a_function_end_at_the_same_point():
    prior = random_prior("plain")
    free = jf.ModulePrior(
        lambda x: prior.encode(x), lambda z: prior.decode(z), prior.gamma, K, SHAPE
    )
    operator, y, _ = case("compressed-sensing", prior)
    for solver in ("direct", "conjugate-gradient"):
        method = jf.JPMAP(
            z_solver=replace(TIGHT, second_order=False, linear_solver=solver), starts=1
        )
        one = jf.restore(y, operator, prior, 0.1, method=method)
        other = jf.restore(y, operator, free, 0.1, method=method)
        torch.testing.assert_close(one.x, other.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["denoising", "inpainting-colours", "blur"])
def test_linear_solvers_reach_the_same_objective(name):
    prior = random_prior()
    operator, y, _ = case(name, prior)
    ends = [
        jf.restore(
            y, operator, prior, 0.1, method=jf.JPMAP(z_solver=replace(TIGHT, linear_solver=solver))
        ).objective
        for solver in ("direct", "conjugate-gradient")
    ]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_prior_restores_images_it_has_not_seen(trained, name):
    clean = colour_blobs(600)[512:532]
    operator = operators(torch.float32)[name]
    y = operator.measure(clean, 0.1, generator=torch.Generator().manual_seed(4))
    result = jf.restore(y, operator, trained, 0.1)
    assert result.converged.all()
    plain = jf.restore(y, operator, trained, 0.1, method="alternate-convex-search")
    assert (result.objective <= plain.objective * (1 + 1e-5)).double().mean() >= 0.9
    assert float(psnr(result.x, clean).mean()) > 24
    if name == "denoising":  # noise of 0.1 is 20 dB
        assert float(psnr(result.decoded, clean).mean()) > float(psnr(y, clean).mean()) + 4


def test_growing_coupling_brings_x_and_the_decoder_together(trained):
    clean = colour_blobs(600)[512:520]
    operator = operators(torch.float32)["inpainting"]
    y = operator.measure(clean, 0.1, generator=torch.Generator().manual_seed(4))
    result = jf.restore(y, operator, trained, 0.1, method=jf.MAPz(alpha=5))
    assert result.converged.all()
    gap = (result.x - result.decoded).flatten(1).square().sum(1)
    assert (gap <= (5 / 255) ** 2 * math.prod(SHAPE) * (1 + 1e-4)).all()


@pytest.mark.cuda
@pytest.mark.parametrize("blocks", ["plain", "residual"])
@pytest.mark.parametrize("name", NAMES)
def test_the_gpu_ends_as_low_as_the_cpu_in_double_precision(name, blocks):
    """J1 within 0.1%, for all but the few images whose minimum rounding decides."""
    exact, prior = random_prior(blocks), random_prior(blocks, torch.float32)
    operator, y, _ = case(name, exact, batch=16)
    expected = jf.restore(y, operator, exact, 0.1).objective
    on_gpu = operator.to(device="cuda", dtype=torch.float32)
    found = jf.restore(y.float().cuda(), on_gpu, prior.cuda(), 0.1)
    assert found.x.is_cuda and found.converged.all()
    good = found.objective.cpu().double() <= 1.001 * expected
    assert float(good.double().mean()) >= 0.9
    restorer = jf.Restorer(on_gpu, prior, 0.1, batch_size=16, steps=60)
    assert restorer.captured
    good = restorer(y.float().cuda()).objective.cpu().double() <= 1.001 * expected
    assert float(good.double().mean()) >= 0.9
