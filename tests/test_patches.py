"""Mixtures of patches, and the prior of whole pictures that is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_photos import mixture_parts, small_patch_network, small_patch_prior
from torch import Tensor
from torch.distributions import MultivariateNormal

import jpmap_fast as jf
from jpmap_fast.priors import patch_prior
from jpmap_fast.priors.mixture import Spectra, products
from jpmap_fast.priors.overlapping import average_of_patches, extract_patches
from jpmap_fast.training import fit_mixture, train_patches
from jpmap_fast.training.patch_sampling import random_patches


def noisy(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# Mixtures


def dense(q: Tensor, s: float, best: bool) -> tuple[Tensor, Tensor]:
    """Posterior means and log densities of points [N, d] by the formulas, in double precision."""
    weights, covariances = mixture_parts()
    total = covariances + s**2 * torch.eye(9)
    zero = torch.zeros(9, dtype=torch.float64)
    scores = torch.stack(
        [
            w.log() + MultivariateNormal(zero, c).log_prob(q)
            for w, c in zip(weights, total, strict=True)
        ],
        1,
    )
    means = torch.stack(
        [q @ torch.linalg.solve(t, c) for t, c in zip(total, covariances, strict=True)], 1
    )
    shares = scores.softmax(1)
    if best:
        shares = torch.nn.functional.one_hot(scores.argmax(1), 3).double()
    return (shares[..., None] * means).sum(1), scores.logsumexp(1)


@pytest.mark.parametrize("s", [1e-3, 0.1, 2.0])
@pytest.mark.parametrize("best", [False, True])
def test_a_patch_has_its_exact_posterior(s: float, best: bool) -> None:
    q = 0.3 * torch.randn(2, 50, 9, generator=torch.Generator().manual_seed(2)).double()
    weights, covariances = mixture_parts()
    mixture = jf.PatchMixture.of(weights, covariances, (1, 3, 3), best)
    expected, log_density = dense(q.flatten(0, 1), s, best)
    for dtype, bound in ((torch.float64, 2e-6), (torch.float32, 2e-5)):
        points, level = q.mT.to(dtype), torch.full((2,), s, dtype=dtype)
        found = mixture.estimator(level, points)(points)
        assert found.dtype == dtype
        assert torch.allclose(found.mT.flatten(0, 1).double(), expected, rtol=0, atol=bound)
        density = mixture.log_density(points, level).flatten().double()
        assert torch.allclose(density, log_density, rtol=100 * bound, atol=100 * bound)


def test_every_image_has_its_own_noise_level() -> None:
    mixture = small_patch_prior().patch
    q, s = noisy(3, 9, 20) - 0.5, torch.tensor([0.01, 0.1, 1.0])
    together = mixture.estimator(s, q)(q)
    for i in range(3):
        alone = mixture.estimator(s[i : i + 1], q[i : i + 1])(q[i : i + 1])
        assert torch.allclose(alone, together[i : i + 1], atol=1e-6)


def test_densities_are_linear_in_products() -> None:
    weights, covariances = mixture_parts()
    q = noisy(2, 9, 7).double()
    packed = products(q)
    assert packed.shape == (2, 45, 7) and torch.equal(packed[:, 1], q[:, 0] * q[:, 1])
    spectra = Spectra.of(weights.log(), covariances)
    found = spectra.with_noise(torch.zeros(1), q)(packed)
    for k in range(3):
        law = MultivariateNormal(torch.zeros(9, dtype=torch.float64), covariances[k])
        assert torch.allclose(found[:, k], weights[k].log() + law.log_prob(q.mT))
    kept = spectra.wiener(torch.full((1,), 0.3))[0]
    expected = torch.linalg.solve(covariances + 0.09 * torch.eye(9), covariances)
    assert torch.allclose(kept, expected, atol=1e-7)


def test_a_new_mixture_is_of_standard_normals() -> None:
    found = jf.PatchMixture((1, 2, 2), 3).covariances
    assert torch.equal(found, torch.eye(4, dtype=found.dtype).expand(3, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 3, 4),), "image_shape: expected"),
        (((3, 3),), "image_shape: expected"),
        (((1, 0, 0),), "image_shape"),
        (((1, 3, 3), 0), "components"),
        (((1, 3, 3), 2, 1), "best: expected True or False"),
    ],
)
def test_mixtures_out_of_range_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        jf.PatchMixture(*arguments)


def test_a_mixture_of_what_is_none_is_refused() -> None:
    weights, covariances = mixture_parts()
    with pytest.raises(ValueError, match=r"covariances: expected shape \[3, 4, 4\]"):
        jf.PatchMixture.of(weights, covariances, (1, 2, 2))
    for w, c in (
        (-weights, covariances),
        (weights, -covariances),
        (weights * torch.nan, covariances),
    ):
        with pytest.raises(ValueError, match="expected positive ones"):
            jf.PatchMixture.of(w, c, (1, 3, 3))


# Averages


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (3, 3), (4, 30), (13, 11)])
@pytest.mark.parametrize("at_a_time", [1, 5, 1000])
def test_every_pixel_is_in_as_many_patches(size: tuple[int, int], at_a_time: int) -> None:
    x = noisy(2, 3, *size).double()
    assert torch.allclose(average_of_patches(lambda p: p, x, 3, at_a_time), x, atol=1e-12)
    ones = average_of_patches(torch.ones_like, x, 3, at_a_time)
    assert torch.allclose(ones, torch.ones_like(x), atol=1e-12)
    whole = average_of_patches(torch.cos, x, 3, 10**6)
    assert torch.allclose(average_of_patches(torch.cos, x, 3, at_a_time), whole, atol=1e-12)


def test_an_average_is_that_of_all_patches_one_by_one() -> None:
    x = noisy(1, 1, 6, 5).double()

    def estimate(patches: Tensor) -> Tensor:
        return patches.flip(1).square()

    wide = torch.nn.functional.pad(x, [2] * 4, mode="reflect")
    total = torch.zeros_like(wide)
    for row in range(8):
        for column in range(7):
            patch = wide[..., row : row + 3, column : column + 3].reshape(1, 9, 1)
            total[..., row : row + 3, column : column + 3] += estimate(patch).reshape(1, 1, 3, 3)
    found = average_of_patches(estimate, x, 3, 4)
    assert torch.allclose(found, total[..., 2:-2, 2:-2] / 9, atol=1e-12)


def test_patches_at_a_time_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_prior, "PATCHES_ON_CPU", 64)
    seen = []

    def estimator(self: jf.PatchMixture, s: Tensor, like: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda patches: seen.append(patches.shape[-1]) or patches

    monkeypatch.setattr(jf.PatchMixture, "estimator", estimator)
    small_patch_prior().autoencode(noisy(2, 1, 3, 500), torch.full((2,), 0.1))
    assert max(seen) <= 64 and sum(seen) == 2 * 5 * 502


# The prior


def test_means_are_kept_where_patches_are_mean_free() -> None:
    x, s = noisy(1, 1, 12, 12), torch.tensor([0.1])
    prior = small_patch_prior()
    shifted = prior.autoencode(x + 3, s)
    assert torch.allclose(shifted, prior.autoencode(x, s) + 3, atol=1e-5)
    flat = torch.full_like(x, 0.7)
    assert torch.allclose(prior.autoencode(flat, s), flat, atol=1e-6)
    assert not torch.allclose(
        small_patch_prior(mean_free=False).autoencode(flat, s), flat, atol=1e-2
    )


def test_no_noise_leaves_a_picture() -> None:
    x = noisy(1, 1, 9, 9)
    assert torch.allclose(small_patch_prior().autoencode(x, torch.zeros(1)), x, atol=1e-6)


def test_a_network_of_patches_will_do() -> None:
    """Its estimate is the decoded mean of its encoder."""
    inner = small_patch_network()
    prior = jf.PatchPrior(inner)
    x = noisy(1, 1, 15, 12)
    wide = torch.nn.functional.pad(x, [7] * 4, mode="reflect")
    patches = extract_patches(wide, 8).mT.reshape(-1, 1, 8, 8)
    decoded = inner.decode(inner.encode(patches)[0]).reshape(1, -1, 64).mT
    folded = torch.nn.functional.fold(decoded, wide.shape[-2:], 8)[..., 7:-7, 7:-7] / 64
    assert torch.allclose(prior.autoencode(x, torch.tensor([0.1])), folded, atol=1e-5)
    found = jf.restore(x, jf.Denoising(), prior, 0.1)
    assert found.x.shape == x.shape and bool(torch.isfinite(found.x).all())


def test_a_network_that_is_told_the_noise_is_told() -> None:
    class Told(jf.MLPVAE):
        latent_dim = 0

        def autoencode(self, x: Tensor, s: Tensor) -> Tensor:
            return x * (1 + s[:, None, None, None])

    x, s = noisy(2, 1, 9, 10), torch.tensor([0.1, 0.5])
    found = jf.PatchPrior(Told((1, 8, 8), 4, (4,))).autoencode(x, s)
    assert torch.allclose(found, x * (1 + s[:, None, None, None]), atol=1e-6)


def test_priors_of_what_is_no_patch_are_refused() -> None:
    with pytest.raises(TypeError, match="patch: expected a PatchMixture or a prior"):
        jf.PatchPrior("mnist")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="square patches"):
        jf.PatchPrior(jf.MLPVAE((1, 4, 8), 2, (4,)))
    with pytest.raises(ValueError, match="got one for any size"):
        jf.PatchPrior(small_patch_prior())
    with pytest.raises(TypeError, match="mean_free: expected True or False"):
        jf.PatchPrior(small_patch_network(), 1)  # type: ignore[arg-type]


def test_a_prior_that_no_file_can_hold_says_so(tmp_path: Path) -> None:
    other = jf.ModulePrior(torch.nn.Flatten(), torch.nn.Identity(), 0.1, 64, (1, 8, 8))
    with pytest.raises(ValueError, match="patch: expected a PatchMixture, an MLPVAE"):
        jf.save_prior(jf.PatchPrior(other), tmp_path / "prior.safetensors")


# Training


def test_a_fit_finds_a_known_mixture() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([[0.5, 0.05, 0.05], [0.05, 0.05, 0.3]])
    which = (torch.rand(20000, generator=generator) < 0.3).long()
    points = scales[which] * torch.randn(20000, 3, generator=generator)
    weights, covariances, likelihood = fit_mixture(points, 2, iterations=20, generator=generator)
    order = weights.argsort(descending=True)
    assert torch.allclose(weights[order], torch.tensor([0.7, 0.3]).double(), atol=0.02)
    for k, scale in zip(order, scales, strict=True):
        found = covariances[k].diagonal().sqrt().float()
        assert torch.allclose(found, scale, rtol=0.05)
    found = Spectra.of(weights.log(), covariances).with_noise(torch.zeros(1), points)
    mean = float(found(products(points.T[None])).logsumexp(1).mean())
    assert likelihood == pytest.approx(mean, abs=1e-3)


def pictures() -> list[Tensor]:
    rows = torch.arange(24.0)
    waves = [torch.sin(rows[:, None] / (k + 2) + rows) for k in range(3)]
    return [((0.5 + 0.4 * wave) * 255).byte()[None] for wave in waves]


def test_training_has_a_seed_and_denoises() -> None:
    settings = {"patch_size": 4, "components": 5, "patches": 600, "iterations": 6}
    prior, likelihood = train_patches(pictures(), seed=3, **settings)
    again, _ = train_patches(pictures(), seed=3, **settings)
    assert torch.equal(prior.patch.factors, again.patch.factors) and likelihood > 0
    x = pictures()[0][None].float() / 255
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found = jf.restore(y, jf.Denoising(), prior, 0.1).x
    assert float(jf.psnr(found, x)) > float(jf.psnr(y, x)) + 4


def test_random_patches_are_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    small_one = torch.zeros(1, 2, 9, dtype=torch.uint8)
    ramp = torch.arange(100, dtype=torch.uint8).reshape(1, 10, 10)
    found = random_patches([ramp, small_one], 3, 50, generator).reshape(-1, 3, 3) * 255
    assert len(found) == 50
    steps = torch.cat((found.diff(dim=1).flatten(), found.diff(dim=2).flatten())).abs()
    assert set(steps.round().int().tolist()) == {1, 10}
    with pytest.raises(ValueError, match="at least 3 x 3 pixels"):
        random_patches([small_one], 3, 50, generator)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 0}, "patch_size"),
        ({"components": 0}, "components"),
        ({"components": 5, "patches": 5}, "patches"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_training_out_of_range_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_patches(pictures(), **settings)
    with pytest.raises(ValueError, match="pictures: expected uint8"):
        train_patches([picture / 255 for picture in pictures()])
