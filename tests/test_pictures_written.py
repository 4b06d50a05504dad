"""What is written is what was read, in a file of the same kind."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from picture_samples import C8, C16, F32, U8, U16, U32

from jpmap_fast.data import read_pictures
from jpmap_fast.data.writing import answer_suffix, write_pictures


@pytest.mark.parametrize("array", [U8, U16, U32, C8, C16, F32, F32.astype(np.float64)], ids=str)
def test_what_is_written_is_what_was_read(array, tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.stack([array, array[::-1]]),
        photometric="rgb" if array.ndim == 3 else "minisblack",
    )
    pages = list(read_pictures(tmp_path / "a.tif"))
    values = [torch.from_numpy(page.values) for page in pages]
    write_pictures(tmp_path / "b.tif", values, [page.stored for page in pages])
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        written = [page.asarray() for page in file.pages]
    assert [page.dtype for page in written] == [array.dtype] * 2
    exact = array.dtype.itemsize <= 2 or array.dtype == np.float32
    for page, wanted in zip(written, (array, array[::-1]), strict=True):
        if exact:
            assert np.array_equal(page, wanted)
        else:  # values are float32
            assert np.allclose(page / page.max(), wanted / wanted.max(), atol=1e-6)
    if array.dtype in (np.uint8, np.uint16):
        write_pictures(tmp_path / "b.png", values[:1], [pages[0].stored])
        assert np.array_equal(imagecodecs.imread(tmp_path / "b.png"), array)


def test_suffixes_of_answers():
    for suffix, stored, expected in (
        (".tif", ["uint8"], ".tif"),
        (".TIFF", ["uint16"] * 5, ".TIFF"),
        (".png", ["uint16"], ".png"),
        (".png", ["uint8"] * 3, ".tif"),
        (".jpg", ["uint8"], ".png"),
        (".gif", ["uint8"] * 4, ".tif"),
        (".pfm", ["float32"], ".tif"),
        (".png", ["uint32"], ".tif"),
    ):
        assert answer_suffix(suffix, stored) == expected


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"before")
    with pytest.raises(TypeError):
        write_pictures(path, [torch.zeros(1, 2, 2)], ["no type"])
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
