"""Folders of pictures on the command line: in their own kind, streamed, and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.jobs import _job, _opened, _restore_job
from jpmap_fast.jobs._journal import FOLDER, Journal
from jpmap_fast.jobs._rows import Rows

DIGITS = jf.mnist_test_digits(12)[0][:, 0].numpy()
COMMON = ("--operator", "denoising", "--sigma", "20")


def _run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result


def _summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def _folder(path: Path, count: int) -> Path:
    path.mkdir()
    for i, digit in enumerate(DIGITS[:count]):
        Image.fromarray((255 * digit).round().astype(np.uint8)).save(path / f"{i:02d}.png")
    return path


def test_pictures_come_back_in_their_own_kind(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    eight = (255 * DIGITS).round().astype(np.uint8)
    deep = (65535 * DIGITS).round().astype(np.uint16)
    Image.fromarray(eight[0]).save(source / "a.png")
    Image.fromarray(deep[1]).save(source / "b.png")
    tifffile.imwrite(source / "c.tif", deep[2])
    tifffile.imwrite(source / "d.tiff", DIGITS[3])
    tifffile.imwrite(source / "e.tif", deep[:5], photometric="minisblack")
    Image.fromarray(eight[6]).save(source / "f.jpg", quality=95)
    frames = [Image.fromarray(eight[i]) for i in (7, 8)]
    frames[0].save(source / "g.gif", save_all=True, append_images=frames[1:])
    ink = np.dstack([np.zeros((28, 28, 3), np.uint8), 255 - eight[9]])
    Image.fromarray(ink).save(source / "h.png")
    (source / "broken.png").write_bytes(b"nothing")
    result = _run("restore", source, *COMMON, "-o", out, code=1)
    assert "broken.png" in result.stderr
    assert "Note: h.png: alpha composited on white" in result.stderr
    with np.load(out / "restored.npz") as arrays:
        x, names = arrays["x"][:, 0], list(arrays["names"])
    place = {str(name): i for i, name in enumerate(names)}
    assert len(names) == 13 and place["e.tif[4]"] == place["e.tif[0]"] + 4

    def written(name: str, top: float) -> Any:
        array = (
            tifffile.imread(out / name) if ".tif" in name else np.asarray(Image.open(out / name))
        )
        return array, array / top

    for name, key, dtype, top in (
        ("a.png", "a.png", np.uint8, 255),
        ("b.png", "b.png", np.uint16, 65535),
        ("c.tif", "c.tif", np.uint16, 65535),
        ("d.tiff", "d.tiff", np.float32, 1),
        ("f.png", "f.jpg", np.uint8, 255),
        ("h.png", "h.png", np.uint8, 255),
    ):
        array, values = written(name, top)
        assert array.dtype == dtype, name
        expected = x[place[key]] if top == 1 else x[place[key]].clip(0, 1)
        assert np.abs(values - expected).max() <= 0.5 / top + 1e-6 if top > 1 else True
    with tifffile.TiffFile(out / "e.tif") as stack:
        pages = [page.asarray() for page in stack.pages]
    assert len(pages) == 5 and pages[0].dtype == np.uint16
    assert np.abs(pages[3] / 65535 - x[place["e.tif[3]"]].clip(0, 1)).max() < 1e-5
    with tifffile.TiffFile(out / "g.tif") as animation:
        assert len(animation.pages) == 2
    assert not (out / FOLDER).exists()
    files = {row["file"] for row in _summary(out)["images"]}
    assert files == {p.name for p in out.iterdir()} - {"restored.npz", "summary.json"}


def test_results_do_not_depend_on_the_batch(tmp_path, monkeypatch):
    source = _folder(tmp_path / "in", 7)
    arguments = ("--operator", "inpainting", "--sigma", 10, "--simulate", "--missing", 0.7)
    found = []
    for batch in (64, 3, 1):
        monkeypatch.setattr(_opened, "BATCH", batch)
        out = tmp_path / f"out{batch}"
        _run("restore", source, *arguments, "--starts", 3, "-o", out)
        with np.load(out / "restored.npz") as a, np.load(out / "measured.npz") as b:
            found.append({**dict(a), **{f"measured {k}": b[k] for k in b.files}})
    assert found[0]["measured mask"].shape == (7, 1, 28, 28)
    for other in found[1:]:
        for name, array in found[0].items():
            assert np.array_equal(array, other[name]), name


def test_memory_does_not_grow_with_the_folder(tmp_path, monkeypatch):
    """No more images are read ahead than a batch holds, however many there are."""
    source, out = _folder(tmp_path / "in", 12), tmp_path / "out"
    monkeypatch.setattr(_opened, "BATCH", 4)
    alive, most = [0], [0]
    read = _job.Source.read if hasattr(_job.Source, "read") else None
    assert read is None  # a field: counted where the job asks for it
    ask, write = _job.Job._read, _restore_job.RestoreJob._write

    def reading(self, source_, failures):
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return ask(self, source_, failures)

    def writing(self, source_, *rest):
        alive[0] -= 1
        return write(self, source_, *rest)

    monkeypatch.setattr(_job.Job, "_read", reading)
    monkeypatch.setattr(_restore_job.RestoreJob, "_write", writing)
    _run("restore", source, *COMMON, "-o", out)
    assert most[0] == 4 and alive[0] == 0


KILLED = """
import os, signal, sys
from jpmap_fast.cli import main
from jpmap_fast.jobs import _journal, _opened, _restore_job, _sample_job
_opened.BATCH = _opened.DRAWN = 2
stage, at = sys.argv[1], int(sys.argv[2])
sys.argv = ["jpmap-fast", *sys.argv[3:]]
count = 0
def dying(function):
    def call(*arguments, **options):
        global count
        count += 1
        if count > at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
