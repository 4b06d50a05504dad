"""Measurements that say nothing about the image: the prior's own answer, for every method."""

from __future__ import annotations

import pytest
import torch

import jpmap_fast as jf
from jpmap_fast.algorithms import ALGORITHMS

SHAPE = (1, 28, 28)
NOTHING = torch.zeros(28, 28)
ZERO_KERNEL = torch.zeros(3, 3)
OPERATORS = {
    "shared": jf.Inpainting(NOTHING),
    "shared-channels": jf.Inpainting(NOTHING[None]),
    "one-for-any": jf.Inpainting(NOTHING[None, None]),
    "per-image": jf.Inpainting(NOTHING.expand(2, 1, 28, 28)),
    "composition": jf.Composition(jf.Inpainting(NOTHING), jf.Blur(jf.gaussian_kernel(1.0))),
    "masks": jf.Composition(jf.Inpainting(NOTHING), jf.Inpainting(NOTHING + 1)),
    "stack": jf.Stack([jf.Inpainting(NOTHING)] * 2, noise=[1, 2]),
    "matrix": jf.CompressedSensing(torch.zeros(5, 784)),
    "tall-matrix": jf.CompressedSensing(torch.zeros(800, 784)),
    "kernel": jf.Blur(ZERO_KERNEL),
    "kernel-zero": jf.Blur(ZERO_KERNEL, "zero"),
    "super-resolution": jf.SuperResolution(2, ZERO_KERNEL),
}
METHODS = {
    **{name: kind() for name, kind in ALGORITHMS.items()},
    "plain": jf.JPMAP(z_solver=jf.GaussNewton(fused=False)),
    "implicit": jf.JPMAP(z_solver=jf.GaussNewton(linear_solver="conjugate-gradient")),
    "alternating": jf.JPMAP(coupling="alternating"),
    "adam": jf.JPMAP(z_solver=jf.Adam(max_steps=300)),
}


@pytest.fixture(scope="module")
def mnist():
    return jf.load_prior("mnist")


def measurements(operator: jf.Operator, count: int = 2) -> torch.Tensor:
    like = torch.zeros(count, *SHAPE)
    return operator.bind(SHAPE, count).measure(like, 0.04, torch.Generator().manual_seed(1))


def is_prior_mode(result, mnist) -> bool:
    """x = G(z) and z = 0.

    The noise makes J1 about 400 or 800 whatever z is: 1/2 ||z||^2 shows above 1e-6 of it.
    """
    near = 0.5 * result.z.square().sum(dim=1) < 1e-6 * result.objective.clamp_min(1)
    decoded = mnist.decode(result.z).detach()
    return bool(near.all()) and torch.allclose(result.x, decoded, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_default_method_finds_the_mode_of_the_prior(name, mnist):
    operator = OPERATORS[name]
    for count in (2,) if name == "per-image" else (1, 2):
        result = jf.restore(measurements(operator, count), operator, mnist, 0.04)
        assert result.converged.all() and is_prior_mode(result, mnist)


WITH_CODES = [name for name in METHODS if METHODS[name].uses_codes]


@pytest.mark.parametrize("method", WITH_CODES)
def test_every_method_takes_a_mask_of_nothing(method, mnist):
    for name in ("shared", "per-image", "stack"):
        operator = OPERATORS[name]
        g = torch.Generator().manual_seed(0)
        y = measurements(operator)
        result = jf.restore(y, operator, mnist, 0.04, method=METHODS[method], generator=g)
        assert torch.isfinite(result.x).all() and torch.isfinite(result.objective).all()
        assert "failed" not in " ".join(result.status)
        # From the encoder's code alone, or in few steps, the mode need not be reached.
        if method in ("jpmap", "plain", "implicit", "csgm"):
            assert is_prior_mode(result, mnist)


def test_one_empty_mask_leaves_its_neighbours_alone(mnist):
    x, _ = jf.mnist_test_digits(2)
    masks = torch.stack((NOTHING, NOTHING + 1))[:, None]
    operator = jf.Inpainting(masks)
    y = operator.measure(x, 0.04, torch.Generator().manual_seed(0))
    both = jf.restore(y, operator, mnist, 0.04)
    alone = jf.restore(y[1:], jf.Denoising(), mnist, 0.04)
    torch.testing.assert_close(both.x[1:], alone.x)
    assert both.z[0].norm() < 1e-2


def test_a_restorer_takes_a_mask_of_nothing(mnist):
    operator = OPERATORS["shared"]
    found = jf.Restorer(operator, mnist, 0.04, batch_size=2)(measurements(operator))
    assert found.converged.all() and found.z.norm() < 1e-2
