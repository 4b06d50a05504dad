"""Promises for everything that is called: what surrounds a call changes nothing, nor does it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import contract_builders as builders
import contract_classes as classes
import numpy as np
import pytest
import torch
from contract_checks import (
    QUICK,
    Problem,
    Situation,
    differences,
    problem,
    situations,
    unrecorded,
)
from contract_data import IMAGE_SHAPE, data
from contract_surroundings import SURROUNDINGS, state
from torch import Tensor

import jpmap_fast as jf

EVERY = pytest.mark.parametrize("surrounding", SURROUNDINGS)

# Every method as it comes, everywhere; variants of a method where everything is at once. Operators
# are made there besides, and priors restored with in float32, below.
PLAIN = {kind.__name__ for kind in classes.method_classes()}
RESTORED = [
    (surrounding, Situation(found.name))
    for surrounding in SURROUNDINGS
    for found in builders.methods()
    if found.name in PLAIN or surrounding == "all"
]


def inside(surrounding: str, call: Callable[[], Any]) -> Any:
    """What ``call`` gives there; it must leave that state as it was."""
    outside = state()
    with SURROUNDINGS[surrounding]():
        before = state()
        found = call()
        after = state()
    assert after == before, [name for name in before if before[name] != after[name]]
    assert state() == outside
    return found


@pytest.mark.parametrize(("surrounding", "situation"), RESTORED, ids=str)
def test_restoring_has_the_same_bits(surrounding, situation: Situation):
    p = situation.problem()
    found = inside(surrounding, lambda: p.restore(method=situation.algorithm))
    assert not differences(found, unrecorded(situation.expected()))
    assert not found.x.requires_grad


def skip_deepinv(name: str, surrounding: str) -> None:
    """Skips what deepinv makes on the meta device, without values."""
    if name.startswith("PhysicsOperator") and surrounding in ("meta", "all"):
        pytest.skip("deepinv makes the physics on the default device, before this package sees it")


@EVERY
@pytest.mark.parametrize("name", [found.name for found in builders.operators()])
def test_operators_are_made_and_act_with_the_same_bits(surrounding, name):
    skip_deepinv(name, surrounding)
    make, d = builders.named(builders.operators(), name), data(dtype=torch.float32)

    def call() -> tuple[Tensor, ...]:
        operator = make(d).bind(IMAGE_SHAPE, len(d.images))
        measured = operator.measure(d.images, d.sigma, torch.Generator().manual_seed(1))
        return operator.A(d.images), measured, operator.A_adjoint(measured)

    for found, expected in zip(inside(surrounding, call), call(), strict=True):
        assert not differences(found, expected)


# The first alone for what deepinv makes.
@pytest.mark.parametrize("surrounding", ["autocast", "all"])
@pytest.mark.parametrize("name", [found.name for found in builders.operators()])
def test_what_is_made_there_restores_as_what_is_made_here(surrounding, name):
    skip_deepinv(name, surrounding)
    p, d = problem(name, dtype=torch.float32), data(dtype=torch.float32)
    operator = inside(surrounding, lambda: builders.named(builders.operators(), name)(d))
    found = inside(surrounding, lambda: jf.restore(p.y, operator, p.prior, p.sigma, method=QUICK))
    assert not differences(found, usual(name))


@cache
def usual(operator: str) -> jf.Result:
    """A restoration in usual surroundings."""
    p = problem(operator, dtype=torch.float32)
    return jf.restore(p.y, p.operator, p.prior, p.sigma, method=QUICK)


CALLS: dict[str, Callable[[], Any]] = {
    "gaussian_kernel": lambda: jf.gaussian_kernel(1.5),
    "box_kernel": lambda: jf.box_kernel(3),
    "motion_kernel": lambda: jf.motion_kernel(5.0, 30.0),
    "mnist_test_digits": lambda: jf.mnist_test_digits(3)[0],
    "load_denoiser": lambda: jf.load_denoiser("mnist"),
    "load_prior": lambda: jf.load_prior("mnist"),
    "numpy mask": lambda: jf.Inpainting(np.ones((28, 28), bool)).mask.float(),
    "lists": lambda: jf.CompressedSensing([[1.0, 2.0], [0.5, 1.0]]).matrix.double(),
    "from names": lambda: (
        jf.restore(jf.mnist_test_digits(1)[0], jf.Denoising(), "mnist", 0.1, method="csgm").x
    ),
    "numpy": lambda: (
        jf.restore(np.full((2, 1, 28, 28), 0.25, np.float32), jf.Denoising(), "mnist", [0.1, 0.2]).x
    ),
    "PSNR": lambda: jf.psnr(*jf.mnist_test_digits(2)[0].split(1)),
}


@EVERY
@pytest.mark.parametrize("name", CALLS)
def test_everything_else_gives_the_same(surrounding, name):
    if name in ("load_denoiser", "load_prior"):
        # Networks are the user's to call, with autocast if asked for: their weights alone count.
        def call() -> Any:
            loaded = CALLS[name]()
            return torch.cat([p.detach().flatten() for p in loaded.parameters()], dim=0)
    else:
        call = CALLS[name]
    assert not differences(inside(surrounding, call), call())


@EVERY
@pytest.mark.parametrize("name", [found.name for found in builders.priors()])
def test_restoring_in_float32_has_the_same_bits(surrounding, name):
    """Which autocast would lower, as it does not lower float64."""
    expected = outside_in_float32(name)
    p = problem(prior=name, dtype=torch.float32)
    assert not differences(inside(surrounding, p.restore), expected)


@cache
def outside_in_float32(name: str) -> jf.Result:
    """A restoration in usual surroundings."""
    return problem(prior=name, dtype=torch.float32).restore()


@EVERY
@pytest.mark.parametrize("name", [found.name for found in builders.priors()])
def test_a_restorer_is_made_and_called_with_the_same_bits(surrounding, name):
    p = problem(prior=name)

    def made() -> jf.Restorer:
        return restorer_of(p)

    expected = outside_result(name)
    there = inside(surrounding, made)
    assert not differences(there(p.y), expected)
    assert not differences(inside(surrounding, lambda: there(p.y)), expected)
    assert not differences(inside(surrounding, lambda: outside_restorer(name)(p.y)), expected)


@cache
def outside_restorer(name: str) -> jf.Restorer:
    """One made in usual surroundings."""
    return restorer_of(problem(prior=name))


@cache
def outside_result(name: str) -> jf.Result:
    """What it restores there."""
    return outside_restorer(name)(problem(prior=name).y).clone()


def restorer_of(p: Problem) -> jf.Restorer:
    """A Restorer of a problem, whose prior may be for images of any size."""
    return jf.Restorer(p.operator, p.prior, p.sigma, batch_size=len(p.y), image_shape=IMAGE_SHAPE)


def test_measurements_of_inference_mode_are_measurements():
    p = problem()
    with torch.inference_mode():
        y, sigma = p.y.clone(), p.sigma.clone()
        operator = jf.Inpainting(data().mask.clone())
    found = jf.restore(y, operator, p.prior, sigma)
    assert not differences(found, p.restore())


@pytest.mark.parametrize("situation", situations(), ids=str)
def test_random_numbers_are_drawn_where_starts_are_random_and_nowhere_else(situation: Situation):
    """With a generator of one's own nothing moves torch's: see ``inside``."""
    p, method = situation.problem(), situation.algorithm
    before = torch.get_rng_state()
    whole = p.restore(method=method, generator=None)
    after = torch.get_rng_state()
    if method.number_of_starts < 3:
        assert torch.equal(after, before)
        assert not differences(whole, unrecorded(situation.expected()))
        return
    assert not torch.equal(after, before)
    torch.set_rng_state(before)
    chunks = p.restore(method=method, generator=None, chunk_size=2)
    assert torch.equal(torch.get_rng_state(), after)
    assert not differences(chunks, whole)
