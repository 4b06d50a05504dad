"""Decoders given as any torch function."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from jpmap_fast._surroundings import full_precision
from jpmap_fast.priors.decoder_base import Decoder, Linearisation

# The level that torch differentiates forward at is one of the process, not of a thread.
_FORWARD_MODE = threading.RLock()


class FunctionDecoder(Decoder):
    """Any torch function z -> G(z), differentiated by ``torch.func``.

    Args:
        function: maps z [B, k] to images [B, ...], each row on its own.
        latent_dim: k.
        size: n, the numbers an image has.
        rows: pixels kept, None for all.
        low_precision: on a GPU, let the Jacobian's products be bfloat16.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        latent_dim: int,
        size: int,
        rows: Tensor | None = None,
        low_precision: bool = True,
    ) -> None:
        self.function = function
        self.latent_dim = latent_dim
        self.rows = rows
        self.low_precision = low_precision
        self._full_size = size
        self.size = size if rows is None else rows.numel()

    def exact_tangents(self, z: Tensor) -> bool:
        return not (self.low_precision and z.is_cuda and z.dtype == torch.float32)

    def value(self, z: Tensor) -> Tensor:
        with full_precision():
            return self._value(z)

    def _everything(self, z: Tensor) -> Tensor:
        return self.function(z).reshape(z.shape[0], self._full_size).to(z.dtype)

    def _kept(self, image: Tensor) -> Tensor:
        """The rows of an image [..., n] that this decoder has."""
        return image if self.rows is None else image[..., self.rows]

    def _spread(self, cotangent: Tensor) -> Tensor:
        """The transpose of ``_kept`` on [B, rows], an assignment: each row is there once."""
        if self.rows is None:
            return cotangent
        full = cotangent.new_zeros(cotangent.shape[0], self._full_size)
        return full.index_copy_(1, self.rows, cotangent)

    def _value(self, z: Tensor) -> Tensor:
        return self._kept(self._everything(z))

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.exact_tangents(z):
            with full_precision():
                return self.forward_mode(z)
        with torch.autocast("cuda", torch.bfloat16):
            _, columns = self.forward_mode(z)
        return self.value(z), columns.to(z.dtype)

    def forward_mode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``linearise`` by forward-mode differentiation, all columns at once."""
        basis = torch.eye(self.latent_dim, dtype=z.dtype, device=z.device)

        def column(direction: Tensor) -> tuple[Tensor, Tensor]:
            value, derivative = torch.func.jvp(self._value, (z,), (direction.expand_as(z),))[:2]
            return value, derivative

        with _FORWARD_MODE:
            values, columns = torch.func.vmap(column, out_dims=(0, 1))(basis)
        return values[0], columns

    def pullback(self, z: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        with full_precision():
            # The transpose of an indexing, left to autograd, would be a sorted sum.
            everything, vjp = torch.func.vjp(self._everything, z)[:2]
            value = self._kept(everything)
            return value, vjp(self._spread(cotangent(value)))[0]

    def linearisation(self, z: Tensor) -> Linearisation:
        with full_precision():
            _, vjp = torch.func.vjp(self._everything, z)[:2]

        def push(direction: Tensor) -> Tensor:
            with full_precision(), _FORWARD_MODE:
                tangent: Tensor = torch.func.jvp(self._value, (z,), (direction,))[1]
                return tangent

        def pull(cotangent: Tensor) -> Tensor:
            with full_precision():
                return vjp(self._spread(cotangent), retain_graph=True)[0]

        return Linearisation(push, pull)

    def restrict(self, rows: Tensor) -> FunctionDecoder:
        kept = rows if self.rows is None else self.rows[rows]
        return type(self)(self.function, self.latent_dim, self._full_size, kept, self.low_precision)
