"""Operators whose A A^T is diagonal in coordinates that are cheap to reach."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.bound import BoundOperator, Place
from jpmap_fast.operators.data_term import ClosedForm, LinearMap, Whitening


class Diagonalised(Operator):
    r"""A = U H with U^T U = I on the range of H, and H H^T = diag(lambda) there.

    In the coordinates t = U^T y the x-update is a division, for any beta and sigma:

        gain = (t - H G) / (lambda + beta sigma^2),      x = G + H^T gain,
        U^T (y - A x) = t - H G - lambda gain,

    and J(z) = min_x J1(x, z) is a least-squares function with the diagonal weight
    1 / (sigma^2 + lambda / beta).
    """

    @abstractmethod
    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> Diagonalised: ...

    @abstractmethod
    def _map(self) -> LinearMap:
        """H, of a bound operator."""

    @abstractmethod
    def _values(self) -> Tensor:
        """The eigenvalues lambda >= 0, [p] or [B, p]."""

    @abstractmethod
    def _coordinates(self, y: Tensor) -> Tensor:
        """T = U^T y [B, p]."""

    def _lost_part(self) -> Callable[[Tensor], Tensor] | None:
        """Y to what it has outside of the range of U, [B, q]; None where U is complete."""
        return None

    def _multiplicity(self) -> Tensor | None:
        """How many measurements each coordinate stands for, [p]; None for one each."""
        return None

    def _whitening(self) -> Whitening:
        """The data term, of a bound operator."""
        return Whitening(
            self._values(),
            self._coordinates,
            map=self._map(),
            lost=self._lost_part(),
            multiplicity=self._multiplicity(),
        )

    def _bound(self, image_shape: tuple[int, ...], place: Place | None) -> BoundOperator:
        return BoundDiagonalised(self, image_shape, place)


class BoundDiagonalised(BoundOperator):
    """The x-update is a division in the coordinates, for any beta and sigma."""

    operator: Diagonalised

    def _x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        a = self.operator
        h, values = a._map(), a._values()
        flat = decoded.flatten(1)
        innovation = a._coordinates(y) - h(flat)
        gain = innovation / (values + (beta * sigma.square())[:, None])
        x = flat + h.adjoint(gain)
        residual = innovation - values * gain
        lost = a._lost_part()
        if lost is not None:
            residual = torch.cat((residual, lost(y)), dim=1)
        objective, gap = kernels.objective(x, flat, residual, z, beta, sigma)
        return x.reshape(decoded.shape), objective, gap

    def closed_form(self, y: Tensor) -> ClosedForm | None:
        a = self.operator
        if not isinstance(a._map(), RowProduct):
            return None
        lost = a._lost_part()
        return ClosedForm(
            a.A_adjoint(y).flatten(1),
            values=a._values(),
            lost=None if lost is None else lost(y),
        )

    def _data_term(self) -> Whitening:
        return self.operator._whitening()
