"""The decoder of a prior: a multilayer perceptron, a chain of modules, or any function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from jpmap_fast.activations import ACTIVATIONS
from jpmap_fast.batch_invariant import RowProduct, batched_product
from jpmap_fast.priors.base import ModulePrior, Prior
from jpmap_fast.priors.conv_vae import ConvVAE
from jpmap_fast.priors.decoder_base import Decoder, Linearisation
from jpmap_fast.priors.function_decoder import ChainDecoder, FunctionDecoder


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

    def linearisation(self, z: Tensor) -> Linearisation:
        h = z
        slopes = []
        for layer, name in zip(self.layers, self.activations, strict=True):
            act = ACTIVATIONS[name]
            a = layer(h)
            h = act.value(a)
            slopes.append(act.derivative(a, h))

        def push(direction: Tensor) -> Tensor:
            for layer, slope in zip(self.layers, slopes, strict=True):
                direction = layer.without_bias(direction) * slope
            return direction

        def pull(cotangent: Tensor) -> Tensor:
            for layer, slope in zip(reversed(self.layers), reversed(slopes), strict=True):
                cotangent = layer.adjoint(cotangent * slope)
            return cotangent

        return Linearisation(push, pull)

    def restrict(self, rows: Tensor) -> MLPDecoder:
        return MLPDecoder([*self.layers[:-1], self.layers[-1].restrict(rows)], self.activations)


def make_decoder(prior: Prior) -> Decoder:
    """The decoder of a prior: analytic for what can be read, ``torch.func`` for the rest.

    A prior says that it is an MLP by ``decoder_layers`` (modules with ``weight`` and ``bias``),
    ``hidden_activation`` and ``output_activation``, the names being those of ``ACTIVATIONS``. The
    ``decoder`` of a ``ConvVAE`` or ``ModulePrior`` is read as a chain where it is an
    ``nn.Sequential`` of known modules (see ``chain.read_chain``). ``prior.low_precision = False``
    keeps the Jacobian on a GPU out of bfloat16.
    """
    layers = getattr(prior, "decoder_layers", None)
    hidden = getattr(prior, "hidden_activation", None)
    output = getattr(prior, "output_activation", None)
    if layers is not None and hidden in ACTIVATIONS and output in ACTIVATIONS:
        return MLPDecoder(_products(layers), [hidden] * (len(layers) - 1) + [output])
    size = 1
    for extent in prior.image_shape:
        size *= extent
    low_precision = bool(getattr(prior, "low_precision", True))
    module = getattr(prior, "decoder", None)
    # A subclass may decode in its own way.
    plain = getattr(type(prior), "decode", None) in (ModulePrior.decode, ConvVAE.decode)
    if isinstance(module, nn.Sequential) and plain:
        chain = ChainDecoder.of(module, prior.latent_dim, size, low_precision)
        if chain is not None:
            return chain
    return FunctionDecoder(prior.decode, prior.latent_dim, size, None, low_precision)


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
    state = [(t.data_ptr(), _version(t), t.dtype, t.device, tuple(t.shape)) for t in tensors]
    kept = _kept.get(layer)
    if kept is None or kept[0] != state:
        zeros = weight.new_zeros(weight.shape[0])
        kept = (state, RowProduct(weight, zeros if bias is None else bias.detach()))
        _kept[layer] = kept
    return kept[1]


def _version(tensor: Tensor) -> int:
    # Tensors of inference mode count no versions.
    return 0 if tensor.is_inference() else tensor._version
