"""Latent MAP as the limit of joint MAP: growing coupling weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._validate import positive
from jpmap_fast.algorithms.joint import Schedule, descend
from jpmap_fast.algorithms.joint_map import PROPOSALS, STARTS, JointMAP
from jpmap_fast.algorithms.latent import first_penalty, with_latent_objective
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import BETA_LIMIT, CONVERGED, RUNNING, Outcome, Start
from jpmap_fast.algorithms.problem import Coupling, Problem
from jpmap_fast.algorithms.settings import (
    as_solver,
    at_least,
    one_of,
    positive_numbers,
    setting,
)
from jpmap_fast.solvers import GaussNewton, LatentSolver


def _least_and_largest(name: str, growth: Any) -> None:
    owner, _, what = name.rpartition(": ")
    pair = isinstance(growth, Sequence) and len(growth) == 2
    if not (pair and all(isinstance(factor, (int, float)) for factor in growth)):
        raise TypeError(f"{owner}: expected {what} = (least, largest), got {growth!r}")
    if not 1 < growth[0] <= growth[1] < math.inf:
        raise ValueError(
            f"{owner}: expected {what} = (least, largest) with 1 < least <= largest, got {growth}"
        )


def _increasing(name: str, betas: Any) -> None:
    owner, _, what = name.rpartition(": ")
    values = tuple(float(beta) for beta in betas)
    increasing = all(a < b for a, b in zip(values, values[1:], strict=False))
    if not values or not increasing or not all(0 < b < math.inf for b in values):
        raise ValueError(f"{owner}: expected positive, increasing {what}, got {betas!r}")


@dataclass(frozen=True, eq=False)
class MAPz(JointMAP):
    r"""MAP-z by an exponential multiplier: minimise F(x) + 1/2 ||z||^2 such that x is near G(z).

    JPMAP at beta_0; then, with C = ||G(z) - x||^2 - epsilon, while C > 0: multiply beta by
    exp(rho C) and descend J1 again from where it is. Each image has a beta of its own and stops at
    its own C <= 0. The published update alone never gets there (near C = 0 beta stops growing, and
    far from it exp(rho C) overflows), so the factor is kept within ``growth``.

    Args:
        alpha: allowed gap, in grey levels: epsilon = (alpha / 255)^2 n, > 0.
        rho: multiplier rate; None for 100 / n.
        beta0: first coupling weight, a number or one an image; None for 0.1 / gamma^2 of the prior.
        growth: least and largest factor of beta, 1 < least <= largest.
        coupling, z_solver, n1, n2, max_iterations, tolerance, starts: as in ``JPMAP``;
            max_iterations holds for each beta. The encoder is used at beta_0 only.

    The objective of the result is the latent one, ||A G(z) - y||^2 / (2 sigma^2) + 1/2 ||z||^2.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.

    Source: arXiv 2103.01648, Algorithm 2.4.
    """

    alpha: float = setting(1.0, positive)
    rho: float | None = setting(None, positive)
    beta0: Any = setting(None, positive_numbers, per_image=True, of_problem=first_penalty)
    growth: tuple[float, float] = setting((1.5, 4.0), _least_and_largest)
    coupling: Coupling = setting("projected", one_of("projected", "alternating"))
    z_solver: LatentSolver | str = setting(GaussNewton(), as_solver)
    n1: int = setting(0, at_least(0))
    n2: int | None = setting(None, at_least(0), of_prior=PROPOSALS)
    max_iterations: int = setting(500, at_least(1))
    tolerance: float = setting(1 / 2550, positive)
    starts: int | None = setting(None, at_least(1), of_prior=STARTS)

    def _schedule(self, pixels: int, ceiling: float) -> Schedule:
        epsilon = (self.alpha / 255) ** 2 * pixels
        rho = 100 / pixels if self.rho is None else self.rho
        low, high = (math.log(factor) for factor in self.growth)

        def advance(stage: Tensor, beta: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
            excess = gap - epsilon
            larger = beta * (rho * excess).clamp(low, high).exp()
            status = torch.where(excess <= 0, CONVERGED, RUNNING)
            status = torch.where((status == RUNNING) & (larger > ceiling), BETA_LIMIT, status)
            return larger, status

        return advance

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        # Far beyond any beta at which x and G(z) still differ, far from overflow.
        ceiling = torch.finfo(self.beta0.dtype).max ** 0.5
        schedule = self._schedule(math.prod(problem.image_shape), ceiling)
        outcome = descend(problem, start, self.beta0, self.settings(), schedule, monitor)
        return with_latent_objective(outcome, problem)


@dataclass(frozen=True, eq=False)
class MAPzSplitting(JointMAP):
    r"""MAP-z by quadratic splitting: J1 is minimised at each of a fixed, increasing row of betas.

    Args:
        betas: coupling weights, positive and increasing; None for 12 of them, from 0.1 to 1e4
            times 1 / gamma^2, in geometric progression.
        coupling, z_solver, max_iterations, tolerance, starts: as in ``JPMAP``; max_iterations
            holds for each beta.

    The first start is the encoder's code of A^T y. The objective of the result is the latent one,
    ||A G(z) - y||^2 / (2 sigma^2) + 1/2 ||z||^2.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.

    Source: arXiv 2103.01648, Algorithm 1.1.
    """

    betas: Sequence[float] | None = setting(None, _increasing)
    coupling: Coupling = setting("projected", one_of("projected", "alternating"))
    z_solver: LatentSolver | str = setting(GaussNewton(), as_solver)
    max_iterations: int = setting(500, at_least(1))
    tolerance: float = setting(1 / 2550, positive)
    starts: int = setting(2, at_least(1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.betas is not None:
            object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))

    @property
    def uses_encoder(self) -> bool:
        # Once, for where its first start begins.
        return True

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        betas = self.betas
        if betas is None:
            betas = tuple(10 ** (-1 + 5 * i / 11) * problem.prior.gamma**-2 for i in range(12))
        row = torch.tensor(betas, dtype=problem.sigma.dtype, device=problem.sigma.device)

        def advance(stage: Tensor, beta: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
            last = stage + 1 >= len(row)
            following = row[(stage + 1).clamp_max(len(row) - 1)]
            return following, torch.where(last, CONVERGED, RUNNING)

        z = start.z
        if start.encoder is not None:
            code = problem.encode(problem.operator.A_adjoint(problem.y))
            z = torch.where(start.encoder[:, None], code, z)
        first = row[:1].expand(problem.batch).clone()
        outcome = descend(problem, Start(z), first, self.settings(), advance, monitor)
        return with_latent_objective(outcome, problem)
