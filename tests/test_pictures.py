"""Picture files of every usual kind are read as viewers show them, or refused by name."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

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
    png_of_chunks,
    transparent_colour,
    transparent_grey,
    transparent_level,
)
from PIL import Image, ImageOps

from jpmap_fast.data import load_images, read_pictures

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
    "fax.tif": (
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
    "twelve-bits.tif": (
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
    save(tmp_path / name)
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


def write_text(path: Path) -> None:
    path.write_text("no picture")


def without_a_strip(path: Path) -> None:
    """A TIFF whose second strip is said to have no bytes; its readers leave it black."""
    array = np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16
    tifffile.imwrite(path, array, rowsperstrip=16, compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags["StripByteCounts"]
        size = tag.valuebytecount // tag.count
        place = tag.valueoffset + size
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)


REFUSED: dict[str, tuple[Save, str]] = {
    "text.png": (write_text, "cannot identify"),
    "text.tif": (write_text, "cannot identify"),
    "empty.jpg": (lambda path: path.write_bytes(b""), "empty file"),
    "negative.tif": (lambda path: tifffile.imwrite(path, U8.astype(np.int16) - 99), "got -[0-9]+"),
    "dark32.tif": (
        lambda path: Image.fromarray(U16.astype(np.int32)).save(path),
        "expected int32 values that use the range 0 to 2147483647",
    ),
    "dark.tif": (
        lambda path: tifffile.imwrite(path, U8.astype(np.uint32)),
        "expected uint32 values that use the range",
    ),
    "labels.tif": (lambda path: tifffile.imwrite(path, (U16 % 7)), "got at most 6"),
    "lab.tif": (Image.fromarray(C8).convert("LAB").save, "CIELAB"),
    "five.tif": (
        lambda path: tifffile.imwrite(
            path, np.dstack((C8, C8[..., :2])), photometric="minisblack", planarconfig="contig"
        ),
        "nothing says",
    ),
    "complex.tif": (lambda path: tifffile.imwrite(path, F32.astype(np.complex64)), "complex64"),
    "one-page-of-many.tif": (
        lambda path: tifffile.imwrite(path, np.stack([U16] * 5), truncate=True),
        "no pages of their own",
    ),
    "bytes-in-words.tif": (
        lambda path: tifffile.imwrite(path, U8.astype(np.uint16)),
        "uint16 values .* got at most 2[0-9]+: the picture would be black",
    ),
    "white-ink.png": (
        Image.fromarray(np.dstack((np.full_like(C8, 255), ALPHA8))).save,
        "vanishes on white; choose another background",
    ),
    "hole.tif": (lambda path: without_a_strip(path), "not all of its strips"),
    "photograph.avif": (lambda path: path.write_bytes(b"\0\0\0\x1cftypavif"), "AVIF"),
    "really-jpeg-2000.png": (
        lambda path: Image.fromarray(C8).save(path, format="JPEG2000"),
        "JPEG 2000 files are not read",
    ),
    "really-icon.png": (lambda path: Image.fromarray(C8).save(path, format="ICO"), "ICO"),
    "program.png": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "PostScript"),
    "light.exr": (lambda path: path.write_bytes(b"v/1\x01"), "OpenEXR"),
    "bomb.png": (
        lambda path: path.write_bytes(png_of_chunks(np.zeros((1, 1)), 8, 2**13, b"", b"", 2**13)),
        "at most 16777216 samples",
    ),
    "bomb.pgm": (lambda path: path.write_bytes(b"P5 8000 8000 255\n"), "at most 16777216 samples"),
    "bomb.tif": (
        lambda path: tifffile.imwrite(
            path, np.zeros((8000, 8000), np.uint8), compression="zstd", rowsperstrip=8000
        ),
        "at most [0-9]+ samples in a picture of [0-9]+ bytes, got 64000000",
    ),
    "short.pgm": (lambda path: path.write_bytes(b"P5 9 7 255\nabc"), "truncated"),
    "rest.pgm": (lambda path: path.write_bytes(b"P5 1 1 255\nx and more"), "at byte 12"),
    "level.pgm": (lambda path: path.write_bytes(b"P5 2 1 9\n\x0a\x01"), "above the level 9"),
    "none.pgm": (lambda path: path.write_bytes(b"P5 0 1 9\n"), "at least one pixel"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shown_rightly_is_refused_by_name(name, tmp_path):
    save, reason = REFUSED[name]
    save(tmp_path / name)
    with pytest.raises(ValueError, match=f"^{name}: .*{reason}"):
        list(read_pictures(tmp_path / name))
    with pytest.raises(ValueError, match=name):
        load_images(tmp_path / name)
    # In a folder the others are read.
    Image.fromarray(U8).save(tmp_path / "good.png")
    found = load_images(tmp_path, image_shape=(1, H, W))
    assert found.names == ["good.png"] and found.failures[0][0] == name


def test_a_stack_that_is_cut_anywhere_is_refused(tmp_path):
    whole = tmp_path / "whole.tif"
    Image.fromarray(U8).save(whole, save_all=True, append_images=[Image.fromarray(255 - U8)] * 2)
    content = whole.read_bytes()
    for length in range(4, len(content) - 1, 11):
        (tmp_path / "cut.tif").write_bytes(content[:length])
        with pytest.raises(ValueError, match="cut.tif"):
            list(read_pictures(tmp_path / "cut.tif"))


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


def test_a_frame_beyond_the_screen_of_an_animation_is_damage(tmp_path):
    frames = [Image.fromarray(np.full((8, 7), level, np.uint8)) for level in (0, 255)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    content = bytearray(path.read_bytes())
    # A descriptor of a frame: a comma, its place (two numbers of two bytes) and its size.
    second = content.rindex(b",\0\0\0\0\x07\0\x08\0")
    content[second + 5 : second + 9] = struct.pack("<HH", 3000, 2000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"frame 1 makes \(7, 8\) pixels \(3000, 2000\)"):
        list(read_pictures(path))


def test_a_chain_of_pages_that_bites_its_tail_is_damage(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((2, 8, 7), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0].offset, file.pages[1].offset
    content = bytearray(path.read_bytes())
    (tags,) = struct.unpack_from("<H", content, last)
    struct.pack_into("<I", content, last + 2 + 12 * tags, first)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="after 2 pages comes one of them again"):
        list(read_pictures(path))
