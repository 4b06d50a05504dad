"""Decoders as functions of the latent code with the derivatives the solvers need.

A solver never asks for more than three things: the value G(z), the value with all k columns of
its Jacobian, and the value with one vector-Jacobian product. For a multilayer perceptron they are
written out, layer by layer; for any other module they come from ``torch.func``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from jpmap_fast.activations import ACTIVATIONS
from jpmap_fast.batch_invariant import RowProduct, batched_product

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

    def curvature(self, z: Tensor, cotangent: Tensor) -> Tensor | None:
        """sum_j c_j times the Hessian of G_j at z, [B, k, k], with c = ``cotangent`` [B, n].

        None where it is not to be had at about the cost of ``linearise``.
        """
        return None

    @abstractmethod
    def restrict(self, rows: Tensor) -> Decoder:
        """The decoder of the pixels ``rows`` [p] alone: R^k -> R^p."""


class MLPDecoder(Decoder):
    """A multilayer perceptron: layer l maps h to f_l(W_l h + b_l).

    The value and its k tangents pass through each weight matrix as one product with k + 1 rows an
    image.

    Args:
        layers: products with their biases, first layer first.
        activations: names out of ``activations.ACTIVATIONS``, one a layer.
    """

    def __init__(self, layers: Sequence[RowProduct], activations: Sequence[str]) -> None:
        self.layers = list(layers)
        self.activations = list(activations)
        self.latent_dim = self.layers[0].weight.shape[1]
        self.size = self.layers[-1].weight.shape[0]

    def value(self, z: Tensor) -> Tensor:
        h = z
        for layer, name in zip(self.layers, self.activations, strict=True):
            h = ACTIVATIONS[name].value(layer(h))
        return h

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        # The first layer's tangents are the columns of W_0 for every image: no product needed.
        act = ACTIVATIONS[self.activations[0]]
        a = self.layers[0](z)
        h = act.value(a)
        tangents = act.derivative(a, h)[:, None] * self.layers[0].weight.T
        for layer, name in zip(self.layers[1:], self.activations[1:], strict=True):
            act = ACTIVATIONS[name]
            stacked = torch.cat((h[:, None], tangents), dim=1)  # [B, 1 + k, in]
            out = layer.without_bias(stacked)  # [B, 1 + k, out]
            a = layer.add_bias(out[:, 0])
            h = act.value(a)
            tangents = act.derivative(a, h)[:, None] * out[:, 1:]
        return h, tangents

    def pullback(self, z: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        h = z
        derivatives = []
        for layer, name in zip(self.layers, self.activations, strict=True):
            act = ACTIVATIONS[name]
            a = layer(h)
            h = act.value(a)
            derivatives.append(act.derivative(a, h))
        c = cotangent(h)
        for layer, derivative in zip(reversed(self.layers), reversed(derivatives), strict=True):
            c = layer.adjoint(c * derivative)
        return h, c

    def curvature(self, z: Tensor, cotangent: Tensor) -> Tensor:
        # The second derivative of a chain: each layer adds A^T diag(c f'') A, with A the tangents
        # of its pre-activations and c the cotangent of its output.
        h = z
        slopes, seconds = [], []
        for layer, name in zip(self.layers, self.activations, strict=True):
            act = ACTIVATIONS[name]
            a = layer(h)
            h = act.value(a)
            slopes.append(act.derivative(a, h))
            seconds.append(act.second(a, h))
        weights = []
        c = cotangent
        for layer, slope, second in zip(
            reversed(self.layers), reversed(slopes), reversed(seconds), strict=True
        ):
            weights.append(c * second)
            c = layer.adjoint(c * slope)
        weights.reverse()
        tangents = self.layers[0].weight.T.expand(z.shape[0], -1, -1)
        total = z.new_zeros(z.shape[0], z.shape[1], z.shape[1])
        for index, (weight, slope) in enumerate(zip(weights, slopes, strict=True)):
            if index > 0:
                tangents = self.layers[index].without_bias(tangents)
            total = total + batched_product(tangents * weight[:, None], tangents.mT)
            tangents = tangents * slope[:, None]
        return total

    def restrict(self, rows: Tensor) -> MLPDecoder:
        return MLPDecoder([*self.layers[:-1], self.layers[-1].restrict(rows)], self.activations)


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
            value, derivative = torch.func.jvp(self.value, (z,), (direction.expand_as(z),))[:2]
            return value, derivative

        values, columns = torch.func.vmap(column, out_dims=(0, 1))(basis)
        return values[0], columns

    def pullback(self, z: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        value, vjp = torch.func.vjp(self.value, z)[:2]
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
        return MLPDecoder(_products(layers), [hidden] * (len(layers) - 1) + [output])
    size = 1
    for extent in prior.image_shape:
        size *= extent
    return FunctionDecoder(prior.decode, prior.latent_dim, size)


def make_encoder(prior: Prior) -> Callable[[Tensor], Tensor]:
    """mu_phi, images [B, C, H, W] to codes [B, k], of a prior.

    A prior that has ``encoder_layers``, ``encoder_mean`` (modules with ``weight`` and ``bias``)
    and ``hidden_activation`` is read as an MLP; any other is asked by ``encode``.
    """
    layers = getattr(prior, "encoder_layers", None)
    mean = getattr(prior, "encoder_mean", None)
    hidden = getattr(prior, "hidden_activation", None)
    if layers is None or mean is None or hidden not in ACTIVATIONS:
        return lambda x: prior.encode(x)[0]
    mlp = MLPDecoder(_products([*layers, mean]), [hidden] * len(layers) + ["identity"])
    return lambda x: mlp.value(x.flatten(1))


def _products(layers: Iterable[Any]) -> list[RowProduct]:
    return [_product(layer) for layer in layers]


# The product of a layer is kept while the layer lives: packing its weights costs a decode.
_kept: WeakKeyDictionary[Any, tuple[Any, RowProduct]] = WeakKeyDictionary()


def _product(layer: Any) -> RowProduct:
    weight, bias = layer.weight.detach(), layer.bias
    tensors = [weight] if bias is None else [weight, bias]
    state = [(t.data_ptr(), t._version, t.dtype, t.device, tuple(t.shape)) for t in tensors]
    kept = _kept.get(layer)
    if kept is None or kept[0] != state:
        zeros = weight.new_zeros(weight.shape[0])
        kept = (state, RowProduct(weight, zeros if bias is None else bias.detach()))
        _kept[layer] = kept
    return kept[1]
