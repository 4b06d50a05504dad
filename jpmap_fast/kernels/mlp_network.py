"""Layers of a perceptron in the layouts that the fused operators take."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from jpmap_fast.kernels.activations import ACTIVATION_CODES
from jpmap_fast.kernels.products import RowProduct


@dataclass(frozen=True)
class PackedNetwork:
    """Layers h -> f(W h + b) in the layout of a device.

    Attributes:
        weights: W of each layer; on the CPU ``kernels.pack_linear(W)``, on a GPU rows padded to
            multiples of 32.
        adjoints: the same of W^T.
        tangents: nothing on the CPU; on a GPU ``scaled_half(W)`` of each layer, first all in
            float16 (that of the first layer is not used), then all scales.
        biases: b of each layer, padded with zeros as the outputs of W are.
        codes: ``ACTIVATION_CODES`` of each layer.
    """

    weights: list[Tensor]
    adjoints: list[Tensor]
    tangents: list[Tensor]
    biases: list[Tensor]
    codes: list[int]


@dataclass(frozen=True)
class ForwardNetwork:
    """Layers without a way back: ``weights``, ``biases`` and ``codes`` as in ``PackedNetwork``."""

    weights: list[Tensor]
    biases: list[Tensor]
    codes: list[int]


def pack_forward(
    layers: list[RowProduct], activations: list[str], *, of_images: bool
) -> ForwardNetwork:
    """See ``pack_network``.

    Args:
        layers, activations: as there.
        of_images: whether the network takes images rather than codes: on a GPU those are padded as
            the outputs of a decoder are.
    """
    on_gpu = layers[0].weight.device.type == "cuda"
    weights = [layer.packed for layer in layers]
    if on_gpu:
        weights = [layer.rows for layer in layers]
        if not of_images:
            weights[0] = layers[0].first_rows
    return ForwardNetwork(
        weights,
        [layer.padded_bias for layer in layers],
        [ACTIVATION_CODES[name] for name in activations],
    )


def pack_network(layers: list[RowProduct], activations: list[str]) -> PackedNetwork:
    """The layers, first to last, for the device they are on. Layouts are kept with the layers.

    Args:
        layers: products with their biases.
        activations: names out of ``ACTIVATION_CODES``.
    """
    biases = [layer.padded_bias for layer in layers]
    codes = [ACTIVATION_CODES[name] for name in activations]
    first, rest = layers[0], layers[1:]
    if first.weight.device.type != "cuda":
        packed = [layer.packed for layer in layers]
        return PackedNetwork(packed, [layer.adjoint.packed for layer in layers], [], biases, codes)
    halves = [_scaled_half(layer) for layer in layers]
    return PackedNetwork(
        [first.first_rows, *(layer.rows for layer in rest)],
        [first.first_columns, *(layer.columns for layer in rest)],
        [*(half for half, _ in halves), *(scale for _, scale in halves)],
        biases,
        codes,
    )


def scaled_half(weight: Tensor) -> tuple[Tensor, Tensor]:
    """W s in float16 and s [1] in float32, of W [out, in].

    s is the power of two that brings the largest norm of a row of W to [1/2, 1), within 2^-126 to
    2^126: a layer then neither shrinks nor enlarges tangents by much, in whatever units its inputs
    and outputs are. 1 for a matrix of zeros, or with numbers that are not finite.
    """
    norm = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64).max()
    # An exact division: a power of two by construction, which pow need not be.
    scale = torch.frexp(norm).mantissa / norm
    scale = torch.where(norm.isfinite() & (norm > 0), scale, 1.0).clamp(2.0**-126, 2.0**126)
    scale = scale.to(torch.float32)
    largest = torch.finfo(torch.float16).max
    return (weight * scale).clamp(-largest, largest).half(), scale.reshape(1)


# Kept as long as their layers live, and beside them: no part of a layer's copies and pickles.
_scaled_halves: WeakKeyDictionary[RowProduct, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def _scaled_half(layer: RowProduct) -> tuple[Tensor, Tensor]:
    """``scaled_half`` of a layer's padded rows."""
    found = _scaled_halves.get(layer)
    if found is None:
        found = _scaled_halves[layer] = scaled_half(layer.rows)
    return found
