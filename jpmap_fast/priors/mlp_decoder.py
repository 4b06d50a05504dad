"""Decoders that are multilayer perceptrons, and the products of their layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jpmap_fast._made_of_weights import made_of_weights
from jpmap_fast.kernels.activations import ACTIVATIONS, Activation
from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.priors.decoder_base import Decoder, Expansion, Linearisation, pulled_by
from jpmap_fast.priors.plain import is_plain
from jpmap_fast.priors.sweep import bent


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

    @classmethod
    def of(cls, layers: Iterable[Any], activations: Sequence[str]) -> MLPDecoder:
        """The decoder of a prior's linear layers, for its ``decoder`` method to return.

        Their products are kept for as long as the layers live: packing weights costs a decode.

        Args:
            layers: modules with ``weight`` [out, in] and ``bias`` [out] or None, such as
                ``nn.Linear``, first layer first.
            activations: one a layer, out of "elu", "identity", "relu", "sigmoid", "silu",
                "softplus" and "tanh".

        Raises:
            ValueError: no layers, another number of activations, an unknown one, or a layer that
                does not take what the one before it gives.
        """
        layers = list(layers)
        if not layers or len(layers) != len(activations):
            raise ValueError(
                "MLPDecoder: expected one activation for each of at least one layer, got "
                f"{len(layers)} layers and {len(activations)} activations"
            )
        for name in activations:
            if name not in ACTIVATIONS:
                raise ValueError(
                    f"MLPDecoder: expected activations out of {', '.join(sorted(ACTIVATIONS))}, "
                    f"got {name!r}"
                )
        products = _products(layers)
        for before, after in zip(products, products[1:], strict=False):
            if before.weight.shape[0] != after.weight.shape[1]:
                raise ValueError(
                    "MLPDecoder: expected layers that fit each other, got weights of shapes "
                    f"{[tuple(product.weight.shape) for product in products]}"
                )
        return cls(products, activations)

    def value(self, z: Tensor) -> Tensor:
        h = z
        for layer, name in zip(self.layers, self.activations, strict=True):
            h = layer.activated(h, name)
        return h

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        swept = _Sweep(self, z)
        return swept.value, swept.columns

    def pullback(self, z: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        run = _Pass(self, z)
        return run.value, run.pull(cotangent(run.value))

    def expand(
        self, z: Tensor, cotangent: Callable[[Tensor], Tensor], second_order: bool
    ) -> Expansion:
        swept = _Sweep(self, z, keep=second_order)
        c = cotangent(swept.value)
        curvature = swept.curvature(c) if second_order else None
        return Expansion(swept.columns, pulled_by(swept.columns, c), curvature)

    def linearisation(self, z: Tensor) -> Linearisation:
        run = _Pass(self, z)
        return Linearisation(run.push, run.pull)

    def restrict(self, rows: Tensor) -> MLPDecoder:
        return MLPDecoder([*self.layers[:-1], self.layers[-1].restrict(rows)], self.activations)


class MLPEncoder:
    """mu_phi as a multilayer perceptron: images [B, C, H, W] to codes [B, k].

    Attributes:
        layers, activations: as of an ``MLPDecoder``, from pixels to codes.
    """

    def __init__(self, layers: Iterable[Any], activations: Sequence[str]) -> None:
        self._mlp = MLPDecoder.of(layers, activations)
        self.layers, self.activations = self._mlp.layers, self._mlp.activations

    def __call__(self, x: Tensor) -> Tensor:
        """The codes of images x."""
        return self._mlp.value(x.flatten(1))


class _Note(NamedTuple):
    """What a layer did: its pre-activations a [B, out], f(a) and f'(a)."""

    layer: RowProduct
    activation: Activation
    before: Tensor
    after: Tensor
    slope: Tensor


class _Pass:
    """A forward pass at z [B, k], and the products by its Jacobian.

    Attributes:
        value: G(z) [B, n].
    """

    def __init__(self, decoder: MLPDecoder, z: Tensor) -> None:
        self._notes: list[_Note] = []
        h = z
        for layer, name in zip(decoder.layers, decoder.activations, strict=True):
            h = self._noted(layer, name, layer(h))
        self.value = h

    def _noted(self, layer: RowProduct, name: str, before: Tensor) -> Tensor:
        activation = ACTIVATIONS[name]
        after = activation.value(before)
        slope = activation.derivative(before, after)
        self._notes.append(_Note(layer, activation, before, after, slope))
        return after

    def push(self, direction: Tensor) -> Tensor:
        """DG v [B, n] of v [B, k]."""
        for note in self._notes:
            direction = note.layer.without_bias(direction) * note.slope
        return direction

    def pull(self, cotangent: Tensor) -> Tensor:
        """dG^T c [B, k] of c [B, n]."""
        for note in reversed(self._notes):
            cotangent = note.layer.adjoint(cotangent * note.slope)
        return cotangent


class _Sweep(_Pass):
    """A forward pass that takes all k tangents along.

    Args:
        decoder: the layers.
        z: [B, k].
        keep: for ``curvature``, the tangents before every activation.

    Attributes:
        columns: the transposed Jacobian [B, k, n].
    """

    def __init__(self, decoder: MLPDecoder, z: Tensor, keep: bool = False) -> None:
        self._notes = []
        first = decoder.layers[0]
        h = self._noted(first, decoder.activations[0], first(z))
        # The first layer's tangents are the columns of W_0 for every image: no product needed.
        entering = first.weight.T
        self._entering = [entering[None]] if keep else []
        tangents = self._notes[0].slope[:, None] * entering
        for layer, name in zip(decoder.layers[1:], decoder.activations[1:], strict=True):
            stacked = torch.cat((h[:, None], tangents), dim=1)  # [B, 1 + k, in]
            out = layer.without_bias(stacked)  # [B, 1 + k, out]
            h = self._noted(layer, name, layer.add_bias(out[:, 0]))
            entering = out[:, 1:]
            tangents = self._notes[-1].slope[:, None] * entering
            if keep:
                self._entering.append(entering)
        self.value, self.columns = h, tangents

    def curvature(self, cotangent: Tensor) -> Tensor:
        """sum_j c_j times the Hessian of G_j [B, k, k], with c = ``cotangent`` [B, n].

        Each layer adds what ``bent`` says.
        """
        parts = []
        for number in range(len(self._notes) - 1, -1, -1):
            layer, activation, before, after, slope = self._notes[number]
            parts.append(bent(self._entering[number], cotangent, activation, before, after))
            if number:
                cotangent = layer.adjoint(cotangent * slope)
        return sum(parts[-2::-1], parts[-1])  # the first layer's first


def are_plain_linear(layers: Iterable[Any]) -> bool:
    """Whether these are linear modules that do what such modules do, no more."""
    return all(type(layer) is nn.Linear and is_plain(layer) for layer in layers)


def _products(layers: Sequence[Any]) -> list[RowProduct]:
    """The products of layers, those kept for them while their numbers are the same."""
    held = [t for layer in layers for t in (layer.weight, layer.bias) if t is not None]
    # A bias less is another network of the same numbers.
    key = tuple(layer.bias is None for layer in layers)
    kept = made_of_weights(layers[0], "products")
    products: list[RowProduct] = kept.get(held, lambda: list(map(_product, layers)), key)
    return products


def _product(layer: Any) -> RowProduct:
    # Of its own: much of a product is made of these when it is first asked for.
    weight, bias = layer.weight.detach().clone(), layer.bias
    zeros = weight.new_zeros(weight.shape[0])
    return RowProduct(weight, zeros if bias is None else bias.detach().clone())
