"""The face that comes with the package."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from jpmap_fast.data.readers import load_images

_FILE = Path(__file__).parent / "bundled" / "portrait.png"


def portrait() -> Tensor:
    """An astronaut's face, [1, 3, 64, 64] float32 in [0, 1]; a photograph in the public domain."""
    return load_images(_FILE).images
