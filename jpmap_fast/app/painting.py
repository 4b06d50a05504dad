"""What a picture is painted on with: a preview of handy size, and the pixels that were painted."""

from __future__ import annotations

import numpy as np

from jpmap_fast.data.picture import Array

# Sides of what is shown to be painted on, in pixels.
SMALLEST, LARGEST = 400, 1600


def scale(height: int, width: int) -> tuple[int, int]:
    """How many times a picture is enlarged, and how many of its pixels a side become one."""
    longest = max(height, width)
    if longest > LARGEST:
        return 1, -(-longest // LARGEST)
    return max(1, -(-SMALLEST // longest)), 1


def shown(values: Array) -> Array:
    """[C, H, W] in [0, 1] as bytes [H, W, 3]; what is outside is clipped."""
    planes = np.repeat(values, 3, axis=0) if values.shape[0] == 1 else values
    bytes_ = np.rint(255 * np.clip(np.nan_to_num(planes), 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(bytes_, 0, -1))


def preview(picture: Array) -> Array:
    """Bytes [H, W, 3] of the size that is painted on."""
    up, down = scale(*picture.shape[:2])
    return enlarged(picture[::down, ::down], up)


def enlarged(picture: Array, times: int) -> Array:
    """Every pixel of [H, W, ...] as times x times equal ones."""
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def painted(layers: list[Array], height: int, width: int) -> Array:
    """Pixels [H, W] of a picture that were painted at all, bool.

    Args:
        layers: of the paint over its ``preview``, each [h, w, 4], opacity last.
        height, width: of the picture.

    Raises:
        ValueError: layers of another size.
    """
    up, down = scale(height, width)
    size = (-(-height // down) * up, -(-width // down) * up)
    found: Array = np.zeros(size, dtype=bool)
    for layer in layers:
        if layer.shape != (*size, 4):
            raise ValueError(
                f"paint: expected {size[1]} x {size[0]} pixels, got {layer.shape[1]} x "
                f"{layer.shape[0]}; it is of another picture, paint again"
            )
        found[layer[..., 3] > 0] = True
    blocks = found.reshape(size[0] // up, up, size[1] // up, up)
    return enlarged(blocks.max(axis=(1, 3)), down)[:height, :width]
