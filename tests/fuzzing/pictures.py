"""Small valid picture and array files, as bytes."""

from __future__ import annotations

import gzip
import io
import struct
from typing import Any

import numpy as np


def _pixels(channels: int = 1, dtype: Any = np.uint8, sides: tuple[int, int] = (8, 7)) -> Any:
    rng = np.random.default_rng(channels)
    shape = sides if channels == 1 else (*sides, channels)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def _saved(image: Any, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png() -> list[bytes]:
    """Grey, colour, alpha, palette, 16 bits, one bit, oriented, animated."""
    from PIL import Image

    grey, colour, alpha = (Image.fromarray(_pixels(c)) for c in (1, 3, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        _saved(grey, "PNG"),
        _saved(colour, "PNG", exif=exif),
        _saved(alpha, "PNG"),
        _saved(colour.quantize(9), "PNG", transparency=3),
        _saved(grey.convert("1"), "PNG"),
        _saved(Image.fromarray(_pixels(dtype=np.uint16)), "PNG"),
        _saved(grey, "PNG", save_all=True, append_images=[grey.transpose(1)]),
    ]


def tif() -> list[bytes]:
    """Several depths and orders of bytes, compressed and not, in strips, tiles and pages."""
    import tifffile

    found = []
    cases: list[tuple[Any, dict[str, Any]]] = [
        (_pixels(), {}),
        (_pixels(3), {"photometric": "rgb"}),
        (_pixels(4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (_pixels(dtype=np.uint16), {"byteorder": ">"}),
        (_pixels(dtype=np.uint32), {"compression": "zlib"}),
        (_pixels().astype(np.float32) / 255, {"predictor": False}),
        (_pixels() > 100, {}),
        (_pixels(sides=(32, 32)), {"tile": (16, 16), "compression": "lzw"}),
        (np.stack([_pixels(), _pixels()]), {"photometric": "minisblack"}),
        (_pixels(4), {"photometric": "separated"}),
        (_pixels(), {"bigtiff": True}),
    ]
    for array, options in cases:
        out = io.BytesIO()
        writer = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
        with tifffile.TiffWriter(out, **writer) as file:
            file.write(array, **options)
        found.append(out.getvalue())
    return found


def gif() -> list[bytes]:
    """One frame, transparent, and animated."""
    from PIL import Image

    one, two = (Image.fromarray(_pixels(3)).quantize(n) for n in (4, 9))
    return [
        _saved(one, "GIF"),
        _saved(two, "GIF", transparency=1),
        _saved(one, "GIF", save_all=True, append_images=[two], duration=10),
    ]


def jpg() -> list[bytes]:
    """Grey, colour, oriented, progressive, CMYK."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 8
    colour = Image.fromarray(_pixels(3))
    return [
        _saved(Image.fromarray(_pixels()), "JPEG"),
        _saved(colour, "JPEG", exif=exif),
        _saved(colour, "JPEG", progressive=True),
        _saved(colour.convert("CMYK"), "JPEG"),
    ]


def others() -> list[bytes]:
    """BMP, WebP, PNM, plain and raw, and PFM."""
    from PIL import Image

    grey, colour = Image.fromarray(_pixels()), Image.fromarray(_pixels(3))
    plain = b"P2\n# made by hand\n3 2\n255\n0 1 2\n3 4 255\n"
    floats = b"Pf\n3 2\n-1.0\n" + np.linspace(0, 1, 6, dtype="<f4").tobytes()
    return [
        _saved(grey, "BMP"),
        _saved(colour, "BMP"),
        _saved(colour, "WEBP", lossless=True),
        _saved(colour, "WEBP"),
        _saved(grey, "PPM"),
        _saved(colour, "PPM"),
        _saved(grey.convert("1"), "PPM"),
        b"P5 3 2 65535\n" + np.arange(6, dtype=">u2").tobytes(),
        plain,
        plain * 2,
        b"P1\n4 2\n0110\n1 0 0 1\n",
        floats,
    ]


def npy() -> list[bytes]:
    """Arrays of images, of several types and orders."""
    found = []
    stack = np.stack([_pixels(), _pixels()])
    for array in (
        stack,
        stack.astype(">u2"),
        stack.astype(np.float32) / 255,
        np.asfortranarray(stack.astype(np.float64) / 255),
        _pixels(3)[None],
        stack > 128,
    ):
        out = io.BytesIO()
        np.save(out, array)
        found.append(out.getvalue())
    return found


def npz() -> list[bytes]:
    """Archives with one array, with a usual name, and compressed."""
    stack = np.stack([_pixels(), _pixels()])
    found = []
    for save, arrays in (
        (np.savez, {"images": stack}),
        (np.savez_compressed, {"x_train": stack, "labels": np.arange(2)}),
        (np.savez, {"only": stack.astype(np.float32) / 255}),
    ):
        out = io.BytesIO()
        save(out, **arrays)
        found.append(out.getvalue())
    return found


def idx() -> list[bytes]:
    """IDX files of images, and of labels."""
    stack = np.stack([_pixels(), _pixels()])
    return [
        struct.pack(">IIII", 0x803, *stack.shape) + stack.tobytes(),
        struct.pack(">II", 0x801, 3) + b"\x01\x02\x03",
    ]


def idx_gz() -> list[bytes]:
    """The same, gzipped."""
    return [gzip.compress(content, mtime=0) for content in idx()]


def kernel_arrays() -> list[bytes]:
    """Kernels as .npy: floats of two to four dimensions."""
    found = []
    for shape in ((3, 3), (1, 3, 4), (2, 1, 3, 3)):
        out = io.BytesIO()
        np.save(out, np.full(shape, 0.1, np.float32))
        found.append(out.getvalue())
    return found


def matrices() -> list[bytes]:
    """Matrices as .npy."""
    out = io.BytesIO()
    np.save(out, np.arange(12, dtype=np.float64).reshape(3, 4))
    return [out.getvalue()]
