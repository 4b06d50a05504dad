"""A module around which its input goes as well."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """h + body(h)."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, h: Tensor) -> Tensor:
        """The sum h + body(h), of the shape of h."""
        out: Tensor = h + self.body(h)
        return out
