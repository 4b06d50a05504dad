"""Moments and draws of images, of weighted draws of codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from jpmap_fast._memory import numbers_at_a_time
from jpmap_fast.kernels.moments import weighted_moments
from jpmap_fast.priors.mlp_decoder import MLPDecoder
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.passes import Pass
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.weighted import ImageSums, Weighted

# Numbers of images that are held at a time on a CPU, those of passes few enough to stay in a cache;
# and codes of an image in one sum: sums over codes are cut in the same places in every batch.
_ROOM, _ROOM_OF_PASSES, _BLOCK = 1 << 22, 1 << 20, 256


@dataclass(frozen=True)
class Moments:
    """E[x | y], var(x | y) and E[G(z) | y], [B, C, H, W] each; the variance in float64."""

    mean: Tensor
    variance: Tensor
    decoded: Tensor


def moments(model: Model, sums: ImageSums, streams: Streams) -> Moments:
    """The moments of images, by all weighted draws.

    E[x | y] is one x-update of E[G(z) | y] where E[x | z, y] is affine in G(z), and a sum over the
    draws elsewhere;

        var(x | y) = E var(x | z, y) + var E(x | z, y).

    Args:
        model: of a batch.
        sums: of the weighted draws.
        streams: of its images.
    """
    shape, dtype = model.problem.image_shape, model.problem.y.dtype
    decoded = sums.decoded.to(dtype).reshape(-1, *shape)
    if model.affine:
        mean, within = model.mean_x(decoded), model.variance_x(streams)
    else:
        mean, within = sums.mean.to(dtype).reshape(-1, *shape), sums.within
    return Moments(mean, (within + sums.between).reshape(-1, *shape), decoded)


def completed(model: Model, draws: Weighted) -> ImageSums:
    """The sums of draws, of which those that nobody knows are decoded."""
    sums = draws.sums
    if sums is None:
        sums = ImageSums.unknown(draws.z.new_zeros(model.problem.batch, model.pixels))
    unknown = ~sums.known
    for number in draws.size[unknown].unique().tolist():  # none decodes the padding of the others
        rows = (unknown & (draws.size == number)).nonzero()[:, 0]
        part = sums_of(model.select(rows), draws.z[rows, :number], draws.weights[rows, :number])
        sums = sums.put(rows, part)
    return sums


def sums_of(model: Model, z: Tensor, weights: Tensor) -> ImageSums:
    """Those of draws z [B, S, k] with weights [B, S], some images at a time."""
    size = max(1, numbers_at_a_time(z.device, _ROOM) // (_BLOCK * model.pixels))
    parts = []
    for rows in torch.arange(len(z), device=z.device).split(size):
        part = model if len(rows) == len(z) else model.select(rows)
        parts.append(_sums(part, _blocks(part, z[rows], weights[rows])))
    return _joined(parts)


def sums_of_passes(
    model: Model, passes: Sequence[Pass], rows: Tensor, weights: Tensor
) -> ImageSums:
    """Those of draws whose passes are kept, one pass after the other.

    Args:
        model: of images.
        passes: of these and others.
        rows: which of the passes are theirs [B], ascending.
        weights: of the draws of all passes together [B, S].
    """
    decoder = model.problem.decoder
    assert isinstance(decoder, MLPDecoder)
    lengths = [one.outputs.shape[1] for one in passes]
    size = max(1, _ROOM_OF_PASSES // (max(lengths) * model.pixels))

    def blocks(index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        first, last = rows[index[[0, -1]]].tolist()
        # Images one after the other are no copy.
        there = slice(first, last + 1) if last - first + 1 == len(index) else rows[index]
        for one, weight in zip(passes, weights[index].split(lengths, dim=1), strict=True):
            yield one.select(there).decoded(decoder), weight

    parts = [ImageSums.unknown(weights.new_zeros(0, model.pixels))]
    for index in torch.arange(len(rows), device=rows.device).split(size) if len(rows) else ():
        parts.append(_sums(model.select(index), blocks(index)))
    return _joined(parts)


def _joined(parts: Sequence[ImageSums]) -> ImageSums:
    columns = ([getattr(part, f.name) for part in parts] for f in fields(ImageSums))
    return ImageSums(*(torch.cat(column) for column in columns))


def _blocks(model: Model, z: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Decoded codes of z [B, S, k] with their weights, some at a time."""
    for codes, weight in zip(z.split(_BLOCK, dim=1), weights.split(_BLOCK, dim=1), strict=True):
        yield model.decode(codes.flatten(0, 1)).reshape(*codes.shape[:2], -1), weight


def _sums(model: Model, blocks: Iterable[tuple[Tensor, Tensor]]) -> ImageSums:
    """Those of decoded codes [B, N, n] with weights [B, N], block by block."""
    batch = model.problem.batch
    zeros = torch.zeros(batch, 2, model.pixels, dtype=torch.float64, device=model.problem.y.device)
    decoded, images, within = zeros, zeros, zeros[:, 0]
    kept = model.kept
    for values, weight in blocks:
        decoded = decoded + weighted_moments(values, weight)
        if kept is not None:
            continue
        number = values.shape[1]
        image = torch.arange(batch, device=values.device).repeat_interleave(number)
        each = model.select(image)
        flat = values.reshape(-1, *model.problem.image_shape)
        images = images + weighted_moments(each.mean_x(flat).reshape(values.shape), weight)
        if not model.affine:
            variance = each.variance_given(flat)
            assert variance is not None
            within = within + weighted_moments(variance.reshape(values.shape), weight)[:, 0]
    first, square = (decoded if kept is not None else images).unbind(dim=1)
    between = (square - first.square()).clamp_min(0)
    if kept is not None:
        between = between * kept.square()
    known = torch.ones(batch, dtype=torch.bool, device=first.device)
    return ImageSums(decoded[:, 0], first, within, between, known)


def drawn_images(model: Model, z: Tensor, streams: Streams) -> Tensor:
    """A draw of x given z and y for each of the codes [B, D, k], [B, D, C, H, W]."""
    size = max(1, numbers_at_a_time(z.device, _ROOM) // (max(z.shape[1], 1) * model.pixels))
    found = []
    for rows in torch.arange(len(z), device=z.device).split(size):
        part = model.select(rows)
        decoded = part.decode(z[rows].flatten(0, 1))
        decoded = decoded.reshape(len(rows), z.shape[1], *decoded.shape[1:])
        found.append(part.draw_x(decoded, "image", streams.select(rows)))
    return torch.cat(found)
