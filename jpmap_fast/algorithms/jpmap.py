"""Joint posterior maximisation at one beta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from jpmap_fast._validate import positive
from jpmap_fast.algorithms.joint import descend, stop_when_stationary
from jpmap_fast.algorithms.joint_map import PROPOSALS, STARTS, JointMAP
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import Outcome, Start
from jpmap_fast.algorithms.problem import Coupling, Problem
from jpmap_fast.algorithms.rounds import Fixed, for_rounds
from jpmap_fast.algorithms.settings import (
    as_solver,
    at_least,
    one_of,
    positive_numbers,
    precision,
    setting,
)
from jpmap_fast.algorithms.step import Selection
from jpmap_fast.algorithms.whole import run_whole
from jpmap_fast.solvers import GaussNewton, LatentSolver


@dataclass(frozen=True, eq=False)
class JPMAP(JointMAP):
    r"""Joint MAP over image and latent code: the minimum of

        J1(x, z) = ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - G(z)||^2 + 1/2 ||z||^2.

    Iteration n starts from (x_n, z_n) and has three candidates for the next code:

    1. z1 = mu_phi(x_n), what the encoder says of x_n;
    2. z2 = descent from z1;
    3. z3 = descent from z_n;

    each completed by its exact x. ``selection="adaptive"`` (Algorithm 2.3) takes z1 while n < n1 if
    J1 falls, else z2 while n < n2 if J1 falls, else z3. ``selection="exhaustive"`` (Algorithm 2.2)
    computes all three and keeps the least J1. No candidate is taken unless J1 falls, so J1 never
    rises; once z2 has been refused for an image, the encoder is not asked again for it. A descent
    to z2 by ``GaussNewton`` is given up where it leads back to a z_n at which another has
    converged: z2 is where it stands then.

    An image is done where a descent of J(z) has converged and the encoder is not asked again, or
    when an iteration moves it by ||x_{n+1} - x_n|| / sqrt(n) + ||z_{n+1} - z_n|| / sqrt(k) <
    tolerance. In the second case it counts as converged if a Newton step on J(z) promises to lower
    J1 by no more than 1e-4 of it.

    Args:
        beta: coupling weight, a number or one an image; None for 1 / gamma^2 of the prior.
        coupling: "projected" descends J(z) = min_x J1(x, z); "alternating" descends J1(x_n, .), as
            published. Both have the same stationary points.
        z_solver: ``GaussNewton()``, ``Adam()``, or "gauss-newton", "adam".
        selection: "adaptive" or "exhaustive".
        n1, n2: iterations in which candidates 1 and 2 are proposed, >= 0; n2 = None for what the
            prior recommends (``prior.restoration``), or else 3.
        max_iterations: >= 1.
        tolerance: see above, > 0. The published inner loop stops at 1/255, inside an outer loop
            that goes on to 1/25500.
        starts: K >= 1 starts (the encoder's guess, z = 0, then random), best J1 per image kept;
            None for what the prior recommends, or else 2.

    Raises:
        ValueError: a setting is out of range. TypeError: of the wrong kind.

    Source: M. González, A. Almansa, P. Tan, arXiv 2103.01648, Algorithms 2.2 and 2.3.
    """

    beta: Any = setting(None, positive_numbers, per_image=True, of_problem=precision)
    coupling: Coupling = setting("projected", one_of("projected", "alternating"))
    z_solver: LatentSolver | str = setting(GaussNewton(), as_solver)
    selection: Selection = setting("adaptive", one_of("adaptive", "exhaustive"))
    n1: int = setting(0, at_least(0))
    n2: int | None = setting(None, at_least(0), of_prior=PROPOSALS)
    max_iterations: int = setting(500, at_least(1))
    tolerance: float = setting(1 / 2550, positive)
    starts: int | None = setting(None, at_least(1), of_prior=STARTS)

    @property
    def runs_fixed(self) -> bool:
        settings = self.settings()
        # With z1 alone nothing would have descended after so many iterations.
        return settings.descents_prove and self.selection == "adaptive" and self.n1 == 0

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        return descend(problem, start, self.beta, self.settings(), stop_when_stationary, monitor)

    def run_fixed(
        self, problem: Problem, start: Start, fixed: Fixed, monitor: Monitor
    ) -> list[Outcome]:
        return for_rounds(problem, start, self.beta, self.settings(), fixed, monitor)

    def run_whole(
        self, problem: Problem, starts: Tensor, encoder: bool, fixed: Fixed | None, monitor: Monitor
    ) -> Outcome | None:
        keep = fixed is not None and not fixed.asks
        again = fixed is None
        return run_whole(
            *(problem, starts, encoder, self.beta, self.settings(), monitor), again=again, keep=keep
        )
