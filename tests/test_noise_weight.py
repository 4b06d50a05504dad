"""The coupling weight of a blur, by the noise that its x-update lets through."""

from __future__ import annotations

import pytest
import torch
from small_photos import small_photo_prior

import jpmap_fast as jf
from jpmap_fast.algorithms.encoder_schedule import levels_of
from jpmap_fast.operators.noise_weight import LEAST, MOST, noise_weight

WIDE = jf.gaussian_kernel(1.6, 13)


@pytest.mark.parametrize("kernel", [WIDE, jf.gaussian_kernel(3.0)], ids=["1.6", "3"])
@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_the_noise_of_an_x_update_is_that_share(kernel, sigma):
    """Of noise alone, at the last level, by the operator's own x-update."""
    share, last = 0.33, 1.6
    blur = jf.Blur(kernel.double())
    weight = float(blur.weight_for_noise(share, last))
    assert LEAST < weight < MOST
    bound = blur.bind((1, 128, 128), 1)
    noise = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)).double()
    one = torch.ones(1, dtype=torch.float64)
    level = last * sigma
    beta = one * weight / level**2
    zero, none = torch.zeros_like(noise), torch.zeros(1, 0, dtype=torch.float64)
    x = bound.x_update(zero, sigma * noise, none, beta, one * sigma)[0]
    assert float(x.square().mean()) == pytest.approx(share * level**2, rel=0.1)


def test_no_frequency_has_more_than_the_encoder_is_told():
    assert noise_weight(torch.ones(1, 1, 1), 1e-3, 1.0) == pytest.approx(MOST)
    assert noise_weight(torch.zeros(1, 3, 3), 0.33, 1.0) == pytest.approx(LEAST)


def test_kernels_of_images_have_a_weight_each():
    kernels = torch.stack((WIDE, jf.gaussian_kernel(0.7, 13)))[:, None]
    weights = jf.Blur(kernels).weight_for_noise(0.33, 1.6)
    alone = [jf.Blur(kernel).weight_for_noise(0.33, 1.6) for kernel in kernels]
    assert torch.equal(weights, torch.cat(alone)) and weights[0] < weights[1]


def test_images_have_the_bits_they_have_alone_with_kernels_of_their_own():
    kernels = torch.stack((WIDE, jf.gaussian_kernel(0.7, 13)))[:, None]
    y = torch.rand(2, 1, 24, 20, generator=torch.Generator().manual_seed(0))
    both = jf.restore(y, jf.Blur(kernels), small_photo_prior(), 0.05).x
    for i in range(2):
        own = jf.Blur(kernels[i : i + 1])
        assert torch.equal(
            both[i : i + 1], jf.restore(y[i : i + 1], own, small_photo_prior(), 0.05).x
        )


def test_the_default_is_what_the_rule_gives():
    blur = jf.Blur(WIDE)
    y = torch.rand(1, 1, 24, 20, generator=torch.Generator().manual_seed(0))
    levels = levels_of(blur)
    assert levels.weight is None and levels.noise is not None
    weight = float(blur.weight_for_noise(levels.noise, levels.last))

    def found(**settings):
        method = jf.EncoderContinuation(**settings)
        return jf.restore(y, blur, small_photo_prior(), 0.05, method=method).x

    ours, other = found(), found(weight=2 * weight)
    # A number and a tensor are divided with other roundings.
    assert (ours - found(weight=weight)).norm() < 0.05 * (ours - other).norm()
