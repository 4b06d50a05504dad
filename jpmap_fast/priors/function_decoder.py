"""Decoders given as any torch function, or as a chain of known modules."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from jpmap_fast._surroundings import full_precision
from jpmap_fast.priors.chain import Sweep, Tangents, Tape, read_chain
from jpmap_fast.priors.decoder_base import Decoder, Expansion, Linearisation

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


class ChainDecoder(FunctionDecoder):
    """A decoder that is an ``nn.Sequential`` of known modules; see ``chain``.

    Args:
        module: maps z [B, k] to images [B, ...].
        latent_dim, size, rows, low_precision: as in ``FunctionDecoder``.
    """

    def __init__(
        self,
        module: nn.Module,
        latent_dim: int,
        size: int,
        rows: Tensor | None = None,
        low_precision: bool = True,
    ) -> None:
        super().__init__(module, latent_dim, size, rows, low_precision)
        self.module = module
        parameter = next(module.parameters())
        exact = self.exact_tangents(parameter)
        self._tangent_dtype = parameter.dtype if exact else torch.bfloat16
        chain = read_chain(module, self._tangent_dtype)
        if chain is None:
            raise ValueError("module: expected a sequence of modules that read_chain knows")
        self._chain = chain

    @classmethod
    def of(
        cls, module: nn.Module, latent_dim: int, size: int, low_precision: bool
    ) -> ChainDecoder | None:
        """The decoder of a module, None where it is no chain of known modules."""
        parameter = next(module.parameters(), None)
        if parameter is None or read_chain(module, parameter.dtype) is None:
            return None
        return cls(module, latent_dim, size, None, low_precision)

    @property
    def widest(self) -> int:
        tape: Tape = []
        parameter = next(self.module.parameters())
        self._chain.value(parameter.new_zeros(1, self.latent_dim), tape)
        return max(self._full_size, *(before.numel() for before, _ in tape), 0)

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        tape: Tape = []
        with full_precision():
            value = self._chain.value(z, tape).flatten(1)
            columns = self._columns(z, Sweep(tape, self._tangent_dtype))
        return self._kept(value), columns.to(z.dtype)

    def _columns(self, z: Tensor, sweep: Sweep) -> Tensor:
        basis = torch.eye(self.latent_dim, dtype=self._tangent_dtype, device=z.device)
        columns = self._chain.tangents(Tangents(basis[None]), sweep).settle().flatten(2)
        columns = columns.expand(z.shape[0], -1, -1)
        return self._kept(columns)

    def expand(
        self, z: Tensor, cotangent: Callable[[Tensor], Tensor], second_order: bool
    ) -> Expansion:
        tape: Tape = []
        with full_precision():
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                value = self._chain.value(leaf, tape).flatten(1)
                with torch.no_grad():
                    c = self._spread(cotangent(self._kept(value.detach())))
                outputs = [after for _, after in tape]
                found = torch.autograd.grad(value, [leaf, *outputs], c)
            noted = [(before.detach(), after.detach()) for before, after in tape]
            sweep = Sweep(noted, self._tangent_dtype, found[1:] if second_order else None)
            columns = self._columns(z, sweep)
        curvature = None if sweep.curvature is None else sweep.curvature.to(z.dtype)
        return Expansion(columns, found[0], curvature)

    def linearisation(self, z: Tensor) -> Linearisation:
        tape: Tape = []
        chain = read_chain(self.module, z.dtype)
        assert chain is not None
        with full_precision():
            chain.value(z, tape)
        pull = super().linearisation(z).pull

        def push(direction: Tensor) -> Tensor:
            with full_precision():
                out = (
                    chain.tangents(Tangents(direction[:, None]), Sweep(tape, z.dtype))
                    .settle()
                    .flatten(1)
                )
            return self._kept(out)

        return Linearisation(push, pull)

    def restrict(self, rows: Tensor) -> ChainDecoder:
        kept = rows if self.rows is None else self.rows[rows]
        return ChainDecoder(self.module, self.latent_dim, self._full_size, kept, self.low_precision)
