"""A bound diagonal operator where the decoder's grey value decides the variance of x given z."""

from __future__ import annotations

import torch
from torch import Tensor

from jpmap_fast._surroundings import steady
from jpmap_fast.operators.bound import BoundOperator
from jpmap_fast.operators.data_term import DataTerm, Dependent, Whitening
from jpmap_fast.operators.diagonal import Diagonal
from jpmap_fast.operators.draws import scaled
from jpmap_fast.operators.over_white import OverWhite
from jpmap_fast.residuals import GreyValueVariance


class GreyValueOperator(OverWhite):
    r"""A diagonal A = diag(m) for p(x|z) = N(G, diag(v(G)) / beta), v = ``residual`` / gamma^2.

        J1(x, z) = ||A x - y||^2 / (2 sigma^2) + beta/2 sum_j (x_j - G_j)^2 / v_j
                   + 1/2 sum_j log(s_j / (sigma^2 + m_j^2 / beta)) + 1/2 ||z||^2,

    s_j = sigma^2 + m_j^2 v_j / beta, the sum over what was observed. Its least value over x is
    -log p(z | y) up to a constant: with a variance that depends on z the logarithm belongs to what
    is seen, whereas log v would favour codes that leave x no room. It is 0 for v = 1.

    Args:
        white: the bound operator, of ``Denoising`` or ``Inpainting``.
        residual: v gamma^2.
        gamma: of the prior.

    Raises:
        ValueError: another operator, for which s is no diagonal.
    """

    def __init__(self, white: BoundOperator, residual: GreyValueVariance, gamma: float) -> None:
        if not isinstance(white.operator, Diagonal):
            raise ValueError(
                "residual: expected Denoising or Inpainting for a variance by grey value, whose "
                f"x-update has no closed form otherwise, got {white.operator!r}; a "
                "ResidualCovariance ('covariance') serves every operator"
            )
        super().__init__(white, residual, gamma)
        self.residual = residual

    def _variance(self, decoded: Tensor) -> Tensor:
        return self.residual.variance(decoded) / self._gamma**2

    def _derivative(self, decoded: Tensor) -> Tensor:
        return self.residual.derivative(decoded) / self._gamma**2

    def _pixels(
        self, flat: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor | float, Tensor, Tensor, Tensor, Tensor]:
        """m, what is seen, v / beta, s, and the sum of the logarithms [B] float64."""
        weight = self.operator._weight()  # type: ignore[attr-defined]
        m = flat.new_ones(1) if weight is None else weight
        seen = (m != 0).to(flat.dtype)
        variance = self._variance(flat) / beta[:, None]
        noise = sigma.square()[:, None]
        s = noise + m.square() * variance
        ratio = seen * (s / (noise + m.square() / beta[:, None])).log()
        return m, seen, variance, s, ratio.double().sum(dim=1)

    def _x_update(
        self, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        flat, y = decoded.flatten(1), y.flatten(1)
        m, seen, variance, s, logs = self._pixels(flat, beta, sigma)
        residual = seen * (y - m * flat)
        moved = m * variance * residual / s
        lost = ((1 - seen) * y).double().square().sum(dim=1) / sigma.double().square()
        squares = (residual.double() * (residual / s)).sum(dim=1) + lost
        objective = 0.5 * (squares + logs + z.double().square().sum(dim=1))
        gap = moved.double().square().sum(dim=1)
        x = (flat + moved).reshape(decoded.shape)
        return x, objective.to(flat.dtype), gap.to(flat.dtype)

    def evaluate(
        self, x: Tensor, decoded: Tensor, y: Tensor, z: Tensor, beta: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        flat = decoded.flatten(1)
        _, _, variance, _, logs = self._pixels(flat, beta, sigma)
        apart = (x.flatten(1) - flat).double()
        left = (y - self.operator.A(x)).flatten(1).double().square().sum(dim=1)
        squares = left / sigma.double().square() + (apart.square() / variance).sum(dim=1)
        total = 0.5 * (squares + logs + z.double().square().sum(dim=1))
        return total.to(x.dtype), apart.square().sum(dim=1).to(x.dtype)

    def coupling_term(self, beta: Tensor) -> Tensor:
        raise ValueError(
            "coupling: expected 'projected' with a variance by grey value, which is not the same "
            "for all z, got a step in z at a given x, as of 'alternating' and the method 'admm'"
        )

    def _data_term(self) -> DataTerm:
        term = self.white.data_term()
        assert isinstance(term, Whitening)
        like = torch.ones(1) if term.scale is None else term.scale
        place = self._place
        if term.scale is None and place is not None:
            like = torch.ones(1, dtype=place[0], device=place[1])
        return Dependent(
            like,
            torch.ones_like(like) if term.seen is None else term.seen,
            self._variance,
            self._derivative,
            term.coordinates,
            term.rows,
            term.lost,
            ((self.residual.floor / self._gamma) ** 2, (self.residual.slope / self._gamma) ** 2),
        )

    def variance_x(self, decoded: Tensor, beta: Tensor, sigma: Tensor) -> Tensor:
        flat = decoded.flatten(1)
        _, _, variance, s, _ = self._pixels(flat, beta, sigma)
        return (variance * (sigma.square()[:, None] / s)).double()

    def log_determinant(self, beta: Tensor, sigma: Tensor) -> Tensor | None:
        """That of the white model, over which the objective has the logarithms."""
        return self.white.log_determinant(beta, sigma)

    @steady
    def perturbed_x(
        self,
        decoded: Tensor,
        beta: Tensor,
        sigma: Tensor,
        y: Tensor,
        of_y: Tensor,
        of_x: Tensor,
    ) -> Tensor:
        # Not the x-update of G + e_2, whose variance would be that of other grey values.
        flat = decoded.flatten(1)
        m, seen, variance, s, _ = self._pixels(flat, beta, sigma)
        target = flat + variance.sqrt() * of_x.flatten(1)
        residual = seen * ((y + scaled(of_y, sigma)).flatten(1) - m * target)
        return (target + m * variance * residual / s).reshape(decoded.shape)

    def _of(self, white: BoundOperator) -> GreyValueOperator:
        return GreyValueOperator(white, self.residual, self._gamma)
