"""PNG, JPEG, GIF, BMP, WebP and PNM files, by Pillow; PNG of 16 bits by imagecodecs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jpmap_fast.data.picture import (
    Array,
    Picture,
    check_size,
    composite,
    finished,
    from_cmyk,
    oriented,
    unit_range,
)

_ORIENTATION = 0x0112
# Modes of Pillow by what they are turned into: one that holds the same numbers.
_GREY = {"1": "L", "L": "L"}
_ALPHA = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
_COLOUR = {"RGB": "RGB", "RGBX": "RGB", "YCbCr": "RGB"}


def read_common(path: Path, background: float) -> Iterator[Picture]:
    """The picture of a file, or every frame of an animation.

    Raises:
        ValueError: a kind of pixel that cannot be shown rightly. Pillow has errors of its own.
    """
    from PIL import Image

    with Image.open(path) as image:
        check_size(image.width * image.height * len(image.getbands()))
        frames = int(getattr(image, "n_frames", 1))
        # IHDR: the bits of a sample are the byte after the sides.
        deep = image.format == "PNG" and path.read_bytes()[24:25] == b"\x10"
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        if deep:
            if frames > 1:
                raise ValueError("an animation of 16 bits is not read; store its frames apart")
            yield _deep_png(path, image, orientation, background)
            return
        _refuse_lost_bits(path, image)
        for index in range(frames):
            image.seek(index)
            notes: list[str] = []
            values, stored = _frame(image, background, notes)
            yield finished(oriented(values, orientation), stored, notes)


def _refuse_lost_bits(path: Path, image: Any) -> None:
    """Raise where Pillow would halve the bits of a picture without a word."""
    if image.format != "PPM" or image.mode != "RGB":
        return
    with path.open("rb") as file:
        words = b" ".join(line.split(b"#")[0] for line in file.read(512).split(b"\n")).split()
    if len(words) > 3 and int(words[3]) > 255:
        raise ValueError("colours of more than 8 bits in PPM are not read; store PNG or TIFF")


def _frame(image: Any, background: float, notes: list[str]) -> tuple[Array, str]:
    """The frame Pillow stands at, [H, W, c] in [0, 1], and the type it was stored in."""
    mode = image.mode
    transparent = "transparency" in image.info
    if mode == "P":
        layered = transparent or (image.palette is not None and "A" in image.palette.mode)
        mode = "RGBA" if layered else "RGB"
        image = image.convert(mode)
    elif transparent and mode in ("1", "L", "RGB"):
        mode = "RGBA" if mode == "RGB" else "LA"
        image = image.convert(mode)
    if mode in _GREY:
        return unit_range(np.asarray(image.convert("L")))[..., None], (
            "bool" if mode == "1" else "uint8"
        )
    if mode in _COLOUR:
        return unit_range(np.asarray(image.convert("RGB"))), "uint8"
    if mode in _ALPHA:
        samples = unit_range(np.asarray(image.convert(_ALPHA[mode])))
        if (samples[..., -1] == 1).all():
            return samples[..., :-1], "uint8"
        notes.append(f"alpha composited on {background:g}")
        return composite(samples[..., :-1], samples[..., -1], background, False), "uint8"
    if mode == "CMYK":
        notes.append("CMYK turned to RGB without a colour profile")
        return from_cmyk(unit_range(np.asarray(image))), "uint8"
    if mode.startswith("I;16"):
        return unit_range(np.asarray(image).astype(np.uint16))[..., None], "uint16"
    if mode == "I" and image.format in ("PNG", "PPM"):  # 16 bits in a wider type
        return unit_range(np.asarray(image).astype(np.uint16))[..., None], "uint16"
    if mode == "F":
        return np.asarray(image, dtype=np.float64)[..., None], "float32"
    raise ValueError(f"pixels of the kind {mode} are not read; store grey, RGB or CMYK")


def _deep_png(path: Path, image: Any, orientation: int, background: float) -> Picture:
    """A PNG of 16 bits a sample, of which Pillow keeps 8 where there are colours."""
    import imagecodecs

    samples: Array = imagecodecs.png_decode(path.read_bytes())
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.dtype != np.uint16:
        raise ValueError(f"expected 16 bits a sample, got {samples.dtype}")
    notes = []
    colours = 1 if samples.shape[-1] < 3 else 3
    values, alpha = unit_range(samples[..., :colours]), None
    if samples.shape[-1] > colours:
        alpha = samples[..., colours].astype(np.float64) / 65535
    elif "transparency" in image.info:
        hidden = np.atleast_1d(image.info["transparency"])
        alpha = 1.0 - (samples == hidden).all(axis=-1)
    if alpha is not None and not (alpha == 1).all():
        values = composite(values, alpha, background, False)
        notes.append(f"alpha composited on {background:g}")
    return finished(oriented(values, orientation), "uint16", notes)
