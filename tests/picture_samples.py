"""Pixels of every kind that the tests store, and files made of bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

H, W = 7, 9
RNG = np.random.default_rng(0)
U8 = RNG.integers(0, 256, (H, W), dtype=np.uint8)
U16 = RNG.integers(0, 65536, (H, W), dtype=np.uint16)
U32 = RNG.integers(0, 2**32, (H, W), dtype=np.uint32)
C8 = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
C16 = RNG.integers(0, 65536, (H, W, 3), dtype=np.uint16)
F32 = RNG.random((H, W)).astype(np.float32)
ALPHA8 = RNG.integers(0, 256, (H, W), dtype=np.uint8)
ALPHA16 = RNG.integers(0, 65536, (H, W), dtype=np.uint16)
COLOURS = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)
PALETTE = Image.fromarray(C8).quantize(8)
# A float32 of a value in [0, 1].
CLOSE = 6e-8
Save = Callable[[Path], object]


def over_white(colours: Any, alpha: Any) -> Any:
    return alpha * colours + 1 - alpha


def planes(values: Any) -> np.ndarray[Any, Any]:
    """[H, W] or [H, W, C] as [C, H, W]."""
    array = np.asarray(values, dtype=np.float64)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def png16(array: np.ndarray[Any, Any]) -> Save:
    return lambda path: path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(array)))


def transparent_grey() -> np.ndarray[Any, Any]:
    shown = U8 / 255.0
    shown[U8 == U8[0, 0]] = 1
    return shown


def transparent_colour() -> np.ndarray[Any, Any]:
    shown = C8 / 255.0
    shown[0, 0] = 1
    return shown


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png_of_chunks(
    array: Any, depth: int, width: int, before: bytes, after: bytes, height: int | None = None
) -> bytes:
    """A grey PNG by the book, its rows already packed, with chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", width, height or len(array), depth, 0, 0, 0, 0)
    pixels = b"".join(b"\0" + row.tobytes() for row in array)
    chunks = (chunk(b"IHDR", header), before, chunk(b"IDAT", zlib.compress(pixels)), after)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def transparent_level(pixels: int) -> bytes:
    """Four greys of two bits, the level 1 of 3 transparent."""
    packed = np.array([[pixels]], dtype=np.uint8)
    return png_of_chunks(packed, 2, 4, chunk(b"tRNS", struct.pack(">H", 1)), b"")


def late_orientation(array: Any) -> bytes:
    """The orientation 6 after the pixels, where cameras may write it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    after = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    return png_of_chunks(array, 8, array.shape[1], b"", after)


A8, A16 = ALPHA8[..., None] / 255, ALPHA16[..., None] / 65535
