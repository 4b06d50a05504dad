"""The objective where the variance of a pixel is decided by what is decoded there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jpmap_fast.kernels.mlp import MLPLeastSquares
from jpmap_fast.kernels.products import weighted_product
from jpmap_fast.objective.least_squares import (
    LatentObjective,
    fused_network,
    half_squared_norm,
)
from jpmap_fast.operators.data_term import Dependent
from jpmap_fast.priors.decoder_base import Decoder


class DependentLeastSquares(LatentObjective):
    r"""f(z) = 1/2 sum_j seen_j (r_j^2 / s_j + log(s_j / w_j)) + 1/2 ||z||^2 + constant,

        r = t - m G,    s = sigma^2 + m^2 v(G) / beta,    w = sigma^2 + m^2 / beta.

    Its Gauss-Newton matrix is that of Fisher's information, with the weight
    seen (m^2 / s + (m^2 v' / beta)^2 / (2 s^2)) of a pixel.

    Args:
        decoder: G, restricted to the pixels that are seen.
        term: what the operator says of them.
        target: t [B, p].
        beta, sigma: [B].
        constant: what f adds that does not depend on z, float64 [B].
    """

    def __init__(
        self,
        decoder: Decoder,
        term: Dependent,
        target: Tensor,
        beta: Tensor,
        sigma: Tensor,
        constant: Tensor | None,
    ) -> None:
        self.decoder, self.target, self.constant = decoder, target, constant
        self._term, self._beta, self._sigma = term, beta, sigma
        self._fisher: Tensor | None = None

    @classmethod
    def of(
        cls, decoder: Decoder, term: Dependent, y: Tensor, beta: Tensor, sigma: Tensor
    ) -> DependentLeastSquares:
        """That of measurements y [B, ...], beta [B] and sigma [B]."""
        constant = None
        if term.lost is not None:
            constant = term.lost(y).double().square().sum(dim=-1) / (2 * sigma.double().square())
        return cls(decoder, term, term.coordinates(y), beta, sigma, constant)

    def _parts(self, decoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """r, s and log(s / w) of decoded pixels [B, p]."""
        term, noise = self._term, self._sigma.square()[:, None]
        gain = term.weight.square() / self._beta[:, None]
        s = noise + gain * term.variance(decoded)
        return self.target - term.weight * decoded, s, (s / (noise + gain)).log()

    def _total(self, r: Tensor, s: Tensor, ratio: Tensor, z: Tensor) -> Tensor:
        squares = (self._term.seen * (r.square() / s + ratio)).double().sum(dim=-1)
        total = 0.5 * squares + half_squared_norm(z)
        return total if self.constant is None else total + self.constant

    def logarithms(self, z: Tensor) -> Tensor:
        """sum_j seen_j log(s_j / w_j) [B] float64: the part of 2 f that is no square."""
        ratio = self._parts(self.decoder.value(z))[2]
        return (self._term.seen * ratio).double().sum(dim=-1)

    def value(self, z: Tensor) -> Tensor:
        return self._total(*self._parts(self.decoder.value(z)), z)

    def _at(self, decoded: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        term = self._term
        r, s, ratio = self._parts(decoded)
        slope = term.weight.square() * term.derivative(decoded) / self._beta[:, None]
        pull = term.weight * r / s + 0.5 * slope * (r.square() / s - 1) / s
        self._fisher = term.seen * (term.weight.square() / s + 0.5 * (slope / s).square())
        return self._total(r, s, ratio, z), term.seen * pull

    def _gram(self, columns: Tensor) -> Tensor:
        return weighted_product(columns, self._information())

    def _weigh(self, tangent: Tensor) -> Tensor:
        return self._information() * tangent

    def _information(self) -> Tensor:
        """The weights of the pixels at the last z that was asked about [B, p]."""
        assert self._fisher is not None
        return self._fisher

    def gauss_newton_product(self, z: Tensor) -> Callable[[Tensor], Tensor]:
        self._at(self.decoder.value(z), z)
        return super().gauss_newton_product(z)

    def fused(self) -> MLPLeastSquares | str:
        term, beta, (batch, pixels) = self._term, self._beta, self.target.shape
        if term.grey is None:
            return "the variance of a pixel depends on what is decoded there"
        found = fused_network(self.decoder, None, self.target)
        if isinstance(found, str):
            return found
        floor, slope = term.grey
        law = torch.stack((self._sigma.square(), floor / beta, slope / beta, 1 / beta), dim=1)
        scale, seen = term.weight.to(self.target), term.seen.to(self.target)
        return MLPLeastSquares(
            found[0],
            self.target,
            seen.expand(batch, 1 if seen.numel() == 1 else pixels),
            scale if scale.dim() == 2 else scale.expand(pixels),
            self.constant,
            law.to(self.target),
        )

    def select(self, index: Tensor | slice) -> DependentLeastSquares:
        return DependentLeastSquares(
            self.decoder,
            self._term.select(index),
            self.target[index],
            self._beta[index],
            self._sigma[index],
            None if self.constant is None else self.constant[index],
        )
