"""The prior for photographs: any size, tiles, precision, files."""

from __future__ import annotations

import pytest
import torch
from small_photos import deep_photo_prior
from torch import Tensor

from jpmap_fast.priors import photo_prior
from jpmap_fast.priors.photo_network import PhotoNetwork
from jpmap_fast.priors.photo_prior import PhotoPrior


def levels(*values: float) -> Tensor:
    return torch.tensor(values)


def test_it_is_positively_homogeneous() -> None:
    prior, x = deep_photo_prior(), torch.rand(1, 1, 20, 24)
    once = prior.autoencode(x, levels(0.1))
    assert torch.allclose(prior.autoencode(5 * x, levels(0.5)), 5 * once, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(150, 233), (96, 300)])
def test_parts_of_a_large_picture_are_parts_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    prior, x = deep_photo_prior().double(), torch.rand(2, 1, *size, dtype=torch.float64)
    whole = prior.autoencode(x, levels(0.1, 0.2))
    calls = []
    forward = PhotoNetwork.forward
    monkeypatch.setattr(photo_prior, "PIXELS_ON_CPU", 130 * 130)
    monkeypatch.setattr(
        PhotoNetwork, "forward", lambda self, x, s: calls.append(x.shape) or forward(self, x, s)
    )
    assert torch.allclose(prior.autoencode(x, levels(0.1, 0.2)), whole, rtol=0, atol=1e-13)
    assert len(calls) > 8 and all(shape[-1] * shape[-2] <= 140 * 140 for shape in calls)


def test_low_precision_is_good_to_a_part_of_the_noise() -> None:
    prior, x = deep_photo_prior(), torch.rand(1, 1, 48, 48)
    exact = prior.autoencode(x, levels(0.02))
    prior.low_precision = True
    taken = (exact - x).square().mean().sqrt()
    assert (prior.autoencode(x, levels(0.02)) - exact).square().mean().sqrt() < 0.02 * taken


@pytest.mark.parametrize(
    ("widths", "blocks"),
    [((), ()), ((8, 12), (1,)), ((8, 0), (1, 1)), ((8, 12), (1, -1)), ((8, 12), (1, 99999))],
)
def test_networks_out_of_range_are_refused(widths: tuple, blocks: tuple) -> None:
    for halves in ((blocks, (1,) * len(widths)), ((1,) * len(widths), blocks)):
        with pytest.raises(ValueError, match="expected (one number|at least|at most)"):
            PhotoPrior(1, widths, *halves)


@pytest.mark.parametrize("blocks", [1, "11", (1, 0.5), (True, 1)])
def test_numbers_of_blocks_are_integers(blocks: object) -> None:
    with pytest.raises(TypeError, match="encoder_blocks: expected"):
        PhotoPrior(1, (8, 12), blocks, (1, 1))  # type: ignore[arg-type]
