"""Random numbers of images: keyed by their measurements, whatever batch and place they are in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from jpmap_fast._validate import generator_or_none

# Of splitmix64, as signed numbers of 64 bits.
_GOLDEN = -0x61C8864680B583EB
_MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15))


def _shifted(x: Tensor, bits: int) -> Tensor:
    """X >> bits without its sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(x: Tensor) -> Tensor:
    """The output function of splitmix64, a bijection of int64."""
    for bits, factor in _MIX:
        x = (x ^ _shifted(x, bits)) * factor
    return x ^ _shifted(x, 31)


def digest(*values: Tensor) -> Tensor:
    """64 bits [B] of the bits of floating-point values [B, ...] of each image."""
    total: Tensor | None = None
    for number, value in enumerate(values):
        flat = value.flatten(1) + 0.0  # no -0
        bits = flat.contiguous().view(torch.int32 if flat.dtype == torch.float32 else torch.int64)
        place = torch.arange(bits.shape[1], device=bits.device) + (number + 1) * (1 << 40)
        # A sum of integers has no order.
        part = _mixed(_mixed(bits.long()) + place * _GOLDEN).sum(dim=1)
        total = part if total is None else _mixed(total) + part
    assert total is not None
    return total


def drawn_seed(generator: torch.Generator | None) -> int:
    """One number of a generator, torch's default one for None.

    Raises:
        TypeError: no generator.
    """
    generator = generator_or_none(generator)
    device = None if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (1,), generator=generator, device=device))


class Streams:
    """Streams of random numbers, one an image, float64. Counter-based: they hold no state.

    Number i of the stream with a name is splitmix64 of the image's key, the name and i. Asked again
    with the same name and shape they give the same numbers.

    Args:
        keys: int64 [B].
    """

    def __init__(self, keys: Tensor) -> None:
        self._keys = keys

    @classmethod
    def of(cls, seed: int | Tensor, *values: Tensor) -> Streams:
        """The streams of a seed and of the ``digest`` of values [B, ...]."""
        return cls(_mixed(digest(*values) ^ seed))

    def select(self, index: Tensor) -> Streams:
        """Those of the images ``index``."""
        return Streams(self._keys[index])

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """Numbers within (0, 1), [B, *shape]."""
        word = 0
        for byte in name.encode():
            word = (word * 257 + byte) % (1 << 61)
        key = _mixed(self._keys + word)[:, None]
        place = torch.arange(math.prod(shape), device=key.device) * _GOLDEN
        bits = _shifted(_mixed(key + place), 11)  # 53 of them
        return ((bits.double() + 0.5) * 2.0**-53).reshape(len(bits), *shape)

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers [B, *shape]."""
        return math.sqrt(2) * torch.erfinv(2 * self.uniform(name, shape) - 1)

    def chi_square(self, name: str, degrees: int, shape: Sequence[int]) -> Tensor:
        """Sums of ``degrees`` squared standard normal numbers [B, *shape]."""
        # Two squares at a time are -2 log u.
        pairs = self.uniform(name, (*shape, degrees // 2)).log()
        total = -2 * pairs.sum(dim=-1)
        return total + self.normal(name + " odd", shape).square() if degrees % 2 else total
