"""Layers of a perceptron in the layouts that the fused operators take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

import jpmap_fast._C as _C
from jpmap_fast.kernels.activations import ACTIVATION_CODES
from jpmap_fast.kernels.products import RowProduct

Made = TypeVar("Made")


@dataclass(frozen=True)
class PackedNetwork:
    """Layers h -> f(W h + b) in the layout of a device.

    Attributes:
        weights: W of each layer; on the CPU ``kernels.pack_linear(W)``, on a GPU rows padded to
            multiples of 32.
        adjoints: the same of W^T.
        tangents: W for the matrices of second derivatives. On the CPU ``paired(W)`` of each layer
            but the first, in float32 where the processor has products of bfloat16 and otherwise
            nothing; on a GPU ``scaled_half(W)`` of each layer, first all in float16 (that of the
            first layer is not used), then all scales.
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


def pack_forward(layers: list[RowProduct], activations: list[str]) -> ForwardNetwork:
    """See ``pack_network``."""
    first, rest = layers[0], layers[1:]
    on_gpu = first.weight.device.type == "cuda"
    weights = [first.first_rows, *(layer.rows for layer in rest)] if on_gpu else None
    return ForwardNetwork(
        weights or [layer.packed for layer in layers],
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
        narrow = first.weight.dtype == torch.float32 and _C.takes_bfloat16()
        return PackedNetwork(
            [layer.packed for layer in layers],
            [layer.adjoint.packed for layer in layers],
            [_paired(layer) for layer in rest] if narrow else [],
            biases,
            codes,
        )
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


def paired(weight: Tensor) -> Tensor:
    """W [out, in] in bfloat16, [panels, ceil(in / 2), 64]: pairs of inputs of 32 outputs a panel.

    Rounded to nearest, finite numbers to finite ones. What fills the last panel and the last pair
    up is 0.
    """
    outputs, inputs = weight.shape
    largest = torch.finfo(torch.bfloat16).max
    narrow = weight.clamp(-largest, largest).bfloat16()
    padded = F.pad(narrow, (0, inputs % 2, 0, -outputs % 32))
    return padded.reshape(-1, 32, (inputs + 1) // 2, 2).transpose(1, 2).flatten(2).contiguous()


# Kept as long as their layers live, and beside them: no part of a layer's copies and pickles.
_scaled_halves: WeakKeyDictionary[RowProduct, tuple[Tensor, Tensor]] = WeakKeyDictionary()
_pairs: WeakKeyDictionary[RowProduct, Tensor] = WeakKeyDictionary()


def _scaled_half(layer: RowProduct) -> tuple[Tensor, Tensor]:
    """``scaled_half`` of a layer's padded rows."""
    return _kept(_scaled_halves, layer, lambda: scaled_half(layer.rows))


def _paired(layer: RowProduct) -> Tensor:
    return _kept(_pairs, layer, lambda: paired(layer.weight))


def _kept(
    known: WeakKeyDictionary[RowProduct, Made], layer: RowProduct, make: Callable[[], Made]
) -> Made:
    """What is made of a layer once."""
    found = known.get(layer)
    if found is None:
        found = known[layer] = make()
    return found
