"""Gauss-Newton descents to the modes of p(z | y), and the curvature where they end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._memory import numbers_at_a_time
from jpmap_fast.kernels.mlp import mlp_gauss_newton
from jpmap_fast.objective import LatentObjective
from jpmap_fast.sampling.model import Model
from jpmap_fast.solvers import GaussNewton

# The Hessian counts where no eigenvalue is less; elsewhere the Gauss-Newton matrix.
_LEAST_CURVATURE = 0.2
# Of more starts than these, descents go on from the deepest after some steps: of 33 they lose the
# deepest mode of no image of 300 in inpainting, for two thirds of the work.
_CARRIED_ON, _STEPS = 12, 8
# Numbers of Jacobians that are held at a time on a CPU.
_ROOM = 1 << 25


@dataclass(frozen=True)
class Ends:
    """Where descents ended, all float64.

    Attributes:
        z: [B, S, k].
        height: log of the joint density there [B, S], -inf where it is no number.
        matrix: minus its second derivatives, or what stands for them [B, S, k, k]; NaN where nobody
            has computed them.
        evaluations: decodes that it took, a Jacobian being k of them [B].
    """

    z: Tensor
    height: Tensor
    matrix: Tensor
    evaluations: Tensor

    def beside(self, other: Ends) -> Ends:
        """All ends of both."""
        return Ends(
            torch.cat((self.z, other.z), dim=1),
            torch.cat((self.height, other.height), dim=1),
            torch.cat((self.matrix, other.matrix), dim=1),
            self.evaluations + other.evaluations,
        )


def descended(model: Model, starts: Tensor, fixed: bool = False) -> Ends:
    """Where descents from starts [B, S, k] end; of many, those that were deepest on the way.

    With ``fixed`` nobody waits for the device, see ``GaussNewton.minimise_on_device``.
    """
    spent = torch.zeros_like(starts[:, 0, 0], dtype=torch.int64)
    if starts.shape[1] > _CARRIED_ON:
        z, value, spent = _minimised(model, starts, GaussNewton(max_steps=_STEPS), fixed)
        deepest = value.nan_to_num(torch.inf, torch.inf).sort(dim=1, stable=True).indices
        deepest = deepest[:, :_CARRIED_ON, None]
        starts = z.gather(1, deepest.expand(-1, -1, z.shape[2]))
    z, value, steps = _minimised(model, starts, GaussNewton(), fixed)
    number, k = z.shape[1:]
    # f is minus the log of the joint density, but for the constant of N(z; 0, I).
    height = -value - 0.5 * k * math.log(2 * math.pi)
    return Ends(
        z,
        torch.where(torch.isfinite(height), height, -torch.inf),
        z.new_full((len(z), number, k, k), torch.nan),
        (spent + steps) * (1 + k),
    )


def _minimised(
    model: Model, starts: Tensor, solver: GaussNewton, fixed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [B, S, k] and f [B, S] at the ends of descents, float64; expansions an image [B]."""
    batch, number, k = starts.shape
    objective = model.log_likelihood.objective
    rows = torch.arange(batch, device=starts.device).repeat_interleave(number)
    flat = starts.to(model.problem.y.dtype).reshape(-1, k).nan_to_num(0, 0, 0).contiguous()
    size = _at_a_time(objective, flat.device)
    descend = solver.minimise_on_device if fixed else solver.minimise
    parts = [
        descend(objective.repeated(some), codes)
        for some, codes in zip(rows.split(size), flat.split(size), strict=True)
    ]
    z = torch.cat([part.z for part in parts]).double().reshape(batch, number, k)
    value = torch.cat([part.objective for part in parts]).reshape(batch, number)
    steps = torch.cat([part.steps for part in parts]).reshape(batch, number)
    return z, value, (steps + 1).sum(dim=1)


def _at_a_time(objective: LatentObjective, device: torch.device) -> int:
    """Codes whose Jacobians are held together."""
    decoder = objective.decoder
    room = numbers_at_a_time(device, _ROOM)
    return max(1, room // ((decoder.latent_dim + 1) * max(decoder.widest, 1)))


def curvatures(model: Model, rows: Tensor, z: Tensor) -> Tensor:
    """Those of the images ``rows`` at codes z [R, k]."""
    objective, solver = model.log_likelihood.objective, GaussNewton()
    size = _at_a_time(objective, z.device)
    codes = z.to(model.problem.y.dtype).contiguous()
    parts = [
        _curvature(objective.repeated(some), part, solver)
        for some, part in zip(rows.split(size), codes.split(size), strict=True)
    ]
    return torch.cat(parts)


def _curvature(f: LatentObjective, z: Tensor, solver: GaussNewton) -> Tensor:
    """The Hessian [R, k, k] where it is positive definite enough, else the Gauss-Newton matrix."""
    compiled = solver.plan(f, z).compiled
    if compiled is not None:
        *_, matrix, hessian = mlp_gauss_newton(z, compiled)
    else:
        _, _, matrix, second = f.newton_system(z)
        matrix = matrix.double()
        hessian = matrix if second is None else second.double()
    shift = _LEAST_CURVATURE * torch.eye(z.shape[1], dtype=matrix.dtype, device=z.device)
    good = torch.linalg.cholesky_ex(hessian - shift)[1] == 0
    return torch.where(good[:, None, None], hessian, matrix)
