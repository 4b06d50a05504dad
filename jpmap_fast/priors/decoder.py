"""Decoders as functions of the latent code with the derivatives the solvers need.

A solver never asks for more than three things: the value G(z), the value with all k columns of
its Jacobian, and the value with one vector-Jacobian product. For a multilayer perceptron they are
written out, layer by layer; for any other module they come from ``torch.func``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jpmap_fast.activations import ACTIVATIONS
from jpmap_fast.batch_invariant import linear_rows

if TYPE_CHECKING:
    from jpmap_fast.priors.base import Prior


class Decoder(ABC):
    """G: R^k -> R^n, images flattened to n numbers, every image of a batch on its own."""

    latent_dim: int
    size: int

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """G(z) [B, n] of z [B, k]."""

    @abstractmethod
    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """G(z) [B, n] and the transposed Jacobian [B, k, n], row i holding dG/dz_i."""

    @abstractmethod
    def pullback(self, z: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """G(z) [B, n] and dG(z)^T c [B, k], with c = ``cotangent(G(z))`` [B, n]."""

    @abstractmethod
    def restrict(self, rows: Tensor) -> Decoder:
        """The decoder of the pixels ``rows`` [p] alone: R^k -> R^p."""


class MLPDecoder(Decoder):
    """A multilayer perceptron: layer l maps h to f_l(W_l h + b_l).

    The value and its k tangents pass through each weight matrix as one product with k + 1 rows an
    image.

    Args:
        weights: W_l [out, in], first layer first.
        biases: b_l [out].
        activations: names out of ``activations.ACTIVATIONS``, one a layer.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], activations: Sequence[str]
    ) -> None:
        self.weights = list(weights)
        self.biases = list(biases)
        self.activations = list(activations)
        self.latent_dim = self.weights[0].shape[1]
        self.size = self.weights[-1].shape[0]

    @cached_property
    def _transposed(self) -> list[Tensor]:
        return [weight.T.contiguous() for weight in self.weights]

    def value(self, z: Tensor) -> Tensor:
        h = z
        for weight, bias, name in zip(self.weights, self.biases, self.activations, strict=True):
            h = ACTIVATIONS[name].value(linear_rows(h, weight, bias))
        return h

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        batch, k = z.shape
        # The first layer's tangents are the columns of W_0 for every image: no product needed.
        act = ACTIVATIONS[self.activations[0]]
        a = linear_rows(z, self.weights[0], self.biases[0])
        h = act.value(a)
        tangents = act.derivative(a, h)[:, None] * self.weights[0].T
        for weight, bias, name in zip(
            self.weights[1:], self.biases[1:], self.activations[1:], strict=True
        ):
            act = ACTIVATIONS[name]
            stacked = torch.cat((h[:, None], tangents), dim=1)  # [B, 1 + k, in]
            out = linear_rows(stacked, weight)  # [B, 1 + k, out]
            a = out[:, 0] + bias
            h = act.value(a)
            tangents = act.derivative(a, h)[:, None] * out[:, 1:]
        return h, tangents.reshape(batch, k, -1)

    def pullback(self, z: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        h = z
        derivatives = []
        for weight, bias, name in zip(self.weights, self.biases, self.activations, strict=True):
            act = ACTIVATIONS[name]
            a = linear_rows(h, weight, bias)
            h = act.value(a)
            derivatives.append(act.derivative(a, h))
        c = cotangent(h)
        transposed = reversed(self._transposed)
        for weight, derivative in zip(transposed, reversed(derivatives), strict=True):
            c = linear_rows(c * derivative, weight)
        return h, c

    def restrict(self, rows: Tensor) -> MLPDecoder:
        return MLPDecoder(
            [*self.weights[:-1], self.weights[-1][rows].contiguous()],
            [*self.biases[:-1], self.biases[-1][rows].contiguous()],
            self.activations,
        )


class FunctionDecoder(Decoder):
    """Any torch function z -> G(z), differentiated by ``torch.func``.

    Args:
        function: maps z [B, k] to images [B, ...], each row on its own.
        latent_dim: k.
        size: n, the numbers an image has.
        rows: pixels kept, None for all.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        latent_dim: int,
        size: int,
        rows: Tensor | None = None,
    ) -> None:
        self.function = function
        self.latent_dim = latent_dim
        self.rows = rows
        self._full_size = size
        self.size = size if rows is None else rows.numel()

    def value(self, z: Tensor) -> Tensor:
        out = self.function(z).reshape(z.shape[0], self._full_size)
        return out if self.rows is None else out[:, self.rows]

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        basis = torch.eye(self.latent_dim, dtype=z.dtype, device=z.device)

        def column(direction: Tensor) -> tuple[Tensor, Tensor]:
            return torch.func.jvp(self.value, (z,), (direction.expand_as(z),))

        values, columns = torch.func.vmap(column, out_dims=(0, 1))(basis)
        return values[0], columns

    def pullback(self, z: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        value, vjp = torch.func.vjp(self.value, z)
        return value, vjp(cotangent(value))[0]

    def restrict(self, rows: Tensor) -> FunctionDecoder:
        kept = rows if self.rows is None else self.rows[rows]
        return FunctionDecoder(self.function, self.latent_dim, self._full_size, kept)


def make_decoder(prior: Prior) -> Decoder:
    """The decoder of a prior: analytic for one that says it is an MLP, ``torch.func`` otherwise.

    A prior says so by ``decoder_layers`` (modules with ``weight`` and ``bias``),
    ``hidden_activation`` and ``output_activation``, the names being those of ``ACTIVATIONS``.
    """
    layers = getattr(prior, "decoder_layers", None)
    hidden = getattr(prior, "hidden_activation", None)
    output = getattr(prior, "output_activation", None)
    if layers is not None and hidden in ACTIVATIONS and output in ACTIVATIONS:
        return MLPDecoder(
            [layer.weight.detach() for layer in layers],
            [layer.bias.detach() for layer in layers],
            [hidden] * (len(layers) - 1) + [output],
        )
    size = 1
    for extent in prior.image_shape:
        size *= extent
    return FunctionDecoder(prior.decode, prior.latent_dim, size)
