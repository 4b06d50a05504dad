r"""Damped Gauss-Newton with a damping of its own for every image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._validate import choice, count, positive, switch
from jpmap_fast._working_set import WorkingSet
from jpmap_fast.kernels._checks import fits
from jpmap_fast.kernels.mlp import MLPLeastSquares, mlp_restore
from jpmap_fast.objective import LatentObjective
from jpmap_fast.solvers.base import LatentSolution
from jpmap_fast.solvers.device_steps import FULL_ON_GPU, DeviceSteps
from jpmap_fast.solvers.plan import Plan, plan
from jpmap_fast.solvers.quadratic_model import (
    DirectModel,
    ImplicitModel,
    QuadraticModel,
    ended,
    next_damping,
)

# Trial steps where nothing else is said: of a descent that ends by itself, and of one in which
# every step is executed whether it is needed or not.
MAX_STEPS = 200
FIXED_STEPS = 25

# Relative residual of a step by conjugate gradients.
FORCING = 0.02


@dataclass(frozen=True)
class GaussNewton:
    r"""Levenberg-Marquardt steps with the gain-ratio damping of Nielsen (1999).

    At z with gradient g and a matrix H, try z + d with

        (H + mu I) d = -g,     gain = (f(z) - f(z + d)) / (1/2 d^T (mu d - g)).

    A positive gain accepts the step and multiplies mu by max(1/3, 1 - (2 gain - 1)^3); any other
    leaves z where it is and multiplies mu by 2, then 4, 8, ... The first mu is
    ``initial_damping`` times the largest diagonal entry of H. The sequence f(z_0), f(z_1), ...
    never rises.

    H is M + s (f'' - M), M = I + J^T W J the Gauss-Newton matrix and f'' the Hessian of f, s the
    largest of 1, 1/2 and 1/4 with which H - M/3 is positive definite, else 0
    (``second_order=False``: always 0). Where f'' is positive definite and its own step is short, of
    a root mean square of at most 0.1, s is 1: beside a minimum the steps are Newton's. For an MLP
    the Hessian costs little more: each layer adds A^T diag(c f'') A, with A the tangents of its
    pre-activations and c the cotangents of its outputs. Decoders that do not offer it (see
    ``Decoder.expand``) do without.

    An image has converged when its undamped step H^{-1} g has root mean square at most
    ``tolerance`` (z has unit prior variance, so this is an absolute accuracy), or when the
    decrease that the model promises is below what f can resolve in the working precision. Where
    s = 1 and the root mean square is at most 30 ``tolerance`` and the root of ``tolerance`` / 10,
    that step is tried and ends the descent if f falls: Newton's next step is of the order of the
    square of the last.

    A descent that is told of a minimum is given up, not converged, where s = 1 and an undamped step
    of a root mean square of at most 0.3 ends within half its length of there: what it would find is
    known.

    Args:
        tolerance: root mean square of the undamped step, > 0.
        max_steps: trial steps an image at most, >= 1; None for 200, or 25 where a CUDA graph has to
            execute every one of them (a ``Sampler`` of a decoder without a compiled solve).
        initial_damping: first mu over the largest diagonal entry of H, > 0.
        second_order: use the Hessian as above; False for Gauss-Newton alone.
        linear_solver: "direct" computes the k columns of the Jacobian and factorises H;
            "conjugate-gradient" uses Gauss-Newton alone and needs two products by the Jacobian an
            iteration, whatever k is; "auto" takes the cheaper by the measured cost of both
            (benchmarks/bench_linear_solver.py). Compiled solves are direct.
        fused: use the compiled solver where there is one for the decoder and device
            (``kernels.mlp.supports``); False keeps to plain torch.

    Raises:
        ValueError: a setting is not positive.

    Source: H. B. Nielsen, "Damping parameter in Marquardt's method", IMM-REP-1999-05, 1999.
    """

    tolerance: float = 1e-4
    max_steps: int | None = None
    initial_damping: float = 0.1
    second_order: bool = True
    linear_solver: str = "auto"
    fused: bool = True

    def __post_init__(self) -> None:
        positive("GaussNewton: tolerance", self.tolerance)
        if self.max_steps is not None:
            count("GaussNewton: max_steps", self.max_steps, 1)
        positive("GaussNewton: initial_damping", self.initial_damping)
        switch("GaussNewton: second_order", self.second_order)
        switch("GaussNewton: fused", self.fused)
        known = ("auto", "direct", "conjugate-gradient")
        choice("GaussNewton: linear_solver", self.linear_solver, known)

    @torch.no_grad()
    def minimise(
        self,
        objective: LatentObjective,
        z: Tensor,
        scale: Tensor | None = None,
        known: Tensor | None = None,
    ) -> LatentSolution:
        """Descend from z [B, k]; see the class.

        Args:
            objective: f.
            z: starting points [B, k].
            scale: without effect: steps are invariant.
            known: minima that a descent by the Hessian is given up for [B, k], of z's type, NaN
                where there is none. Others know of none.

        Raises:
            ValueError: ``known`` is not of z's shape and device. TypeError: not of its type.
        """
        if known is not None:
            fits("GaussNewton", z, "known", known, z.shape)
        way = self.plan(objective, z)
        if way.compiled is not None:
            return self._compiled(way.compiled, z, None, False, known)
        return self._minimise(objective, z, way, known)

    @torch.no_grad()
    def minimise_on_device(
        self,
        objective: LatentObjective,
        z: Tensor,
        active: Tensor | None = None,
        low_latency: bool = False,
        known: Tensor | None = None,
    ) -> LatentSolution:
        """The same without waiting for the device, for CUDA graphs.

        A compiled solve takes as many steps as it needs, and so does any on a CPU. In plain torch
        on a GPU ``max_steps`` steps (25 for None) by columns of the Jacobian are executed, in which
        images that have stopped stay as they are; but see ``_capture.repeated``.

        Args:
            objective: f.
            z: starting points [B, k].
            active: bool [B], the images to work on; the others keep z and get f = NaN. None: all.
            low_latency: see ``kernels.mlp.mlp_restore``.
            known: see ``minimise``.

        Raises:
            ValueError: ``known`` is not of z's shape and device. TypeError: not of its type.
        """
        if known is not None:
            fits("GaussNewton", z, "known", known, z.shape)
        way = self.plan(objective, z)
        if way.compiled is not None:
            return self._compiled(way.compiled, z, active, low_latency, known)
        solve = self._of_active if z.device.type == "cpu" else self._fixed
        return solve(objective, z, active, way, known)

    @torch.no_grad()
    def promised(self, objective: LatentObjective, z: Tensor) -> Tensor:
        """The decrease of f that the undamped step promises, 1/2 g^T H^{-1} g [B] float64."""
        _, model = self._model(objective, z, self.plan(objective, z))
        return 0.5 * model.step(torch.zeros_like(model.largest)).decrement

    def plan(self, objective: LatentObjective, z: Tensor) -> Plan:
        """How ``minimise`` runs from codes like z [B, k], and why."""
        return plan(objective, z, fused=self.fused, linear_solver=self.linear_solver)

    @property
    def _limit(self) -> int:
        return MAX_STEPS if self.max_steps is None else self.max_steps

    @property
    def compiled_settings(self) -> tuple[float, int, float, bool]:
        """Tolerance, max_steps, initial_damping and second_order of a compiled solve."""
        return self.tolerance, self._limit, self.initial_damping, self.second_order

    def _compiled(
        self,
        f: MLPLeastSquares,
        z: Tensor,
        active: Tensor | None,
        low_latency: bool,
        known: Tensor | None,
    ) -> LatentSolution:
        found = mlp_restore(z, f, *self.compiled_settings, active, low_latency, known)
        return LatentSolution(*found, path="compiled")

    def _of_active(
        self,
        objective: LatentObjective,
        z: Tensor,
        active: Tensor | None,
        way: Plan,
        known: Tensor | None,
    ) -> LatentSolution:
        if active is None or bool(active.all()):
            return self._minimise(objective, z, way, known)
        rows = active.nonzero()[:, 0]
        there = None if known is None else known[rows]
        found = self._minimise(objective.select(rows), z[rows], way, there)
        batch = z.shape[0]
        return LatentSolution(
            z.index_copy(0, rows, found.z),
            found.objective.new_full((batch,), torch.nan).index_copy(0, rows, found.objective),
            found.steps.new_zeros(batch).index_copy(0, rows, found.steps),
            torch.zeros_like(active).index_copy(0, rows, found.converged),
            found.path,
            found.reason,
        )

    def _fixed(
        self,
        objective: LatentObjective,
        z: Tensor,
        active: Tensor | None,
        way: Plan,
        known: Tensor | None,
    ) -> LatentSolution:
        blind = FIXED_STEPS if self.max_steps is None else self.max_steps
        steps = DeviceSteps(
            self.tolerance, self.initial_damping, self.second_order, self._limit, blind
        )
        return LatentSolution(*steps(objective, z, active, known), way.path, way.reason)

    def _minimise(
        self, objective: LatentObjective, z: Tensor, way: Plan, known: Tensor | None
    ) -> LatentSolution:
        batch, said = z.shape[0], (way.path, way.reason)
        count = torch.zeros(batch, dtype=torch.int64, device=z.device)
        converged = torch.zeros(batch, dtype=torch.bool, device=z.device)
        if batch == 0:
            return LatentSolution(z.clone(), z.new_empty(0).double(), count, converged, *said)

        # Everything below is a row an image of the working set; `alive` are those still at work.
        working = WorkingSet(
            batch, z.device, full=FULL_ON_GPU if z.is_cuda else 1.0, few_sizes=z.is_cuda
        )
        # On a GPU, which waits for its host, an expansion at the trial is cheaper than a decode and
        # then an expansion of what moved.
        together = z.is_cuda and way.direct
        alive = torch.ones_like(converged)
        f, model = self._model(objective, z, way)
        mu = self.initial_damping * model.largest
        growth = torch.full_like(mu, 2.0)
        accept = alive
        for number in range(self._limit + 1):
            step = model.step(mu)
            done, finite = ended(f, mu, model, step, self.tolerance)
            converged = converged | (alive & done)
            if number == self._limit:
                break
            alive = alive & finite & ~done & ~step.leads_back(accept, z, known)
            d, last = step.or_last(alive & accept, self.tolerance)
            promised = step.promised
            if working.finish(alive, z, f, count, converged):
                objective, model = working.select(objective), working.select(model)
                z, f, d, promised, mu, growth, count, converged, alive, last = map(
                    working.select, (z, f, d, promised, mu, growth, count, converged, alive, last)
                )
                known = None if known is None else working.select(known)
            if not working.left:
                break

            old, trial = f, torch.where(alive[:, None], z + d.to(z.dtype), z)
            if together:
                f_new, there = DirectModel.at(objective, trial, self.second_order)
            else:
                f_new = objective.value(trial)
            accept = alive & (f_new < f)
            z = torch.where(accept[:, None], trial, z)
            f = torch.where(accept, f_new, f)
            mu, growth = next_damping(mu, growth, (old - f_new) / promised, accept)
            count = count + alive
            ends = accept & last
            converged, alive = converged | ends, alive & ~ends
            if together:
                assert isinstance(model, DirectModel)
                model = there.where(accept, model)
                continue
            # A refused step costs one decode, and so does the last: only what goes on from where it
            # has moved is expanded again.
            moved = (accept & ~ends).nonzero()[:, 0]
            if moved.numel():
                model = model.renewed(moved, z, objective)
        z, f, count, converged = working.results(z, f, count, converged)
        return LatentSolution(z, f, count, converged, *said)

    def _model(
        self, objective: LatentObjective, z: Tensor, way: Plan
    ) -> tuple[Tensor, QuadraticModel]:
        if way.direct:
            return DirectModel.at(objective, z, self.second_order)
        return ImplicitModel.at(objective, z, FORCING)
