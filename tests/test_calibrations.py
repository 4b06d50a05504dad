"""`calibrate`: what its factors cover, what they are, and what they refuse."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from problems import IMAGE_SHAPE, small_mlp
from test_sampling import QUICK, seeded

import jpmap_fast as jf
from jpmap_fast.sampling.conformal import conformal_quantile

SIGMA = 110 / 255


@pytest.fixture(scope="module")
def digits() -> tuple[jf.Calibration, jf.Posterior, torch.Tensor]:
    """Factors of 200 digits, and the posterior of 120 others with their truth."""
    clean = jf.mnist_test_digits(320)[0]
    clean = clean[torch.randperm(320, generator=seeded(5))]
    operator = jf.Denoising()
    found = jf.calibrate("mnist", operator, SIGMA, clean[:200], method=QUICK, generator=seeded(1))
    y = operator.measure(clean[200:], SIGMA, seeded(2))
    posterior = jf.sample(y, operator, "mnist", SIGMA, draws=20, method=QUICK, generator=seeded(3))
    return found, posterior, clean[200:]


def test_other_images_are_covered_as_promised(digits):
    """To three standard errors of 120 images, the 200 of the calibration counted as well."""
    found, posterior, clean = digits
    inside = (clean - posterior.mean).flatten(1).norm(dim=1) <= found.radius(posterior)
    error = math.sqrt(0.9 * 0.1 * (1 / 120 + 1 / 200))
    assert abs(float(inside.double().mean()) - 0.9) < 3 * error
    lower, upper = posterior.interval(0.9, calibration=found)
    covered = ((clean >= lower) & (clean <= upper)).double()
    by_image = covered.flatten(1).mean(dim=1)
    error = float(by_image.std()) * math.sqrt(1 / 120 + 1 / 200)
    assert abs(float(by_image.mean()) - 0.9) < 3 * error
    grey = (posterior.decoded > 0.3) & (posterior.decoded < 0.85)
    assert abs(float(covered[grey].mean()) - 0.9) < 0.05
    plain = posterior.interval(0.9)
    inside = ((clean >= plain[0]) & (clean <= plain[1]))[grey]
    assert float(inside.double().mean()) < 0.8, "what is to be mended"


def test_factors_are_those_of_the_scores(digits):
    found, posterior, _ = digits
    assert found.level == 0.9 and found.images == 200 and found.image_shape == (1, 28, 28)
    assert len(found.factors) == len(found.edges) + 1 == 7
    lower, upper = found.interval(posterior, 0.9)
    place = (posterior.decoded[..., None] > torch.tensor(found.edges)).sum(dim=-1)
    half = torch.tensor(found.factors, dtype=torch.float32)[place] * posterior.std
    assert torch.allclose(upper - posterior.mean, half, atol=1e-6)
    assert torch.allclose(posterior.mean - lower, half, atol=1e-6)
    one = posterior.select(3)
    assert torch.equal(one.interval(0.9, found)[0], lower[3])
    assert torch.equal(found.radius(one), found.radius(posterior)[3])
    known = found.radius_factor * posterior.var[3].double().sum().sqrt()
    assert torch.allclose(found.radius(one), known)


def test_the_quantile_is_that_of_finite_samples():
    scores = torch.arange(1, 20, dtype=torch.float64)  # 19 of them: (19 + 1) 0.9 = 18
    assert conformal_quantile(scores, 0.9) == 18
    assert conformal_quantile(scores[:9], 0.9) == 9
    g, hits = seeded(4), 0
    for _ in range(2000):
        drawn = torch.rand(20, generator=g, dtype=torch.float64)
        hits += float(drawn[19]) <= conformal_quantile(drawn[:19], 0.9)
    assert abs(hits / 2000 - 0.9) < 3 * math.sqrt(0.09 / 2000)


def test_files_and_what_does_not_fit(digits, tmp_path):
    found, posterior, _ = digits
    path = tmp_path / "digits.json"
    found.save(path)
    assert jf.Calibration.load(path) == found
    with pytest.raises(ValueError, match="level: expected 0.9"):
        posterior.interval(0.8, calibration=found)
    with pytest.raises(ValueError, match="level"):
        found.interval(posterior, 1.5)
    other = replace(found, image_shape=(1, 14, 56))
    for ask in (lambda: other.radius(posterior), lambda: other.interval(posterior, 0.9)):
        with pytest.raises(ValueError, match=r"posterior: expected images of shape \[1, 14, 56\]"):
            ask()
    with pytest.raises(ValueError, match="posterior: expected noise levels"):
        replace(found, sigma=(0.1, 0.2)).radius(posterior)
    with pytest.raises(FileNotFoundError, match="no such calibration"):
        jf.Calibration.load(tmp_path / "none.json")
    content = json.loads(path.read_text())
    for wrong, message in (
        ("{", "got no JSON"),
        ("[]", "something else"),
        (json.dumps(content | {"format": "other"}), "something else"),
        (json.dumps(content | {"factors": [1.0]}), "damaged"),
        (json.dumps(content | {"edges": [0.3] * 6}), "damaged"),
        (json.dumps(content | {"level": "high"}), "damaged"),
        (json.dumps(content | {"more": 1}), "damaged"),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            jf.Calibration.load(path)


@pytest.mark.parametrize("residual", ["covariance", "grey"])
def test_models_of_residuals_are_calibrated_as_they_are_used(residual):
    clean = jf.mnist_test_digits(20)[0]
    options = {"method": QUICK, "level": 0.8, "residual": residual}
    found = jf.calibrate("mnist", jf.Denoising(), SIGMA, clean, generator=seeded(), **options)
    plain = jf.calibrate("mnist", jf.Denoising(), SIGMA, clean, generator=seeded(), **options)
    assert found == plain
    white = jf.calibrate(
        "mnist", jf.Denoising(), SIGMA, clean, generator=seeded(), method=QUICK, level=0.8
    )
    assert found.factors != white.factors


def test_bins_with_few_pixels_join_others():
    prior, g = small_mlp(), seeded()
    clean = torch.rand(9, *IMAGE_SHAPE, generator=g, dtype=torch.float64)
    options = {"method": QUICK, "generator": g}
    found = jf.calibrate(prior, jf.Denoising(), 0.2, clean, edges=(-9, 0.5, 9), **options)
    assert found.edges == (0.5,) and len(found.factors) == 2
    alone = jf.calibrate(prior, jf.Denoising(), 0.2, clean, edges=(), **options)
    assert alone.edges == () and len(alone.factors) == 1


def test_images_that_cannot_calibrate_are_refused():
    prior, clean = small_mlp(), torch.rand(9, *IMAGE_SHAPE, dtype=torch.float64)
    operator = jf.Denoising()
    for images, message in (
        (clean[:8], "images: expected 9 or more for a level of 0.9, got 8"),
        (255 * clean, r"images: expected values in \[0, 1\]"),
        (clean[0], r"images: expected shape \[N, 1, 6, 5\]"),
        (clean[..., :4], r"images: expected shape \[N, 1, 6, 5\]"),
        (torch.full_like(clean, math.nan), r"values in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            jf.calibrate(prior, operator, 0.2, images)
    with pytest.raises(ValueError, match="level"):
        jf.calibrate(prior, operator, 0.2, clean, level=1)
    with pytest.raises(ValueError, match="edges: expected increasing"):
        jf.calibrate(prior, operator, 0.2, clean, edges=(0.3, 0.1))
    with pytest.raises(TypeError, match="operator: expected"):
        jf.calibrate(prior, "denoising", 0.2, clean)
