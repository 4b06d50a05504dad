"""sigma="auto": noise levels estimated from measurements."""

from __future__ import annotations

import math

import pytest
import torch

import jpmap_fast as jf

LEVELS = (5 / 255, 25 / 255, 50 / 255)


def photographs(channels: int = 1, size: int = 96) -> torch.Tensor:
    """Smooth pictures with an edge [3, C, H, W]."""
    t = torch.linspace(0, 1, size)
    wave = 0.5 + 0.3 * torch.sin(7 * t)[:, None] * torch.cos(3 * t)
    wave[:, size // 3 :] *= 0.6
    return wave.expand(3, channels, size, size).clone()


def noisy(clean: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """One of ``LEVELS`` for each image."""
    g = torch.Generator().manual_seed(seed)
    levels = torch.tensor(LEVELS).reshape(-1, 1, 1, 1)
    return clean + levels * torch.randn(clean.shape, generator=g)


def operators() -> dict[str, jf.Operator]:
    g = torch.Generator().manual_seed(1)
    return {
        "denoising": jf.Denoising(),
        "blur": jf.Blur(jf.gaussian_kernel(1.5)),
        "valid blur": jf.Blur(jf.gaussian_kernel(1.5), "valid"),
        "super-resolution": jf.SuperResolution(2),
        "inpainting": jf.Inpainting(jf.random_masks(3, (1, 96, 96), 0.05, g)),
    }


@pytest.mark.parametrize("name", operators())
def test_each_image_has_its_own_level_found(name):
    operator, clean = operators()[name], photographs()
    found = jf.estimate_sigma(noisy(operator.A(clean)), operator)
    torch.testing.assert_close(found, torch.tensor(LEVELS), rtol=0.08, atol=0)


def test_the_estimate_is_the_median_of_the_details_by_their_definition():
    y = noisy(photographs(3, 64))
    root = math.sqrt(3)
    low = [v / (4 * math.sqrt(2)) for v in (1 + root, 3 + root, 3 - root, 1 - root)]
    high = torch.tensor([low[3], -low[2], low[1], -low[0]], dtype=torch.float64)
    blocks = y[1].double().unfold(1, 4, 2).unfold(2, 4, 2)
    details = torch.einsum("chwij,i,j->chw", blocks, high, high).abs()
    expected = details.median() / 0.6744897501960817
    found = jf.estimate_sigma(y, jf.Denoising()).double()
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=0)
    assert jf.estimate_sigma(y[1], jf.Denoising()).shape == ()


def test_it_is_that_of_scikit_image_inside():
    restoration = pytest.importorskip("skimage.restoration")
    y = noisy(photographs(1, 256)).double()
    expected = [restoration.estimate_sigma(image[0].numpy()) for image in y]
    found = jf.estimate_sigma(y, jf.Denoising())
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0.02, atol=0)


def test_what_nobody_observed_and_what_is_over_exposed_does_not_count():
    clean, mask = photographs(), torch.ones(96, 96)
    mask[:, 60:] = 0
    y = mask * noisy(clean)
    wild = y + (1 - mask) * 9
    found = jf.estimate_sigma(y, jf.Inpainting(mask))
    assert torch.equal(found, jf.estimate_sigma(wild, jf.Inpainting(mask)))
    torch.testing.assert_close(found, torch.tensor(LEVELS), rtol=0.08, atol=0)
    y = noisy(photographs(size=192))
    y[..., 120:] = 1
    found = jf.estimate_sigma(y, jf.Denoising())
    torch.testing.assert_close(found, torch.tensor(LEVELS), rtol=0.08, atol=0)


def test_pictures_without_noise_or_without_numbers_have_the_least_level():
    flat = torch.full((1, 1, 40, 40), 0.3)
    y = torch.cat((flat, flat * torch.nan, photographs(1, 40)[:1]))
    assert torch.equal(jf.estimate_sigma(y, jf.Denoising()), torch.full((3,), 0.5 / 255))
    assert jf.estimate_sigma(y[:0], jf.Denoising()).shape == (0,)
    found = jf.restore(torch.zeros(1, 28, 28), jf.Denoising(), "mnist", "auto")
    assert bool(found.x.isfinite().all()) and float(found.sigma) == pytest.approx(0.5 / 255)


def test_what_tells_no_level_is_refused():
    y = noisy(photographs())
    sparse = jf.Inpainting(jf.random_masks(3, (1, 96, 96), 0.8))
    sensing = jf.CompressedSensing(torch.ones(20, 784) / 28, (1, 28, 28))
    for measured, operator, message in (
        (y, sparse, "sigma: expected a number, since it is estimated from at least 200 blocks"),
        (y[..., :3], jf.Denoising(), "at least 200 blocks of 4 x 4 observed pixels.*got 0"),
        (torch.zeros(3, 20), sensing, "sigma: expected a number.*got CompressedSensing"),
        (y[0, 0], jf.Denoising(), r"y: expected pictures \[B, C, H, W\]"),
        (y, jf.Inpainting(torch.ones(32, 32)), r"y: expected pictures that Inpainting\(mask"),
    ):
        with pytest.raises(ValueError, match=message):
            jf.estimate_sigma(measured, operator)
    with pytest.raises(TypeError, match="y: expected floating-point"):
        jf.estimate_sigma(torch.zeros(1, 9, 9, dtype=torch.uint8), jf.Denoising())


def test_restore_takes_what_is_estimated_and_says_it():
    digits = jf.mnist_test_digits(2)[0]
    y = digits + 0.2 * torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))
    expected = jf.estimate_sigma(y, jf.Denoising())
    found = jf.restore(y, jf.Denoising(), "mnist", "auto")
    given = jf.restore(y, jf.Denoising(), "mnist", expected)
    assert torch.equal(found.x, given.x) and torch.equal(found.sigma, expected)
    assert torch.equal(found.sigma, given.sigma)
    alone = jf.restore(y[0], jf.Denoising(), "mnist", sigma="auto")
    assert torch.equal(alone.sigma, expected[0])
    assert torch.equal(jf.restore(y, jf.Denoising(), "mnist", 0.2).sigma, torch.full((2,), 0.2))


def test_only_auto_is_a_word_for_a_level_and_a_restorer_takes_none():
    y = jf.mnist_test_digits(1)[0]
    with pytest.raises(TypeError, match="sigma: expected a number.*got 'automatic'"):
        jf.restore(y, jf.Denoising(), "mnist", "automatic")
    with pytest.raises(ValueError, match="sigma: expected a number.*got 'auto'.*estimate_sigma"):
        jf.Restorer(jf.Denoising(), "mnist", "auto", batch_size=1)


def test_a_restorer_names_its_level_and_does_not_depend_on_what_becomes_of_it():
    restorer = jf.Restorer(jf.Denoising(), "mnist", [0.1, 0.2], batch_size=2)
    y = jf.mnist_test_digits(2)[0]
    found = restorer(y)
    assert torch.equal(found.sigma, torch.tensor([0.1, 0.2]))
    found.sigma.fill_(9)
    assert torch.equal(restorer(y).x, found.x)
