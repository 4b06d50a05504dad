"""What every prior for pictures of any size promises: sizes, bits, files, and words of refusal."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_photos import (
    deep_photo_prior,
    small_hierarchical_prior,
    small_patch_network,
    small_patch_prior,
)
from torch import Tensor

import jpmap_fast as jf


@dataclass(frozen=True)
class Kind:
    """A kind of prior.

    Attributes:
        make: one for pictures of so many channels, in single precision.
        method: that restores with it unasked.
        weights: some that its pictures depend on.
        reach: pixels from one to the farthest that depends on it.
        half: how far half precision in a file may move a pixel.
    """

    make: Callable[[int], Any]
    method: str
    weights: Callable[[Any], Tensor]
    reach: Callable[[Any], int]
    half: float


def _tail(prior: Any) -> Tensor:
    return prior.network.tail.weight


def _told(prior: Any) -> int:
    return prior.network.reach


KINDS = {
    "photos": Kind(
        deep_photo_prior,
        "encoder",
        lambda p: p.network.tail.weight,
        lambda p: p.network.reach,
        1e-3,
    ),
    "hierarchical": Kind(
        small_hierarchical_prior,
        "encoder",
        lambda p: p.network.tail.weight,
        lambda p: p.network.reach,
        1e-3,
    ),
    "patches": Kind(small_patch_prior, "patch-jpmap", lambda p: p.patch.factors, lambda p: 2, 2e-3),
    "network-of-patches": Kind(
        lambda channels: jf.PatchPrior(small_patch_network(channels)).eval(),
        "patch-jpmap",
        lambda p: p.patch.decoder_layers[-1].weight,
        lambda p: 7,
        1e-3,
    ),
}
SIZES = [(1, 1), (1, 9), (7, 1), (2, 2), (5, 7), (13, 30), (33, 64)]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def noisy(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def exactly(prior: Any) -> Any:
    """The prior without products in low precision, which a file does not speak of."""
    if hasattr(prior, "low_precision"):
        prior.low_precision = False
    return prior


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_size_keep_it(kind: Kind, channels: int, dtype: torch.dtype) -> None:
    prior = kind.make(channels).to(dtype)
    for size in SIZES:
        x = noisy(2, channels, *size).to(dtype)
        found = prior.autoencode(x, x.new_tensor([0.1, 0.3]))
        assert found.shape == x.shape and found.dtype == dtype, size
        assert bool(torch.isfinite(found).all()), size


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_has_the_bits_it_has_alone(kind: Kind, channels: int) -> None:
    prior, s = kind.make(channels), 0.3 * noisy(5, seed=3)
    for size in SIZES:
        x = noisy(5, channels, *size)
        alone = [prior.autoencode(x[i : i + 1], s[i : i + 1]) for i in range(5)]
        assert torch.equal(prior.autoencode(x, s), torch.cat(alone)), size


def test_a_pixel_reaches_no_further_than_said(kind: Kind) -> None:
    prior = kind.make(1).double()
    reach = kind.reach(prior)
    side = 2 * reach + 40
    x = noisy(1, 1, side, side).double()
    s = x.new_tensor([0.1])
    before = prior.autoencode(x, s)
    for row, column in ((0, 0), (-1, 3), (6, -3)):
        other, row, column = x.clone(), side // 2 + row, side // 2 + column
        other[..., row, column] += 1
        rows, columns = (prior.autoencode(other, s) != before)[0, 0].nonzero().T
        reached = max(int((rows - row).abs().max()), int((columns - column).abs().max()))
        assert 0 < reached <= reach


@pytest.mark.parametrize("channels", [1, 3])
def test_copies_pickles_and_files_restore_alike(kind: Kind, channels: int, tmp_path: Path) -> None:
    prior, x, s = kind.make(channels), noisy(1, channels, 16, 18), torch.tensor([0.1])
    expected = prior.autoencode(x, s)
    jf.save_prior(prior, tmp_path / "prior.safetensors")
    read = exactly(jf.load_prior(tmp_path / "prior.safetensors"))
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior)), read):
        assert type(other) is type(prior) and torch.equal(other.autoencode(x, s), expected)
        assert other.image_shape is None and other.gamma == pytest.approx(prior.gamma)
        for setting in ("settings", "mean_free"):
            assert getattr(other, setting, None) == getattr(prior, setting, None)
    jf.save_prior(prior, tmp_path / "half.safetensors", half=True)
    half = exactly(jf.load_prior(tmp_path / "half.safetensors"))
    assert torch.allclose(half.autoencode(x, s), expected, rtol=0, atol=kind.half)


def test_new_weights_are_used_at_once(kind: Kind, tmp_path: Path) -> None:
    prior, x, s = kind.make(1), noisy(1, 1, 16, 18), torch.tensor([0.1])
    before = prior.autoencode(x, s)
    with torch.no_grad():
        kind.weights(prior).mul_(0.3)
    after = prior.autoencode(x, s)
    jf.save_prior(prior, tmp_path / "prior.safetensors")
    assert torch.equal(
        exactly(jf.load_prior(tmp_path / "prior.safetensors")).autoencode(x, s), after
    )
    assert float((after - before).abs().max()) > 1e-3


def test_bound_priors_share_weights_and_know_their_shape(kind: Kind) -> None:
    prior = kind.make(1)
    bound = prior.bind((1, 9, 7))
    assert bound.image_shape == (1, 9, 7) and prior.image_shape is None
    assert kind.weights(bound) is kind.weights(prior)


@pytest.mark.parametrize(
    ("channels", "shape"), [(1, (3, 8, 8)), (1, (1, 0, 8)), (1, (1, 8)), (3, (1, 8, 8))]
)
def test_other_pictures_are_refused(kind: Kind, channels: int, shape: tuple[int, ...]) -> None:
    name = "grey" if channels == 1 else "colour"
    match = rf"expected {name} pictures, of shape \[{channels}, H, W\]"
    with pytest.raises(ValueError, match=match):
        kind.make(channels).bind(shape)


def test_what_needs_codes_says_so(kind: Kind) -> None:
    prior, y = kind.make(1), noisy(1, 1, 8, 8)
    with pytest.raises(ValueError, match="has no latent codes, got JPMAP"):
        jf.restore(y, jf.Denoising(), prior, 0.1, method="jpmap")
    for call in (lambda: prior.decode(torch.zeros(1, 0)), lambda: prior.encode(y)):
        with pytest.raises(
            ValueError, match=f'which has none; restore with method="{kind.method}"'
        ):
            call()
    for call in (
        lambda: jf.sample(y, jf.Denoising(), prior, 0.1),
        lambda: jf.restore(y, jf.Denoising(), prior, 0.1, estimate="mean"),
        lambda: jf.fit_residuals(prior, noisy(5, 1, 8, 8), rank=2),
    ):
        with pytest.raises(ValueError, match=f"latent codes.*{type(prior).__name__}, which has"):
            call()


def test_it_is_restored_with_by_its_own_method(kind: Kind) -> None:
    prior, y = kind.make(1), noisy(2, 1, 9, 11)
    found = jf.restore(y, jf.Denoising(), prior, 0.1)
    named = jf.restore(y, jf.Denoising(), prior, 0.1, method=kind.method)
    assert torch.equal(found.x, named.x) and found.z.shape == (2, 0)
    if kind.method == "encoder":  # which asks once for denoising
        assert torch.equal(found.x, prior.autoencode(y, torch.tensor([0.1, 0.1])))
    y[0, 0, 3, 3] = torch.nan
    failed = jf.restore(y, jf.Denoising(), prior, 0.1)
    assert bool(failed.x[0].isnan().all()) and torch.equal(failed.x[1], found.x[1])
