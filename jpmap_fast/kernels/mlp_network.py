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

# kSplitScale of csrc/cuda/mlp_network.cuh.
SPLIT_SCALE = 2.0**13

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
            nothing; on a GPU ``split(W, s)`` of every layer but the first, then ``split(W^T, s)``,
            then s = ``scale_of(W)`` of every layer.
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
    """Layers without a way back: ``weights``, ``biases`` and ``codes`` as in ``PackedNetwork``.

    On a GPU ``weights`` has more after W of every layer: ``split(W, s)`` of every one that does not
    take codes, then s of those.
    """

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
        wide = layers if of_images else layers[1:]
        splits = [_split_layer(layer) for layer in wide]
        weights = [layer.rows for layer in wide]
        weights += [rows for rows, _, _ in splits] + [scale for _, _, scale in splits]
        if not of_images:
            weights.insert(0, layers[0].first_rows)
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
        narrow = first.weight.dtype == torch.float32 and _C.takes_bfloat16()
        return PackedNetwork(
            [layer.packed for layer in layers],
            [layer.adjoint.packed for layer in layers],
            [_paired(layer) for layer in rest] if narrow else [],
            biases,
            codes,
        )
    splits = [_split_layer(layer) for layer in layers]
    rows, columns, _ = zip(*splits[1:], strict=True) if rest else ((), (), ())
    return PackedNetwork(
        [first.first_rows, *(layer.rows for layer in rest)],
        [first.first_columns, *(layer.columns for layer in rest)],
        [*rows, *columns, *(scale for _, _, scale in splits)],
        biases,
        codes,
    )


def scale_of(weight: Tensor) -> Tensor:
    """The power of two s [1], in float32, of a layer's W [out, in].

    s brings the largest norm of a row of W to [1/2, 1), within 2^-126 to 2^126: a layer W s then
    neither shrinks nor enlarges tangents by much, in whatever units its inputs and outputs are. 1
    for a matrix of zeros, or with numbers that are not finite.
    """
    norm = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64).max()
    # An exact division: a power of two by construction, which pow need not be.
    scale = torch.frexp(norm).mantissa / norm
    scale = torch.where(norm.isfinite() & (norm > 0), scale, 1.0).clamp(2.0**-126, 2.0**126)
    return scale.to(torch.float32).reshape(1)


def split(weight: Tensor, scale: Tensor) -> Tensor:
    """W 2^13 s = high + low in float16, in the order that the CUDA kernels read.

    Numbers are split to 2^-22 of their size, or to 2^-37 of the largest norm of a row where that is
    more; the high parts alone are W s for tangents.

    Args:
        weight: W [out, in] in float32, in a multiple of 32.
        scale: s [1].

    Returns:
        [out / 8, 16 in]: of every eight outputs and 32 inputs their high parts, then their low
        ones; of each the 16 bytes that a lane holds of a matrix unit's factor [16][8], twice, lane
        after lane: lane 4 g + t has of output g the inputs 8 i + 2 t + e (i < 4, e < 2), in order.
        So a warp reads 512 consecutive bytes.
    """
    outputs, inputs = weight.shape
    largest = torch.finfo(torch.float16).max
    scaled = (weight * scale * SPLIT_SCALE).clamp(-largest, largest)
    high = scaled.half()
    parts = torch.stack([high, (scaled - high.float()).half()], dim=1)
    # output tile, output, part, input block, i, t, e
    ordered = parts.reshape(outputs // 8, 8, 2, inputs // 32, 4, 4, 2).permute(0, 3, 2, 1, 5, 4, 6)
    return ordered.reshape(outputs // 8, 16 * inputs)


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
_splits: WeakKeyDictionary[RowProduct, tuple[Tensor, Tensor, Tensor]] = WeakKeyDictionary()
_pairs: WeakKeyDictionary[RowProduct, Tensor] = WeakKeyDictionary()


def _split_layer(layer: RowProduct) -> tuple[Tensor, Tensor, Tensor]:
    """``split`` of a layer's padded rows and of their transpose, and its scale."""

    def made() -> tuple[Tensor, Tensor, Tensor]:
        scale = scale_of(layer.rows)
        return split(layer.rows, scale), split(layer.columns, scale), scale

    return _kept(_splits, layer, made)


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
