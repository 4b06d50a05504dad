"""Small products in float64 whose bits do not depend on where an image stands in memory.

A library's batched products peel loops by alignment; sums of whole tensors, one after the other, do
not. The matrices are those of codes: k x k.
"""

from __future__ import annotations

import torch
from torch import Tensor


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices [..., i, j] times vectors [..., j], broadcast against each other: [..., i]."""
    total = matrix[..., 0] * vector[..., 0, None]
    for j in range(1, matrix.shape[-1]):
        total = total + matrix[..., j] * vector[..., j, None]
    return total


def log_sum(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)), each number the same wherever it stands in a tensor."""
    top = torch.maximum(a, b)
    apart = torch.minimum(a, b) - top
    return torch.where(torch.isinf(top), top, top + torch.log1p(apart.exp()))


def weighted_sum(weights: Tensor, rows: Tensor) -> Tensor:
    """sum_n w_n r_n [B, m] of weights [B, N] and rows [B, N, m]."""
    return (weights[..., None] * rows).sum(dim=1)


def weighted_gram(weights: Tensor, rows: Tensor) -> Tensor:
    """sum_n w_n r_n r_n^T [B, k, k] of weights [B, N] and rows [B, N, k]."""
    scaled = weights[..., None] * rows
    columns = [weighted_sum(scaled[..., i], rows) for i in range(rows.shape[-1])]
    return torch.stack(columns, dim=1)
