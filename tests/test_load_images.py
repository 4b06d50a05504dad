"""Images of folders and arrays as numbers in [0, 1]."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from picture_samples import C16, CLOSE, RNG, U8, U16, H, W
from PIL import Image

from jpmap_fast.data import load_images


def test_grey_of_colours_keeps_their_depth(tmp_path):
    (tmp_path / "c.png").write_bytes(imagecodecs.png_encode(C16))
    found = load_images(tmp_path / "c.png", image_shape=(1, H, W)).images
    grey = (C16 / 65535) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(found[0, 0], grey, atol=CLOSE)


def test_hidden_files_and_folders_are_left_alone(tmp_path):
    Image.fromarray(U8).save(tmp_path / "a.png")
    Image.fromarray(U8).save(tmp_path / ".b.png")
    (tmp_path / "c.png").mkdir()
    assert load_images(tmp_path).names == ["a.png"]


@pytest.mark.parametrize("dtype", ["?", "u1", ">u2", "<u2", ">u4", ">f4", "<f8", "f2"])
def test_arrays_count_by_their_range(dtype, tmp_path):
    kind = np.dtype(dtype)
    if kind.kind == "u":
        top = 2 ** (8 * kind.itemsize) - 1
        array = RNG.integers(0, top + 1, (3, H, W)).astype(kind)
    else:
        top, array = 1, (RNG.random((3, H, W)) > 0.5).astype(kind)
    np.save(tmp_path / "a.npy", array)
    found = load_images(tmp_path / "a.npy").images
    np.testing.assert_allclose(found[:, 0], array.astype(np.float64) / top, atol=CLOSE)


def test_bytes_and_words_in_one_folder(tmp_path):
    Image.fromarray(U8).save(tmp_path / "a.png")
    assert torch.equal(load_images(tmp_path, as_bytes=True).images[0, 0], torch.from_numpy(U8))
    tifffile.imwrite(tmp_path / "b.tif", U16)
    found = load_images(tmp_path, as_bytes=True).images
    assert torch.equal(found[0, 0], torch.from_numpy(U8).float() / 255)
    assert torch.equal(found[1, 0], torch.from_numpy((U16 / 65535).astype(np.float32)))


def test_an_array_with_dark_images_is_judged_as_a_whole(tmp_path):
    dark, bright = (U16 >> 10)[None], U16[None]
    np.save(tmp_path / "a.npy", np.concatenate((dark, bright)))
    assert load_images(tmp_path / "a.npy").images.shape[0] == 2
    np.save(tmp_path / "a.npy", dark)
    with pytest.raises(ValueError, match="would be black"):
        load_images(tmp_path / "a.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_images_of_floats_are_numbers(tmp_path, bad):
    values = np.full((8, 7), 0.5, np.float32)
    values[3, 3] = bad
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.save(tmp_path / "a.npy", values)
    for name in ("a.tif", "a.npy"):
        with pytest.raises(ValueError, match=f"{name}: .*got NaN or infinity"):
            load_images(tmp_path / name)


@pytest.mark.parametrize("dtype", ["S1", "U1", "complex64", "M8[D]"])
def test_arrays_of_no_numbers_are_refused_by_name(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 3), dtype))
    with pytest.raises(TypeError, match=r"a\.npy: expected integers of 8, 16 or 32 bits"):
        load_images(tmp_path / "a.npy")
