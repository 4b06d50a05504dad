"""Gauss-Newton steps that CUDA graphs hold: who has ended stays as it is, and none is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from jpmap_fast._capture import asks, repeated
from jpmap_fast._working_set import at_work_first, rungs_below
from jpmap_fast.objective import LatentObjective
from jpmap_fast.solvers.quadratic_model import DirectModel, ended, next_damping

# On a GPU a working set is compacted once it has to be no fuller than this, to one of few sizes: a
# new number of images is a new set of convolution plans, which costs more than a few images of
# work. On a CPU it is free.
FULL_ON_GPU = 0.75

# A step of fewer images takes as long, and every size is a graph of its own.
LEAST_RECORDED = 8


class _Rows(NamedTuple):
    """Where each image stands, [B, ...]; f is infinite before the first evaluation."""

    z: Tensor
    f: Tensor
    mu: Tensor
    growth: Tensor
    steps: Tensor
    converged: Tensor
    d: Tensor  # of the step to try
    promised: Tensor
    gradient: Tensor  # of the model about z, with the next two
    matrix: Tensor
    newton: Tensor
    share: Tensor
    last: Tensor  # whether the step to try ends the descent if f falls
    known: Tensor  # minima, NaN where there is none
    running: Tensor


# z, f, steps and whether it has converged, of each image.
_Ends = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class DeviceSteps:
    """Descents by columns of the Jacobian as ``GaussNewton`` describes them.

    Where ``_capture.repeated`` asks the device, a step is made of fewer images once many have
    ended, by the sizes of ``rungs_below``.

    Args:
        tolerance, initial_damping, second_order: of ``GaussNewton``.
        most: trial steps an image at most.
        blind: steps that are executed where nobody asks.
    """

    tolerance: float
    initial_damping: float
    second_order: bool
    most: int
    blind: int

    def __call__(
        self,
        objective: LatentObjective,
        z: Tensor,
        active: Tensor | None = None,
        known: Tensor | None = None,
    ) -> _Ends:
        """Ends of the descents from z [B, k], of the images ``active``; of the others f = NaN.

        Those that lead back to ``known`` [B, k] are given up.
        """
        batch, k = z.shape
        exact = z.new_zeros(batch, k, dtype=torch.float64)
        none = exact[:, 0]
        running = torch.ones_like(none, dtype=torch.bool) if active is None else active
        rows = _Rows(
            z=z,
            f=torch.where(running, torch.inf, torch.full_like(none, torch.nan)),
            mu=none,
            growth=torch.full_like(none, 2.0),
            steps=torch.zeros_like(none, dtype=torch.int64),
            converged=torch.zeros_like(running),
            d=exact,
            promised=none,
            gradient=torch.zeros_like(z),
            matrix=z.new_zeros(batch, k, k),
            newton=exact,
            share=torch.zeros_like(none, dtype=torch.float32),
            last=torch.zeros_like(running),
            known=torch.full_like(z, torch.nan) if known is None else known,
            running=running,
        )
        return self._descended(
            objective,
            rows,
            rungs_below(batch, LEAST_RECORDED, FULL_ON_GPU) if asks() else [],
            known is not None,
        )

    def _descended(
        self, objective: LatentObjective, rows: _Rows, smaller: list[int], told: bool
    ) -> _Ends:
        """The ends of the rows, whose number shrinks to those of ``smaller`` in turn.

        ``told`` says whether minima are known at all.
        """
        size = smaller[0] if smaller else 0

        def step(state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return self._stepped(objective, _Rows(*state), told)

        # The first step is an evaluation where the images are.
        rows = _Rows(*repeated(step, rows, self.blind + 1, enough=size))
        ends = rows.z, rows.f, rows.steps, rows.converged
        if not smaller:
            return ends
        kept = at_work_first(rows.running)[:size]
        few = _Rows(*(value[kept] for value in rows))
        part = self._descended(objective.select(kept), few, smaller[1:], told)
        z, f, steps, converged = (
            whole.index_copy(0, kept, new) for whole, new in zip(ends, part, strict=True)
        )
        return z, f, steps, converged

    def _stepped(self, objective: LatentObjective, rows: _Rows, told: bool) -> _Rows:
        """The rows after a trial step of those at work, or after their first evaluation."""
        running, first = rows.running, torch.isinf(rows.f)
        trial = torch.where(running[:, None], rows.z + rows.d.to(rows.z.dtype), rows.z)
        f, there = DirectModel.at(objective, trial, self.second_order)
        accept = running & (f < rows.f)
        here = DirectModel(rows.gradient, rows.matrix, rows.newton, rows.share, self.second_order)
        model = there.where(accept, here)
        gain = (rows.f - f) / rows.promised
        mu, growth = next_damping(rows.mu, rows.growth, gain, accept)
        mu = torch.where(first, self.initial_damping * model.largest, mu)
        mu = torch.where(running, mu, rows.mu)
        z = torch.where(accept[:, None], trial, rows.z)
        f = torch.where(accept, f, rows.f)
        steps = rows.steps + (running & ~first)
        next_step = model.step(mu)
        done, finite = ended(f, mu, model, next_step, self.tolerance)
        done |= rows.last & accept
        back = next_step.leads_back(accept, z, rows.known if told else None)
        goes_on = running & finite & ~done & ~back & (steps < self.most)
        d, last = next_step.or_last(goes_on & accept, self.tolerance)
        return _Rows(
            z=z,
            f=f,
            mu=mu,
            growth=growth,
            steps=steps,
            converged=rows.converged | (running & done),
            d=d,
            promised=next_step.promised,
            gradient=model.gradient,
            matrix=model.matrix,
            newton=model.newton,
            share=model.share,
            last=last,
            known=rows.known,
            running=goes_on,
        )
