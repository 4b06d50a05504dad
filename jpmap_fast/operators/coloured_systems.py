r"""Solves with S = sigma^2 I + A K A^T / beta for K = diag(d) + U U^T, each by its shortest way.

=============================  =====================================================================
A                              S is
=============================  =====================================================================
diagonal, K diagonal           diagonal
a matrix that all images       diagonal in the eigenvectors of A K A^T, found once
share, or small enough as one
diagonal, one an image         a diagonal and rank r: solved by the r x r system of Woodbury
anything else                  known by its action: conjugate gradients
=============================  =====================================================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.operators.bound import BoundOperator
from jpmap_fast.operators.compressed_sensing import CompressedSensing
from jpmap_fast.operators.data_term import Action, DataTerm, Whitening
from jpmap_fast.operators.diagonal import Denoising, Diagonal
from jpmap_fast.operators.fourier import DENSE_ENTRIES
from jpmap_fast.operators.low_rank import LowRankSystem, mask_of
from jpmap_fast.operators.matrix_free import IteratedSystem
from jpmap_fast.residuals import Covariance


class System(ABC):
    """S of a bound operator and a covariance, for any beta and sigma."""

    stays_on_device = True

    def __init__(self, white: BoundOperator, covariance: Covariance) -> None:
        self._white, self._covariance = white, covariance

    @abstractmethod
    def innovation(
        self, flat: Tensor, y: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """K A^T S^{-1} (y - A G) / beta [B, n], and (y - A G)^T S^{-1} (y - A G) [B] float64."""

    @abstractmethod
    def data_term(self) -> DataTerm:
        """The data term with the best x put in."""

    def variance(self, beta: Tensor, sigma: Tensor) -> Tensor | None:
        """The diagonal of K / beta - K A^T S^{-1} A K / beta^2 [B, n] float64; None if unknown."""
        return None

    def log_determinant(self, beta: Tensor, sigma: Tensor) -> Tensor | None:
        """Log det S of what is observed [B] float64; None if unknown."""
        return None


def system_of(white: BoundOperator, covariance: Covariance) -> System:
    """The shortest way for an operator bound to images."""
    operator = white.operator
    diagonal = isinstance(operator, Diagonal)
    if diagonal and covariance.factor is None:
        return _Independent(white, covariance)
    anything = white.seen is None or bool(white.seen.any())
    if operator.batch is None and anything and not operator._learned and _is_small(white):
        return _Dense(white, covariance)
    return _LowRank(white, covariance) if diagonal else _MatrixFree(white, covariance)


def _is_small(white: BoundOperator) -> bool:
    if isinstance(white.operator, CompressedSensing):
        return True
    entries = math.prod(white.image_shape) * math.prod(white.measurement_shape)
    return entries <= DENSE_ENTRIES


def _lost(y: Tensor, unseen: Tensor | None, sigma: Tensor) -> Tensor | float:
    """What pixels that nobody observed add to the squares whatever x is."""
    if unseen is None:
        return 0.0
    return (y * unseen).double().square().sum(dim=1) / sigma.double().square()


class _Independent(System):
    """Diagonal A and K: pixel by pixel."""

    def innovation(
        self, flat: Tensor, y: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        weight, unseen = mask_of(self._white)
        y = y.flatten(1)
        moves = weight * self._covariance.diagonal / beta[:, None]
        seen = 1.0 if unseen is None else 1 - unseen
        residual = seen * (y - weight * flat)
        solved = residual / (sigma.square()[:, None] + weight * moves)
        squares = (residual.double() * solved).sum(dim=1) + _lost(y, unseen, sigma)
        return moves * solved, squares

    def data_term(self) -> DataTerm:
        term = self._white.data_term()
        assert isinstance(term, Whitening)
        d = self._covariance.diagonal
        return replace(term, values=term.values * (d if term.rows is None else d[term.rows]))

    def variance(self, beta: Tensor, sigma: Tensor) -> Tensor:
        term, d = self.data_term(), self._covariance.diagonal.double()
        assert isinstance(term, Whitening)
        share = term.explained(beta, sigma, d.numel())
        assert share is not None
        return (1 - share) * d / beta.double()[:, None]

    def log_determinant(self, beta: Tensor, sigma: Tensor) -> Tensor:
        term = self.data_term()
        assert isinstance(term, Whitening)
        return term.log_determinant(beta, sigma, self._covariance.diagonal.numel())


@dataclass(frozen=True)
class _Factor:
    """A K A^T = V diag(values) V^T, and what of A goes with it.

    Attributes:
        values: [p].
        basis: V^T.
        map: V^T A.
        moves: K A^T V.
        rows: the measurements it is of, int64 [p]; None for all.
        unseen: 1 where nothing was observed [m]; None where everything was.
    """

    values: Tensor
    basis: RowProduct
    map: RowProduct
    moves: RowProduct
    rows: Tensor | None
    unseen: Tensor | None

    def coordinates(self, y: Tensor) -> Tensor:
        """V^T y [B, p]."""
        flat = y.flatten(1)
        return self.basis(flat if self.rows is None else flat[:, self.rows])


class _Dense(System):
    """A as a matrix, in the eigenvectors of A K A^T."""

    def __init__(self, white: BoundOperator, covariance: Covariance) -> None:
        super().__init__(white, covariance)
        # Of K alone where A = I, which is made anew for every restoration.
        holder = covariance if isinstance(white.operator, Denoising) else white.operator
        self._factor = holder._kept.get(("coloured", covariance), self._factorised)

    def _factorised(self) -> _Factor:
        white, covariance = self._white, self._covariance
        like = covariance.diagonal
        operator = white.operator
        unseen = None
        if isinstance(operator, CompressedSensing):
            matrix = operator.matrix.double()
        else:
            basis = torch.eye(len(like), dtype=torch.float64, device=like.device)
            columns = operator.to(dtype=torch.float64).A(basis.reshape(-1, *white.image_shape))
            matrix = columns.flatten(1).T
        rows, seen = None, white.seen
        if seen is not None:  # what nobody observed is no measurement of 0
            seen = seen.expand(white.measurement_shape).flatten()
            rows, unseen = seen.nonzero()[:, 0], (~seen).to(like)
            matrix = matrix[rows]
        spread = matrix * covariance.diagonal.double()
        if covariance.factor is not None:
            factor = covariance.factor.double()
            spread = spread + (matrix @ factor) @ factor.T
        values, vectors = torch.linalg.eigh(spread @ matrix.T)  # spread is A K
        return _Factor(
            values.clamp_min(0).to(like),
            RowProduct(vectors.T.to(like)),
            RowProduct((vectors.T @ matrix).to(like)),
            RowProduct((spread.T @ vectors).to(like)),
            rows,
            unseen,
        )

    def innovation(
        self, flat: Tensor, y: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        of = self._factor
        residual = of.coordinates(y) - of.map(flat)
        solved = residual / (sigma.square()[:, None] + of.values / beta[:, None])
        squares = (residual.double() * solved).sum(dim=1)
        squares = squares + _lost(y.flatten(1), of.unseen, sigma)
        return of.moves(solved) / beta[:, None], squares

    def data_term(self) -> DataTerm:
        of = self._factor
        unseen = of.unseen
        lost = None if unseen is None else lambda y: y.flatten(1) * unseen
        return Whitening(of.values, of.coordinates, map=of.map, lost=lost)

    def variance(self, beta: Tensor, sigma: Tensor) -> Tensor:
        of, b = self._factor, beta.double()[:, None]
        weight = 1 / (sigma.double().square()[:, None] + of.values.double() / b)
        taken = RowProduct(of.moves.weight.double().square())(weight) / b
        return (self._covariance.variances() - taken) / b

    def log_determinant(self, beta: Tensor, sigma: Tensor) -> Tensor:
        of = self._factor
        values = of.values.double() / beta.double()[:, None]
        return (sigma.double().square()[:, None] + values).log().sum(dim=1)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one type and the same numbers."""
    return a.dtype == b.dtype and torch.equal(a, b)


