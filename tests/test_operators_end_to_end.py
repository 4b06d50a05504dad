"""Restoration through every operator with the bundled MNIST prior."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import jpmap_fast as jf
from jpmap_fast._metrics import psnr

SHAPE = (1, 28, 28)
SIGMA = 0.1
BATCH = 6
COMPILED = ["blur", "blur-per-image", "super-resolution", "dct", "hadamard", "masked-matrix"]
NAMES = [*COMPILED, "blur-reflect", "blur-valid", "masked-blur", "stack"]


@pytest.fixture(scope="module")
def mnist():
    return jf.load_prior("mnist")


@pytest.fixture(scope="module")
def digits():
    return jf.mnist_test_digits(BATCH)[0]


def operator_of(name: str) -> jf.Operator:
    g = torch.Generator().manual_seed(0)
    mask = (torch.rand(28, 28, generator=g) < 0.5).float()
    kernel = jf.gaussian_kernel(2.0, 7)
    several = torch.stack([jf.motion_kernel(7, 30 * i) for i in range(BATCH)])[:, None]
    matrix = torch.randn(100, 784, generator=g) / 10
    return {
        "blur": jf.Blur(kernel),
        "super-resolution": jf.SuperResolution(2),
        "dct": jf.StructuredSensing.dct(200, SHAPE, generator=g),
        "hadamard": jf.StructuredSensing.hadamard(200, SHAPE, generator=g),
        "masked-matrix": jf.Composition(jf.CompressedSensing(matrix), jf.Inpainting(mask)),
        "blur-per-image": jf.Blur(several),
        "blur-reflect": jf.Blur(kernel, "reflect"),
        "blur-valid": jf.Blur(kernel, "valid"),
        "masked-blur": jf.Composition(jf.Inpainting(mask), jf.Blur(several)),
        "stack": jf.Stack([jf.SuperResolution(4), jf.Inpainting(mask)], noise=[0.5, 2.0]),
    }[name]


@cache
def measured(name):
    operator, digits = operator_of(name).bind(SHAPE, BATCH), jf.mnist_test_digits(BATCH)[0]
    return operator, operator.measure(digits, SIGMA, torch.Generator().manual_seed(1))


@cache
def restored(name):
    """By the default method."""
    operator, y = measured(name)
    return jf.restore(y, operator, "mnist", SIGMA)


@pytest.mark.parametrize("name", NAMES)
def test_restores_digits(name, mnist, digits):
    """Closer to the digit than the least-norm image of the same data, and J1 as defined."""
    operator, y = measured(name)
    result = restored(name)
    assert result.converged.all()
    assert result.path == ("compiled" if name in COMPILED else "torch")
    gap = (result.x - result.decoded).flatten(1).square().sum(1)
    data = (operator.A(result.x) - y).flatten(1).square().sum(1)
    exact = data / (2 * SIGMA**2) + gap / (2 * mnist.gamma**2)
    exact = exact + 0.5 * result.z.square().sum(1)
    torch.testing.assert_close(result.objective, exact, rtol=1e-4, atol=1e-4)
    error = (result.x - digits).flatten(1).norm(dim=1)
    tiny = torch.full((BATCH,), 1e-3)
    blank = torch.zeros_like(digits)
    plain, _, _ = operator.x_update(blank, y, result.z, tiny, torch.full((BATCH,), SIGMA))
    assert (error < (plain - digits).flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_and_torch_paths_find_the_same_minimum(name, mnist):
    operator, y = measured(name)
    fused = restored(name)
    plain = jf.JPMAP(z_solver=jf.GaussNewton(fused=False))
    torch_path = jf.restore(y, operator, mnist, SIGMA, method=plain)
    assert torch_path.path == "torch"
    # Both stop within the solver's tolerance of the same stationary point.
    torch.testing.assert_close(fused.objective, torch_path.objective, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", COMPILED)
def test_restorer_agrees_with_restore(name, mnist):
    operator, y = measured(name)
    restorer = jf.Restorer(operator, mnist, SIGMA, batch_size=BATCH)
    assert restorer.path == ("compiled" if name in COMPILED else "torch")
    found = restorer(y)
    torch.testing.assert_close(found.objective, restored(name).objective, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_does_not_depend_on_its_batch(name, mnist):
    operator, y = measured(name)
    whole = restored(name)
    index = torch.tensor([4, 1])
    part = jf.restore(y[index], operator.select(index), mnist, SIGMA)
    # Not to the bit: a library's Fourier transform may round by the size of the batch.
    torch.testing.assert_close(part.x, whole.x[index], rtol=0, atol=1e-5)
    torch.testing.assert_close(part.objective, whole.objective[index], rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", ["csgm", "map-z"])
@pytest.mark.parametrize("name", ["blur", "super-resolution", "masked-blur"])
def test_other_methods_run(name, method, mnist):
    operator, y = measured(name)
    result = jf.restore(y, operator, mnist, SIGMA, method=method)
    assert torch.isfinite(result.objective).all() and torch.isfinite(result.x).all()


@pytest.mark.parametrize("factor", [2, 4])
def test_digits_made_small_by_pooling_come_back_as_well_as_our_own(factor, mnist, digits):
    noise = SIGMA * torch.randn(BATCH, 1, 28 // factor, 28 // factor)
    operator = jf.SuperResolution(factor)
    quality = [
        float(psnr(jf.restore(y + noise, operator, mnist, SIGMA).x, digits).mean())
        for y in (operator.A(digits), torch.nn.functional.avg_pool2d(digits, factor))
    ]
    assert abs(quality[0] - quality[1]) < 0.2
