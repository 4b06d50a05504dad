"""Masks and kernels of every kind of file."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from picture_samples import ALPHA8, C8, CLOSE, F32, U8
from PIL import Image

from jpmap_fast.data import load_kernel, load_mask


@pytest.mark.parametrize("store", ["uint8", "one-bit", "uint16", "labels", "jpeg", "npy", "bool"])
def test_masks_of_every_kind_are_the_same_mask(store, tmp_path):
    seen = U8 > 127
    path = tmp_path / "m.png"
    if store == "uint8":
        Image.fromarray(255 * seen.astype(np.uint8)).save(path)
    elif store == "one-bit":
        Image.fromarray(seen).save(path)
    elif store == "uint16":
        Image.fromarray(65535 * seen.astype(np.uint16)).save(path)
    elif store == "labels":  # 0 and 1, as annotation tools write them
        Image.fromarray(seen.astype(np.uint8)).save(path)
    elif store == "jpeg":
        seen = np.kron(seen, np.ones((8, 8), dtype=bool))
        path = tmp_path / "m.jpg"
        Image.fromarray(255 * seen.astype(np.uint8)).save(path, quality=95)
    else:
        path = tmp_path / "m.npy"
        np.save(path, seen if store == "bool" else 255 * seen.astype(np.uint8))
    assert torch.equal(load_mask(path), torch.from_numpy(seen))


def test_weights_in_a_mask_stay_weights(tmp_path):
    np.save(tmp_path / "m.npy", F32)
    assert torch.equal(load_mask(tmp_path / "m.npy"), torch.from_numpy(F32))


def test_kernels_of_every_depth_are_the_same_kernel(tmp_path):
    weights = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])
    expected = weights / weights.sum()
    Image.fromarray((weights * 7).astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray((weights * 1820).astype(np.uint16)).save(tmp_path / "16.png")
    tifffile.imwrite(tmp_path / "f.tif", expected.astype(np.float32))
    np.save(tmp_path / "k.npy", expected)
    for name in ("8.png", "16.png", "f.tif", "k.npy"):
        np.testing.assert_allclose(load_kernel(tmp_path / name), expected, atol=CLOSE)
    tifffile.imwrite(tmp_path / "two.tif", np.stack([expected, expected]).astype(np.float32))
    with pytest.raises(ValueError, match=r"two.tif: expected one kernel, got 2 pages"):
        load_kernel(tmp_path / "two.tif")


def test_masks_of_labels_in_16_bits(tmp_path):
    seen = U8 > 127
    tifffile.imwrite(tmp_path / "m.tif", seen.astype(np.uint16))
    assert torch.equal(load_mask(tmp_path / "m.tif"), torch.from_numpy(seen))


@pytest.mark.parametrize("load, role", [(load_mask, "mask"), (load_kernel, "kernel")])
def test_transparent_pixels_of_a_mask_or_kernel_are_refused(load, role, tmp_path):
    Image.fromarray(np.dstack((C8, ALPHA8))).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=f"m.png: expected an opaque {role}"):
        load(tmp_path / "m.png")
    Image.fromarray(np.dstack((C8, np.full_like(U8, 255)))).save(tmp_path / "m.png")
    load(tmp_path / "m.png")


def test_a_mask_without_white_is_refused(tmp_path):
    Image.fromarray(U8 % 7).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match="m.png: expected white .* got 7 values"):
        load_mask(tmp_path / "m.png")
    Image.fromarray(np.zeros_like(U8)).save(tmp_path / "m.png")
    assert not load_mask(tmp_path / "m.png").any()


def test_kernels_of_small_integers_in_16_bits(tmp_path):
    weights = np.outer([1, 2, 1], [1, 2, 1]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "k.tif", weights)
    np.testing.assert_allclose(load_kernel(tmp_path / "k.tif"), weights / 16, atol=CLOSE)
