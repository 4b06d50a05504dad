"""Inputs for the operator tests, and the error measures they are judged by."""

from __future__ import annotations

import torch
from torch import Tensor

# Relative error allowed: a few roundings an element, sums in double.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
DTYPES = [torch.float32, torch.float64]
# Batch by pixels: one, odd, MNIST, a colour face; beyond one chunk; every batch size asked for.
SIZES = [(b, n) for n in (1, 33, 784, 12_288) for b in (0, 1, 3)] + [
    (4096, 1),
    (4096, 33),
    (4096, 784),
    (256, 12_288),
    (2, 40_001),
]


def generator(device: torch.device, seed: int = 0) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)


def draw(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int, uniform: bool
) -> Tensor:
    """Values drawn on the CPU, so that both devices see the same."""
    g = torch.Generator().manual_seed(seed)
    make = torch.rand if uniform else torch.randn
    return make(shape, generator=g, dtype=torch.float64).to(dtype).to(device)


def scattered(tensor: Tensor) -> Tensor:
    """The same values with gaps between them in memory."""
    if tensor.dim() == 0:
        return tensor
    wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1])
    wide[..., ::2] = tensor
    return wide[..., ::2]


def rows_error(found: Tensor, exact: Tensor) -> float:
    """Largest ||found - exact|| / ||exact|| over the rows; scalars count as rows of one."""
    if found.numel() == 0:
        return 0.0
    found, exact = found.double().reshape(len(found), -1), exact.reshape(len(exact), -1)
    scale = exact.norm(dim=1).clamp_min(1e-300)
    return float(((found - exact).norm(dim=1) / scale).max())
