"""Joint MAP with a hierarchical prior: its objective, its descent, what it refuses."""

from __future__ import annotations

import pytest
import torch
from small_photos import small_hierarchical_prior as small
from small_photos import small_photo_prior
from torch import Tensor

import jpmap_fast as jf

SIGMA = 0.1
SHORT = {"max_iterations": 3, "steps": 3, "learning_rate": 0.05}


def pictures(batch: int = 2, size: tuple[int, int] = (12, 17)) -> Tensor:
    rows, columns = torch.linspace(0, 3, size[0]), torch.linspace(0, 5, size[1])
    x = 0.5 + 0.4 * torch.sin(rows[:, None] + 2 * columns)
    return torch.stack([x.roll(3 * i, 0) for i in range(batch)])[:, None]


def operators() -> dict[str, jf.Operator]:
    generator = torch.Generator().manual_seed(0)
    return {
        "denoising": jf.Denoising(),
        "inpainting": jf.Inpainting((torch.rand(12, 17, generator=generator) < 0.5).float()),
        "blur": jf.Blur(jf.gaussian_kernel(1.0)),
    }


@pytest.mark.parametrize("name", operators())
@pytest.mark.parametrize("temperature", [0.0, 0.25, (1.0, 0.5, 0.0)])
def test_the_objective_is_that_of_the_formula_and_falls(name: str, temperature: object) -> None:
    prior, operator = small().double(), operators()[name].to(dtype=torch.float64)
    y = operator.measure(pictures().double(), SIGMA, torch.Generator().manual_seed(1))
    method = jf.HierarchicalJPMAP(temperature=temperature, **SHORT)
    found = jf.restore(y, operator, prior.bind((1, 12, 17)), SIGMA, method=method, record=True)
    assert found.history is not None
    track = found.history.objective
    assert bool((track.diff(dim=0) <= 0).all()) and bool((track[-1] < track[0]).all())
    assert torch.equal(track[-1], found.objective)
    assert found.candidates[:, 2].tolist() == [
        int((track[:, i].diff() < 0).sum()) for i in range(2)
    ]
    assert torch.allclose(found.gap, (found.x - found.decoded).square().sum(dim=(1, 2, 3)))
    assert torch.allclose(found.beta, torch.full_like(found.beta, prior.gamma**-2))
    # The best x of what is decoded, and without the latents J is of x and G(z) alone.
    bound = operator.bind((1, 12, 17), 2)
    residual = (bound.A(found.x) - y).flatten(1).square().sum(dim=1)
    rest = found.objective - residual / (2 * SIGMA**2) - found.gap / (2 * prior.gamma**2)
    gradient = bound.A_adjoint(bound.A(found.x) - y) / SIGMA**2
    gradient = gradient + (found.x - found.decoded) / prior.gamma**2
    assert float(gradient.abs().max()) < 1e-6
    assert (temperature == 0.0) == bool((rest.abs() < 1e-8).all())


def test_it_begins_with_what_the_encoder_says() -> None:
    prior, y = small().double(), pictures(1).double()
    method = jf.HierarchicalJPMAP(temperature=(0.5, 1.0, 2.0), max_iterations=1)
    found = jf.restore(y, jf.Denoising(), prior, SIGMA, method=method, record=True)
    codes = prior.codes(y, torch.tensor([SIGMA], dtype=torch.float64))
    decoded, energies = prior.generate(codes, (12, 17))
    beta = prior.gamma**-2
    x = (y / SIGMA**2 + beta * decoded) / (1 / SIGMA**2 + beta)
    expected = (x - y).square().sum() / (2 * SIGMA**2) + beta / 2 * (x - decoded).square().sum()
    expected = expected + (energies * torch.tensor([0.5, 1.0, 2.0])).sum()
    assert found.history is not None
    assert float(found.history.objective[0]) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("name", operators())
def test_a_picture_restores_as_it_does_alone(name: str) -> None:
    prior, operator = small(), operators()[name]
    y = operator.measure(pictures(3), SIGMA, torch.Generator().manual_seed(1))
    method = jf.HierarchicalJPMAP(**SHORT)
    together = jf.restore(y, operator, prior.bind((1, 12, 17)), SIGMA, method=method)
    for i in range(3):
        alone = jf.restore(y[i], operator, prior.bind((1, 12, 17)), SIGMA, method=method)
        assert torch.equal(alone.x, together.x[i])
        assert torch.equal(alone.objective, together.objective[i])


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 64)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    y = pictures(1, size)
    found = jf.restore(y, jf.Denoising(), small(), SIGMA, method=jf.HierarchicalJPMAP(**SHORT))
    assert found.x.shape == y.shape and bool(torch.isfinite(found.x).all())


def test_what_raises_the_objective_is_not_taken() -> None:
    wild = jf.HierarchicalJPMAP(max_iterations=3, steps=1, learning_rate=1e4)
    found = jf.restore(pictures(1), jf.Denoising(), small(), SIGMA, method=wild, record=True)
    assert found.history is not None and found.candidates.tolist() == [[0, 0, 0]]
    assert float(found.objective) == float(found.history.objective[0])
    assert not bool(found.converged)


def test_it_converges_once_little_is_left() -> None:
    method = jf.HierarchicalJPMAP(tolerance=1e3)
    found = jf.restore(pictures(1), jf.Denoising(), small(), SIGMA, method=method)
    assert bool(found.converged) and found.iterations.tolist() == [1]


def test_other_priors_and_settings_are_refused() -> None:
    y = pictures(1)
    with pytest.raises(ValueError, match="needs a HierarchicalPhotoPrior; this is a PhotoPrior"):
        jf.restore(y, jf.Denoising(), small_photo_prior(), SIGMA, method="hierarchical-jpmap")
    with pytest.raises(ValueError, match="temperature: expected numbers >= 0"):
        jf.HierarchicalJPMAP(temperature=-1.0)
    with pytest.raises(TypeError, match="temperature: expected a number"):
        jf.HierarchicalJPMAP(temperature="cold")
    two = jf.HierarchicalJPMAP(temperature=(1.0, 1.0))
    with pytest.raises(ValueError, match="one for each of 3 levels, got 2"):
        jf.restore(y, jf.Denoising(), small(), SIGMA, method=two)
