"""Degradations: what is measured, drawn once, and the same for whoever asks."""

from __future__ import annotations

import math

import pytest
import torch

import jpmap_fast as jf
from jpmap_fast._problems import (
    PAPER,
    SIGMA,
    SIGMA_DENOISING,
    Degradation,
    Problem,
    degradation,
    make_problem,
)

SHAPE = (1, 28, 28)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return jf.mnist_test_digits(3)[0]


@pytest.mark.parametrize("name", PAPER)
def test_a_problem_is_its_degradation_measured(name: str, digits: torch.Tensor) -> None:
    g = generator()
    made = degradation(name, len(digits), SHAPE, g)
    by_hand = made.of(digits, g)
    problem = make_problem(name, digits, generator(), "cpu")
    assert isinstance(problem, Degradation) and isinstance(problem, Problem)
    assert (problem.name, problem.title) == (name, made.title) == (name, by_hand.title)
    assert problem.sigma == (SIGMA_DENOISING if name == "denoising" else SIGMA)
    assert torch.equal(problem.y, by_hand.y)
    assert f"sigma = {255 * problem.sigma:.0f}/255" in problem.title


def test_operators_are_those_of_their_names_in_the_bits_of_one_draw() -> None:
    masks = jf.random_masks(3, SHAPE, 0.8, generator())
    made = degradation("inpainting", 3, SHAPE, generator()).operator
    assert isinstance(made, jf.Inpainting) and torch.equal(made.mask, masks)
    matrix = jf.CompressedSensing.gaussian(140, SHAPE, generator()).matrix
    made = degradation("compressed-sensing", 3, SHAPE, generator()).operator
    assert isinstance(made, jf.CompressedSensing) and torch.equal(made.matrix, matrix)
    torch.manual_seed(0)
    made = degradation("inpainting", 3, SHAPE).operator
    assert isinstance(made, jf.Inpainting) and torch.equal(made.mask, masks)
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        degradation("inpainting", 0, SHAPE)


def test_noise_has_the_deviation_that_it_should_have() -> None:
    clean = torch.full((8, *SHAPE), 0.5)
    for name in PAPER:
        problem = make_problem(name, clean, generator(), "cpu", sigma=0.2)
        seen = problem.operator.A(torch.ones_like(clean)) != 0
        noise = (problem.y - problem.operator.A(clean))[seen]
        # Three standard errors of a deviation from so many draws.
        assert float(noise.std()) == pytest.approx(0.2, abs=3 * 0.2 / math.sqrt(2 * len(noise)))


def test_nothing_is_measured_where_nothing_is_observed(digits: torch.Tensor) -> None:
    """Also by a mask of weights, whose own y is not weighted twice."""
    mask = torch.tensor([0.0, 0.5, 1.0]).repeat(28 * 28)[: 28 * 28].reshape(28, 28)
    weighted = Degradation("weighted", "weighted", jf.Inpainting(mask), 0.1)
    y = weighted.measure(digits, generator())
    plain = weighted.operator.measure(digits, 0.1, generator())
    assert torch.equal(y[..., mask > 0], plain[..., mask > 0])
    assert bool((y[..., mask == 0] == 0).all()) and bool((plain[..., mask == 0] != 0).any())


def test_images_are_selected_with_their_masks(digits: torch.Tensor) -> None:
    problem = make_problem("inpainting", digits, generator(), "cpu", missing=0.5)
    last = problem.select(torch.tensor([2]))
    assert type(last) is Problem
    assert torch.equal(last.display[0], problem.display[2])
    assert torch.equal(last.operator.A(digits[2:]), problem.operator.A(digits)[2:])
    assert len(problem.first(2).y) == 2 and len(problem.first(9).y) == 3


def test_what_is_no_degradation_is_refused(digits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="problem: expected one of 'denoising'.*got 'denoise'"):
        degradation("denoise", 1, SHAPE)
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma"):
            Degradation("none", "none", jf.Denoising(), sigma)
    with pytest.raises(ValueError, match="missing"):
        make_problem("inpainting", digits, generator(), "cpu", missing=1.0)
