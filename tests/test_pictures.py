"""Picture files of every usual kind are read as viewers show them."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from picture_samples import (
    A8,
    A16,
    ALPHA8,
    ALPHA16,
    C8,
    C16,
    CLOSE,
    COLOURS,
    F32,
    PALETTE,
    RNG,
    U8,
    U16,
    U32,
    H,
    Save,
    W,
    late_orientation,
    over_white,
    planes,
    png16,
    transparent_colour,
    transparent_grey,
    transparent_level,
)
from PIL import Image, ImageOps

from jpmap_fast.data import load_images, read_pictures

# What the last imagecodecs for Python 3.10 has not: pages of a fax it cannot read, and cannot write
# these samples of 12 bits.
FAX, TWELVE_BITS = "fax.tif", "twelve-bits.tif"

# Name of the file, how it is made, what it shows, and the type it holds.
KINDS: dict[str, tuple[Save, Any, str]] = {
    "grey.png": (Image.fromarray(U8).save, U8 / 255, "uint8"),
    "colour.png": (Image.fromarray(C8).save, C8 / 255, "uint8"),
    "grey16.png": (Image.fromarray(U16).save, U16 / 65535, "uint16"),
    "colour16.png": (png16(C16), C16 / 65535, "uint16"),
    "grey-alpha16.png": (
        png16(np.stack((U16, ALPHA16), axis=-1)),
        over_white(U16 / 65535, A16[..., 0]),
        "uint16",
    ),
    "alpha16.png": (
        png16(np.concatenate((C16, ALPHA16[..., None]), axis=-1)),
        over_white(C16 / 65535, A16),
        "uint16",
    ),
    "alpha.png": (
        Image.fromarray(np.dstack((C8, ALPHA8))).save,
        over_white(C8 / 255, A8),
        "uint8",
    ),
    "grey-alpha.png": (
        Image.fromarray(np.dstack((U8, ALPHA8))).save,
        over_white(U8 / 255, A8[..., 0]),
        "uint8",
    ),
    "one-bit.png": (Image.fromarray(U8 > 127).save, U8 > 127, "bool"),
    "palette.png": (PALETTE.save, np.asarray(PALETTE.convert("RGB")) / 255, "uint8"),
    "palette-transparent.png": (
        lambda path: PALETTE.save(path, transparency=int(np.asarray(PALETTE)[0, 0])),
        np.where(
            (np.asarray(PALETTE) == np.asarray(PALETTE)[0, 0])[..., None],
            1.0,
            np.asarray(PALETTE.convert("RGB")) / 255,
        ),
        "uint8",
    ),
    "grey-transparent.png": (
        lambda path: Image.fromarray(U8).save(path, transparency=int(U8[0, 0])),
        transparent_grey(),
        "uint8",
    ),
    "colour-transparent.png": (
        lambda path: Image.fromarray(C8).save(path, transparency=tuple(map(int, C8[0, 0]))),
        transparent_colour(),
        "uint8",
    ),
    "grey.bmp": (Image.fromarray(U8).save, U8 / 255, "uint8"),
    "grey.pgm": (Image.fromarray(U8).save, U8 / 255, "uint8"),
    "grey16.pgm": (
        lambda path: path.write_bytes(b"P5 9 7 65535\n" + U16.astype(">u2").tobytes()),
        U16 / 65535,
        "uint16",
    ),
    "lossless.webp": (
        lambda path: Image.fromarray(C8).save(path, lossless=True),
        C8 / 255,
        "uint8",
    ),
    "planar.tif": (
        lambda path: tifffile.imwrite(
            path, planes(C16).astype(np.uint16), planarconfig="separate", photometric="rgb"
        ),
        C16 / 65535,
        "uint16",
    ),
    "white-is-zero.tif": (
        lambda path: tifffile.imwrite(path, U16, photometric="miniswhite"),
        1 - U16 / 65535,
        "uint16",
    ),
    "alpha.tif": (
        lambda path: tifffile.imwrite(
            path, np.dstack((C8, ALPHA8)), photometric="rgb", extrasamples=["unassalpha"]
        ),
        over_white(C8 / 255, A8),
        "uint8",
    ),
    "premultiplied.tif": (
        lambda path: tifffile.imwrite(
            path, np.dstack((C8 // 2, ALPHA8 | 128)), photometric="rgb", extrasamples=["assocalpha"]
        ),
        (C8 // 2) / 255 + 1 - (ALPHA8 | 128)[..., None] / 255,
        "uint8",
    ),
    "cmyk.tif": (Image.fromarray(C8).convert("CMYK").save, C8 / 255, "uint8"),
    "palette.tif": (PALETTE.save, np.asarray(PALETTE.convert("RGB")) / 255, "uint8"),
    "one-bit.tif": (Image.fromarray(U8 > 127).save, U8 > 127, "bool"),
    FAX: (
        lambda path: Image.fromarray(U8 > 127).save(path, compression="group4"),
        U8 > 127,
        "bool",
    ),
    "float.tif": (Image.fromarray(F32).save, F32, "float32"),
    "big.tif": (lambda path: tifffile.imwrite(path, U16, bigtiff=True), U16 / 65535, "uint16"),
    "UPPER.TIFF": (lambda path: tifffile.imwrite(path, U32), U32 / (2**32 - 1), "uint32"),
    "deep.ppm": (
        lambda path: path.write_bytes(b"P6 9 7 65535\n" + C16.astype(">u2").tobytes()),
        C16 / 65535,
        "uint16",
    ),
    "plain.pgm": (
        lambda path: path.write_bytes(
            b"P2 # plain\n9 7 255\n" + " ".join(map(str, U8.flat)).encode()
        ),
        U8 / 255,
        "uint8",
    ),
    "one-bit.pbm": (Image.fromarray(U8 > 127).save, U8 > 127, "bool"),
    "plain.pbm": (lambda path: path.write_bytes(b"P1\n3 1\n010\n"), [[1, 0, 1]], "bool"),
    "float.pfm": (Image.fromarray(F32).save, F32, "float32"),
    "transparent-two-bits.png": (
        lambda path: path.write_bytes(transparent_level(0b00011011)),
        [[0, 1, 2 / 3, 1]],
        "uint8",
    ),
    "late-orientation.png": (
        lambda path: path.write_bytes(late_orientation(U8)),
        np.rot90(U8, -1) / 255,
        "uint8",
    ),
    TWELVE_BITS: (
        lambda path: tifffile.imwrite(path, U16 >> 4, bitspersample=12),
        (U16 >> 4) / 4095,
        "uint16",
    ),
    "true-is-white.tif": (lambda path: tifffile.imwrite(path, U8 > 127), U8 > 127, "bool"),
    "deep-palette.tif": (
        lambda path: tifffile.imwrite(path, U8, photometric="palette", colormap=COLOURS),
        np.moveaxis(COLOURS[:, U8], 0, -1) / 65535,
        "uint16",
    ),
    "palette-257.tif": (
        lambda path: tifffile.imwrite(
            path, U8, photometric="palette", colormap=(COLOURS >> 8) * np.uint16(257)
        ),
        np.moveaxis((COLOURS >> 8)[:, U8], 0, -1) / 255,
        "uint8",
    ),
    "größe.png": (Image.fromarray(U8).save, U8 / 255, "uint8"),
    "really-a-png.jpg": (
        lambda path: Image.fromarray(U8).save(path, format="PNG"),
        U8 / 255,
        "uint8",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_shows_what_was_stored(name, tmp_path):
    save, shown, stored = KINDS[name]
    try:
        save(tmp_path / name)
    except NotImplementedError as error:
        if name == TWELVE_BITS:
            pytest.skip(f"imagecodecs {imagecodecs.__version__}: {error}")
        raise
    if name == FAX and not hasattr(imagecodecs, "CCITTFAX4"):
        with pytest.raises(ValueError, match="fax.tif: not a readable picture"):
            list(read_pictures(tmp_path / name))
        return
    (found,) = read_pictures(tmp_path / name)
    np.testing.assert_allclose(found.values, planes(shown), rtol=0, atol=CLOSE)
    assert found.stored == stored
    assert bool(found.notes) == (
        "alpha" in name or "trans" in name or "cmyk" in name or "prem" in name
    )


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f2", "f4", "f8"])
@pytest.mark.parametrize("colour", [False, True])
def test_tiff_of_every_depth_order_and_compression(compression, order, dtype, colour, tmp_path):
    shape = (H, W, 3) if colour else (H, W)
    if dtype[0] == "u":
        top = 2 ** (8 * int(dtype[1])) - 1
        array = RNG.integers(0, top + 1, shape).astype(dtype)
    else:
        top, array = 1, RNG.random(shape).astype(dtype)
    kind = "rgb" if colour else "minisblack"
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, byteorder=order, compression=compression, photometric=kind)
    (found,) = read_pictures(path)
    np.testing.assert_allclose(found.values, planes(array / top), rtol=0, atol=CLOSE)
    assert found.stored == np.dtype(dtype).name


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(suffix, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"phone.{suffix}"
    image = Image.fromarray(C8)
    if suffix == "tif":
        tag = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, C8, photometric="rgb", extratags=tag, metadata=None)
        plain = image
    else:
        image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
        plain = Image.open(path)
        plain.load()
    how = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    seen = plain if how is None else plain.transpose(how)
    (found,) = read_pictures(path)
    np.testing.assert_allclose(found.values, planes(np.asarray(seen) / 255), atol=CLOSE)
    if suffix != "tif":
        viewer = ImageOps.exif_transpose(Image.open(path))
        np.testing.assert_allclose(found.values, planes(np.asarray(viewer) / 255), atol=CLOSE)


def test_pages_and_frames_are_so_many_pictures(tmp_path):
    more = [Image.fromarray(255 - C8), Image.fromarray(C8 // 2)]
    for name, options in (
        ("a.tif", {}),
        ("a.png", {"format": "PNG"}),
        ("a.webp", {"lossless": True}),
    ):
        path = tmp_path / name
        Image.fromarray(C8).save(path, save_all=True, append_images=more, **options)
        found = list(read_pictures(path))
        assert len(found) == 3, name
        np.testing.assert_allclose(found[1].values, planes(1 - C8 / 255), atol=CLOSE)
        named = load_images(path)
        assert named.names == [f"{name}[{i}]" for i in range(3)]
        assert tuple(named.images.shape) == (3, 3, H, W)
    grey = [Image.fromarray(U8), Image.fromarray(255 - U8)]
    grey[0].save(tmp_path / "a.gif", save_all=True, append_images=grey[1:])
    assert len(list(read_pictures(tmp_path / "a.gif"))) == 2
    for options in ({}, {"imagej": True}, {"ome": True}):
        tifffile.imwrite(tmp_path / "stack.tif", np.stack([U16] * 5), **options)
        assert len(list(read_pictures(tmp_path / "stack.tif"))) == 5


def test_smaller_copies_are_no_pages(tmp_path):
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(U16, metadata=None, subifds=1)
        writer.write(U16[::2, ::2], subfiletype=1, metadata=None)
        writer.write(U16[::3, ::3], subfiletype=1, metadata=None)
    (found,) = read_pictures(path)
    assert found.values.shape == (1, H, W)


def test_the_background_is_a_choice(tmp_path):
    Image.fromarray(np.dstack((C8, ALPHA8))).save(tmp_path / "a.png")
    (found,) = read_pictures(tmp_path / "a.png", background=0.25)
    np.testing.assert_allclose(found.values, planes(A8 * C8 / 255 + 0.25 * (1 - A8)), atol=CLOSE)
    assert found.notes == ("alpha composited on 0.25",)
    with pytest.raises(ValueError, match="background"):
        list(read_pictures(tmp_path / "a.png", background=2))


def test_several_images_in_one_pnm_file(tmp_path):
    parts = [b"P5 9 7 255\n" + image.tobytes() for image in (U8, 255 - U8)]
    (tmp_path / "a.pgm").write_bytes(b"".join(parts))
    first, second = read_pictures(tmp_path / "a.pgm")
    np.testing.assert_allclose(first.values[0], U8 / 255, atol=CLOSE)
    np.testing.assert_allclose(second.values[0], 1 - U8 / 255, atol=CLOSE)


def test_a_photograph_with_previews_is_one_picture(tmp_path):
    path = tmp_path / "phone.jpg"
    preview = Image.fromarray(C8[:4, :4])
    Image.fromarray(C8).save(path, format="MPO", save_all=True, append_images=[preview])
    (found,) = read_pictures(path)
    assert found.values.shape == (3, H, W)
    assert found.notes == ("the first of 2 images of a photograph (MPO)",)


def test_an_animation_without_its_end_says_so(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.fromarray(U8), Image.fromarray(255 - U8)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert all(not page.notes for page in read_pictures(path))
    path.write_bytes(path.read_bytes()[:-1])
    assert all("frames may be missing" in page.notes[0] for page in read_pictures(path))


def test_dark_pictures_say_so(tmp_path):
    tifffile.imwrite(tmp_path / "camera.tif", U16 >> 4)
    (found,) = read_pictures(tmp_path / "camera.tif")
    np.testing.assert_allclose(found.values[0], (U16 >> 4) / 65535, atol=CLOSE)
    assert found.notes == (
        f"dark: uint16 values up to {(U16 >> 4).max()} of 65535; a 10 or 12-bit camera's?",
    )
