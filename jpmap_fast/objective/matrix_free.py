"""The objective for an A known only by its action: solves by conjugate gradients in every step."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast.kernels.products import batched_product
from jpmap_fast.objective.least_squares import LatentObjective, half_squared_norm
from jpmap_fast.operators.data_term import LinearSystem
from jpmap_fast.priors.decoder_base import Decoder


class _LastSolutions:
    """What the solves of a batch found last, for the next ones to begin from."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._rows: dict[str, Tensor] = {}

    def get(self, name: str, index: Tensor | None) -> Tensor | None:
        """The solutions of the images ``index``, None for all; None before the first solve."""
        rows = self._rows.get(name)
        return rows if rows is None or index is None else rows[index]

    def put(self, name: str, index: Tensor | None, rows: Tensor) -> None:
        """Keep the solutions of the images ``index``, None for all."""
        if index is None:
            self._rows[name] = rows
            return
        if name not in self._rows:
            self._rows[name] = rows.new_zeros(self._batch, *rows.shape[1:])
        self._rows[name][index] = rows


class MatrixFreeLeastSquares(LatentObjective):
    """f for an A known only through its action, with W = (sigma^2 I + A A^T / beta)^{-1}.

    Every solve begins from the last one's solutions, image by image: an image's iterates depend on
    nothing but its own past. Selections share that memory with what they were selected from.

    Args:
        decoder: G.
        system: A and the solves with W.
        target: y [B, m].
    """

    def __init__(self, decoder: Decoder, system: LinearSystem, target: Tensor) -> None:
        self.decoder = decoder
        self.system = system
        self.target = target
        self._last = _LastSolutions(target.shape[0])
        self._index: Tensor | None = None  # of these images in the memory; None for all

    def _solve(self, name: str, rhs: Tensor, rough: bool = False) -> tuple[Tensor, Tensor]:
        """W b [B, c, m], and what it leaves of b."""
        solved, left = self.system.solve(rhs, self._last.get(name, self._index), rough)
        self._last.put(name, self._index, solved)
        return solved, left

    def _solve_one(self, residual: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Value f [B] and W r [B, m]."""
        solved, left = self._solve("residual", residual[:, None])
        return self._total(residual, solved[:, 0], left[:, 0], z), solved[:, 0]

    def _total(self, residual: Tensor, solved: Tensor, left: Tensor, z: Tensor) -> Tensor:
        # r^T s + s^T (r - S s) is r^T S^{-1} r less the square of what s lacks: the error of an
        # inexact solve enters f in second order alone.
        return 0.5 * ((residual + left).double() * solved).sum(dim=-1) + half_squared_norm(z)

    def value(self, z: Tensor) -> Tensor:
        residual = self.target - self.system.measure(self.decoder.value(z))
        return self._solve_one(residual, z)[0]

    def _at(self, decoded: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        total, solved = self._solve_one(self.target - self.system.measure(decoded), z)
        return total, self.system.measure_adjoint(solved)

    def _gram(self, columns: Tensor) -> Tensor:
        seen = self.system.measure(columns.to(self.target.dtype))  # [B, k, m]
        # V^T (C + C - S V), made symmetric, is C^T S^{-1} C less the square of what V lacks: rough
        # solves do.
        inverse, left = self._solve("columns", seen, rough=True)
        matrix = batched_product(inverse, (seen + left).mT)
        return 0.5 * (matrix + matrix.mT)

    def _weigh(self, tangent: Tensor) -> Tensor:
        solved, _ = self.system.solve(self.system.measure(tangent)[:, None], None)
        return self.system.measure_adjoint(solved[:, 0])

    def select(self, index: Tensor | slice) -> MatrixFreeLeastSquares:
        if isinstance(index, slice):
            index = torch.arange(len(self.target), device=self.target.device)[index]
        new = MatrixFreeLeastSquares(self.decoder, self.system.select(index), self.target[index])
        new._last = self._last
        new._index = index if self._index is None else self._index[index]
        return new

    def repeated(self, index: Tensor) -> MatrixFreeLeastSquares:
        return MatrixFreeLeastSquares(self.decoder, self.system.select(index), self.target[index])
