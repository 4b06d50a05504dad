"""The modes of p(z | y): Gauss-Newton descents from several starts, more where the misfit asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast.kernels.code_products import times
from jpmap_fast.sampling.descents import Ends, curvatures, descended
from jpmap_fast.sampling.mixture import Mixture, laplace_mixture
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.screening import screened

# Ends nearer than so many standard deviations are one mode.
_APART = 0.5
# A misfit so improbable asks for more starts.
IMPROBABLE = 0.01


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
        return _distinct(model, known.beside(descended(model, starts)))

    def put(self, rows: Tensor, other: Modes) -> Modes:
        """These with those of the images ``rows`` replaced by others."""
        most = max(self.z.shape[1], other.z.shape[1])
        found = []
        for whole, part in zip(*(_longer(modes, most) for modes in (self, other)), strict=True):
            whole = whole.clone()
            whole[rows] = part
            found.append(whole)
        return Modes(*found)


def fixed_modes(model: Model, own: Tensor, starts: int, draws: int) -> Modes:
    """What ``find_modes`` finds without more starts, by an amount of work that is known before.

    Nothing asks the device. As many modes as starts, of which not all are there.
    """
    first = torch.cat((own.to(model.problem.y)[:, None], screened(model, starts, draws)), dim=1)
    return _distinct(model, descended(model, first, fixed=True), fixed=True)


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
    modes = _distinct(model, descended(model, first))
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


def _distinct(model: Model, ends: Ends, fixed: bool = False) -> Modes:
    """The modes among the ends: those that are near none that is higher.

    With ``fixed`` the curvature at all ends, and nobody asks how many modes there are.
    """
    height, order = ends.height.sort(dim=1, descending=True, stable=True)
    rows = torch.arange(len(order), device=order.device)[:, None]
    z, matrix = ends.z[rows, order], ends.matrix[rows, order]
    number, k = z.shape[1:]
    there = torch.isfinite(height)
    if fixed:
        matrix = curvatures(model, rows.expand(-1, number).flatten(), z.flatten(0, 1))
        matrix = matrix.unflatten(0, (-1, number))
    # The highest first: what is near it needs no curvature of its own.
    for s in range(number):
        if not fixed:
            images = (there[:, s] & torch.isnan(matrix[:, s, 0, 0])).nonzero()[:, 0]
            if images.numel():
                matrix[images, s] = curvatures(model, images, z[images, s])
        there[:, s] &= torch.isfinite(matrix[:, s]).flatten(1).all(dim=1)
        apart = z[:, s + 1 :] - z[:, s, None]  # [B, S - s - 1, k]
        square = (times(matrix[:, s, None], apart) * apart).sum(dim=-1)
        there[:, s + 1 :] &= ~((square < _APART**2) & there[:, s, None])
        if not fixed and not bool(there[:, s + 1 :].any()):
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
    most = number if fixed else int(there.sum(dim=1).max()) if len(there) else 1
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
