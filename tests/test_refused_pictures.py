"""Picture files that cannot be shown rightly are refused by name, and those that are damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from picture_samples import ALPHA8, C8, F32, U8, U16, H, Save, W, png_of_chunks
from PIL import Image

from jpmap_fast.data import load_images, read_pictures


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
