"""Weighted draws of codes, and what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from jpmap_fast.sampling.random_numbers import Streams

# Which sampler an image's draws are of.
AMIS_DRAWS, SMC_DRAWS, MALA_DRAWS = range(3)


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

    def put(self, rows: Tensor, other: Weighted) -> Weighted:
        """These with the draws of the images ``rows`` replaced by others."""
        padded = _padded((self, other))
        found = {}
        for field in fields(self):
            whole = getattr(padded[0], field.name).clone()
            whole[rows] = getattr(padded[1], field.name)
            found[field.name] = whole
        return Weighted(**found)

    def resampled(self, count: int, streams: Streams) -> Tensor:
        """Codes [B, count, k] of equal weight, by systematic resampling, in no order."""
        u = (torch.arange(count, device=self.z.device) + streams.uniform("resampled", (1,))) / count
        index = systematic(self.weights, u)
        order = streams.uniform("order", (count,)).sort(dim=1).indices
        index = index.gather(1, order)
        return self.z.gather(1, index[..., None].expand(-1, -1, self.z.shape[2]))


def systematic(weights: Tensor, u: Tensor) -> Tensor:
    """The draws [B, n] at which the sums of weights [B, S] pass u [B, n], never one of weight 0."""
    edges = weights.cumsum(dim=1).contiguous()
    last = (weights > 0).long() * torch.arange(1, weights.shape[1] + 1, device=weights.device)
    last = last.amax(dim=1, keepdim=True) - 1
    return torch.minimum(torch.searchsorted(edges, u.contiguous()), last.clamp_min(0))


def joined(parts: Sequence[Weighted]) -> Weighted:
    """The draws of the images of all parts."""
    columns = _padded(parts)
    return Weighted(
        **{f.name: torch.cat([getattr(part, f.name) for part in columns]) for f in fields(Weighted)}
    )


def _padded(parts: Sequence[Weighted]) -> list[Weighted]:
    most = max(part.weights.shape[1] for part in parts)
    found = []
    for part in parts:
        batch, size, k = part.z.shape
        z = torch.cat((part.z, part.z.new_zeros(batch, most - size, k)), dim=1)
        weights = torch.cat((part.weights, part.weights.new_zeros(batch, most - size)), dim=1)
        found.append(replace(part, z=z, weights=weights))
    return found
