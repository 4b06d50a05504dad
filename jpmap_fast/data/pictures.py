"""The one reader of picture files: for images, masks and kernels alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jpmap_fast.data.picture import Picture, brightness_note, check_limit

PICTURE_SUFFIXES = (
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
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
# Pictures of other kinds: named where they come among others, not passed over.
FOREIGN_SUFFIXES = (
    *(".exr", ".hdr", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".psd", ".svg", ".pam"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf", ".dcm", ".fits", ".fit"),
    *(".ico", ".tga", ".qoi", ".dds", ".pcx", ".eps"),
)
_FOREIGN = {
    b"v/1\x01": "OpenEXR",
    b"#?": "Radiance HDR",
    b"P7": "PAM",
    b"8BPS": "Photoshop",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"SIMPLE": "FITS",
    b"\0\0\1\0": "ICO",
    b"\x93NUMPY": "NumPy",
    b"PK\x03\x04": "ZIP",
}
_NETPBM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_picture_name(path: Path) -> bool:
    """Whether a file is named like a picture, of any kind, and is no hidden one."""
    known = path.suffix.lower() in (*PICTURE_SUFFIXES, *FOREIGN_SUFFIXES)
    return known and not path.name.startswith(".")


def read_pictures(
    path: str | Path, *, background: float = 1.0, any_levels: bool = False
) -> Iterator[Picture]:
    """The pictures of a file, one after the other: pages of a TIFF, frames of an animation.

    Integers of 8, 16 and 32 bits count by their full range (of a TIFF of 12 bits by 4095), floats
    as they are, whatever the order of their bytes; one-bit pictures are 0 and 1; palettes become
    colours, CMYK becomes RGB without a colour profile; the orientation that a camera noted is
    applied. Transparent pixels are laid on a background and said so in ``notes``. Values are taken
    as stored: no gamma, no ICC profile.

    Args:
        path: of a PNG, JPEG, TIFF, GIF, BMP, WebP or PNM file; its content decides, not its name.
        background: grey level in [0, 1] behind transparent pixels, white by default.
        any_levels: read integers that hardly use their range too, as masks and kernels may.

    Raises:
        ValueError: what it is cannot be read rightly; the text begins with the file's name.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not 0 <= background <= 1:
        raise ValueError(f"background: expected a grey level in [0, 1], got {background}")
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        raise ValueError(f"{path.name}: an empty file")
    numbers = 0
    try:
        for picture in _decoded(path, head, background):
            numbers += picture.values.size
            check_limit(numbers, "all pages of a file")
            note = None if any_levels else brightness_note(picture.values, picture.stored)
            yield picture if note is None else replace(picture, notes=(*picture.notes, note))
    except GeneratorExit:
        raise
    except Exception as error:  # each decoder has many kinds for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path.name}: not a readable picture ({reason})") from error


def _decoded(path: Path, head: bytes, background: float) -> Iterator[Picture]:
    if head[:4] in _TIFF:
        from jpmap_fast.data.tiff import read_tiff

        return read_tiff(path, background)
    if head[:2] in _NETPBM:
        from jpmap_fast.data.netpbm import read_netpbm

        return read_netpbm(path)
    _refuse_foreign(head)
    from jpmap_fast.data.common_formats import read_common

    return read_common(path, background)


def _refuse_foreign(head: bytes) -> None:
    """Raise ValueError on the first bytes of a known kind of file that is not read."""
    kind = next((kind for magic, kind in _FOREIGN.items() if head.startswith(magic)), None)
    if head[4:8] == b"ftyp":
        kind = "HEIF or AVIF"
    elif head[4:8] == b"jP  ":
        kind = "JPEG 2000"
    if kind is not None:
        raise ValueError(f"{kind} files are not read; store PNG or TIFF")
