"""``restore`` with a physics of DeepInverse: noise levels, measurements, stacks of several."""

from __future__ import annotations

import pytest
import torch

import jpmap_fast as jf

deepinv = pytest.importorskip("deepinv", reason="needs deepinv, the extra [deepinv]")
physics_ = deepinv.physics

from jpmap_fast.deepinv import as_operator  # noqa: E402
from jpmap_fast.deepinv.noise import noise_level  # noqa: E402

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize(
    "noise, message",
    [
        (None, "got Inpainting without"),
        (physics_.PoissonNoise(0.1), "expected GaussianNoise, got PoissonNoise"),
        (physics_.UniformGaussianNoise(), "got UniformGaussianNoise"),
        (physics_.GaussianNoise(0.0), r"expected finite values > 0, got 0.0"),
        (physics_.GaussianNoise(torch.tensor([0.1, -1.0])), "expected finite values > 0"),
        (physics_.GaussianNoise(torch.ones(2, 3)), r"one an image, got shape \[2, 3\]"),
    ],
)
def test_noise_that_has_no_gaussian_level_is_refused(noise, message):
    physics = physics_.Inpainting((1, 28, 28), mask=0.5)
    if noise is not None:
        physics.set_noise_model(noise)
    with pytest.raises(ValueError, match=message) as caught:
        jf.restore(torch.zeros(2, 1, 28, 28), physics, "mnist")
    assert "pass sigma=" in str(caught.value)


def test_noise_level_is_a_number_or_one_an_image():
    assert noise_level(physics_.Denoising(physics_.GaussianNoise(0.3))).shape == ()
    several = physics_.Denoising(physics_.GaussianNoise(torch.tensor([0.1, 0.2])))
    assert noise_level(several).tolist() == pytest.approx([0.1, 0.2])
    with pytest.raises(ValueError, match="ask its members"):
        noise_level(several.stack(several))


def same(a: jf.Result, b: jf.Result) -> None:
    torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-4)
    torch.testing.assert_close(a.objective, b.objective, rtol=1e-4, atol=0)


def test_restore_takes_a_physics_and_its_noise_level():
    digits, _ = jf.mnist_test_digits(3)
    sigma = torch.tensor([0.05, 0.1, 0.2])
    mask = (torch.rand(28, 28) < 0.4).float()
    physics = physics_.Inpainting(
        (1, 28, 28), mask=mask[None], noise_model=physics_.GaussianNoise(sigma)
    )
    y = physics(digits)
    expected = jf.restore(y, jf.Inpainting(mask), "mnist", sigma)
    same(jf.restore(y, physics, "mnist"), expected)
    same(jf.restore(y, physics, "mnist", sigma), expected)
    one = jf.restore(y[1], physics, "mnist", 0.1)
    torch.testing.assert_close(one.x, expected.x[1], rtol=0, atol=1e-4)
    with pytest.raises(TypeError, match="sigma: expected the standard deviation"):
        jf.restore(y, jf.Inpainting(mask), "mnist")


def test_dense_measurements_keep_the_shape_that_the_physics_gives_them():
    digits, _ = jf.mnist_test_digits(2)
    physics = physics_.SinglePixelCamera(
        200, (1, 28, 28), fast=False, noise_model=physics_.GaussianNoise(0.05)
    )
    y = physics(digits)
    assert y.shape == (2, 1, 200)
    operator = as_operator(physics, (1, 28, 28))
    expected = jf.restore(y.flatten(1), operator, "mnist", 0.05)
    same(jf.restore(y, physics, "mnist"), expected)
    alone = jf.restore(y[0], physics, "mnist", 0.05)
    torch.testing.assert_close(alone.x, expected.x[0], rtol=0, atol=1e-4)


def stacked(sigma_blur, sigma_small):
    return physics_.stack(
        physics_.Blur(
            jf.gaussian_kernel(1.0)[None, None],
            padding="circular",
            noise_model=physics_.GaussianNoise(sigma_blur),
        ),
        physics_.Downsampling(
            (1, 28, 28), "gaussian", 2, noise_model=physics_.GaussianNoise(sigma_small)
        ),
    )


def test_members_of_stacked_physics_count_by_their_own_noise():
    """J1 of the result, from its definition."""
    digits, _ = jf.mnist_test_digits(2)
    physics = stacked(0.1, 0.4)
    y = physics(digits)
    prior = jf.load_prior("mnist")
    result = jf.restore(y, physics, prior)
    data = 0
    for member, part, sigma in zip(physics.physics_list, y, (0.1, 0.4), strict=True):
        residual = (member.A(result.x) - part).double().flatten(1)
        data = data + residual.square().sum(1) / (2 * sigma**2)
    coupling = (result.x - result.decoded).double().flatten(1).square().sum(1)
    j1 = data + coupling / (2 * prior.gamma**2) + 0.5 * result.z.double().square().sum(1)
    torch.testing.assert_close(result.objective.double(), j1, rtol=1e-4, atol=0)
    given = jf.restore(y, stacked(1.0, 1.0), prior, 0.2)
    same(given, jf.restore(y, stacked(0.2, 0.2), prior))


@pytest.mark.parametrize(
    "y, error, message",
    [
        (torch.zeros(2, 1, 28, 28), TypeError, "expected a TensorList of 2 measurements"),
        ([torch.zeros(2, 1, 28, 28)], TypeError, "TensorList of 2 measurements"),
        ([torch.zeros(2, 1, 28, 28)] * 2, ValueError, r"y\[1\]: expected shape \[B, 1, 14, 14\]"),
    ],
)
def test_stacked_measurements_are_checked(y, error, message):
    with pytest.raises(error, match=message):
        jf.restore(y, stacked(0.1, 0.1), "mnist", 0.1)


def test_stacked_levels_that_differ_by_image_are_refused():
    physics = stacked(torch.tensor([0.1, 0.2]), 0.3)
    y = [torch.zeros(2, 1, 28, 28), torch.zeros(2, 1, 14, 14)]
    with pytest.raises(ValueError, match="one noise level for each member"):
        jf.restore(y, physics, "mnist")


def test_complex_measurements_are_two_real_ones_with_half_the_variance_each():
    digits, _ = jf.mnist_test_digits(2)
    physics = physics_.CompressedSensing(
        100, (1, 28, 28), dtype=torch.cfloat, noise_model=physics_.GaussianNoise(0.1)
    )
    y = physics(digits.to(torch.cfloat))
    noise = y - physics.A(digits.to(torch.cfloat))
    # 200 draws: the deviation is within 5 standard errors (5% each).
    assert abs(float(noise.real.std()) / (0.1 / 2**0.5) - 1) < 0.25
    matrix = torch.view_as_real(physics._A).permute(0, 2, 1).reshape(200, 784)
    operator = jf.CompressedSensing(matrix)
    flat = torch.view_as_real(y).flatten(1)
    expected = jf.restore(flat, operator, "mnist", 0.1 / 2**0.5)
    same(jf.restore(y, physics, "mnist"), expected)
    with pytest.raises(TypeError, match="expected complex values"):
        jf.restore(flat, physics, "mnist")
