"""The IDX format of the MNIST family: a big-endian header, then the bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

IMAGES_MAGIC = 0x00000803  # unsigned bytes, three dimensions
LABELS_MAGIC = 0x00000801


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def is_idx(path: Path) -> bool:
    """Whether a file is named like an IDX file of images, or is compressed, or begins like one."""
    if path.suffix == ".gz" or "idx3" in path.name:
        return True
    with path.open("rb") as file:
        return file.read(4) == struct.pack(">I", IMAGES_MAGIC)


def read_idx(path: Path) -> np.ndarray[Any, Any]:
    """The images of an IDX file, gzipped or not, uint8 [N, H, W].

    Raises:
        ValueError: another kind of file, or a truncated one.
    """
    try:
        if _is_gzip(path):
            with gzip.open(path, "rb") as file:
                content = file.read()
        else:
            content = path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: damaged or truncated gzip file ({error})") from error
    if len(content) < 4:
        raise ValueError(f"{path}: expected an IDX file, got {len(content)} bytes")
    (magic,) = struct.unpack(">I", content[:4])
    if magic != IMAGES_MAGIC:
        hint = "; these are labels" if magic == LABELS_MAGIC else ""
        raise ValueError(
            f"{path}: expected an IDX file of images (magic {IMAGES_MAGIC:#010x}), "
            f"got magic {magic:#010x}{hint}"
        )
    if len(content) < 16:
        raise ValueError(f"{path}: truncated in its header")
    shape = struct.unpack(">III", content[4:16])
    expected = 16 + math.prod(shape)
    if len(content) != expected:
        raise ValueError(
            f"{path}: expected {expected} bytes for images {list(shape)}, got {len(content)}: "
            "truncated or damaged"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=16).reshape(shape).copy()
