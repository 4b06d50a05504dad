"""The one reader of picture files: for images, masks and kernels alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jpmap_fast.data.picture import Picture

PICTURE_SUFFIXES = (
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    ".gif",
    ".pgm",
    ".ppm",
    ".pbm",
    ".pnm",
    ".pfm",
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_picture_name(path: Path) -> bool:
    """Whether a file is named like a picture, and is no hidden one."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def read_pictures(path: str | Path, *, background: float = 1.0) -> Iterator[Picture]:
    """The pictures of a file, one after the other: pages of a TIFF, frames of an animation.

    Integers of 8, 16 and 32 bits count by their full range, floats as they are, whatever the order
    of their bytes; one-bit pictures are 0 and 1; palettes become colours, CMYK becomes RGB without
    a colour profile; the orientation that a camera noted is applied. Transparent pixels are laid on
    a background and said so in ``notes``. Values are taken as stored: no gamma, no ICC profile.

    Args:
        path: of a PNG, JPEG, TIFF, GIF, BMP, WebP or PNM file; its content decides, not its name.
        background: grey level in [0, 1] behind transparent pixels, white by default.

    Raises:
        ValueError: what it is cannot be read rightly; the text begins with the file's name.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not 0 <= background <= 1:
        raise ValueError(f"background: expected a grey level in [0, 1], got {background}")
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise ValueError(f"{path.name}: an empty file")
    try:
        if head[:4] in _TIFF:
            from jpmap_fast.data.tiff import read_tiff

            yield from read_tiff(path, background)
        else:
            from jpmap_fast.data.common_formats import read_common

            yield from read_common(path, background)
    except GeneratorExit:
        raise
    except Exception as error:  # each decoder has many kinds for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path.name}: not a readable picture ({reason})") from error
