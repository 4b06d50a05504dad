"""Any linear physics as an operator, through its own A and A_adjoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from deepinv.physics import LinearPhysics, Physics, StackedLinearPhysics
from torch import Tensor

from jpmap_fast.deepinv.layout import Layout
from jpmap_fast.deepinv.snapshot import converted, tensors
from jpmap_fast.operators.bound import Place
from jpmap_fast.operators.matrix_free import MatrixFree

# <A u, v> and <u, A^T v> agree to so many roundings of |A u| |v|, or A_adjoint is no transpose.
ADJOINT_ROUNDINGS = 300


class PhysicsOperator(MatrixFree):
    """A and A_adjoint of a linear physics, for images of ``image_shape``.

    A physics with parameters for each image acts on whole batches alone. Rows that come in another
    number or order are brought to the places of their images, in as many passes as the image with
    the most rows has.

    Args:
        physics: a ``LinearPhysics`` that nobody else changes.
        image_shape: (C, H, W).
        batch: number of images, for a physics with parameters for each.

    Attributes:
        layout: how its measurements are stored.

    Raises:
        ValueError: A acts neither on one such image nor on ``batch`` of them.
    """

    def __init__(
        self, physics: Physics, image_shape: Sequence[int], batch: int | None = None
    ) -> None:
        super().__init__()
        self.image_shape: tuple[int, ...] = tuple(image_shape)
        self.physics = physics
        held = list(tensors(physics))
        floats = [t for t in held if t.is_floating_point() or t.is_complex()]
        self.dtype = floats[0].real.dtype if floats else torch.get_default_dtype()
        self._device = held[0].device if held else None
        self._lift = False
        # LinearPhysics derives a missing A_adjoint in float32 alone, at an image size of its own.
        self._derived = type(physics).A_adjoint is LinearPhysics.A_adjoint and physics.A_adj is None
        self._images = 1
        self._owner: Tensor | None = None
        self.layout = self._probe(batch)

    def images(self, count: int) -> Tensor:
        """Images to try the physics on, the same at every call."""
        # Functions alone say nothing of a device; deepinv keeps the one the physics was given.
        device = self._device or self.physics._device_holder.device
        generator = torch.Generator(device).manual_seed(0)
        return torch.rand(
            count, *self.image_shape, dtype=self.dtype, device=device, generator=generator
        )

    def _probe(self, batch: int | None) -> Layout:
        failure: Exception | None = None
        for count in (1,) if batch in (None, 1) else (1, batch):
            for self._lift in (False, True):
                try:
                    measured = self._measure(self.images(count))
                    layout, rows = Layout.of(measured), len(_first(measured))
                except Exception as error:  # of any kind: it is the physics' own
                    failure = failure or error
                    continue
                if rows == count:
                    self._images = count
                    if count > 1:
                        self._place(torch.arange(count, device=self._device))
                    return layout
                failure = failure or ValueError(f"{count} images give {rows} measurements")
        name, shape = type(self.physics).__name__, list(self.image_shape)
        raise ValueError(
            f"physics: expected one that acts on images of shape {shape} ({self.dtype}), one at a "
            f"time or {batch or 'batch='} together if it has parameters for each; "
            f"{name}.A fails: {failure}"
        ) from failure

    def _measure(self, x: Tensor) -> Any:
        """Measurements as the physics has them."""
        x = x.to(x.dtype.to_complex()) if self._lift else x
        return self.physics.A(x)

    def _packed(self, x: Tensor) -> Tensor:
        return self.layout.pack(self._measure(x))

    def A(self, x: Tensor) -> Tensor:
        x = self._taken("x", x)
        _check_rows("x", x, self.image_shape)
        own = self.to(dtype=x.dtype)
        return own._on_rows(x, own.layout.shape, own._packed)

    def A_adjoint(self, y: Tensor) -> Tensor:
        y = self._taken("y", y)
        _check_rows("y", y, self.layout.shape)
        own = self.to(dtype=y.dtype)
        return own._on_rows(y, own.image_shape, own._adjoint)

    def _adjoint(self, packed: Tensor) -> Tensor:
        measured = self.layout.unpack(packed)
        if self._derived:
            blank = packed.new_zeros(packed.shape[0], *self.image_shape)
            transpose = torch.func.vjp(self._packed, blank)[1]
            derived: Tensor = transpose(packed)[0]
            return derived
        if isinstance(self.physics, StackedLinearPhysics):
            # The sum whatever its ``reduction``: the mean is no transpose.
            members = zip(self.physics.physics_list, measured, strict=True)
            back = sum(member.A_adjoint(part) for member, part in members)
        else:
            back = self.physics.A_adjoint(measured)
        # Of a real image <A x, y> counts the real part: that of A^H y is the transpose.
        back = back.real if back.is_complex() else back
        return back.reshape(-1, *self.image_shape)

    def _on_rows(
        self, rows: Tensor, shape: Sequence[int], function: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if self._owner is None:
            return function(rows)
        if rows.shape[0] != len(self._owner):
            raise ValueError(f"{self!r}: expected {len(self._owner)} rows, got {rows.shape[0]}")
        out = rows.new_empty(rows.shape[0], *shape)
        for places, owner in self._passes:
            whole = rows.new_zeros(self._images, *rows.shape[1:])
            whole[owner] = rows[places]
            out[places] = function(whole)[owner]
        return out

    def _place(self, owner: Tensor) -> None:
        """Rows belong to the images ``owner`` [R] from now on."""
        self._owner = owner
        passes: list[list[int]] = []
        seen = [0] * self._images
        for place, image in enumerate(owner.tolist()):
            if seen[image] == len(passes):
                passes.append([])
            passes[seen[image]].append(place)
            seen[image] += 1
        places = [torch.tensor(p, dtype=torch.int64, device=owner.device) for p in passes]
        self._passes = [(p, owner[p]) for p in places]

    def check_adjoint(self) -> None:
        """Take the derivative of A for its transpose where A_adjoint is none.

        Raises:
            ValueError: <A u, v> and <u, A^T v> differ for random u and v even so.
        """
        told = self._mismatch()
        if told is None:
            return
        self._derived = True
        try:
            found = self._mismatch()
        except RuntimeError:  # an A without a derivative
            found = told
        if found is not None:
            left, right = told
            raise ValueError(
                f"physics: expected A_adjoint to be the transpose of A, got <A u, v> = {left:.6g} "
                f"and <u, A_adjoint v> = {right:.6g} of {type(self.physics).__name__} for random "
                "u and v, and automatic differentiation gives no transpose either"
            )

    def _mismatch(self) -> tuple[float, float] | None:
        """<A u, v> and <u, A^T v> for random u and v where they differ."""
        images = self.images(self._images) - 0.5
        measured = self.A(images)
        generator = torch.Generator(measured.device).manual_seed(1)
        other = torch.randn(
            measured.shape, dtype=self.dtype, device=measured.device, generator=generator
        )
        left = (measured * other).double().sum()
        right = (images * self.A_adjoint(other)).double().sum()
        scale = measured.double().norm() * other.double().norm()
        if abs(left - right) <= ADJOINT_ROUNDINGS * torch.finfo(self.dtype).eps * scale:
            return None
        return float(left), float(right)

    def measurement_shape(self, image_shape: Sequence[int], like: Tensor) -> tuple[int, ...]:
        return self.layout.shape

    def _fitted(
        self, image_shape: tuple[int, ...], batch: int | None = None, place: Place | None = None
    ) -> PhysicsOperator:
        if tuple(image_shape) != self.image_shape:
            raise ValueError(
                f"{self!r}: made for images of shape {list(self.image_shape)}, got "
                f"{list(image_shape)}"
            )
        if self.batch is not None and batch is not None and batch != self.batch:
            raise ValueError(f"{self!r}: expected {self.batch} images, got {batch}")
        return self

    @property
    def batch(self) -> int | None:
        return None if self._owner is None else len(self._owner)

    @property
    def device(self) -> torch.device | None:
        return self._device

    def select(self, index: Tensor) -> PhysicsOperator:
        if self._owner is None:
            return self
        new = self._changed()
        new._place(self._owner[index])
        return new

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> PhysicsOperator:
        dtype = dtype or self.dtype
        target = self._device if device is None else torch.device(device)
        if dtype == self.dtype and target == self._device:
            return self
        if target != self._device:
            return self._elsewhere(device, dtype)
        return self._kept.get(("to", dtype), lambda: self._elsewhere(None, dtype))

    def _elsewhere(self, device: Any, dtype: torch.dtype) -> PhysicsOperator:
        new = PhysicsOperator(
            converted(self.physics, device, dtype), self.image_shape, self._images
        )
        new.dtype, new.layout, new._derived = dtype, self.layout, self._derived
        if self._owner is not None:
            new._place(self._owner.to(self._owner.device if device is None else device))
        return new

    def scaled(self, layout: Layout) -> PhysicsOperator:
        """The same with the scales of ``layout``."""
        return self._changed(layout=layout)

    def __repr__(self) -> str:
        return f"PhysicsOperator({type(self.physics).__name__})"


def _first(measured: Any) -> Tensor:
    return measured if isinstance(measured, Tensor) else measured[0]


def _check_rows(name: str, rows: Tensor, shape: Sequence[int]) -> None:
    if tuple(rows.shape[1:]) != tuple(shape):
        expected = ", ".join(map(str, ("B", *shape)))
        raise ValueError(f"{name}: expected shape [{expected}], got {list(rows.shape)}")
