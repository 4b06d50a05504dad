"""What the methods that end at x = G(z) minimise, F(G(z)) + 1/2 ||z||^2."""

from __future__ import annotations

from dataclasses import replace

import torch

from jpmap_fast.algorithms.outcome import Outcome
from jpmap_fast.algorithms.problem import Problem, State
from jpmap_fast.algorithms.settings import precision


def first_penalty(problem: Problem) -> float:
    """The coupling weight that a way from joint to latent MAP begins with: x is free at first."""
    return 0.1 * precision(problem)


def at_latent_objective(problem: Problem, state: State) -> State:
    """The same state, its objective being F(G(z)) + 1/2 ||z||^2."""
    infinite = torch.full_like(problem.sigma, torch.inf)
    f, _ = problem.latent_objective("projected", state.x, infinite)
    return replace(state, objective=f.value(state.z).to(state.objective.dtype))


def with_latent_objective(outcome: Outcome, problem: Problem) -> Outcome:
    """The same end, its objective being F(G(z)) + 1/2 ||z||^2."""
    return replace(outcome, state=at_latent_objective(problem, outcome.state))
