"""Small images to train on, and what is compared of what was trained."""

from __future__ import annotations

import torch

import jpmap_fast as jf


def digits(number: int) -> torch.Tensor:
    return jf.mnist_test_digits(number)[0]


def colours(number: int) -> torch.Tensor:
    """Small smooth images in colour, [N, 3, 8, 16]."""
    g = torch.Generator().manual_seed(0)
    u = torch.rand(number, 3, 1, 1, generator=g)
    rows, columns = torch.linspace(0, 3, 8)[:, None], torch.linspace(0, 3, 16)
    waves = [torch.sin(u[:, i] * 3 + (1 + i) * rows + u[:, 2] * columns) for i in range(3)]
    return 0.5 + 0.4 * torch.stack(waves, dim=1)


def parameters(prior: jf.MLPVAE | jf.ConvVAE) -> torch.Tensor:
    """Everything that a file of weights holds, statistics of batch normalisations included."""
    return torch.cat([value.detach().flatten().double() for value in prior.state_dict().values()])
