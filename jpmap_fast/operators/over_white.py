"""What bound operators under another model of x given z than white noise have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jpmap_fast.operators.bound import BoundOperator
from jpmap_fast.residuals import Residual


class OverWhite(BoundOperator):
    """A bound operator made of the one for white noise.

    Args:
        white: the bound operator.
        residual: the model of x - G(z) at beta = 1 / gamma^2.
        gamma: of the prior.
    """

    def __init__(self, white: BoundOperator, residual: Residual, gamma: float) -> None:
        super().__init__(white.operator, white.image_shape, white._place)
        self.white, self._residual, self._gamma = white, residual, gamma

    @abstractmethod
    def _of(self, white: BoundOperator) -> BoundOperator:
        """The same of another bound operator for such images."""

    def select(self, index: Tensor) -> BoundOperator:
        white = self.white.select(index)
        return self if white is self.white else self._of(white)

    def bind(
        self, image_shape: Sequence[int], batch: int | None = None, *, like: Tensor | None = None
    ) -> BoundOperator:
        return self._of(self.white.bind(image_shape, batch, like=like))

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> BoundOperator:
        return self._of(self.white.to(device, dtype))

    def __repr__(self) -> str:
        return f"{self.white!r} with {self._residual!r}"
