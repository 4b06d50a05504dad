"""The prior for photographs: any size, tiles, precision, files."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast.priors import photo_prior
from jpmap_fast.priors.photo_network import PhotoNetwork, Residual
from jpmap_fast.priors.photo_prior import PhotoPrior


def small(channels: int = 1, seed: int = 0) -> PhotoPrior:
    """A prior whose layers all do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prior = PhotoPrior(channels, (8, 12, 16), (1, 1, 1), (1, 1, 1))
        for module in prior.network.modules():
            if isinstance(module, Residual):
                nn.init.normal_(module.second.weight, std=0.1)
        nn.init.normal_(prior.network.tail.weight, std=0.1)
    prior.low_precision = False
    with torch.no_grad():
        prior.log_gamma.fill_(-3.0)
    return prior.requires_grad_(False).eval()


def levels(*values: float) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (4, 4), (13, 30), (64, 48)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_size_keep_it(size: tuple[int, int], channels: int) -> None:
    x = torch.rand(2, channels, *size)
    found = small(channels).autoencode(x, levels(0.1, 0.3))
    assert found.shape == x.shape and bool(torch.isfinite(found).all())


def test_it_is_positively_homogeneous() -> None:
    prior, x = small(), torch.rand(1, 1, 20, 24)
    once = prior.autoencode(x, levels(0.1))
    assert torch.allclose(prior.autoencode(5 * x, levels(0.5)), 5 * once, rtol=1e-4, atol=1e-5)


def test_a_pixel_reaches_no_further_than_said() -> None:
    prior = small().double()
    x = torch.rand(1, 1, 160, 160, dtype=torch.float64)
    for row, column in ((80, 80), (79, 83), (86, 77)):
        other = x.clone()
        other[..., row, column] += 1
        apart = prior.autoencode(other, levels(0.1)) != prior.autoencode(x, levels(0.1))
        rows, columns = apart[0, 0].nonzero().T
        reached = max(int((rows - row).abs().max()), int((columns - column).abs().max()))
        assert 0 < reached <= prior.network.reach


@pytest.mark.parametrize("size", [(150, 233), (96, 300)])
def test_parts_of_a_large_picture_are_parts_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    prior, x = small().double(), torch.rand(2, 1, *size, dtype=torch.float64)
    whole = prior.autoencode(x, levels(0.1, 0.2))
    calls = []
    forward = PhotoNetwork.forward
    monkeypatch.setattr(photo_prior, "PIXELS_ON_CPU", 130 * 130)
    monkeypatch.setattr(
        PhotoNetwork, "forward", lambda self, x, s: calls.append(x.shape) or forward(self, x, s)
    )
    assert torch.allclose(prior.autoencode(x, levels(0.1, 0.2)), whole, rtol=0, atol=1e-13)
    assert len(calls) > 8 and all(shape[-1] * shape[-2] <= 140 * 140 for shape in calls)


def test_a_picture_has_the_bits_it_has_alone() -> None:
    prior, x, s = small(), torch.rand(5, 1, 32, 40), torch.rand(5) * 0.3
    alone = [prior.autoencode(x[i : i + 1], s[i : i + 1]) for i in range(5)]
    assert torch.equal(prior.autoencode(x, s), torch.cat(alone))


def test_low_precision_is_good_to_a_part_of_the_noise() -> None:
    prior, x = small(), torch.rand(1, 1, 48, 48)
    exact = prior.autoencode(x, levels(0.02))
    prior.low_precision = True
    taken = (exact - x).square().mean().sqrt()
    assert (prior.autoencode(x, levels(0.02)) - exact).square().mean().sqrt() < 0.02 * taken


def test_new_weights_are_used_at_once() -> None:
    prior, x = small(), torch.rand(1, 1, 16, 16)
    before = prior.autoencode(x, levels(0.1))
    prior.network.tail.weight.mul_(2)
    after = prior.autoencode(x, levels(0.1))
    assert torch.allclose(x - after, 2 * (x - before), rtol=1e-4, atol=1e-6)


def test_copies_pickles_and_files_restore_alike(tmp_path: Path) -> None:
    prior, x = small(3), torch.rand(1, 3, 16, 18)
    expected = prior.autoencode(x, levels(0.1))
    jf.save_prior(prior, tmp_path / "prior.safetensors")
    read = jf.load_prior(tmp_path / "prior.safetensors")
    read.low_precision = False
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior)), read):
        assert torch.equal(other.autoencode(x, levels(0.1)), expected)
        assert other.image_shape is None and other.gamma == pytest.approx(prior.gamma)


def test_bound_priors_share_weights_and_know_their_shape() -> None:
    prior = small()
    bound = prior.bind((1, 9, 7))
    assert bound.image_shape == (1, 9, 7) and prior.image_shape is None
    assert bound.network is prior.network


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 0, 8), (1, 8)])
def test_other_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected grey pictures, of shape \\[1, H, W\\]"):
        small().bind(shape)


def test_methods_that_need_codes_say_so() -> None:
    prior, y = small(), torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match="has no latent codes, got JPMAP"):
        jf.restore(y, jf.Denoising(), prior, 0.1, method="jpmap")
    with pytest.raises(ValueError, match='restore with method="encoder"'):
        prior.decode(torch.zeros(1, 0))
    with pytest.raises(ValueError, match='restore with method="encoder"'):
        prior.encode(y)


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
