"""Tangents on their way through a chain, and what its activations add to the second derivative.

An activation f multiplies tangents A by its slope, and adds A^T diag(c f'') A to the curvature,
with c the cotangent behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast.kernels import tangents as tangent_kernels
from jpmap_fast.kernels.activations import ACTIVATIONS, Activation
from jpmap_fast.kernels.products import weighted_product

# What an activation saw and gave, [B, ...] each.
Tape = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Tangents:
    """Tangents on their way, with moves that the next activation does in passing.

    Attributes:
        t: [B or 1, k, n] or [B or 1, k, C, H, W]; a leading 1 stands for tangents that are the same
            for every image.
        shuffled: a pixel shuffle by two is still to be done; channels are in the order (i, j, c).
        plus: a second summand.
    """

    t: Tensor
    shuffled: bool = False
    plus: Tangents | None = None

    def settle(self) -> Tensor:
        """The tangents with everything done."""
        t = self.t
        if self.shuffled:
            batch, k, channels, height, width = t.shape
            t = t.reshape(batch, k, 2, 2, channels // 4, height, width)
            t = t.permute(0, 1, 4, 5, 2, 6, 3)
            t = t.reshape(batch, k, channels // 4, 2 * height, 2 * width)
        return t if self.plus is None else t + self.plus.settle()

    def rows(self) -> Tensor:
        """T [B or 1, k, n] with channels innermost."""
        t = self.t
        if t.dim() == 5:
            t = t.permute(0, 1, 3, 4, 2).reshape(*t.shape[:2], -1)
        return t.contiguous()


class Places:
    """Some outputs of a chain, and where they lie among its tangents.

    Args:
        rows: which outputs, of an image flattened to n numbers.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self._offsets: dict[tuple[Any, ...], Tensor] = {}

    def of(self, tangents: Tangents) -> Tensor:
        """The tangents of these outputs [B or 1, k, rows], read from where they lie."""
        if tangents.plus is not None:
            tangents = Tangents(tangents.settle())
        t = tangents.t
        sizes, strides = t.shape[2:], t.stride()[2:]
        layout = (*sizes, *strides, tangents.shuffled)
        if layout not in self._offsets:
            where = torch.zeros((), dtype=torch.int64, device=t.device)
            for size, stride in zip(sizes, strides, strict=True):
                where = where[..., None] + stride * torch.arange(size, device=t.device)
            settled = Tangents(where[None, None], tangents.shuffled).settle()
            self._offsets[layout] = settled.flatten()[self.rows]
        span = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        numbers = t.as_strided((*t.shape[:2], span), (*t.stride()[:2], 1))
        return numbers[..., self._offsets[layout]]


def bent(
    tangents: Tensor, cotangent: Tensor, activation: Activation, before: Tensor, after: Tensor
) -> Tensor:
    """A^T diag(c f'') A [B, k, k], what an activation adds to the curvature.

    Args:
        tangents: A of its inputs [B or 1, k, ...].
        cotangent: c of its outputs [B, ...].
        activation: f.
        before, after: a and f(a) [B, ...].
    """
    weight = cotangent * activation.second(before, after)
    return weighted_product(tangents.flatten(2), weight.flatten(1))


class Sweep:
    """What activations need while tangents pass them, and what they leave behind.

    Args:
        tape: filled by ``Chain.value``.
        dtype: of the tangents.
        cotangents: of the activations' outputs, in the order of the tape; None for no curvature.
    """

    def __init__(
        self, tape: Tape, dtype: torch.dtype, cotangents: Sequence[Tensor] | None = None
    ) -> None:
        self._tape = tape
        self._dtype = dtype
        self._cotangents = cotangents
        self._next = 0
        self._slots: Tensor | None = None  # [B, slots, k, k], of the compiled pass
        self._sum: Tensor | None = None  # [B, k, k], of the rest

    @property
    def curvature(self) -> Tensor | None:
        """The second derivative of the chain against the cotangents [B, k, k]."""
        parts = [] if self._sum is None else [self._sum]
        if self._slots is not None:
            parts.append(self._slots.sum(dim=1))
        return sum(parts[1:], parts[0]) if parts else None

    def through(self, name: str, tangents: Tangents, rows: Tensor | None = None) -> Tangents:
        """Tangents through the next activation, or those of its outputs ``rows`` alone.

        The cotangents of others must be zero then.
        """
        before, after = self._tape[self._next]
        cotangent = None if self._cotangents is None else self._cotangents[self._next]
        self._next += 1
        if rows is not None:
            before, after = before.flatten(1)[:, rows], after.flatten(1)[:, rows]
            cotangent = None if cotangent is None else cotangent.flatten(1)[:, rows]
        if tangent_kernels.supported(tangents.t, before):
            return self._compiled(name, tangents, before, after, cotangent)
        t = tangents.settle()
        activation = ACTIVATIONS[name]
        if cotangent is not None:
            part = bent(t, cotangent, activation, before, after)
            self._sum = part if self._sum is None else self._sum + part
        return Tangents(t * activation.derivative(before, after).to(self._dtype)[:, None])

    def _compiled(
        self,
        name: str,
        tangents: Tangents,
        before: Tensor,
        after: Tensor,
        cotangent: Tensor | None,
    ) -> Tangents:
        def planes(value: Tensor) -> Tensor:
            return value.reshape(value.shape[0], value.shape[1], -1).contiguous()

        plus = tangents.plus
        if plus is not None and plus.plus is not None:
            plus = Tangents(plus.settle())
        if cotangent is not None and self._slots is None:
            widest = max(tensor[0].numel() for tensor, _ in self._tape)
            k = tangents.t.shape[1]
            slots = -(-widest // tangent_kernels.SPLIT)
            self._slots = before.new_zeros(before.shape[0], slots, k, k)
        out = tangent_kernels.tangent_activation(
            tangents.rows(),
            None if plus is None else plus.rows(),
            planes(before),
            planes(after),
            None if cotangent is None else planes(cotangent),
            None if cotangent is None else self._slots,
            name,
            before.shape[-1] if before.dim() == 4 else 1,
            tangents.shuffled,
            plus is not None and plus.shuffled,
        )
        if before.dim() == 4:
            channels, height, width = before.shape[1:]
            out = out.unflatten(2, (height, width, channels)).permute(0, 1, 4, 2, 3)
        return Tangents(out)
