"""Several measurements of one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._validate import positive
from jpmap_fast.operators.base import Operator
from jpmap_fast.operators.bound import Place, unbound
from jpmap_fast.operators.matrix_free import BoundMatrixFree, MatrixFree


class Stack(MatrixFree):
    r"""y_i = A_i x + sigma s_i noise_i for i = 1, ..., q, all of one image x.

    The measurements are one vector in units of their noise, so that sigma is the deviation of every
    entry and J1 is what it should be:

        y = (y_1 / s_1, ..., y_q / s_q) [B, m_1 + ... + m_q],      A x = (A_1 x / s_1, ...)

    ``join`` makes such a y of y_1, ..., y_q and ``split`` takes it apart again. Solved by conjugate
    gradients.

    Args:
        operators: A_1, ..., A_q, at least one.
        noise: s_1, ..., s_q > 0, the noise deviations in units of sigma; None for ones.
        tolerance, max_iterations: of conjugate gradients, see ``MatrixFree``.

    Raises:
        TypeError: not operators or numbers.
        ValueError: none at all, or counts that differ; on binding, an operator that does not fit.

    Example:
        >>> import torch, jpmap_fast as jf
        >>> stack = jf.Stack([jf.Denoising(), jf.SuperResolution(2)], noise=[4, 1])
        >>> stack.join(torch.ones(1, 1, 28, 28), torch.ones(1, 1, 14, 14)).shape
        torch.Size([1, 980])
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        noise: Sequence[float] | None = None,
        *,
        tolerance: float | None = None,
        max_iterations: int = 500,
    ) -> None:
        super().__init__(tolerance=tolerance, max_iterations=max_iterations)
        self.operators: tuple[Operator, ...] = tuple(unbound(part) for part in operators)
        if not self.operators:
            raise ValueError("operators: expected at least one, got none")
        for part in self.operators:
            if not isinstance(part, Operator):
                raise TypeError(f"operators: expected operators, got {type(part).__name__}")
        deviations = (1.0,) * len(self.operators) if noise is None else noise
        self.noise = tuple(positive("noise", deviation) for deviation in deviations)
        if len(self.noise) != len(self.operators):
            raise ValueError(
                f"noise: expected one deviation for each of {len(self.operators)} operators, "
                f"got {len(self.noise)}"
            )
        self._shapes: tuple[tuple[int, ...], ...] = ()
        self._dtype = torch.get_default_dtype()
        self._device: torch.device | None = None

    def join(self, *measurements: Tensor) -> Tensor:
        """The y [B, m] of y_1, ..., y_q, each [B, ...] as its own operator measures it."""
        if len(measurements) != len(self.operators):
            raise ValueError(
                f"expected {len(self.operators)} measurements, got {len(measurements)}"
            )
        parts = [self._taken(f"y_{i}", y) for i, y in enumerate(measurements, start=1)]
        scaled = zip(parts, self.noise, strict=True)
        return torch.cat([y.flatten(1) / deviation for y, deviation in scaled], dim=1)

    def split(self, y: Tensor) -> list[Tensor]:
        """Y_1, ..., y_q, each [B, ...] and in its own units, of y [B, m]; of a bound operator."""
        return [part * s for part, s in zip(self._parts(y), self.noise, strict=True)]

    def _parts(self, y: Tensor) -> list[Tensor]:
        if not self._shapes:
            raise self._not_bound()
        y = self._taken("y", y)
        sizes = [math.prod(shape) for shape in self._shapes]
        if y.dim() != 2 or y.shape[1] != sum(sizes):
            raise ValueError(f"y: expected shape [B, {sum(sizes)}], got {list(y.shape)}")
        pieces = zip(y.split(sizes, dim=1), self._shapes, strict=True)
        return [piece.reshape(-1, *shape) for piece, shape in pieces]

    def A(self, x: Tensor) -> Tensor:
        return self.join(*(part.A(x) for part in self.operators))

    def A_adjoint(self, y: Tensor) -> Tensor:
        pieces = zip(self.operators, self._parts(y), self.noise, strict=True)
        shape = self.image_shape
        assert shape is not None
        images = [
            part.A_adjoint(piece / deviation).reshape(-1, *shape)
            for part, piece, deviation in pieces
        ]
        return torch.stack(images).sum(dim=0)

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        parts = [part._fitted(tuple(image_shape)) for part in self.operators]
        return (sum(math.prod(part.measurement_shape(image_shape, like)) for part in parts),)

    def image_shape_of(self, measured: Sequence[int]) -> tuple[int, ...] | None:
        # Joined measurements do not say where one ends: the shape is that of a part that knows it.
        known = [self.image_shape, *(part.image_shape for part in self.operators)]
        return next((shape for shape in known if shape is not None), None)

    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> Stack:
        shape = tuple(image_shape)
        if self.image_shape == shape and (batch is None or self.batch in (None, batch)):
            return self
        dtype, device = place or (self._dtype, self.device or self._device)
        like = torch.zeros((), dtype=dtype, device=device)
        parts = tuple(part._fitted(shape, batch, place) for part in self.operators)
        shapes = tuple(part.measurement_shape(shape, like) for part in parts)
        return self._changed(operators=parts, _shapes=shapes, image_shape=shape)

    def _bound(self, image_shape: tuple[int, ...], place: Place | None) -> BoundStack:
        return BoundStack(self, image_shape, place)

    def _seen(self) -> Tensor | None:
        found = [part._seen() for part in self.operators]
        if not self._shapes or all(seen is None for seen in found):
            return None
        rows = []
        for seen, shape in zip(found, self._shapes, strict=True):
            of_part = torch.ones(shape, dtype=torch.bool, device=self.device)
            if seen is not None:
                of_part = seen.expand(*seen.shape[: seen.dim() - len(shape)], *shape)
            rows.append(of_part.flatten(of_part.dim() - len(shape)))
        batch = max((len(row) for row in rows if row.dim() == 2), default=None)
        if batch is not None:
            rows = [row.expand(batch, row.shape[-1]) for row in rows]
        return torch.cat(rows, dim=-1)

    def _measured_apart(self, y: Tensor, sigma: Tensor) -> list[tuple[Operator, Tensor, Tensor]]:
        found: list[tuple[Operator, Tensor, Tensor]] = []
        for part, piece, deviation in zip(self.operators, self.split(y), self.noise, strict=True):
            found += part._measured_apart(piece, sigma * deviation)
        return found

    def _norm(self) -> float | None:
        norms = [part._norm() for part in self.operators]
        known = [norm for norm in norms if norm is not None]
        if len(known) < len(norms):
            return None
        return math.hypot(*(norm / s for norm, s in zip(known, self.noise, strict=True)))

    @property
    def _learned(self) -> bool:  # type: ignore[override]
        return any(part._learned for part in self.operators)

    @property
    def batch(self) -> int | None:
        counts = [part.batch for part in self.operators if part.batch is not None]
        return max(counts, default=None)

    @property
    def device(self) -> torch.device | None:
        found = [part.device for part in self.operators if part.device is not None]
        return found[0] if found else None

    def select(self, index: Tensor) -> Stack:
        if self.batch is None:
            return self
        return self._changed(operators=tuple(part.select(index) for part in self.operators))

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Stack:
        parts = tuple(part.to(device, dtype) for part in self.operators)
        same = all(part is old for part, old in zip(parts, self.operators, strict=True))
        if same and dtype in (None, self._dtype) and device in (None, self._device):
            return self
        found: dict[str, Any] = {"operators": parts}
        found["_dtype"] = self._dtype if dtype is None else dtype
        found["_device"] = self._device if device is None else torch.device(device)
        if device is not None:
            return self._changed(**found)
        return self._keep(("to", dtype), lambda: self._changed(**found))

    def __repr__(self) -> str:
        return f"Stack({list(self.operators)!r}, noise={list(self.noise)})"


class BoundStack(BoundMatrixFree):
    """Several measurements of one image of known shape."""

    operator: Stack

    def join(self, *measurements: Tensor) -> Tensor:
        """See ``Stack.join``."""
        return self.operator.join(*measurements)

    def split(self, y: Tensor) -> list[Tensor]:
        """See ``Stack.split``."""
        return self.operator.split(y)