class _LowRank(System):
    """A diagonal A, and K of low rank beside its diagonal."""

    def __init__(self, white: BoundOperator, covariance: Covariance) -> None:
        super().__init__(white, covariance)
        self._last: tuple[Tensor, Tensor, LowRankSystem] | None = None

    def _of(self, beta: Tensor, sigma: Tensor) -> LowRankSystem:
        """The system of beta and sigma, the last one where they are the same numbers.

        A descent and the x-update behind it factorise once. Not on a GPU, where comparing would
        wait, nor where something learns.
        """
        learned = self._white.operator._learned or beta.requires_grad or sigma.requires_grad
        if learned or beta.device.type != "cpu":
            return LowRankSystem.of(self._white, self._covariance, beta, sigma)
        last = self._last  # read once: another thread may put its own there
        if last is None or not (_same(last[0], beta) and _same(last[1], sigma)):
            system = LowRankSystem.of(self._white, self._covariance, beta, sigma)
            last = self._last = (beta.clone(), sigma.clone(), system)
        return last[2]

    def innovation(
        self, flat: Tensor, y: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        system = self._of(beta, sigma)
        y = y.flatten(1)
        unseen = system.unseen
        residual = y - system.measure(flat)
        if unseen is not None:
            residual = (1 - unseen) * residual
        solved = system.solve(residual[:, None], None)[0][:, 0]
        squares = (residual.double() * solved).sum(dim=1) + _lost(y, unseen, sigma)
        return self._covariance.apply(system.measure_adjoint(solved)) / beta[:, None], squares

    def data_term(self) -> DataTerm:
        return Action(lambda shape, beta, sigma: self._of(beta, sigma))

    def variance(self, beta: Tensor, sigma: Tensor) -> Tensor:
        return LowRankSystem.of(self._white, self._covariance, beta, sigma).variance(beta, sigma)

    def log_determinant(self, beta: Tensor, sigma: Tensor) -> Tensor:
        return LowRankSystem.of(self._white, self._covariance, beta, sigma).log_determinant(beta)


class _MatrixFree(System):
    """Any A, by conjugate gradients."""

    stays_on_device = False

    def innovation(
        self, flat: Tensor, y: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        system = self._system(tuple(y.shape[1:]), beta, sigma)
        residual = y.flatten(1) - system.measure(flat)
        solved, left = (rows[:, 0] for rows in system.solve(residual[:, None], None))
        # The error of an inexact solve enters the squares in second order alone.
        squares = ((residual + left).double() * solved).sum(dim=1)
        moved = self._covariance.apply(system.measure_adjoint(solved)) / beta[:, None]
        return moved, squares

    def data_term(self) -> DataTerm:
        return Action(self._system)

    def _system(
        self, measured_shape: tuple[int, ...], beta: Tensor, sigma: Tensor
    ) -> IteratedSystem:
        white = self._white
        shapes = white.image_shape, measured_shape
        return IteratedSystem(white.operator, *shapes, sigma, beta, self._covariance)
