"""The bundled priors for photographs, on the photograph that comes with the package."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.data import photograph

SIDE = 96
# Gains in dB over the measurement as a picture, a tenth of a decibel or more below what was seen.
DENOISING = {5: 2.5, 15: 6.0, 25: 8.0, 50: 11.5}


def clean(channels: int) -> Tensor:
    """A part of the photograph, its eye."""
    x = photograph()[..., 60 : 60 + SIDE, 30 : 30 + SIDE]
    if channels == 1:
        x = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    return x


def gain(restored: Tensor, seen: Tensor, x: Tensor) -> float:
    return float(jf.psnr(restored.clamp(0, 1), x) - jf.psnr(seen, x))


@pytest.mark.parametrize(("name", "channels"), [("photos", 3), ("photos-grey", 1)])
def test_noise_goes_at_every_level(name: str, channels: int) -> None:
    prior, x = jf.load_prior(name), clean(channels)
    assert prior.channels == channels and prior.image_shape is None
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for level, least in DENOISING.items():
        y = x + level / 255 * noise
        assert gain(jf.restore(y, jf.Denoising(), prior, level / 255).x, y, x) > least, level


@pytest.mark.parametrize(("name", "channels"), [("photos", 3), ("photos-grey", 1)])
def test_blur_goes_and_holes_are_filled(name: str, channels: int) -> None:
    prior, x = jf.load_prior(name), clean(channels)
    generator = torch.Generator().manual_seed(0)
    blur = jf.Blur(jf.gaussian_kernel(1.6))
    y = blur.measure(x, 2.55 / 255, generator)
    assert gain(jf.restore(y, blur, prior, 2.55 / 255).x, y, x) > 2.0
    mask = (torch.rand(SIDE, SIDE, generator=generator) < 0.3).float()
    holes = jf.Inpainting(mask)
    y = holes.measure(x, 5 / 255, generator)
    assert gain(jf.restore(y, holes, prior, 5 / 255).x, holes.A(y), x) > 13


def test_colours_are_kept() -> None:
    """A uniform colour stays what it is, whatever the noise level."""
    colour = torch.tensor([0.8, 0.4, 0.1])[None, :, None, None].expand(1, 3, 40, 40)
    found = jf.load_prior("photos").autoencode(colour, torch.tensor([25 / 255]))
    assert bool(((found - colour).abs() < 0.02).all())


@pytest.mark.parametrize("level", [10, 50])
def test_a_few_holes_leave_the_noise_no_chance(level: int) -> None:
    """With almost everything observed, inpainting is about as good as denoising."""
    prior, x = jf.load_prior("photos-grey"), clean(1)
    generator = torch.Generator().manual_seed(0)
    y = x + level / 255 * torch.randn(x.shape, generator=generator)
    mask = (torch.rand(SIDE, SIDE, generator=generator) < 0.95).float()
    denoised = jf.restore(y, jf.Denoising(), prior, level / 255).x
    inpainted = jf.restore(y * mask, jf.Inpainting(mask), prior, level / 255).x
    assert float(jf.psnr(inpainted, x)) > float(jf.psnr(denoised, x)) - 1.2
