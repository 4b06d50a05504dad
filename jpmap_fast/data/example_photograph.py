"""The photograph that comes with the package."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from jpmap_fast.data.readers import load_images

_FILE = Path(__file__).parent / "bundled" / "photograph.png"


def photograph() -> Tensor:
    """A cat, [1, 3, 208, 256] float32 in [0, 1]; a photograph by S. van der Walt, CC0."""
    return load_images(_FILE).images
