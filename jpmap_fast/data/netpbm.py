"""PBM, PGM and PPM files, plain and raw, with any number of images one after another.

Pillow reads the first image alone, and of colours 8 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jpmap_fast.data.picture import Array, Picture, check_size, finished

# Blanks and comments, then a number.
_NUMBER = re.compile(rb"(?:\s|#[^\n]*\n)*(\d+)")


def read_netpbm(path: Path) -> Iterator[Picture]:
    """The pictures of a file.

    Raises:
        ValueError: truncated, or a header that is none.
    """
    content = path.read_bytes()
    at = 0
    while not at or content[at:].strip():
        values, levels, at = _image(content, at)
        stored = "bool" if levels == 1 else "uint8" if levels < 256 else "uint16"
        yield finished(values / levels, stored, [])


def _image(content: bytes, at: int) -> tuple[Array, int, int]:
    """Samples [H, W, C] float64, the largest level, and where the image ends."""
    start = re.compile(rb"\s*P([1-6])(?=[\s#])").match(content, at)
    if start is None:
        raise ValueError(f"expected the header of a PBM, PGM or PPM image at byte {at}")
    form, at = int(start[1]), start.end()
    numbers = []
    for _ in range(2 if form in (1, 4) else 3):
        found = _NUMBER.match(content, at)
        if found is None:
            raise ValueError("the header is damaged")
        numbers.append(int(found[1]))
        at = found.end()
    width, height, levels = (*numbers, 1)[:3]
    if not (width and height):
        raise ValueError(f"expected at least one pixel, got {width} x {height}")
    if not 1 <= levels <= 65535:
        raise ValueError(f"expected a largest level of 1 to 65535, got {levels}")
    channels = 3 if form in (3, 6) else 1
    count = width * height * channels
    check_size(count, len(content))
    if form < 4:
        samples, at = _plain(content, at, count, digits=form == 1)
    else:
        samples, at = _raw(content, at + 1, form, (height, width, channels), levels)
    if samples.size < count:
        raise ValueError(f"truncated: expected {count} samples, got {samples.size}")
    if samples.max(initial=0) > levels:
        raise ValueError(f"damaged: a sample of {int(samples.max())} above the level {levels}")
    values = samples.reshape(height, width, channels).astype(np.float64)
    # In a bitmap 1 is black.
    return (1 - values if form in (1, 4) else values), levels, at


def _plain(content: bytes, at: int, count: int, *, digits: bool) -> tuple[Array, int]:
    form = re.compile(rb"(?:\s|#[^\n]*\n)*([01])" if digits else _NUMBER.pattern)
    samples: list[int] = []
    while len(samples) < count and (found := form.match(content, at)):
        samples.append(int(found[1]))
        at = found.end()
    return np.array(samples, dtype=np.int64), at


def _raw(
    content: bytes, at: int, form: int, shape: tuple[int, int, int], levels: int
) -> tuple[Array, int]:
    height, width, channels = shape
    if form == 4:
        row = (width + 7) // 8
        packed = np.frombuffer(content[at : at + row * height], np.uint8)
        if packed.size < row * height:
            raise ValueError(f"truncated: expected {row * height} bytes, got {packed.size}")
        bits = np.unpackbits(packed.reshape(height, row), axis=1)[:, :width]
        return bits.reshape(-1), at + row * height
    dtype = np.dtype(np.uint8 if levels < 256 else ">u2")
    size = height * width * channels * dtype.itemsize
    whole = content[at : at + size]
    return np.frombuffer(whole[: len(whole) // dtype.itemsize * dtype.itemsize], dtype), at + size
