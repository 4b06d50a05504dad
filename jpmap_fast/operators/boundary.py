"""Continuation of images beyond their border, and its exact transpose."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BOUNDARIES = ("circular", "zero", "reflect", "replicate", "valid")


def extend(x: Tensor, dim: int, before: int, after: int, boundary: str) -> Tensor:
    """X continued by ``before`` and ``after`` entries along ``dim`` (-1 or -2).

    ``boundary`` is zero, reflect (the border entry is not repeated, so both counts are below the
    extent) or replicate.
    """
    pad = (before, after) if dim == -1 else (0, 0, before, after)
    if boundary == "zero":
        return F.pad(x, pad)
    size = x.shape[dim]
    position = torch.arange(-before, size + after, device=x.device)
    if boundary == "replicate":
        position = position.clamp(0, size - 1)
    else:
        position = (size - 1) - ((size - 1) - position.abs()).abs()
    return x.index_select(dim, position)


def extend_adjoint(y: Tensor, dim: int, before: int, after: int, boundary: str) -> Tensor:
    """The transpose of ``extend``: what was copied comes back and is added up.

    By slices and not by an indexed sum, whose order is left open on a GPU.
    """
    size = y.shape[dim] - before - after
    x = y.narrow(dim, before, size)
    if boundary == "zero":
        return x
    x = x.clone()
    first, last = y.narrow(dim, 0, before), y.narrow(dim, before + size, after)
    if boundary == "replicate":
        if before:
            x.narrow(dim, 0, 1).add_(first.sum(dim=dim, keepdim=True))
        if after:
            x.narrow(dim, size - 1, 1).add_(last.sum(dim=dim, keepdim=True))
        return x
    if before:
        x.narrow(dim, 1, before).add_(first.flip(dim))
    if after:
        x.narrow(dim, size - 1 - after, after).add_(last.flip(dim))
    return x
