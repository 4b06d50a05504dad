"""Promises for every method: status says what happened, and limits are kept."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import contract_builders as builders
import pytest
import torch
from contract_checks import Problem, problem, situations
from contract_data import IMAGE_SHAPE
from contract_pairs import USUAL_PRIOR, prior_for

import jpmap_fast as jf

# What a descent from an image called converged may still find, relative to the objective.
WITHIN = 1e-3
IMAGES = 8
MANY_CODES = "MLPVAE-many-codes"


@cache
def hard(prior: str = USUAL_PRIOR) -> Problem:
    """Little noise, or many codes, with a curved decoder: descents are long, bounds cut them."""
    p = problem(prior=prior, batch=IMAGES)
    return p if prior == MANY_CODES else replace(p, sigma=p.sigma / 10)


def is_quick(method: jf.algorithms.Algorithm) -> bool:
    """Whether many codes cost little: in a compiled solve, or by gradients alone."""
    solver = getattr(method, "z_solver", None)
    plain = isinstance(solver, jf.GaussNewton) and solver.fused and solver.linear_solver == "auto"
    short = getattr(method, "coupling", "projected") == "projected" and method.number_of_starts < 4
    return short and (plain or isinstance(solver, jf.Adam))


def limits(method: jf.algorithms.Algorithm) -> list[jf.algorithms.Algorithm]:
    """The method with each of its limits and tolerances tight, and the method itself."""
    found = [method]
    names = {field.name for field in fields(method)}
    if "max_iterations" in names:
        found.append(replace(method, max_iterations=1))
    if "tolerance" in names:
        found.append(replace(method, tolerance=1e6))
    if "z_solver" in names and not isinstance(method.z_solver, str):
        for number in (1, 4):
            solver = replace(method.z_solver, max_steps=number)
            found.append(replace(method, z_solver=solver))
    return found


def objective(p: Problem, found: jf.Result) -> torch.Tensor:
    """What a descent at the final beta lowers: J1, or the latent objective at beta = inf; [B]."""
    bound = p.operator.bind(IMAGE_SHAPE, len(p.y))
    value = bound.x_update(found.decoded, p.y, found.z, found.beta, p.sigma)[1]
    return value.double()


def descended(p: Problem, found: jf.Result) -> torch.Tensor:
    """That objective at the end of a descent from there with room, [B]."""
    solver = jf.GaussNewton(max_steps=1000)
    if bool(found.beta.isinf().all()):
        further = p.restore(method=jf.CSGM(z_solver=solver), z0=found.z)
    else:
        method = jf.JPMAP(beta=found.beta, n2=0, z_solver=solver)
        further = p.restore(method=method, z0=found.z)
    return torch.minimum(further.objective.double(), objective(p, further))


CASES = [
    (found.name, number, prior)
    for found in builders.methods()
    for number in range(len(limits(found())))
    for prior in (prior_for(type(found())), MANY_CODES)
    if prior != MANY_CODES or is_quick(found())
]


@pytest.mark.parametrize(("name", "number", "prior"), CASES)
def test_converged_is_where_a_descent_ends(name, number, prior):
    method = limits(builders.named(builders.methods(), name)())[number]
    p = hard(prior)
    found = p.restore(method=method)
    said = [status == "converged" for status in found.status]
    assert said == found.converged.tolist()
    if not method.uses_codes or not bool(found.converged.any()):
        return
    now, then = objective(p, found), descended(p, found)
    left = (now - then) / now
    assert float(left[found.converged].max()) <= WITHIN, method


@pytest.mark.parametrize("situation", situations(), ids=str)
def test_status_says_what_converged_does(situation):
    found = situation.expected()
    assert [text == "converged" for text in found.status] == found.converged.tolist()
    assert all(text for text in found.status)


@pytest.mark.parametrize(
    "name", [f.name for f in builders.methods() if hasattr(f(), "max_iterations")]
)
def test_iterations_keep_within_their_limit(name):
    method = replace(builders.named(builders.methods(), name)(), max_iterations=2)
    found = hard(prior_for(type(method))).restore(method=method)
    # The continuations have the limit at each beta.
    if not isinstance(method, (jf.MAPz, jf.MAPzSplitting)):
        assert int(found.iterations.max()) <= 2
    cut = [not ok for ok in found.converged.tolist()]
    for image, was_cut in enumerate(cut):
        if was_cut:
            assert any(
                word in found.status[image]
                for word in ("max_iterations", "max_steps", "tolerance", "encoder", "beta")
            )


@pytest.mark.parametrize("name", [f.name for f in builders.methods() if hasattr(f(), "z_solver")])
def test_a_descent_takes_no_more_than_its_steps(name, monkeypatch):
    method = builders.named(builders.methods(), name)()
    solver = replace(method.z_solver, max_steps=3)
    taken = []
    kind = type(solver)
    solve = kind.minimise

    def watched(self, *arguments, **options):
        found = solve(self, *arguments, **options)
        taken.extend(found.steps.tolist())
        return found

    monkeypatch.setattr(kind, "minimise", watched)
    # Recorded: the descents of one compiled call cannot be watched; test_jpmap_kernels counts them.
    hard().restore(method=replace(method, z_solver=solver, **few(method)), record=True)
    assert taken and max(taken) <= 3


def few(method: jf.algorithms.Algorithm) -> dict[str, int]:
    """A bound on the loop around the descents, where there is one."""
    return {"max_iterations": 3} if hasattr(method, "max_iterations") else {}
