"""Latent MAP as the limit of joint MAP: growing coupling weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._validate import choice, count, positive
from jpmap_fast.algorithms.base import (
    PROPOSALS,
    STARTS,
    Algorithm,
    as_solver,
    check_image_setting,
    check_starts,
)
from jpmap_fast.algorithms.joint import Schedule, until_done
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import BETA_LIMIT, CONVERGED, RUNNING, Outcome, Start
from jpmap_fast.algorithms.problem import Coupling, Problem
from jpmap_fast.algorithms.step import JointSettings
from jpmap_fast.solvers import GaussNewton, LatentSolver


def _with_latent_objective(outcome: Outcome, problem: Problem) -> Outcome:
    """The same end, its objective being F(G(z)) + 1/2 ||z||^2."""
    state = outcome.state
    infinite = torch.full_like(outcome.beta, torch.inf)
    f, _ = problem.latent_objective("projected", state.x, infinite)
    return replace(
        outcome, state=replace(state, objective=f.value(state.z).to(state.objective.dtype))
    )


@dataclass(frozen=True, eq=False)
class MAPz(Algorithm):
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

    alpha: float = 1.0
    rho: float | None = None
    beta0: Any = None
    growth: tuple[float, float] = (1.5, 4.0)
    coupling: Coupling = "projected"
    z_solver: LatentSolver | str = GaussNewton()
    n1: int = 0
    n2: int | None = None
    max_iterations: int = 500
    tolerance: float = 1 / 2550
    starts: int | None = None

    def __post_init__(self) -> None:
        positive("MAPz: alpha", self.alpha)
        if self.rho is not None:
            positive("MAPz: rho", self.rho)
        check_image_setting("MAPz: beta0", self.beta0)
        growth = self.growth
        pair = isinstance(growth, Sequence) and len(growth) == 2
        if not (pair and all(isinstance(factor, (int, float)) for factor in growth)):
            raise TypeError(f"MAPz: expected growth = (least, largest), got {growth!r}")
        if not 1 < growth[0] <= growth[1] < math.inf:
            raise ValueError(
                f"MAPz: expected growth = (least, largest) with 1 < least <= largest, got {growth}"
            )
        choice("MAPz: coupling", self.coupling, ("projected", "alternating"))
        as_solver("MAPz", self.z_solver)
        count("MAPz: n1", self.n1, 0)
        count("MAPz: max_iterations", self.max_iterations, 1)
        positive("MAPz: tolerance", self.tolerance)
        check_starts("MAPz", self.starts, self.n2)

    @property
    def number_of_starts(self) -> int:
        return STARTS if self.starts is None else self.starts

    @property
    def uses_encoder(self) -> bool:
        return self.coupling != "projected" or self.n1 > 0 or self.n2 != 0

    @property
    def prior_settings(self) -> dict[str, int]:
        return {"starts": STARTS, "n2": PROPOSALS}

    @property
    def image_settings(self) -> tuple[str, ...]:
        return ("beta0",)

    def image_default(self, name: str, problem: Problem) -> float:
        return 0.1 * problem.prior.gamma**-2

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
        settings = JointSettings(
            self.coupling,
            as_solver("MAPz", self.z_solver),
            "adaptive",
            self.n1,
            PROPOSALS if self.n2 is None else self.n2,
            self.max_iterations,
            self.tolerance,
        )
        # Far beyond any beta at which x and G(z) still differ, far from overflow.
        ceiling = torch.finfo(self.beta0.dtype).max ** 0.5
        schedule = self._schedule(math.prod(problem.image_shape), ceiling)
        outcome = until_done(problem, start, self.beta0, settings, schedule, monitor)
        return _with_latent_objective(outcome, problem)


@dataclass(frozen=True, eq=False)
class MAPzSplitting(Algorithm):
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

    betas: Sequence[float] | None = None
    coupling: Coupling = "projected"
    z_solver: LatentSolver | str = GaussNewton()
    max_iterations: int = 500
    tolerance: float = 1 / 2550
    starts: int = 2

    def __post_init__(self) -> None:
        if self.betas is not None:
            values = tuple(float(beta) for beta in self.betas)
            increasing = all(a < b for a, b in zip(values, values[1:], strict=False))
            if not values or not increasing or not all(0 < b < math.inf for b in values):
                raise ValueError(
                    f"MAPzSplitting: expected positive, increasing betas, got {self.betas!r}"
                )
            object.__setattr__(self, "betas", values)
        choice("MAPzSplitting: coupling", self.coupling, ("projected", "alternating"))
        as_solver("MAPzSplitting", self.z_solver)
        count("MAPzSplitting: max_iterations", self.max_iterations, 1)
        positive("MAPzSplitting: tolerance", self.tolerance)
        check_starts("MAPzSplitting", self.starts, None)

    @property
    def number_of_starts(self) -> int:
        return self.starts

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        betas = self.betas
        if betas is None:
            betas = tuple(10 ** (-1 + 5 * i / 11) * problem.prior.gamma**-2 for i in range(12))
        row = torch.tensor(betas, dtype=problem.sigma.dtype, device=problem.sigma.device)

        def advance(stage: Tensor, beta: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
            last = stage + 1 >= len(row)
            following = row[(stage + 1).clamp_max(len(row) - 1)]
            return following, torch.where(last, CONVERGED, RUNNING)

        settings = JointSettings(
            self.coupling,
            as_solver("MAPzSplitting", self.z_solver),
            "adaptive",
            0,
            0,
            self.max_iterations,
            self.tolerance,
        )
        z = start.z
        if start.encoder is not None:
            code = problem.encode(problem.operator.A_adjoint(problem.y))
            z = torch.where(start.encoder[:, None], code, z)
        begin = Start(z)
        outcome = until_done(
            problem, begin, row[:1].expand(problem.batch).clone(), settings, advance, monitor
        )
        return _with_latent_objective(outcome, problem)
