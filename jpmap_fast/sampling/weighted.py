"""Weighted draws of codes, and what is told of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from jpmap_fast.sampling.random_numbers import Streams

# Which sampler an image's draws are of.
AMIS_DRAWS, SMC_DRAWS, MALA_DRAWS = range(3)


@dataclass(frozen=True)
class ImageSums:
    """What weighted draws say of images, [B, n] float64.

    Attributes:
        decoded: E[G | y].
        mean: E[x | y] of models whose E[x | z, y] is not affine in G.
        within: E var(x | z, y) of the same.
        between: var E(x | z, y).
        known: where all this is known; zeros elsewhere, bool [B].
    """

    decoded: Tensor
    mean: Tensor
    within: Tensor
    between: Tensor
    known: Tensor

    @classmethod
    def unknown(cls, zeros: Tensor) -> ImageSums:
        """Those of images of which nothing is known, of zeros [B, n]."""
        known = torch.zeros(len(zeros), dtype=torch.bool, device=zeros.device)
        return cls(zeros, zeros, zeros, zeros, known)

    def put(self, rows: Tensor, other: ImageSums) -> ImageSums:
        """These with those of the images ``rows`` replaced by others."""
        return ImageSums(**{n: _put(whole, rows, part) for n, whole, part in _pairs(self, other)})


@dataclass(frozen=True)
class Weighted:
    """Draws of each image with weights, float64. Some may be padding, of weight 0 and code 0.

    Attributes:
        z: [B, S, k].
        weights: >= 0, with sum 1 [B, S].
        ess: effective number of draws [B].
        pareto_k: shape of the tail of the weights [B]; NaN where there are none.
        r_hat: of chains [B]; NaN without.
        log_evidence: log p(y) less ``Model.log_constant`` [B]; NaN where it is not known.
        evaluations: decodes spent [B], a gradient being two.
        size: draws without padding [B].
        sampler: which one it was [B].
        sums: of their images, where a sampler knows them; None where it knows none.
    """

    z: Tensor
    weights: Tensor
    ess: Tensor
    pareto_k: Tensor
    r_hat: Tensor
    log_evidence: Tensor
    evaluations: Tensor
    size: Tensor
    sampler: Tensor
    sums: ImageSums | None = None

    def put(self, rows: Tensor, other: Weighted) -> Weighted:
        """These with the draws of the images ``rows`` replaced by others, without ``sums``."""
        pairs = _pairs(*_padded((self, other)))
        return replace(self, sums=None, **{n: _put(whole, rows, part) for n, whole, part in pairs})

    def condensed(self, count: int, streams: Streams) -> Weighted:
        """As many draws of equal weight, for less memory; what is told of them stays."""
        z = self.resampled(count, streams, "condensed ")
        weights, size = torch.full_like(z[..., 0], 1 / count), torch.full_like(self.size, count)
        return replace(self, z=z, weights=weights, size=size)

    def resampled(self, count: int, streams: Streams, name: str = "") -> Tensor:
        """Codes [B, count, k] of equal weight, by systematic resampling, in no order."""
        u = torch.arange(count, device=self.z.device)
        u = (u + streams.uniform(f"{name}resampled", (1,))) / count
        index = systematic(self.weights, u)
        order = streams.uniform(f"{name}order", (count,)).sort(dim=1).indices
        index = index.gather(1, order)
        return self.z.gather(1, index[..., None].expand(-1, -1, self.z.shape[2]))


def systematic(weights: Tensor, u: Tensor) -> Tensor:
    """The draws [B, n] at which the sums of weights [B, S] pass u [B, n], never one of weight 0."""
    edges = weights.cumsum(dim=1).contiguous()
    last = (weights > 0).long() * torch.arange(1, weights.shape[1] + 1, device=weights.device)
    last = last.amax(dim=1, keepdim=True) - 1
    return torch.minimum(torch.searchsorted(edges, u.contiguous()), last.clamp_min(0))


def _pairs(one: Any, other: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The tensors of two of a kind, with their names."""
    for f in fields(one):
        if isinstance(value := getattr(one, f.name), Tensor):
            yield f.name, value, getattr(other, f.name)


def _put(whole: Tensor, rows: Tensor, part: Tensor) -> Tensor:
    whole = whole.clone()
    whole[rows] = part
    return whole


def _padded(parts: Sequence[Weighted]) -> list[Weighted]:
    most = max(part.weights.shape[1] for part in parts)
    found = []
    for part in parts:
        batch, size, k = part.z.shape
        z = torch.cat((part.z, part.z.new_zeros(batch, most - size, k)), dim=1)
        weights = torch.cat((part.weights, part.weights.new_zeros(batch, most - size)), dim=1)
        found.append(replace(part, z=z, weights=weights, sums=None))
    return found
