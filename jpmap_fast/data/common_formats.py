"""PNG, JPEG, GIF, BMP, WebP and PFM files: still PNG by libpng (imagecodecs), others by Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jpmap_fast.data.picture import Array, Picture, check_size, finished, from_cmyk, unit_range

# Of all that Pillow opens: others lose bits without a word (AVIF, JPEG 2000) or run programs (EPS).
# MPO, several JPEG images in one file, comes with JPEG, and PFM with PPM.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "DIB", "WEBP", "PPM")
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

    with Image.open(path, formats=FORMATS) as image:
        # What a palette becomes: colours and their opacity.
        samples = 4 if image.mode == "P" else len(image.getbands())
        check_size(image.width * image.height * samples, path.stat().st_size)
        frames = int(getattr(image, "n_frames", 1))
        notes: list[str] = []
        if image.format == "PNG":
            # IHDR: the bits of a sample are the byte after the sides.
            deep = path.read_bytes()[24:25] == b"\x10"
            if deep and frames > 1:
                raise ValueError("an animation of 16 bits is not read; store its frames apart")
            if frames == 1:
                yield _png(path, image, background)
                return
        elif image.format == "MPO" and frames > 1:
            # A phone's photograph: the others are previews, depths or gain maps.
            notes.append(f"the first of {frames} images of a photograph (MPO)")
            frames = 1
        elif image.format == "GIF" and not path.read_bytes().rstrip(b"\0").endswith(b";"):
            notes.append("no mark at the end of the file: frames may be missing")
        size = image.size
        for index in range(frames):
            image.seek(index)
            if image.size != size:
                raise ValueError(f"damaged: frame {index} makes {size} pixels {image.size}")
            image.load()
            yield _frame(image, background, list(notes))


def _orientation(image: Any) -> int:
    # An eXIf chunk may come after the pixels, which must be loaded for it.
    return int(image.getexif().get(_ORIENTATION, 1))


def _frame(image: Any, background: float, notes: list[str]) -> Picture:
    """The frame that Pillow stands at."""
    mode, orientation = image.mode, _orientation(image)
    transparent = "transparency" in image.info
    if mode == "P":
        layered = transparent or (image.palette is not None and "A" in image.palette.mode)
        mode = "RGBA" if layered else "RGB"
        image = image.convert(mode)
    elif transparent and mode in ("1", "L", "RGB"):
        mode = "RGBA" if mode == "RGB" else "LA"
        image = image.convert(mode)
    if mode in _GREY:
        stored = "bool" if mode == "1" else "uint8"
        values = unit_range(np.asarray(image.convert("L")))[..., None]
        return finished(values, stored, notes, orientation=orientation)
    if mode in _COLOUR:
        values = unit_range(np.asarray(image.convert("RGB")))
        return finished(values, "uint8", notes, orientation=orientation)
    if mode in _ALPHA:
        samples = unit_range(np.asarray(image.convert(_ALPHA[mode])))
        return finished(
            samples[..., :-1],
            "uint8",
            notes,
            orientation=orientation,
            alpha=samples[..., -1],
            background=background,
        )
    if mode == "CMYK":
        notes.append("CMYK turned to RGB without a colour profile")
        values = from_cmyk(unit_range(np.asarray(image)))
        return finished(values, "uint8", notes, orientation=orientation)
    if mode == "F":
        values = np.asarray(image, dtype=np.float64)[..., None]
        return finished(values, "float32", notes, orientation=orientation)
    raise ValueError(f"pixels of the kind {mode} are not read; store grey, RGB or CMYK")


def _png(path: Path, image: Any, background: float) -> Picture:
    """A still PNG.

    Of 16-bit colours Pillow keeps 8 bits, and it looks for the transparent level of greys of 1, 2
    and 4 bits among those of 8.
    """
    import imagecodecs

    image.load()
    samples: Array = imagecodecs.png_decode(path.read_bytes())
    samples = samples.reshape(*samples.shape[:2], -1)
    values = unit_range(samples)
    layered = samples.shape[-1] in (2, 4)
    one_bit = image.mode == "1" and samples.shape[-1] == 1
    return finished(
        values[..., :-1] if layered else values,
        "bool" if one_bit else samples.dtype.name,
        [],
        orientation=_orientation(image),
        alpha=values[..., -1] if layered else None,
        background=background,
    )
