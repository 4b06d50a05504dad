"""Decoders that are chains of known modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from jpmap_fast._surroundings import full_precision
from jpmap_fast.priors.chain_reader import read_chain
from jpmap_fast.priors.decoder_base import Expansion, Linearisation
from jpmap_fast.priors.defaults import default_decoder, low_precision_of
from jpmap_fast.priors.function_decoder import FunctionDecoder
from jpmap_fast.priors.plain import does
from jpmap_fast.priors.sweep import Places, Sweep, Tangents, Tape


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
        self._places = None if rows is None else Places(rows)

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
        columns = self._chain.columns(Tangents(basis[None]), sweep, self._places)
        return columns.expand(z.shape[0], -1, -1)

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


def chain_or_default(prior: Any, decode: Callable[..., Tensor], like: Tensor) -> FunctionDecoder:
    """The decoder of a prior with a ``decoder_network``: read as a chain where it is one.

    Args:
        prior: bound to an image shape.
        decode: what its ``decode`` has to be for the network to be all of it.
        like: as in ``default_decoder``.
    """
    network = prior.decoder_network
    if isinstance(network, nn.Sequential) and does(prior, "decode", decode):
        size, low_precision = math.prod(prior.image_shape), low_precision_of(prior)
        chain = ChainDecoder.of(network, prior.latent_dim, size, low_precision)
        if chain is not None:
            return chain
    return default_decoder(prior, like)
