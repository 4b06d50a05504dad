"""The modes of p(z | y): Gauss-Newton descents from several starts, more where the misfit asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast._memory import numbers_at_a_time
from jpmap_fast.kernels.code_products import times
from jpmap_fast.kernels.mlp import mlp_gauss_newton
from jpmap_fast.objective import LatentObjective
from jpmap_fast.sampling.mixture import Mixture, laplace_mixture
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.screening import screened
from jpmap_fast.solvers import GaussNewton

# Ends nearer than so many standard deviations are one mode.
_APART = 0.5
# The Hessian counts where no eigenvalue is less; elsewhere the Gauss-Newton matrix.
_LEAST_CURVATURE = 0.2
# Of more starts than these, descents go on from the deepest after some steps: of 33 they lose the
# deepest mode of no image of 300 in inpainting, for two thirds of the work.
_CARRIED_ON, _STEPS = 12, 8
# A misfit so improbable asks for more starts.
IMPROBABLE = 0.01
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


@dataclass(frozen=True)
class Modes:
    """The distinct modes of each image, the highest first, float64.

    Attributes:
        z: [B, M, k].
        height: log p(y | z) + log p(z) [B, M], the likelihood without its constant.
        matrix: the curvature there [B, M, k, k].
        scale: lower triangular, of its inverse [B, M, k, k].
        there: which of the M an image has [B, M]; the first always.
        misfit: chi^2 / m at the first [B]; inf where no descent ended anywhere.
        probable: how probable a larger one is [B].
        evaluations: decodes spent [B].
    """

    z: Tensor
    height: Tensor
    matrix: Tensor
    scale: Tensor
    there: Tensor
    misfit: Tensor
    probable: Tensor
    evaluations: Tensor

    def select(self, index: Tensor) -> Modes:
        """Those of the images ``index``."""
        return Modes(*(value[index] for value in vars(self).values()))

    def mixture(self, degrees: int, defensive: float) -> Mixture:
        """The proposal about them, see ``Mixture``."""
        return laplace_mixture(self.height, self.z, self.scale, self.there, degrees, defensive)

    def widened(self, model: Model, starts: Tensor) -> Modes:
        """These and those that descents from starts [B, S, k] find."""
        there = self.there & torch.isfinite(self.misfit)[:, None]
        height = torch.where(there, self.height, -torch.inf)
        known = Ends(self.z, height, self.matrix, self.evaluations)
        return _distinct(model, known.beside(_descended(model, starts)))

    def put(self, rows: Tensor, other: Modes) -> Modes:
        """These with those of the images ``rows`` replaced by others."""
        most = max(self.z.shape[1], other.z.shape[1])
        found = []
        for whole, part in zip(*(_longer(modes, most) for modes in (self, other)), strict=True):
            whole = whole.clone()
            whole[rows] = part
            found.append(whole)
        return Modes(*found)


def find_modes(
    model: Model, own: Tensor, starts: int, draws: int, more: Sequence[int], streams: Streams
) -> Modes:
    """The modes that descents find.

    Args:
        model: of a batch.
        own: a start that is known already, such as a restoration's code [B, k].
        starts: how many besides, the most probable of prior draws.
        draws: how many are screened.
        more: with how many starts in all images go on whose misfit stays improbable, one number
            after the other; half of those that are new are screened, half are prior draws.
        streams: of the images.
    """
    dtype = model.problem.y.dtype
    first = torch.cat((own.to(dtype)[:, None], screened(model, starts, draws)), dim=1)
    modes = _distinct(model, _descended(model, first))
    done = starts
    for number in more:
        rows = ((modes.probable < IMPROBABLE) | ~torch.isfinite(modes.misfit)).nonzero()[:, 0]
        if not rows.numel():
            break
        if number <= done:
            continue
        part, new = model.select(rows), number - done
        screen = screened(part, done + new - new // 2, draws)[:, done:]
        drawn = streams.select(rows).normal(f"starts {number}", (new // 2, own.shape[1]))
        starting = torch.cat((screen, drawn.to(dtype)), dim=1)
        modes = modes.put(rows, modes.select(rows).widened(part, starting))
        done = number
    return modes


def _descended(model: Model, starts: Tensor) -> Ends:
    """Where descents from starts [B, S, k] end; of many, those that were deepest on the way."""
    spent = torch.zeros_like(starts[:, 0, 0], dtype=torch.int64)
    if starts.shape[1] > _CARRIED_ON:
        z, value, spent = _minimised(model, starts, GaussNewton(max_steps=_STEPS))
        deepest = value.nan_to_num(torch.inf, torch.inf).sort(dim=1, stable=True).indices
        deepest = deepest[:, :_CARRIED_ON, None]
        starts = z.gather(1, deepest.expand(-1, -1, z.shape[2]))
    z, value, steps = _minimised(model, starts, GaussNewton())
    number, k = z.shape[1:]
    # f is minus the log of the joint density, but for the constant of N(z; 0, I).
    height = -value - 0.5 * k * math.log(2 * math.pi)
    return Ends(
        z,
        torch.where(torch.isfinite(height), height, -torch.inf),
        z.new_full((len(z), number, k, k), torch.nan),
        (spent + steps) * (1 + k),
    )


def _minimised(model: Model, starts: Tensor, solver: GaussNewton) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [B, S, k] and f [B, S] at the ends of descents, float64; expansions an image [B]."""
    batch, number, k = starts.shape
    objective = model.log_likelihood.objective
    rows = torch.arange(batch, device=starts.device).repeat_interleave(number)
    flat = starts.to(model.problem.y.dtype).reshape(-1, k).nan_to_num(0, 0, 0).contiguous()
    size = _at_a_time(objective, flat.device)
    parts = [
        solver.minimise(objective.repeated(some), codes)
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


def _curvatures(model: Model, rows: Tensor, z: Tensor) -> Tensor:
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


def _distinct(model: Model, ends: Ends) -> Modes:
    """The modes among the ends: those that are near none that is higher."""
    height, order = ends.height.sort(dim=1, descending=True, stable=True)
    rows = torch.arange(len(order), device=order.device)[:, None]
    z, matrix = ends.z[rows, order], ends.matrix[rows, order]
    number, k = z.shape[1:]
    there = torch.isfinite(height)
    # The highest first: what is near it needs no curvature of its own.
    for s in range(number):
        images = (there[:, s] & torch.isnan(matrix[:, s, 0, 0])).nonzero()[:, 0]
        if images.numel():
            matrix[images, s] = _curvatures(model, images, z[images, s])
        there[:, s] &= torch.isfinite(matrix[:, s]).flatten(1).all(dim=1)
        apart = z[:, s + 1 :] - z[:, s, None]  # [B, S - s - 1, k]
        square = (times(matrix[:, s, None], apart) * apart).sum(dim=-1)
        there[:, s + 1 :] &= ~((square < _APART**2) & there[:, s, None])
        if not bool(there[:, s + 1 :].any()):
            there[:, s + 1 :] = False
            break
    # Those that are there first; where none is, the prior is what is known.
    order = (~there).long().sort(dim=1, stable=True).indices
    z, matrix, height, there = (v[rows, order] for v in (z, matrix, height, there))
    none = ~there[:, 0]
    z = torch.where(there[..., None], z, 0.0)
    eye = torch.eye(k, dtype=z.dtype, device=z.device)
    matrix = torch.where(there[..., None, None], matrix, eye)
    there[:, 0] = True
    height = torch.where(none[:, None] & there, 0.0, height)
    most = int(there.sum(dim=1).max()) if len(there) else 1
    z, matrix, height, there = (v[:, :most] for v in (z, matrix, height, there))
    misfit, probable = model.misfit(height[:, 0], z[:, 0])
    return Modes(
        z,
        height,
        matrix,
        _root_of_inverse(matrix),
        there,
        torch.where(none, torch.inf, misfit),
        torch.where(none, 0.0, probable),
        ends.evaluations,
    )


def _longer(modes: Modes, size: int) -> list[Tensor]:
    """The fields of modes with more of them, which are not there."""
    batch, old, k = modes.z.shape
    eye = torch.eye(k, dtype=modes.z.dtype, device=modes.z.device)
    eyes = eye.expand(batch, size - old, k, k)
    zeros = modes.z.new_zeros(batch, size - old)
    more = (zeros[..., None].expand(-1, -1, k), zeros, eyes, eyes, zeros.bool())
    fields = list(vars(modes).values())
    longer = [torch.cat(pair, dim=1) for pair in zip(fields, more, strict=False)]
    return [*longer, *fields[len(longer) :]]


def _root_of_inverse(matrix: Tensor) -> Tensor:
    """Lower triangular L with L L^T = matrix^{-1}; I where rounding leaves it no inverse."""
    # Backwards, the inverse of a lower factor is the upper one wanted. Its bits depend on no
    # neighbour, which those of cholesky_inverse do.
    factor, wrong = torch.linalg.cholesky_ex(matrix.flip((-2, -1)))
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor = torch.where((wrong > 0)[..., None, None], eye, factor)
    root = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    return root.flip((-2, -1)).mT.contiguous()
