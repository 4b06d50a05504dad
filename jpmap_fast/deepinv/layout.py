"""The measurements of a physics as the one real tensor that an operator has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from deepinv.utils import TensorList
from torch import Tensor

from jpmap_fast._arrays import as_float_tensor, as_tensor


@dataclass(frozen=True)
class Layout:
    """How y is stored.

    Real measurements stay as they are. Complex ones become their real and imaginary parts,
    [B, ..., 2]. Stacked ones are flattened and joined, [B, m], each member times its scale; those
    of a physics that is a dense matrix are flattened, too.

    Attributes:
        shapes: of one image's measurements, of each member, as the physics has them.
        complex_: whether each member is complex.
        stacked: whether the physics has a list of measurements.
        scales: factors > 0 of the members of stacked physics.
        flat: whether y of a physics that is not stacked is flattened.
    """

    shapes: tuple[tuple[int, ...], ...]
    complex_: tuple[bool, ...]
    stacked: bool
    scales: tuple[float, ...]
    flat: bool = False

    @classmethod
    def of(cls, measured: Any) -> Layout:
        """That of measurements with a batch dimension."""
        stacked = isinstance(measured, (TensorList, list, tuple))
        members = list(measured) if stacked else [measured]
        return cls(
            tuple(tuple(member.shape[1:]) for member in members),
            tuple(member.is_complex() for member in members),
            stacked,
            (1.0,) * len(members),
        )

    def fits(self, measured: Any) -> bool:
        """Whether measurements with a batch dimension are of these shapes."""
        return Layout.of(measured).shapes == self.shapes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's packed measurements."""
        if self.stacked or self.flat:
            return (sum(self._sizes()),)
        return (*self.shapes[0], 2) if self.complex_[0] else self.shapes[0]

    def pack(self, measured: Any) -> Tensor:
        """The tensor of measurements as the physics has them; arrays are accepted as well."""
        if not self.stacked:
            y = self._real("y", measured, self.complex_[0])
            return y.reshape(*y.shape[: y.dim() - len(self.shapes[0])], -1) if self.flat else y
        if not isinstance(measured, (TensorList, list, tuple)) or len(measured) != len(self.shapes):
            raise TypeError(
                f"y: expected a TensorList of {len(self.shapes)} measurements, one for each member "
                f"of the stacked physics, got {type(measured).__name__}"
            )
        rows = []
        for i, (member, shape) in enumerate(zip(measured, self.shapes, strict=True)):
            part = self._real(f"y[{i}]", member, self.complex_[i])
            expected = (*shape, 2) if self.complex_[i] else shape
            if tuple(part.shape[1:]) != expected:
                raise ValueError(
                    f"y[{i}]: expected shape {['B', *shape]}, got {list(member.shape)}".replace(
                        "'", ""
                    )
                )
            rows.append(part.flatten(1) * self.scales[i])
        return torch.cat(rows, dim=1)

    @property
    def trivial(self) -> bool:
        """Whether y stays as it is."""
        return not (self.stacked or self.flat or any(self.complex_))

    def unpack(self, packed: Tensor) -> Any:
        """The transpose of ``pack``; its inverse but for the scales."""
        if not self.stacked:
            return torch.view_as_complex(packed.contiguous()) if self.complex_[0] else packed
        members = []
        for i, part in enumerate(packed.split(self._sizes(), dim=1)):
            if self.complex_[i]:
                shaped = (part * self.scales[i]).reshape(-1, *self.shapes[i], 2)
                members.append(torch.view_as_complex(shaped))
            else:
                members.append((part * self.scales[i]).reshape(-1, *self.shapes[i]))
        return TensorList(members)

    def _sizes(self) -> list[int]:
        return [
            math.prod(shape) * (2 if complex_ else 1)
            for shape, complex_ in zip(self.shapes, self.complex_, strict=True)
        ]

    @staticmethod
    def _real(name: str, member: Any, complex_: bool) -> Tensor:
        if not complex_:
            return as_float_tensor(name, member)
        tensor = as_tensor(name, member)
        if not tensor.is_complex():
            raise TypeError(f"{name}: expected complex values, got {tensor.dtype}")
        return torch.view_as_real(tensor.resolve_conj())


def scaled(layout: Layout, levels: Sequence[Tensor]) -> tuple[Layout, Tensor]:
    """The layout that brings all members to one noise level, and that level.

    ||A_1 x - y_1||^2 / (2 sigma_1^2) + ||A_2 x - y_2||^2 / (2 sigma_2^2) is the data term of the
    members times sigma_1 / sigma_i with the level sigma_1. DeepInverse's sigma of complex noise is
    that of its absolute value: that of each part is sigma / sqrt(2).

    Raises:
        ValueError: the levels of members differ and are not one number each.
    """
    real = [
        level / math.sqrt(2) if complex_ else level
        for level, complex_ in zip(levels, layout.complex_, strict=True)
    ]
    if all(torch.equal(level, real[0]) for level in real[1:]):
        return layout, real[0]
    if any(level.dim() for level in real):
        raise ValueError(
            "physics: expected one noise level for each member of the stacked physics where they "
            "differ, got one an image; pass sigma="
        )
    factors = tuple(float(real[0]) / float(level) for level in real)
    return replace(layout, scales=factors), real[0]
