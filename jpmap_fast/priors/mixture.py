"""Mixtures of Gaussians with mean 0, read by the products of a point's entries.

Points are columns here, [B, d, N]: as ``torch.nn.functional.unfold`` gives patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Variances of a mixture are taken to be at least this: 0 and no noise would be 0 / 0.
LEAST_VARIANCE = 1e-12


def products(points: Tensor) -> Tensor:
    """p_i p_j for i <= j, of points [..., d, N]: [..., d (d + 1) / 2, N], row by row."""
    size = points.shape[-2]
    points = points.contiguous()
    out = points.new_empty(*points.shape[:-2], size * (size + 1) // 2, points.shape[-1])
    # Row by row of the triangle: many times as fast as gathering both factors.
    for i, part in enumerate(out.split(list(range(size, 0, -1)), dim=-2)):
        torch.mul(points[..., i:, :], points[..., i : i + 1, :], out=part)
    return out


@dataclass(frozen=True)
class Spectra:
    """A mixture by the eigenvectors of its covariances, to which any noise is added in a moment.

    Attributes:
        log_weights: [K], normalised, in double precision as all.
        variances: [K, d].
        vectors: [K, d, d], in columns.
    """

    log_weights: Tensor
    variances: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, log_weights: Tensor, covariances: Tensor) -> Spectra:
        """Those of weights [K], up to a factor, and covariances [K, d, d]."""
        variances, vectors = torch.linalg.eigh(covariances.double())
        log_weights = log_weights.double().log_softmax(dim=0)
        return cls(log_weights, variances.clamp(min=LEAST_VARIANCE), vectors)

    def with_noise(self, s: Tensor, like: Tensor) -> Densities:
        """The mixtures of points with noise of level s [B], in the type of ``like``."""
        variances = self.variances + s.double().square()[:, None, None]  # [B, K, d]
        size = variances.shape[-1]
        precision = (self.vectors / variances[..., None, :]) @ self.vectors.mT
        logdet = variances.log().sum(dim=-1)
        constant = self.log_weights - (logdet + size * math.log(2 * math.pi)) / 2
        return Densities.of(constant, precision, like)

    def wiener(self, s: Tensor) -> Tensor:
        """C_k (C_k + s^2 I)^{-1} [B, K, d, d], in double precision."""
        shares = self.variances / (self.variances + s.double().square()[:, None, None])
        return (self.vectors * shares[..., None, :]) @ self.vectors.mT


@dataclass(frozen=True)
class Densities:
    """log w_k + log N(p; 0, C_k) as linear functions of the products of p, of B mixtures.

    Attributes:
        linear: [B, K, d (d + 1) / 2].
        constant: [B, K, 1].
    """

    linear: Tensor
    constant: Tensor

    @classmethod
    def of(cls, constant: Tensor, precision: Tensor, like: Tensor) -> Densities:
        """Those of constants [B, K] and of C_k^{-1} [B, K, d, d], in the type of ``like``."""
        size = precision.shape[-1]
        rows, columns = torch.triu_indices(size, size, device=precision.device)
        # An off-diagonal product stands for two terms of p^T C^{-1} p.
        twice = torch.where(rows == columns, 0.5, 1.0).double()
        linear = -twice * precision[..., rows, columns]
        return cls(linear.to(like).contiguous(), constant[..., None].to(like))

    def __call__(self, products_: Tensor) -> Tensor:
        """Of products [B, d (d + 1) / 2, N]: [B, K, N].

        On a CPU one matrix product of the same shape for each image, so that none depends on its
        batch.
        """
        linear = self.linear.expand(len(products_), -1, -1)
        constant = self.constant.expand(len(products_), -1, -1)
        if products_.is_cuda:
            return torch.baddbmm(constant, linear, products_)
        parts = [torch.addmm(*each) for each in zip(constant, linear, products_, strict=True)]
        return torch.stack(parts) if len(parts) > 1 else parts[0][None]

    def score(self, points: Tensor, shares: Tensor) -> Tensor:
        r"""sum_k r_k grad_p log N(p; 0, C_k) = -sum_k r_k C_k^{-1} p of points, like them.

        Args:
            points: p [B, d, N].
            shares: r [B, K, N]; with those of the posterior it is grad log of the mixture.
        """
        return _gradient(self.linear.mT @ shares, points)

    def score_of(self, points: Tensor, chosen: Tensor) -> Tensor:
        """grad_p log N(p; 0, C_k) = -C_k^{-1} p of points, k [B, N]."""
        linear = self.linear.mT.contiguous().expand(len(points), -1, -1)
        if points.is_cuda:
            index = chosen[:, None].expand(-1, linear.shape[1], -1)
            return _gradient(linear.gather(2, index), points)
        parts = [one.index_select(1, k) for one, k in zip(linear, chosen, strict=True)]
        return _gradient(torch.stack(parts) if len(parts) > 1 else parts[0][None], points)


def _gradient(packed: Tensor, points: Tensor) -> Tensor:
    """The gradient of sum_{i <= j} a_ij p_i p_j in p [B, d, N]; a [B, d (d + 1) / 2, N] is lost."""
    size = points.shape[-2]
    out = torch.zeros_like(points)
    for i, row in enumerate(packed.split(list(range(size, 0, -1)), dim=-2)):
        out[:, i:].addcmul_(row, points[:, i : i + 1])
        out[:, i] += row.mul_(points[:, i:]).sum(dim=1)
    return out


def posterior_mean(points: Tensor, densities: Densities, s: Tensor, *, best: bool) -> Tensor:
    r"""E[p | p + s n] of points of a mixture, n ~ N(0, I): [B, d, N].

        E = q + s^2 grad log p_s(q) = sum_k r_k(q) C_k (C_k + s^2 I)^{-1} q,

    r_k the posterior probabilities of the components.

    Args:
        points: q = p + s n, [B, d, N].
        densities: of q, ``Spectra.with_noise(s, ...)``.
        s: [B].
        best: the likeliest component has the whole share, as in EPLL.

    Source: D. Zoran, Y. Weiss, "From learning models of natural image patches to whole image
    restoration", ICCV 2011; B. Efron, "Tweedie's formula and selection bias", 2011.
    """
    scores = densities(products(points))
    if best:
        gradient = densities.score_of(points, scores.argmax(dim=1))
    else:
        gradient = densities.score(points, scores.softmax(dim=1))
    return points + s.to(points).square()[:, None, None] * gradient
