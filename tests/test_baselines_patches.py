"""Mixtures of patches and EPLL, through ``restore``."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from baseline_problems import patch_mixture, shape_only, smooth_images

import jpmap_fast as jf
from jpmap_fast._metrics import psnr

deepinv = pytest.importorskip("deepinv")


from jpmap_fast.deepinv.physics import OperatorPhysics  # noqa: E402
from jpmap_fast.experiments.baselines import (  # noqa: E402
    EPLL,
    fit_mixture,
    load_mixture,
    save_mixture,
)
from jpmap_fast.priors.overlapping import extract_patches  # noqa: E402


@pytest.fixture
def mixture():
    return patch_mixture()


def test_patches_are_in_deepinv_s_order():
    x = torch.rand(2, 3, 7, 6)
    from deepinv.utils import patch_extractor

    places = torch.arange(5 * 4)
    theirs, _ = patch_extractor(x, 20, 3, position_inds_linear=places)
    torch.testing.assert_close(extract_patches(x, 3).mT, theirs.reshape(2, 20, -1))


def test_a_fit_raises_the_likelihood_and_finds_two_known_lines():
    generator = torch.Generator().manual_seed(0)
    directions = torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 1.0]], dtype=torch.float64)
    which = torch.rand(4000, generator=generator) < 0.7
    scale = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    noise = 0.05 * torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    patches = scale * torch.where(which[:, None], directions[0], directions[1]) + noise
    values = []
    for iterations in (1, 5, 30):
        seeded = torch.Generator().manual_seed(1)
        mixture, value = fit_mixture(patches, 2, iterations=iterations, generator=seeded)
        values.append(value)
    assert values[0] < values[1] < values[2]
    order = mixture.get_weights().argsort(descending=True)
    # 4,000 draws know a share to 0.007 and a variance to 2.7%; four times that.
    torch.testing.assert_close(
        mixture.get_weights()[order].double(), torch.tensor([0.7, 0.3]).double(), atol=0.03, rtol=0
    )
    for k, direction in zip(order, directions, strict=True):
        expected = direction[:, None] * direction + 0.05**2 * torch.eye(3, dtype=torch.float64)
        torch.testing.assert_close(mixture.get_cov()[k], expected, atol=0.12, rtol=0)
    assert not mixture.mu.any()


def test_a_mixture_comes_back_from_its_file(mixture, tmp_path):
    save_mixture(mixture, tmp_path / "m.safetensors", {"why": "a test"})
    found = load_mixture(tmp_path / "m.safetensors")
    # Factors are rounded to 2^-11 of themselves; a covariance is a sum of products of two.
    scale = mixture.get_cov().diagonal(dim1=1, dim2=2).sqrt()
    bound = 2**-10 * scale[:, :, None] * scale[:, None]
    assert ((found.get_cov().double() - mixture.get_cov()).abs() <= 1.01 * bound + 1e-7).all()
    torch.testing.assert_close(found.get_weights().double(), mixture.get_weights())
    assert (torch.linalg.eigvalsh(found.get_cov().double()) > 0).all()


@pytest.mark.parametrize("name", ["mnist", "faces"])
def test_bundled_mixtures_are_positive_definite(name):
    mixture = load_mixture(name)
    assert mixture.dimension == {"mnist": 36, "faces": 108}[name]
    assert (torch.linalg.eigvalsh(mixture.get_cov().double()) > 0).all()
    assert float(mixture.get_weights().sum()) == pytest.approx(1, abs=1e-5)


def small_operators():
    """One operator of each kind the experiments use, for 3 images of 14 x 12 pixels."""
    generator = torch.Generator().manual_seed(3)
    return {
        "denoising": jf.Denoising(),
        "inpainting": jf.Inpainting((torch.rand(3, 1, 14, 12, generator=generator) < 0.6).double()),
        "blur": jf.Blur(jf.box_kernel(3).double()),
    }


@pytest.mark.parametrize("settings", [{}, {"noise_levels": (0.3, 0.1, 0.05)}, {"sigma_scale": 1.3}])
@pytest.mark.parametrize("name", ["denoising", "inpainting", "blur"])
def test_epll_is_deepinv_s_image_by_image(name, settings, mixture, monkeypatch):
    """deepinv by its own forward on one image each, with the exact A; another sigma for each."""
    gradients = deepinv.optim.utils.conjugate_gradient
    monkeypatch.setattr(
        "deepinv.optim.epll.conjugate_gradient",
        lambda operator, right, **_: gradients(operator, right, max_iter=500, tol=1e-12, eps=0),
    )
    operator = small_operators()[name].to(dtype=torch.float64)
    clean = smooth_images(3, 1, 14, 12, seed=7).double()
    sigma = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    y = operator.measure(clean, sigma, generator=torch.Generator().manual_seed(2))
    prior = shape_only(1, 14, 12, dtype=torch.float64)
    result = jf.restore(y, operator, prior, sigma, method=EPLL(mixture, **settings))
    theirs = deepinv.optim.EPLL(copy.deepcopy(mixture), pretrained=None, patch_size=5)
    bound = operator.bind((1, 14, 12), 3)
    levels = settings.get("noise_levels")
    betas = None if levels is None else [1 / level**2 for level in levels]
    for i in range(3):
        level = float(sigma[i]) * settings.get("sigma_scale", 1.0)
        physics = OperatorPhysics(bound.select(torch.tensor([i])), level)
        expected = theirs(y[i : i + 1], physics, sigma=level, betas=betas)
        torch.testing.assert_close(result.x[i : i + 1], expected, rtol=0, atol=1e-8)
    assert result.iterations.tolist() == [3 if levels else 5] * 3


def test_epll_denoises_and_raises_the_likelihood(mixture):
    clean = smooth_images(4, 1, 20, 20, seed=11).double()
    y = jf.Denoising().measure(clean, 0.1, generator=torch.Generator().manual_seed(0))
    method = EPLL(mixture)
    prior = shape_only(1, 20, 20, dtype=torch.float64)
    result = jf.restore(y, jf.Denoising(), prior, 0.1, method=method)
    assert (psnr(result.x, clean) > psnr(y, clean) + 3).all()
    before, after = method.log_likelihood(y), method.log_likelihood(result.x)
    assert (after > before).all()
    fit = (result.x - y).square().sum(dim=(1, 2, 3)) / (2 * 0.1**2)
    torch.testing.assert_close(result.objective, fit - after / 25)
    theirs = deepinv.optim.EPLL(copy.deepcopy(mixture), pretrained=None, patch_size=5)
    patches = extract_patches(result.x, 5).mT
    likelihood = -theirs.negative_log_likelihood(patches.contiguous()).sum(dim=1)
    torch.testing.assert_close(after, likelihood)


def test_a_start_is_what_missing_pixels_begin_at(mixture):
    """With weak patches and one step x is the fit to the filtered constant image."""
    y = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    operator = jf.Inpainting(torch.zeros(1, 9, 9, dtype=torch.float64))
    prior = shape_only(1, 9, 9, dtype=torch.float64)
    ends = [
        jf.restore(
            y, operator, prior, 0.1, method=EPLL(mixture, noise_levels=(1e-3,), start=start)
        ).x
        for start in (None, 0.4)
    ]
    assert not ends[0].any()
    torch.testing.assert_close(ends[1], torch.full_like(y, 0.4), rtol=0, atol=0.01)


def test_epll_refuses_what_it_cannot_use(mixture):
    with pytest.raises(TypeError, match="EPLL: expected a GaussianMixtureModel, got 'mnist'"):
        EPLL("mnist")
    moved = copy.deepcopy(mixture)
    moved.mu.data += 0.1
    with pytest.raises(ValueError, match="mixture of mean 0"):
        EPLL(moved)
    for settings in ({"betas": ()}, {"betas": (1.0, -1.0)}, {"noise_levels": (0.0,)}):
        with pytest.raises(ValueError, match="EPLL: "):
            EPLL(mixture, **settings)
    with pytest.raises(TypeError, match="expected betas to be numbers"):
        EPLL(mixture, betas=3.0)
    with pytest.raises(ValueError, match="start"):
        EPLL(mixture, start=math.nan)
    y = torch.rand(1, 3, 9, 9)
    with pytest.raises(ValueError, match=r"patches of images of shape \[3, 9, 9\].*dimension 25"):
        jf.restore(y, jf.Denoising(), shape_only(3, 9, 9), 0.1, method=EPLL(mixture))
