r"""The objective as a function of the latent code, in the form the z-steps need.

Every z-step of every algorithm minimises a regularised nonlinear least-squares function

    f(z) = constant + 1/2 || t - H G(z) ||^2_W + 1/2 ||z||^2

where G is the decoder and H, t, W depend on the step:

=====================  ===================  ===============  ================================
step                   H                    t                W
=====================  ===================  ===============  ================================
alternating            I                    x                beta
projected, diagonal    diag(m)              y                1 / (sigma^2 + m^2 / beta)
projected, spectral    U^T A                U^T y            1 / (sigma^2 + lambda / beta)
projected, any A       A                    y                (sigma^2 I + A A^T / beta)^{-1}
=====================  ===================  ===============  ================================

with A A^T = U diag(lambda) U^T: the eigenvectors of a dense matrix, or Fourier for a blur. The
projected function is J(z) = min_x J1(x, z); beta = inf turns it into the latent objective
F(G(z)) + 1/2 ||z||^2 of MAP-z and CSGM.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from jpmap_fast.kernels.mlp import MLPLeastSquares, refusal
from jpmap_fast.kernels.mlp_network import PackedNetwork, pack_network
from jpmap_fast.kernels.products import weighted_product
from jpmap_fast.operators.data_term import LinearMap
from jpmap_fast.priors.decoder_base import Decoder
from jpmap_fast.priors.mlp_decoder import MLPDecoder


class LatentObjective(ABC):
    """f(z) for a batch of images, each with a function of its own. Scalars are float64 [B]."""

    decoder: Decoder

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """f(z) [B] of z [B, k]."""

    @abstractmethod
    def _at(self, decoded: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """F [B] and c = H^T W (t - H G) [B, n], with G = G(z) given."""

    @abstractmethod
    def _gram(self, columns: Tensor) -> Tensor:
        """J^T H^T W H J [B, k, k] of the transposed Jacobian [B, k, n]."""

    @abstractmethod
    def _weigh(self, tangent: Tensor) -> Tensor:
        """H^T W H [B, n] of a change of the image [B, n]."""

    def gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """f(z) [B] and its gradient [B, k]."""
        f = z.new_empty(0)

        def cotangent(decoded: Tensor) -> Tensor:
            nonlocal f
            f, c = self._at(decoded, z)
            return c

        _, pulled = self.decoder.pullback(z, cotangent)
        return f, z - pulled

    def newton_system(
        self, z: Tensor, second_order: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """f(z) [B], its gradient [B, k], the Gauss-Newton matrix and the Hessian, [B, k, k] each.

        The Gauss-Newton matrix is I + J^T H^T W H J. The Hessian is None where it is not wanted or
        costs too much.
        """
        f = z.new_empty(0)

        def cotangent(decoded: Tensor) -> Tensor:
            nonlocal f
            f, c = self._at(decoded, z)
            return c

        expansion = self.decoder.expand(z, cotangent, second_order)
        matrix = self._gram(expansion.columns).to(z.dtype)
        matrix.diagonal(dim1=-2, dim2=-1).add_(1)
        hessian = None
        if expansion.curvature is not None:
            hessian = matrix - 0.5 * (expansion.curvature + expansion.curvature.mT)
        return f, z - expansion.pulled, matrix, hessian

    def normal_equations(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``newton_system`` without the Hessian."""
        return self.newton_system(z, second_order=False)[:3]

    def gauss_newton_product(self, z: Tensor) -> Callable[[Tensor], Tensor]:
        """The product by the Gauss-Newton matrix at z, directions [B, k] to [B, k]."""
        jacobian = self.decoder.linearisation(z)
        return lambda v: v + jacobian.pull(self._weigh(jacobian.push(v)))

    @abstractmethod
    def select(self, index: Tensor | slice) -> LatentObjective:
        """The objective of the images ``index`` alone; those of a slice share what it holds."""

    def repeated(self, index: Tensor) -> LatentObjective:
        """That of the images ``index``, which may repeat, with no memory of earlier calls."""
        return self.select(index)

    def fused(self) -> MLPLeastSquares | str:
        """The same function for the fused operators, or why they do not apply."""
        return "A is known by its action alone"


