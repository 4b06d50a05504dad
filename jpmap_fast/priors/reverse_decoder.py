"""Decoders that torch differentiates in reverse mode alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jpmap_fast._surroundings import full_precision
from jpmap_fast.priors.decoder_base import Linearisation
from jpmap_fast.priors.function_decoder import FunctionDecoder


class ReverseDecoder(FunctionDecoder):
    """A decoder with something in it that has no rule for forward mode: attention, ``grid_sample``.

    The gradient is autograd's. The columns of the Jacobian, which steer a step and decide nothing,
    are central differences of G, (G(z + h e_i) - G(z - h e_i)) / 2h.
    """

    path = "torch (reverse mode)"

    def exact_tangents(self, z: Tensor) -> bool:
        return False

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        batch, k = z.shape
        basis = torch.eye(k, dtype=z.dtype, device=z.device)
        repeated = z.repeat_interleave(k, dim=0)
        columns = self._difference(repeated, basis.repeat(batch, 1))
        return self.value(z), columns.reshape(batch, k, self.size)

    def pullback(self, z: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        everything, pull = self._graph(z)
        value = self._kept(everything)
        return value, pull(cotangent(value), False)

    def linearisation(self, z: Tensor) -> Linearisation:
        _, pull = self._graph(z)
        return Linearisation(lambda v: self._difference(z, v), lambda c: pull(c, True))

    def _graph(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor, bool], Tensor]]:
        """G(z) [B, n] of all pixels, and dG(z)^T on what is kept of them."""
        with full_precision(), torch.enable_grad():
            leaf = z.detach().requires_grad_()
            everything = self._everything(leaf)

        def pull(cotangent: Tensor, again: bool) -> Tensor:
            with full_precision():
                spread = self._spread(cotangent)
                return torch.autograd.grad(everything, leaf, spread, retain_graph=again)[0]

        return everything.detach(), pull

    def _difference(self, z: Tensor, direction: Tensor) -> Tensor:
        """dG(z) v [B, rows] by a central difference; the step has root mean square h in z."""
        size = direction.square().mean(dim=1, keepdim=True).sqrt()
        step = difference_step(z) / torch.where(size > 0, size, 1)
        ahead, behind = self.value(z + step * direction), self.value(z - step * direction)
        return (ahead - behind) / (2 * step)


def difference_step(z: Tensor) -> float:
    """H = eps^(1/3), where the errors of rounding and of the difference are about alike."""
    return float(torch.finfo(z.dtype).eps ** (1 / 3))
