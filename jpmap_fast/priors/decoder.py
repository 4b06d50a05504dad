"""The decoder of a prior: a multilayer perceptron, a chain of modules, or any function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from jpmap_fast.kernels.activations import ACTIVATIONS
from jpmap_fast.kernels.products import RowProduct, batched_product
from jpmap_fast.priors.base import ModulePrior, Prior
from jpmap_fast.priors.conv_vae import ConvVAE
from jpmap_fast.priors.decoder_base import Decoder, Linearisation
from jpmap_fast.priors.derivatives import differentiated
from jpmap_fast.priors.function_decoder import ChainDecoder
from jpmap_fast.priors.mlp_vae import MLPVAE
from jpmap_fast.priors.plain import is_plain


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
            h = layer.activated(h, name)
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


# As they are when this module is read: whoever replaces one decodes in another way.
_MLP_DECODE, _MLP_ENCODE = MLPVAE.decode, MLPVAE.encode
_CHAIN_DECODE = (ModulePrior.decode, ConvVAE.decode)


def make_decoder(prior: Prior, like: Tensor | None = None) -> Decoder:
    """The decoder of a prior: analytic for what can be read, torch's derivatives for the rest.

    What ``prior.decode`` does is what the decoder does. An ``MLPVAE`` is read as an MLP, and the
    ``decoder`` of a ``ConvVAE`` or ``ModulePrior`` as a chain where it is an ``nn.Sequential`` of
    known modules (see ``chain.read_chain``), unless a subclass, the object or a hook decodes in a
    way of its own. Any other prior may say that it is an MLP by ``decoder_layers`` (modules with
    ``weight`` and ``bias``), ``hidden_activation`` and ``output_activation``, the names being those
    of ``ACTIVATIONS``, and is believed where ``decode`` agrees. ``prior.low_precision = False``
    keeps the Jacobian on a GPU out of bfloat16.

    Args:
        prior: with ``decode``, ``latent_dim`` and ``image_shape``.
        like: of the type and device of the codes; None for those of the prior's parameters.

    Raises:
        ValueError: ``decode`` cuts the gradient, see ``derivatives.differentiated``.
    """
    if like is None:
        parameter = next(iter(prior.parameters()), None) if hasattr(prior, "parameters") else None
        like = torch.empty(0) if parameter is None else parameter
    mlp = _read_mlp(prior, like)
    if mlp is not None:
        return mlp
    size = math.prod(prior.image_shape)
    low_precision = bool(getattr(prior, "low_precision", True))
    module = getattr(prior, "decoder", None)
    if isinstance(module, nn.Sequential) and _does(prior, "decode", _CHAIN_DECODE):
        chain = ChainDecoder.of(module, prior.latent_dim, size, low_precision)
        if chain is not None:
            return chain
    return differentiated(prior.decode, prior.latent_dim, size, low_precision, like)


def _does(prior: Prior, name: str, known: Sequence[Any]) -> bool:
    """Whether a prior's method is one of the ``known`` functions."""
    return getattr(type(prior), name, None) in known and name not in vars(prior)


def _read_mlp(prior: Prior, like: Tensor) -> MLPDecoder | None:
    layers = getattr(prior, "decoder_layers", None)
    hidden = getattr(prior, "hidden_activation", None)
    output = getattr(prior, "output_activation", None)
    if layers is None or hidden not in ACTIVATIONS or output not in ACTIVATIONS:
        return None
    own = isinstance(prior, MLPVAE)
    if own and not (_does(prior, "decode", (_MLP_DECODE,)) and _plain_linear(layers)):
        return None
    decoder = MLPDecoder(_products(layers), [hidden] * (len(layers) - 1) + [output])
    return decoder if own or _agree(prior, decoder, like) else None


def _plain_linear(layers: Iterable[Any]) -> bool:
    return all(type(layer) is nn.Linear and is_plain(layer) for layer in layers)


def _agree(prior: Prior, decoder: MLPDecoder, like: Tensor) -> bool:
    """Whether ``decode`` gives the images of what was read, at codes up to far from 0."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(16, prior.latent_dim, generator=generator)
    z = (z * torch.linspace(0, 4, 16)[:, None]).to(like.device, like.dtype)
    try:
        asked = prior.decode(z).reshape(16, -1)
    except RuntimeError:
        return False
    read = decoder.value(z)
    if asked.shape != read.shape or asked.dtype != read.dtype:
        return False
    # Sums in another order: a few roundings of the largest value.
    level = 1000 * torch.finfo(read.dtype).eps * read.abs().amax()
    return bool(((asked - read).abs() <= level).all())


def make_encoder(prior: Prior) -> Callable[[Tensor], Tensor]:
    """mu_phi, images [B, C, H, W] to codes [B, k], of a prior.

    An ``MLPVAE`` that encodes as its class does is read as an MLP, whose codes do not depend on the
    batch; any other prior is asked by ``encode``.
    """
    if isinstance(prior, MLPVAE) and _does(prior, "encode", (_MLP_ENCODE,)):
        layers = [*prior.encoder_layers, prior.encoder_mean]
        if _plain_linear(layers):
            names = [prior.hidden_activation] * (len(layers) - 1) + ["identity"]
            mlp = MLPDecoder(_products(layers), names)
            return lambda x: mlp.value(x.flatten(1))
    return lambda x: prior.encode(x)[0]


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
