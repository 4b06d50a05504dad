"""The modes of p(z | y): Gauss-Newton descents from several starts, more where the misfit asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
# A misfit so improbable asks for more starts.
IMPROBABLE = 0.01
# Numbers of Jacobians that are held at a time.
_ROOM = 1 << 25


@dataclass(frozen=True)
class Ends:
    """Where descents ended, all float64.

    Attributes:
        z: [B, S, k].
        height: log of the joint density there [B, S], -inf where it is no number.
        matrix: minus its second derivatives, or what stands for them [B, S, k, k].
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

    def select(self, index: Tensor) -> Ends:
        """Those of the images ``index``."""
        return Ends(*(value[index] for value in vars(self).values()))


@dataclass(frozen=True)
class Modes:
    """The distinct modes of each image, the highest first, float64.

    Attributes:
        z: [B, M, k].
        height: log p(y | z) + log p(z) [B, M], the likelihood without its constant.
        scale: lower triangular, of the inverse curvature [B, M, k, k].
        there: which of the M an image has [B, M]; the first always.
        misfit: chi^2 / m at the first [B].
        probable: how probable a larger one is [B].
        evaluations: decodes spent [B].
    """

    z: Tensor
    height: Tensor
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
    ends = _descended(model, first)
    modes = _distinct(model, ends)
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
        there = _descended(part, torch.cat((screen, drawn.to(dtype)), dim=1))
        ends = _put(ends, rows, ends.select(rows).beside(there))
        modes = _distinct(model, ends)
        done = number
    return modes


def _descended(model: Model, starts: Tensor) -> Ends:
    batch, number, k = starts.shape
    objective = model.log_likelihood.objective
    rows = torch.arange(batch, device=starts.device).repeat_interleave(number)
    flat = starts.reshape(-1, k).nan_to_num(0, 0, 0).contiguous()
    size = max(1, _ROOM // ((k + 1) * max(objective.decoder.widest, 1)))
    solver, found, matrices, steps = GaussNewton(), [], [], []
    for i in range(0, len(rows), size):
        part = objective.repeated(rows[i : i + size])
        solution = solver.minimise(part, flat[i : i + size])
        found.append(solution.z)
        steps.append(solution.steps)
        matrices.append(_curvature(part, solution.z, solver))
    z = torch.cat(found).double().reshape(batch, number, k)
    work = (torch.cat(steps).reshape(batch, number) + 1).sum(dim=1) * (1 + k)
    matrix = torch.cat(matrices).reshape(batch, number, k, k)
    return Ends(z, model.log_joint(z), matrix, work)


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
    there = torch.isfinite(height) & torch.isfinite(matrix).all(dim=-1).all(dim=-1)
    for s in range(1, number):
        apart = z[:, s, None] - z[:, :s]  # [B, s, k]
        square = (times(matrix[:, :s], apart) * apart).sum(dim=-1)
        there[:, s] &= ~((square < _APART**2) & there[:, :s]).any(dim=1)
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
    scale = _root_of_inverse(matrix)
    misfit, probable = model.misfit(height[:, 0], z[:, 0])
    misfit = torch.where(none, torch.inf, misfit)
    return Modes(
        z, height, scale, there, misfit, torch.where(none, 0.0, probable), ends.evaluations
    )


def _root_of_inverse(matrix: Tensor) -> Tensor:
    """Lower triangular L with L L^T = matrix^{-1}; I where rounding leaves it no inverse."""
    # Backwards, the inverse of a lower factor is the upper one wanted. Its bits depend on no
    # neighbour, which those of cholesky_inverse do.
    factor, wrong = torch.linalg.cholesky_ex(matrix.flip((-2, -1)))
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor = torch.where((wrong > 0)[..., None, None], eye, factor)
    root = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    return root.flip((-2, -1)).mT.contiguous()


def _put(ends: Ends, rows: Tensor, some: Ends) -> Ends:
    """The ends with more of them for the images ``rows``; the others have ends that are none."""
    batch, old = ends.height.shape
    new = some.height.shape[1] - old
    k = ends.z.shape[2]
    z = torch.cat((ends.z, ends.z.new_zeros(batch, new, k)), dim=1)
    height = torch.cat((ends.height, ends.height.new_full((batch, new), -torch.inf)), dim=1)
    matrix = torch.cat((ends.matrix, ends.matrix.new_zeros(batch, new, k, k)), dim=1)
    evaluations = ends.evaluations.clone()
    for whole, part in ((z, some.z), (height, some.height), (matrix, some.matrix)):
        whole[rows] = part
    evaluations[rows] = some.evaluations
    return Ends(z, height, matrix, evaluations)
