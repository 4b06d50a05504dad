r"""What an objective needs of a bound operator: its data term, with the best x put in.

For a Gaussian coupling of weight beta the x of J1 goes out in closed form, and what is left,

    1/2 (y - A G)^T (sigma^2 I + A A^T / beta)^{-1} (y - A G),

is a sum of squares in the right coordinates (``Whitening``), or known by the action of A alone
(``Action``). Neither knows a decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from jpmap_fast._arrays import parts_of
from jpmap_fast._per_image import MadeOfShared
from jpmap_fast.kernels.products import RowProduct


class LinearMap(Protocol):
    """H [p, n] on rows, shared or one an image: [B, n] to [B, p] and [B, k, n] to [B, k, p]."""

    def __call__(self, x: Tensor) -> Tensor:
        """H x."""
        ...

    @property
    def adjoint(self) -> Callable[[Tensor], Tensor]:
        """H^T on rows."""
        ...

    @property
    def dense(self) -> tuple[RowProduct, Tensor | None] | None:
        """The same H for the fused solvers, as a matrix and a diagonal [p] or [B, p] before it.

        No diagonal means ones. None where a matrix would be no gain.
        """
        ...

    def select(self, index: Tensor | slice) -> LinearMap:
        """H of the images ``index``."""
        ...


@dataclass(frozen=True)
class Whitening:
    r"""A data term that is a sum of squares in coordinates t = U^T y:

        1/2 sum_j w_j (t_j - (H x)_j)^2 + ||lost(y)||^2 / (2 sigma^2),
        w_j = seen_j / (sigma^2 + lambda_j / beta),

    with A = U H and H H^T = diag(lambda).

    Attributes:
        values: lambda >= 0, [p] or [B, p], or one number for all.
        coordinates: y [B, ...] to t [B, p].
        map: H; None for a diagonal one.
        scale: the diagonal of H, [p] or [B, p]; None for ones, or with ``map``.
        rows: the pixels that H sees, int64 [p], shared by all images; None for all of them.
        seen: 1, or 0 for what was not observed, [p] or [B, p]; None for ones.
        lost: y to what of it no x can explain, [B, q]; None where there is nothing such.
        multiplicity: how many of the measurements each coordinate stands for, [p], where t has more
            numbers than y; None for one each.
    """

    values: Tensor | float
    coordinates: Callable[[Tensor], Tensor]
    map: LinearMap | None = None
    scale: Tensor | None = None
    rows: Tensor | None = None
    seen: Tensor | None = None
    lost: Callable[[Tensor], Tensor] | None = None
    multiplicity: Tensor | None = None
    _made: MadeOfShared = field(default_factory=MadeOfShared, init=False, repr=False, compare=False)

    def weight(self, beta: Tensor, sigma: Tensor) -> Tensor:
        """The weights of the squares, [B, p] or [B, 1], for beta [B] and sigma [B]."""

        def made() -> Tensor:
            # Not 1 / t, which is a product more.
            precision = (sigma.square()[:, None] + self.values / beta[:, None]).reciprocal()
            return precision if self.seen is None else self.seen * precision

        return self._made.get("weight", (beta, sigma), made)

    def constant(self, y: Tensor, sigma: Tensor) -> Tensor | None:
        """What y adds whatever x is, float64 [B]; None for nothing."""
        if self.lost is None:
            return None
        twice = self._made.get("2 sigma^2", (sigma,), lambda: 2 * sigma.double().square())
        lost, parts = self.lost(y), parts_of(y)
        if len(parts) == 1:
            return lost.double().square().sum(dim=-1) / twice
        return torch.cat([lost[part].double().square().sum(dim=-1) for part in parts]) / twice

    def log_determinant(self, beta: Tensor, sigma: Tensor, count: int) -> Tensor:
        """Log det(sigma^2 I + A A^T / beta) of the ``count`` measurements of an image.

        Those that were not observed (``seen`` = 0) do not count.

        Args:
            beta, sigma: [B].
            count: numbers of y an image.

        Returns:
            float64 [B].
        """
        variance, beta = sigma.double().square()[:, None], beta.double()[:, None]
        values = self.values
        if not isinstance(values, Tensor):
            values = variance.new_full((), values)
        values = values.double()
        if values.dim() == 0:
            values = values.expand(count)
        number = (
            torch.ones_like(values) if self.multiplicity is None else self.multiplicity.double()
        )
        if self.seen is not None:
            number = number * self.seen.double()
        total = (number * (variance + values / beta).log()).sum(dim=-1)
        if self.seen is None:  # what no x can reach is noise alone
            total = total + (count - number.sum(dim=-1)) * variance[:, 0].log()
        return total

    def explained(self, beta: Tensor, sigma: Tensor, pixels: int) -> Tensor | None:
        """The part of each pixel's variance that measuring takes away, in [0, 1].

        It is the diagonal of A^T (A A^T + beta sigma^2 I)^{-1} A, of the variance 1 / beta; for a
        diagonal A it is lambda / (lambda + beta sigma^2), whatever lambda is.

        Args:
            beta, sigma: [B].
            pixels: n.

        Returns:
            float64 [B, n]; None where it is not to be had from a diagonal or a matrix.
        """
        weight = self.weight(beta.double(), sigma.double()) / beta.double()[:, None]
        if self.map is None:
            values = self.values.double() if isinstance(self.values, Tensor) else self.values
            share = weight * values
            share = share.expand(-1, pixels if self.rows is None else self.rows.numel())
            if self.rows is None:
                return share
            return share.new_zeros(len(share), pixels).index_copy(1, self.rows, share)
        if self.map.dense is None:
            return None
        matrix, scale = self.map.dense
        if scale is not None:
            weight = weight * scale.double().square()
        return RowProduct(matrix.weight.double().square().T)(weight)


class LinearSystem(Protocol):
    """A of a batch and W = (sigma^2 I + A A^T / beta)^{-1}, each known by its action alone."""

    def measure(self, x: Tensor) -> Tensor:
        """A on [B, n] or [B, c, n]."""
        ...

    def measure_adjoint(self, y: Tensor) -> Tensor:
        """A^T on [B, m]."""
        ...

    def solve(
        self, rhs: Tensor, start: Tensor | None, rough: bool = False
    ) -> tuple[Tensor, Tensor]:
        """W applied to b [B, c, m], begun from ``start``, and what is left, b - W^{-1} W b.

        ``rough``: the square root of the tolerance will do.
        """
        ...

    def select(self, index: Tensor) -> LinearSystem:
        """That of the images ``index``."""
        ...


@dataclass(frozen=True)
class Action:
    """A data term known by the action of A.

    Attributes:
        system: the ``LinearSystem`` of measurements of a shape, for beta [B] and sigma [B].
    """

    system: Callable[[tuple[int, ...], Tensor, Tensor], LinearSystem]


@dataclass(frozen=True)
class Dependent:
    r"""A data term whose noise the decoder decides, pixel by pixel:

        1/2 sum_j seen_j ((y_j - m_j G_j)^2 / s_j + log(s_j / (sigma^2 + m_j^2 / beta))) + lost,
        s_j = sigma^2 + m_j^2 v(G_j) / beta.

    The logarithm is 0 where v = 1.

    Attributes:
        weight: m, [p], [B, p] or [1].
        seen: 1, or 0 for what was not observed, like ``weight``.
        variance, derivative: v and v' of decoded pixels, elementwise.
        coordinates, rows, lost: see ``Whitening``.
        grey: a and b of v = a + b g (1 - g), g = G taken into [0, 1], for the fused solvers; None
            for any other v.
    """

    weight: Tensor
    seen: Tensor
    variance: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    coordinates: Callable[[Tensor], Tensor]
    rows: Tensor | None = None
    lost: Callable[[Tensor], Tensor] | None = None
    grey: tuple[float, float] | None = None

    def select(self, index: Tensor | slice) -> Dependent:
        """That of the images ``index``."""
        if self.weight.dim() < 2:
            return self
        return replace(self, weight=self.weight[index], seen=self.seen[index])


@dataclass(frozen=True)
class ClosedForm:
    r"""An x-update of white noise in numbers alone, for a method that runs compiled as a whole.

    Attributes:
        image: measurements as an image [B, n]; A^T y where there are ``values``.
        mask: m of A = diag(m), [n] or [B, n]; None for ones.
        values: lambda of A = U H with H H^T = diag(lambda), [p] or [B, p], H a matrix and the
            ``Whitening.map``; None for a diagonal A.
        lost: what of y no x can explain [B, q]; None for nothing.
    """

    image: Tensor
    mask: Tensor | None = None
    values: Tensor | None = None
    lost: Tensor | None = None


DataTerm = Whitening | Action | Dependent
