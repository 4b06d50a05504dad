"""Reading images from every kind of source, and what is said of damaged ones."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from jpmap_fast.data.readers import load_images

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 6, 5), dtype=np.uint8)


def idx_bytes(images: np.ndarray) -> bytes:
    return struct.pack(">IIII", 0x803, *images.shape) + images.tobytes()


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_read_plain_and_gzipped(tmp_path, compressed):
    path = tmp_path / ("train-images-idx3-ubyte" + (".gz" if compressed else ""))
    content = idx_bytes(IMAGES)
    path.write_bytes(gzip.compress(content) if compressed else content)
    found = load_images(path)
    assert torch.equal(found.images, torch.from_numpy(IMAGES)[:, None].float() / 255)
    assert load_images(path, as_bytes=True).images.dtype == torch.uint8


@pytest.mark.parametrize(
    "content, message",
    [
        (idx_bytes(IMAGES)[:-1], "truncated or damaged"),
        (idx_bytes(IMAGES)[:9], "truncated in its header"),
        (struct.pack(">II", 0x801, 3) + b"abc", "these are labels"),
        (gzip.compress(idx_bytes(IMAGES))[:-12], "damaged or truncated gzip"),
        (b"\x00", "expected an IDX file"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, content, message):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_images(path)


@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
def test_arrays_read_in_every_layout(tmp_path, layout):
    array = {"NHW": IMAGES, "NHWC": IMAGES[..., None], "NCHW": IMAGES[:, None]}[layout]
    np.savez(tmp_path / "a.npz", x_train=array, labels=np.arange(3))
    np.save(tmp_path / "a.npy", array.astype(np.float32) / 255)
    expected = torch.from_numpy(IMAGES)[:, None].float() / 255
    for name in ("a.npz", "a.npy"):
        torch.testing.assert_close(load_images(tmp_path / name).images, expected)
    assert load_images(tmp_path / "a.npz").names[2] == "a[2]"


def test_arrays_that_are_no_images_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, first=IMAGES, second=IMAGES)
    with pytest.raises(ValueError, match="first, second"):
        load_images(path)
    with pytest.raises(ValueError, match="first, second"):
        load_images(path, key="third")
    assert len(load_images(path, key="second").images) == 3
    np.savez(path, images=IMAGES.astype(np.float32))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        load_images(path)
    np.savez(path, images=np.array([{"code": 1}], dtype=object))
    with pytest.raises(ValueError, match="pickled objects"):
        load_images(path)
    np.savez(path, images=IMAGES)
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ValueError, match="damaged"):
        load_images(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_images(tmp_path / "none.npz")


def test_folder_names_what_it_cannot_read_and_reads_the_rest(tmp_path):
    for name, image in zip("abc", IMAGES, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.fromarray(IMAGES[0, :3]).save(tmp_path / "small.png")
    (tmp_path / "notes.txt").write_text("not an image, not looked at")
    found = load_images(tmp_path)
    assert found.names == ["a.png", "b.png", "c.png"]
    assert torch.equal((found.images * 255).round().byte()[:, 0], torch.from_numpy(IMAGES))
    failed = dict(found.failures)
    assert set(failed) == {"broken.png", "small.png"}
    assert "[1, 6, 5]" in failed["small.png"]


def test_folder_without_one_good_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected image files"):
        load_images(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of its 1 images could be read"):
        load_images(tmp_path)


def test_colour_and_grey_images_become_what_is_asked_for(tmp_path):
    Image.fromarray(np.stack([IMAGES[0]] * 3, axis=-1)).save(tmp_path / "colour.png")
    Image.fromarray(IMAGES[0]).save(tmp_path / "grey.png")
    assert load_images(tmp_path / "colour.png").images.shape == (1, 3, 6, 5)
    grey = load_images(tmp_path / "colour.png", image_shape=(1, 6, 5)).images
    torch.testing.assert_close(grey, load_images(tmp_path / "grey.png").images)
    assert load_images(tmp_path / "grey.png", image_shape=(3, 6, 5)).images.shape == (1, 3, 6, 5)
    with pytest.raises(ValueError, match=r"expected an image of shape \[1, 7, 5\]"):
        load_images(tmp_path / "grey.png", image_shape=(1, 7, 5))
