"""Promises of ``Restorer``: the bits of ``restore`` on a CPU with every setting, or a refusal."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import contract_builders as builders
import pytest
import torch
from contract_checks import (
    Situation,
    allowed,
    differences,
    problem,
    rows,
    situations,
    unrecorded,
)
from contract_data import IMAGE_SHAPE
from contract_pairs import priors_with_codes

import jpmap_fast as jf

SITUATIONS = [
    *(found for found in situations() if found.method is not None),
    *(Situation("JPMAP", operator=found.name) for found in builders.operators()),
    *(Situation("CSGM", operator=found.name) for found in builders.operators()),
    *(Situation("CSGM", prior=found.name) for found in priors_with_codes()),
    # As methods without codes ask an operator: for its x-update alone.
    *(Situation("EncoderContinuation", operator=found.name) for found in builders.operators()),
]


def restorer(situation: Situation, **options) -> tuple[jf.Restorer, object]:
    """A Restorer of a situation and its problem."""
    p = situation.problem()
    options.setdefault("method", situation.algorithm)
    options.setdefault("generator", torch.Generator().manual_seed(9))
    options |= {"batch_size": len(p.y), "image_shape": IMAGE_SHAPE}
    return jf.Restorer(p.operator, p.prior, p.sigma, **options), p


def shared_fields(found: jf.Result, expected: jf.Result) -> list[str]:
    """Which fields of the first are not those of the second, which finishes in other company."""
    return [
        text
        for field in fields(found)
        for text in differences(
            getattr(found, field.name),
            getattr(expected, field.name),
            field.name,
            allowed(expected),
        )
    ]


@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_has_the_bits_of_restore(situation: Situation):
    made, p = restorer(situation)
    expected = unrecorded(situation.expected())
    found = made(p.y)
    assert not shared_fields(found, expected)
    assert made.path == expected.path
    # Again, beside images that fail.
    usual, y = found.clone(), p.y.clone()
    y[0].view(-1)[0], y[2].view(-1)[-1] = torch.nan, torch.inf
    found = made(y)
    assert not differences(rows(found, [1, 3]), rows(usual, [1, 3]), rounding=allowed(expected))
    bad = rows(found, [0, 2])
    assert all("contains NaN" in text for text in bad.status)
    for field in fields(bad):
        value = getattr(bad, field.name)
        # A failed image has a status, and the noise level that was given for it.
        if isinstance(value, torch.Tensor) and field.name not in ("status_code", "sigma"):
            assert bool(value.isnan().all() if value.is_floating_point() else not value.any())
    assert not differences(made(p.y), usual)


def settings(method: jf.algorithms.Algorithm) -> dict[str, jf.algorithms.Algorithm]:
    """The method with each of its settings moved, read from its fields."""
    found = {}
    for field in fields(method):
        value = getattr(method, field.name)
        if isinstance(value, bool) or isinstance(value, str):
            continue
        if isinstance(value, int):
            moved = [1, 2] if value != 1 else [2]
        elif isinstance(value, float):
            moved = [value * 100, value / 100, 1e6]
        elif field.name in method.image_settings:
            moved = [30.0, torch.tensor([20.0, 40.0, 60.0, 80.0], dtype=torch.float64)]
        elif value is None:
            moved = [0, 1, 4]
        elif isinstance(value, jf.GaussNewton):
            moved = [replace(value, **change) for change in SOLVER_CHANGES]
        else:
            continue
        for number, other in enumerate(moved):
            try:
                found[f"{field.name} {number}"] = replace(method, **{field.name: other})
            except ValueError:
                continue
    return found


SOLVER_CHANGES = [
    {"max_steps": 1},
    {"max_steps": 3},
    {"max_steps": 1000},
    {"tolerance": 1e-8},
    {"tolerance": 1e-3},
    {"initial_damping": 10.0},
    {"second_order": False},
    {"linear_solver": "direct"},
    {"linear_solver": "conjugate-gradient"},
    {"fused": False},
    {"fused": False, "max_steps": 3},
    {"fused": False, "max_steps": 1000},
]
MOVED = [
    (name, moved)
    for name in ("JPMAP", "CSGM", "EncoderContinuation")
    for moved in settings(builders.named(builders.methods(), name)())
]


@cache
def unmoved(name: str) -> jf.Result:
    """What the method restores as it comes."""
    made, p = restorer(Situation(name))
    return made(p.y)


@pytest.mark.parametrize(("name", "moved"), MOVED)
def test_every_setting_is_respected_or_refused(name, moved):
    method = settings(builders.named(builders.methods(), name)())[moved]
    made, p = restorer(Situation(name), method=method)
    found, expected = made(p.y), p.restore(method=method)
    assert made.path == expected.path
    # ``restore`` goes on from where a descent was cut short or moved too little to count.
    done = found.converged & expected.converged
    same = (found.objective - expected.objective).abs() <= 1e-12 * expected.objective.abs()
    if bool(found.converged.all()) and bool(expected.converged.all()):
        assert not shared_fields(found, expected)
    assert bool((same | (found.objective >= expected.objective))[done].all())
    if not method.uses_codes:
        assert not shared_fields(found, expected)
        return
    # Converged means the same on both sides: a descent from there finds nothing.
    again = p.restore(
        z0=found.z,
        method=(
            replace(jf.CSGM(), z_solver=jf.GaussNewton(max_steps=1000))
            if name == "CSGM"
            else jf.JPMAP(beta=expected.beta, n2=0, z_solver=jf.GaussNewton(max_steps=1000))
        ),
    )
    left = (found.objective - again.objective) / found.objective
    assert not bool((found.converged & (left > 1e-3)).any())


@pytest.mark.parametrize("prior", [found.name for found in priors_with_codes()])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("limit", [1, 2])
def test_steps_bound_a_descent(prior, fused, limit):
    p = problem(prior=prior)
    solver = jf.GaussNewton(fused=fused)
    free = jf.JPMAP(starts=1, n2=1, z_solver=solver)
    bounded = replace(free, z_solver=replace(solver, max_steps=limit))

    def restored(**options) -> jf.Result:
        return jf.Restorer(p.operator, p.prior, p.sigma, batch_size=len(p.y), **options)(p.y)

    by_solver, by_argument = restored(method=bounded), restored(method=free, steps=limit)
    assert not differences(by_argument, by_solver)
    assert bool((by_solver.objective >= restored(method=free).objective - 1e-9).all())
    one = p.restore(method=replace(bounded, max_iterations=1))
    assert not shared_fields(by_solver, one)


def test_fewer_images_are_those_of_the_batch():
    p = problem()
    made = jf.Restorer(p.operator, p.prior, 0.1, batch_size=4)
    whole = made(p.y).clone()
    for count in (1, 3):
        found = made(p.y[:count])
        assert not differences(found, whole.first(count))


@pytest.mark.parametrize(
    "bad",
    [
        lambda y: y.float(),
        lambda y: y[:, :, :-1],
        lambda y: y[0],
        lambda y: y[:0],
        lambda y: torch.cat((y, y)),
        lambda y: y.long(),
        lambda y: y.numpy(),
        lambda y: y.to(torch.complex128),
        lambda y: "y",
        lambda y: None,
        lambda y: y.to("meta"),
    ],
)
def test_what_does_not_fit_is_refused(bad):
    p = problem()
    made = jf.Restorer(p.operator, p.prior, p.sigma, batch_size=4)
    with pytest.raises((ValueError, TypeError), match="y: expected"):
        made(bad(p.y))