def half_squared_norm(z: Tensor) -> Tensor:
    """1/2 ||z||^2 of each row, in float64."""
    return 0.5 * z.double().square().sum(dim=-1)


def fused_network(
    decoder: Decoder, matrix: LinearMap | None, like: Tensor
) -> tuple[PackedNetwork, Tensor | None] | str:
    """A decoder and H behind it for the fused operators, or why they do not apply.

    Args:
        decoder: G.
        matrix: H [p, n]; None for the identity.
        like: a tensor of the type and device in question.

    Returns:
        The network, and the diagonal before it, [p] or [B, p] or None, that H is given with.
    """
    if not isinstance(decoder, MLPDecoder):
        return "the decoder is no plain multilayer perceptron"
    layers, activations, scale = list(decoder.layers), list(decoder.activations), None
    if matrix is not None:
        if matrix.dense is None:
            return "A is faster by its transform than as a matrix"
        product, scale = matrix.dense
        layers.append(product)
        activations.append("identity")
    widths = [layer.weight.shape[0] for layer in layers]
    reason = refusal(decoder.latent_dim, widths, activations, like)
    return reason or (pack_network(layers, activations), scale)


class WeightedLeastSquares(LatentObjective):
    """f with diagonal W and H the identity, a diagonal or a matrix.

    Args:
        decoder: G, already restricted to the pixels that H sees.
        target: t [B, p].
        weight: diagonal of W, [B, p] or [B, 1].
        scale: diagonal of H, [p] or [B, p]; None for the identity.
        matrix: H [p, n] as a map; None for a diagonal H.
        constant: what f adds that does not depend on z, float64 [B].
    """

    def __init__(
        self,
        decoder: Decoder,
        target: Tensor,
        weight: Tensor,
        *,
        scale: Tensor | None = None,
        matrix: LinearMap | None = None,
        constant: Tensor | None = None,
    ) -> None:
        self.decoder = decoder
        self.target = target
        self.weight = weight
        self.scale = scale
        self.matrix = matrix
        self.constant = constant

    def _observe(self, decoded: Tensor) -> Tensor:
        """H applied to the last dimension of [B, n] or [B, k, n]."""
        if self.matrix is not None:
            return self.matrix(decoded)
        if self.scale is not None:
            scale = self.scale
            if scale.dim() == 2 and decoded.dim() == 3:
                scale = scale[:, None]
            return decoded * scale
        return decoded

    def _observe_adjoint(self, residual: Tensor) -> Tensor:
        if self.matrix is not None:
            return self.matrix.adjoint(residual)
        return residual if self.scale is None else residual * self.scale

    def _total(self, residual: Tensor, weighted: Tensor, z: Tensor) -> Tensor:
        total = 0.5 * (residual.double() * weighted).sum(dim=-1) + half_squared_norm(z)
        return total if self.constant is None else total + self.constant

    def value(self, z: Tensor) -> Tensor:
        residual = self.target - self._observe(self.decoder.value(z))
        return self._total(residual, self.weight * residual, z)

    def _at(self, decoded: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        residual = self.target - self._observe(decoded)
        weighted = self.weight * residual
        return self._total(residual, weighted, z), self._observe_adjoint(weighted)

    def _gram(self, columns: Tensor) -> Tensor:
        if self.matrix is not None:
            return weighted_product(self.matrix(columns.to(self.target.dtype)), self.weight)
        weight = self.weight if self.scale is None else self.weight * self.scale.square()
        return weighted_product(columns, weight)

    def _weigh(self, tangent: Tensor) -> Tensor:
        return self._observe_adjoint(self.weight * self._observe(tangent))

    def fused(self) -> MLPLeastSquares | str:
        found = fused_network(self.decoder, self.matrix, self.target)
        if isinstance(found, str):
            return found
        network, scale = found
        if self.matrix is None:
            scale = self.scale
        return MLPLeastSquares(network, self.target, self.weight, scale, self.constant)

    def select(self, index: Tensor | slice) -> WeightedLeastSquares:
        scale = self.scale
        if scale is not None and scale.dim() == 2:
            scale = scale[index]
        return WeightedLeastSquares(
            self.decoder,
            self.target[index],
            self.weight[index],
            scale=scale,
            matrix=None if self.matrix is None else self.matrix.select(index),
            constant=None if self.constant is None else self.constant[index],
        )