if stage == "write":
    _restore_job.write_whole = dying(_restore_job.write_whole)
    _sample_job.write_pictures = dying(_sample_job.write_pictures)
elif stage == "rows":
    _journal.Rows.append = dying(_journal.Rows.append)
elif stage == "line":
    _journal.Journal.add = dying(_journal.Journal.add)
else:
    _journal.Rows.write = dying(_journal.Rows.write)
main()
"""


@pytest.mark.parametrize("stage, at", [("write", 3), ("rows", 3), ("line", 1), ("end", 0)])
def test_a_killed_run_goes_on_where_it_stopped(stage, at, tmp_path, monkeypatch):
    source = _folder(tmp_path / "in", 6)
    arguments = ["restore", str(source), "--operator", "inpainting", "--sigma", "10"]
    arguments += ["--simulate", "--missing", "0.5", "-o"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    _run(*arguments, whole)
    died = subprocess.run(
        [sys.executable, "-c", KILLED, stage, str(at), *arguments, str(out)], capture_output=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (out / "summary.json").exists()
    # What is there is whole.
    for picture in out.glob("*.png"):
        if not picture.name.startswith("."):
            assert np.asarray(Image.open(picture)).shape == (28, 28)
    restored = []
    restore = jf.restore

    def counted(y, *rest, **options):
        restored.append(len(y))
        return restore(y, *rest, **options)

    monkeypatch.setattr(jf, "restore", counted)
    _run(*arguments, out, "--resume")
    assert sum(restored) == {"write": 4, "rows": 4, "line": 4, "end": 0}[stage]
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    for name in ("restored.npz", "measured.npz"):
        with np.load(whole / name) as a, np.load(out / name) as b:
            assert set(a.files) == set(b.files)
            for key in a.files:
                assert np.array_equal(a[key], b[key]), key
    assert _summary(out)["images"] == _summary(whole)["images"]
    for picture in whole.glob("*.png"):
        assert picture.read_bytes() == (out / picture.name).read_bytes()


def _interrupted(source: Path, out: Path) -> None:
    arguments = ["restore", str(source), *COMMON, "-o", str(out)]
    subprocess.run([sys.executable, "-c", KILLED, "line", "1", *arguments], capture_output=True)
    assert (out / FOLDER).exists()


def test_a_run_goes_on_with_the_same_settings_alone(tmp_path):
    source, out = _folder(tmp_path / "in", 4), tmp_path / "out"
    _interrupted(source, out)
    other = ("restore", source, "--operator", "denoising", "--sigma", "30", "-o", out)
    refused = _run(*other, "--resume", code=2)
    assert "--resume" in refused.stderr and "sigma = 20.0, now it is 30.0" in refused.stderr
    _run(*other)  # without it the run begins anew
    assert _summary(out)["restored"] == 4 and not (out / FOLDER).exists()


def test_a_finished_run_is_made_again_with_the_same_settings_alone(tmp_path):
    source, out = _folder(tmp_path / "in", 2), tmp_path / "out"
    inpainting = ("restore", source, "--operator", "inpainting", "--sigma", 20, "-o", out)
    simulated = (*inpainting, "--simulate", "--missing", 0.5)
    _run(*simulated, "--seed", 1)
    whole = _summary(out)
    for other, message in (
        ((*simulated, "--seed", 2), "seed = 1, now it is 2"),
        ((*simulated, "--seed", 1, "--missing", 0.6), "missing = 0.5, now it is 0.6"),
        ((*simulated, "--seed", 1, "--sigma", 30), "sigma = 20.0, now it is 30.0"),
        ((*simulated, "--seed", 1, "--residual", "pixel"), "residual = 'white', now it is 'pixel'"),
        ((*simulated, "--seed", 1, "--starts", 2), "starts = None, now it is 2"),
    ):
        refused = _run(*other, "--resume", code=2)
        assert f"the run in {out} had {message}; begin anew" in refused.stderr
        assert _summary(out) == whole
    _run(*simulated, "--seed", 1, "--device", "cpu", "--resume")
    assert _summary(out)["images"] == whole["images"]
    _run(*simulated, "--seed", 2)  # without it the run begins anew
    assert _summary(out)["settings"]["seed"] == 2
    for foreign in (
        "[1]",
        "{",
        '{"settings": 3}',
        '{"depends_on": 3}',
    ):  # what another program left is no run
        (out / "summary.json").write_text(foreign)
        _run(*simulated, "--resume")
        assert _summary(out)["settings"]["seed"] == 0


def test_what_draws_left_unfinished_is_no_restoration(tmp_path):
    settings = {"operator": "denoising", "draws": 3}
    Journal(tmp_path, tmp_path, settings, resume=False)
    with pytest.raises(ValueError, match="had draws = 3, now it is None"):
        Journal(tmp_path, tmp_path, {"operator": "denoising"}, resume=True)


def test_a_changed_picture_is_noticed(tmp_path):
    source, out = _folder(tmp_path / "in", 4), tmp_path / "out"
    _interrupted(source, out)
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(source / "00.png")
    os.utime(source / "00.png", ns=(time.time_ns(), time.time_ns()))
    refused = _run("restore", source, *COMMON, "-o", out, "--resume", code=2)
    assert "00.png has changed" in refused.stderr


def test_a_run_goes_on_with_the_same_inputs(tmp_path, monkeypatch):
    source, out = _folder(tmp_path / "in", 4), tmp_path / "out"
    _interrupted(source, out)
    refused = _run("restore", source / "03.png", *COMMON, "-o", out, "--resume", code=2)
    assert "00.png, which is not among the inputs" in refused.stderr
    # The same files by another path, and one more.
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(source / "04.png")
    _run("restore", "in", *COMMON, "-o", "out", "--resume")
    assert [row["name"] for row in _summary(out)["images"]] == [f"0{i}.png" for i in range(5)]


def test_a_mask_for_each_image_goes_with_its_image(tmp_path, monkeypatch):
    """Whatever the batches; measured.npz of many images can be restored again."""
    np.save(tmp_path / "clean.npy", DIGITS)
    common = ("--operator", "inpainting", "--sigma", 10)
    first, again = tmp_path / "first", tmp_path / "again"
    _run("restore", tmp_path / "clean.npy", *common, "--simulate", "--missing", 0.6, "-o", first)
    monkeypatch.setattr(_opened, "BATCH", 5)
    measured = first / "measured.npz"
    _run("restore", measured, *common, "--mask", measured, "-o", again)
    with np.load(first / "restored.npz") as a, np.load(again / "restored.npz") as b:
        np.testing.assert_allclose(a["x"], b["x"], atol=1e-5)
    with np.load(measured) as arrays:
        np.savez(tmp_path / "fewer.npz", mask=arrays["mask"][:7])
        pages = arrays["y"][:7, 0]
    fewer = ("--mask", tmp_path / "fewer.npz")
    refused = _run("restore", measured, *common, *fewer, "-o", again, code=2)
    assert "one for each of 12 images, got 7" in refused.stderr
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    _run("restore", tmp_path / "stack.tif", *common, *fewer, "-o", tmp_path / "stack")
    with np.load(first / "restored.npz") as a, np.load(tmp_path / "stack/restored.npz") as b:
        np.testing.assert_allclose(a["x"][:7], b["x"], atol=1e-5)
    folder = _folder(tmp_path / "in", 7)
    refused = _run("restore", folder, *common, *fewer, "-o", again, code=2)
    assert "expected one mask or kernel for 7 picture files, got 7" in refused.stderr


def test_a_kernel_for_each_image_goes_with_its_image(tmp_path, monkeypatch):
    kernels = torch.stack([jf.gaussian_kernel(0.5 + 0.1 * i, 7) for i in range(12)])[:, None]
    np.savez(tmp_path / "k.npz", kernel=kernels.numpy())
    y = jf.Blur(kernels).A(torch.from_numpy(DIGITS)[:, None])
    np.save(tmp_path / "y.npy", y.numpy())
    monkeypatch.setattr(_opened, "BATCH", 5)
    arguments = ("--operator", "blur", "--kernel", tmp_path / "k.npz", "--sigma", 5)
    _run("restore", tmp_path / "y.npy", *arguments, "-o", tmp_path / "out")
    expected = jf.restore(y, jf.Blur(kernels), "mnist", 5 / 255)
    with np.load(tmp_path / "out" / "restored.npz") as arrays:
        np.testing.assert_allclose(arrays["x"], expected.x.numpy(), atol=1e-4)


def test_foreign_pictures_in_a_folder_are_named(tmp_path):
    source, out = _folder(tmp_path / "in", 1), tmp_path / "out"
    (source / "light.exr").write_bytes(b"v/1\x01")
    result = _run("restore", source, *COMMON, "-o", out, code=1)
    assert "light.exr" in result.stderr and _summary(out)["restored"] == 1


def test_floats_in_a_file_named_png_stay_floats(tmp_path):
    source, out = _folder(tmp_path / "in", 1), tmp_path / "out"
    tifffile.imwrite(source / "float.png", DIGITS[1])
    _run("restore", source, *COMMON, "-o", out)
    assert tifffile.imread(out / "float.tif").dtype == np.float32


def test_resume_of_nothing_is_a_run(tmp_path):
    source, out = _folder(tmp_path / "in", 2), tmp_path / "out"
    _run("restore", source, *COMMON, "-o", out, "--resume")
    assert _summary(out)["restored"] == 2


def test_rows_cut_off_what_nobody_knows_of(tmp_path):
    rows = Rows(tmp_path / "r")
    rows.append({"a": np.arange(6.0).reshape(3, 2), "b": np.arange(3)})
    rows.append({"a": np.arange(4.0).reshape(2, 2), "b": np.arange(2)})
    again = Rows(tmp_path / "r", 4)
    again.append({"a": np.full((1, 2), 9.0), "b": np.array([9])})
    again.write(tmp_path / "r.npz", {"c": np.array("more")})
    with np.load(tmp_path / "r.npz") as arrays:
        assert arrays["a"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [9, 9]]
        assert arrays["b"].tolist() == [0, 1, 2, 0, 9] and str(arrays["c"]) == "more"


def test_measurements_out_of_range_fail_by_name(tmp_path):
    source, out = _folder(tmp_path / "in", 2), tmp_path / "out"
    tifffile.imwrite(source / "wide.tif", 255 * DIGITS[3])
    result = _run("restore", source, *COMMON, "-o", out, code=1)
    assert "wide.tif" in result.stderr and "divide by 255" in result.stderr
    assert _summary(out)["restored"] == 2


@pytest.mark.parametrize("boundary", ["zero", "replicate", "valid"])
def test_blur_beyond_the_border(boundary, tmp_path):
    source, out = _folder(tmp_path / "in", 2), tmp_path / "out"
    common = ("--operator", "blur", "--kernel", "gaussian:1", "--boundary", boundary, "--sigma", 5)
    _run("restore", source, *common, "--simulate", "-o", out)
    with np.load(out / "measured.npz") as arrays:
        side = 28 - 6 if boundary == "valid" else 28
        assert arrays["y"].shape == (2, 1, side, side)
    _run("restore", out / "measured.npz", *common, "-o", tmp_path / "again")
    with np.load(out / "restored.npz") as a, np.load(tmp_path / "again" / "restored.npz") as b:
        np.testing.assert_allclose(a["x"], b["x"], atol=1e-5)


@pytest.mark.parametrize("kernel", ["box", "bicubic"])
def test_super_resolution_of_pictures_reduced_by_others(kernel, tmp_path):
    source, small = _folder(tmp_path / "in", 3), tmp_path / "small"
    small.mkdir()
    how = Image.Resampling.BOX if kernel == "box" else Image.Resampling.BICUBIC
    for path in source.iterdir():
        Image.open(path).resize((14, 14), how).save(small / path.name)
    common = ("--operator", "super-resolution", "--factor", 2, "--sigma", 5, "--kernel", kernel)
    _run("restore", small, *common, "-o", tmp_path / "out")
    with np.load(tmp_path / "out" / "restored.npz") as arrays:
        error = torch.from_numpy(arrays["x"][:, 0] - DIGITS[:3]).square().mean()
    assert float(-10 * error.log10()) > 18


def test_named_kernels_are_for_super_resolution_alone(tmp_path):
    source = _folder(tmp_path / "in", 1)
    for options, message in (
        (("--operator", "blur", "--kernel", "bicubic"), "--kernel bicubic: only for"),
        (("--operator", "denoising", "--boundary", "zero"), "--boundary: only for"),
        (
            ("--operator", "blur", "--kernel", "box:3", "--boundary", "round"),
            "--boundary: expected",
        ),
        (("--operator", "denoising", "--background", "7"), "--background"),
    ):
        refused = _run("restore", source, *options, "--sigma", 5, "-o", tmp_path / "o", code=2)
        assert message in refused.stderr
