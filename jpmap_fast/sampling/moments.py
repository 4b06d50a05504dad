"""Moments and draws of images, of weighted draws of codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.products import weighted_sum
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.weighted import Weighted

# Numbers of images that are held at a time, and codes of an image in one sum: sums over codes are
# cut in the same places in every batch.
_ROOM, _BLOCK = 1 << 22, 256


@dataclass(frozen=True)
class Moments:
    """E[x | y], var(x | y) and E[G(z) | y], [B, C, H, W] each; the variance in float64."""

    mean: Tensor
    variance: Tensor
    decoded: Tensor


def moments(model: Model, draws: Weighted, streams: Streams) -> Moments:
    """The moments of images, by all weighted draws.

    E[x | y] is one x-update of E[G(z) | y] where E[x | z, y] is affine in G(z), and a sum over the
    draws elsewhere;

        var(x | y) = E var(x | z, y) + var E(x | z, y).

    Args:
        model: of a batch.
        draws: of its codes.
        streams: of its images.
    """
    shape, dtype = model.problem.image_shape, model.problem.y.dtype
    size = max(1, _ROOM // (_BLOCK * model.pixels))
    zeros = draws.z.new_zeros(model.problem.batch, model.pixels)
    sums = _Sums(*(zeros.clone() for _ in range(4)))
    for number in draws.size.unique().tolist():  # none decodes the padding of the others
        for rows in (draws.size == number).nonzero()[:, 0].split(size):
            z, weights = draws.z[rows, :number], draws.weights[rows, :number]
            part = _sums(model.select(rows), z, weights)
            for name, whole in vars(sums).items():
                whole[rows] = getattr(part, name)
    decoded = sums.decoded.to(dtype).reshape(-1, *shape)
    if model.affine:
        mean, within = model.mean_x(decoded), model.variance_x(streams)
    else:
        mean, within = sums.mean.to(dtype).reshape(-1, *shape), sums.within
    return Moments(mean, (within + sums.between).reshape(-1, *shape), decoded)


@dataclass(frozen=True)
class _Sums:
    """E[G | y], E[x | y], E var(x | z, y) and var E(x | z, y), [B, n] float64.

    The second and third are of models that are not affine alone.
    """

    decoded: Tensor
    mean: Tensor
    within: Tensor
    between: Tensor


def _sums(model: Model, z: Tensor, weights: Tensor) -> _Sums:
    """Those of codes [B, S, k] and weights [B, S]."""
    batch = len(z)
    first = z.new_zeros(batch, model.pixels)
    mean, square, within = first, first, first
    kept = model.kept
    for start in range(0, z.shape[1], _BLOCK):
        codes, weight = z[:, start : start + _BLOCK], weights[:, start : start + _BLOCK]
        number = codes.shape[1]
        decoded = model.decode(codes.flatten(0, 1))
        images = decoded
        if kept is None:
            image = torch.arange(batch, device=z.device).repeat_interleave(number)
            each = model.select(image)
            images = each.mean_x(decoded)
            decoded_rows = decoded.flatten(1).double().unflatten(0, (batch, number))
            first = first + weighted_sum(weight, decoded_rows)
            if not model.affine:
                variance = each.variance_given(decoded)
                assert variance is not None
                within = within + weighted_sum(weight, variance.unflatten(0, (batch, number)))
        values = images.flatten(1).double().unflatten(0, (batch, number))
        mean = mean + weighted_sum(weight, values)
        square = square + weighted_sum(weight, values.square())
    between = (square - mean.square()).clamp_min(0)
    if kept is not None:
        return _Sums(mean, mean, within, between * kept.square())
    return _Sums(first, mean, within, between)


def drawn_images(model: Model, z: Tensor, streams: Streams) -> Tensor:
    """A draw of x given z and y for each of the codes [B, D, k], [B, D, C, H, W]."""
    size = max(1, _ROOM // (max(z.shape[1], 1) * model.pixels))
    found = []
    for rows in torch.arange(len(z), device=z.device).split(size):
        part = model.select(rows)
        decoded = part.decode(z[rows].flatten(0, 1))
        decoded = decoded.reshape(len(rows), z.shape[1], *decoded.shape[1:])
        found.append(part.draw_x(decoded, "image", streams.select(rows)))
    return torch.cat(found)
