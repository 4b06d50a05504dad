"""Joint MAP by the encoder alone: its x-updates, schedule, start and graph."""

from __future__ import annotations

import pytest
import torch
from small_photos import deep_photo_prior as small
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.algorithms import EncoderContinuation
from jpmap_fast.algorithms.first_guess import first_guess

SIGMA = 0.05


def operators(side: int = 24) -> dict[str, jf.Operator]:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(side, side, generator=generator) < 0.4).float()
    return {
        "denoising": jf.Denoising(),
        "inpainting": jf.Inpainting(mask),
        "blur": jf.Blur(jf.gaussian_kernel(1.0)),
        "blur-zero": jf.Blur(jf.box_kernel(3), boundary="zero"),
        "super-resolution": jf.SuperResolution(2),
        "sensing": jf.CompressedSensing.gaussian(200, (1, side, side), generator),
        "masked blur": jf.Composition(jf.Inpainting(mask), jf.Blur(jf.box_kernel(3))),
    }


def pictures(batch: int = 2, side: int = 24) -> Tensor:
    rows = torch.linspace(0, 3, side)
    x = 0.5 + 0.4 * torch.sin(rows[:, None] + 2 * rows)
    return torch.stack([x.roll(3 * i, 0) for i in range(batch)])[:, None]


@pytest.mark.parametrize("name", operators())
def test_it_is_what_the_formula_says(name: str) -> None:
    prior, x = small().double(), pictures().double()
    operator = operators()[name].to(dtype=torch.float64)
    y = operator.measure(x, SIGMA, torch.Generator().manual_seed(1))
    method = EncoderContinuation(steps=3, first=0.3, last=1.5, weight=0.2)
    bound = prior.bind((1, 24, 24))
    found = jf.restore(y, operator, bound, SIGMA, method=method)
    dense = operator.bind((1, 24, 24), 1)
    matrix = torch.stack(
        [dense.A(e.reshape(1, 1, 24, 24)).flatten() for e in torch.eye(576, dtype=torch.float64)], 1
    )
    guess = first_guess(operator.bind((1, 24, 24), 2), y).flatten(1)
    for s in (0.3, (0.3 * 1.5 * SIGMA) ** 0.5, 1.5 * SIGMA):
        beta = 0.2 / s**2
        system = matrix.T @ matrix / SIGMA**2 + beta * torch.eye(576, dtype=torch.float64)
        right = y.flatten(1) @ matrix / SIGMA**2 + beta * guess
        best = torch.linalg.solve(system, right.T).T.reshape(x.shape)
        level = torch.full((2,), s, dtype=torch.float64)
        guess = prior.autoencode(best, level).flatten(1)
    expected = guess.reshape(x.shape)
    assert torch.allclose(
        found.x, expected, rtol=0, atol=1e-5 if "zero" in name or "mask" in name else 1e-9
    )
    assert torch.allclose(found.gap, (best - expected).square().sum(dim=(1, 2, 3)), rtol=1e-3)
    assert found.z.shape == (2, 0) and bool(torch.isnan(found.objective).all())
    assert found.status == ["went through all its noise levels"] * 2
    assert found.iterations.tolist() == [3, 3]


def test_denoising_asks_once_at_the_noise_level() -> None:
    prior, y = small(), pictures() + 0.1
    sigma = torch.tensor([0.05, 0.2])
    found = jf.restore(y, jf.Denoising(), prior, sigma)
    assert torch.allclose(found.x, prior.autoencode(y, sigma), atol=1e-6)
    assert found.iterations.tolist() == [1, 1]


@pytest.mark.parametrize("name", operators())
def test_a_picture_restores_as_it_does_alone(name: str) -> None:
    prior, x, operator = small().bind((1, 24, 24)), pictures(3), operators()[name]
    sigma = torch.tensor([0.02, 0.05, 0.1])
    y = operator.measure(x, sigma, torch.Generator().manual_seed(1))
    together = jf.restore(y, operator, prior, sigma).x
    assert bool(torch.isfinite(together).all())
    for i in range(3):
        alone = jf.restore(y[i], operator, prior, float(sigma[i])).x
        assert torch.allclose(alone, together[i], rtol=0, atol=2e-5)


def test_a_constant_is_guessed_from_what_was_seen() -> None:
    for name, operator in operators().items():
        if name == "sensing":
            continue
        x = torch.full((1, 1, 24, 24), 0.7)
        bound = operator.bind((1, 24, 24), 1)
        assert torch.allclose(first_guess(bound, bound.A(x)), x, atol=0.05), name


def test_nothing_observed_is_grey_or_so_and_finite() -> None:
    operator = jf.Inpainting(torch.zeros(16, 16))
    found = jf.restore(torch.zeros(1, 1, 16, 16), operator, small(), 0.1)
    assert bool(torch.isfinite(found.x).all())


def test_pictures_with_nan_fail_alone() -> None:
    y = pictures(3)
    y[1, 0, 3, 3] = torch.nan
    found = jf.restore(y, jf.Blur(jf.box_kernel(3)), small(), 0.05)
    assert bool(torch.isnan(found.x[1]).all()) and bool(torch.isfinite(found.x[::2]).all())
    assert found.status[1].startswith("failed") and found.iterations[1] == 0


@pytest.mark.parametrize("name", ["denoising", "inpainting", "blur", "super-resolution"])
def test_a_restorer_gives_the_same(name: str) -> None:
    prior, operator = small(), operators()[name]
    y = operator.measure(pictures(), SIGMA, torch.Generator().manual_seed(1))
    served = jf.Restorer(operator, prior, SIGMA, batch_size=2, image_shape=(1, 24, 24))
    assert torch.equal(served(y).x, jf.restore(y, operator, prior, SIGMA).x)
    with pytest.raises(ValueError, match="image_shape: expected \\(C, H, W\\)"):
        jf.Restorer(operator, prior, SIGMA, batch_size=2)


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["denoising", "inpainting", "blur", "super-resolution"])
def test_a_restorer_captures_it(name: str) -> None:
    device = torch.device("cuda")
    prior, operator = small().to(device), operators()[name].to(device)
    x = pictures().to(device)
    y = operator.measure(x, SIGMA, torch.Generator(device).manual_seed(1))
    served = jf.Restorer(operator, prior, SIGMA, batch_size=2, image_shape=(1, 24, 24))
    assert served.captured
    for shift in (0.0, 0.1):
        expected = jf.restore(y + shift, operator, prior, SIGMA).x
        assert torch.allclose(served(y + shift).x, expected, atol=1e-3)


def test_priors_with_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a prior that is told the noise level"):
        jf.restore(torch.rand(1, 1, 28, 28), jf.Denoising(), "mnist", 0.1, method="encoder")
