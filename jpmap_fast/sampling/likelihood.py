"""log p(y | z) of many codes an image, up to what does not depend on z."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from jpmap_fast._memory import numbers_at_a_time
from jpmap_fast.kernels.mlp import (
    MLPLeastSquares,
    mlp_log_likelihood,
    mlp_log_likelihood_kept,
)
from jpmap_fast.objective import LatentObjective
from jpmap_fast.objective.least_squares import half_squared_norm

# Numbers of decoded images that are held at a time on a CPU.
_ROOM = 1 << 21


class LogLikelihood:
    """z [B, N, k] to log p(y | z) [B, N] float64, without the constant.

    Args:
        objective: J(z) = constant - log p(y | z) + 1/2 ||z||^2 of the B images.
    """

    def __init__(self, objective: LatentObjective) -> None:
        self.objective = objective
        self._room: int | None = None  # asked for once: no CUDA graph holds the question

    @cached_property
    def compiled(self) -> MLPLeastSquares | None:
        """The objective for compiled draws; None where there are none."""
        form = self.objective.fused()
        return None if isinstance(form, str) else form

    def __call__(self, z: Tensor) -> Tensor:
        """The value at each of the codes."""
        form = self.compiled
        if form is not None:
            return _without_constant(form, mlp_log_likelihood(z, form))

        def value(part: LatentObjective, codes: Tensor) -> tuple[Tensor]:
            return (half_squared_norm(codes) - part.value(codes),)

        return self._of_rows(z, value)[0]

    def keeping(self, z: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The value, and what a layer of a ``compiled`` network gave at each code, on the CPU."""
        form = self.compiled
        assert form is not None
        value, outputs = mlp_log_likelihood_kept(z, form, layer)
        return _without_constant(form, value), outputs

    def with_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its gradient in z [B, N, k] float64."""

        def both(part: LatentObjective, codes: Tensor) -> tuple[Tensor, Tensor]:
            f, gradient = part.gradient(codes)
            return half_squared_norm(codes) - f, (codes - gradient).double()

        value, gradient = self._of_rows(z, both)
        return value, gradient

    def _of_rows(
        self, z: Tensor, function: Callable[[LatentObjective, Tensor], tuple[Tensor, ...]]
    ) -> list[Tensor]:
        """What a function of an objective and its codes [R, k] gives, [B, N, ...] each."""
        batch, number, k = z.shape
        rows = torch.arange(batch, device=z.device).repeat_interleave(number)
        flat = z.reshape(-1, k)
        if self._room is None:
            self._room = numbers_at_a_time(z.device, _ROOM)
        size = max(1, self._room // max(self.objective.decoder.widest, 1))
        parts = [
            function(self.objective.repeated(rows[i : i + size]), flat[i : i + size].contiguous())
            for i in range(0, len(flat), size)
        ]
        columns = zip(*parts, strict=True)
        return [torch.cat(column).unflatten(0, (batch, number)) for column in columns]

    def select(self, index: Tensor) -> LogLikelihood:
        """That of the images ``index``."""
        return LogLikelihood(self.objective.repeated(index))


def _without_constant(form: MLPLeastSquares, value: Tensor) -> Tensor:
    return value if form.constant is None else value - form.constant[:, None]
