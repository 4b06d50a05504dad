"""Jobs and the command line with a prior for pictures of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from small_photos import small_photo_prior
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast import _noise_level
from jpmap_fast.cli import app
from jpmap_fast.data.picture import with_channels
from jpmap_fast.jobs import (
    RestoreRequest,
    Restoring,
    SampleRequest,
    restore_picture,
    run,
    run_sampling,
)
from jpmap_fast.jobs import pictures as pictures_
from jpmap_fast.jobs._journal import FOLDER, Journal

SIGMA = 20 / 255
PLAIN: dict[str, Any] = {"operator": "denoising", "sigma": SIGMA}
# Names in the order of a run, sizes and channels.
FILES = {"a.png": (20, 26, 1), "b.png": (31, 17, 3), "c.png": (20, 26, 1), "d.png": (1, 1, 1)}


def pixels(height: int, width: int, channels: int = 1) -> np.ndarray:
    t, u = np.linspace(0, 3, height)[:, None, None], np.linspace(0, 2, width)[:, None]
    noise = np.random.default_rng(height).normal(size=(height, width, channels))
    wave = 0.5 + 0.3 * np.sin(2 * t + u + np.arange(channels)) + SIGMA * noise
    return (255 * wave.clip(0, 1)).round().astype(np.uint8)


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def channels(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def prior(tmp_path: Path) -> str:
    return saved(tmp_path, 1)


def saved(folder: Path, channels: int) -> str:
    path = folder / f"photos{channels}.safetensors"
    jf.save_prior(small_photo_prior(channels), path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "in"
    found.mkdir()
    for name, size in FILES.items():
        values = pixels(*size)
        Image.fromarray(values[..., 0] if size[2] == 1 else values).save(found / name)
    return found


def planes(path: Path) -> np.ndarray:
    """A file as [C, H, W] in [0, 1]."""
    read = np.asarray(Image.open(path), np.float32) / np.float32(255)
    return read[None] if read.ndim == 2 else np.moveaxis(read, -1, 0)


def test_every_picture_of_a_folder_has_its_own_size(folder, tmp_path, channels):
    out = tmp_path / "out"
    request = RestoreRequest(**PLAIN, inputs=(folder,), output=out, prior=saved(tmp_path, channels))
    report = run(request)
    assert not report.failures and "EncoderContinuation" in report.algorithm
    assert [(p.source, p.output) for p in report.pictures] == [(name, name) for name in FILES]
    network = small_photo_prior(channels)
    for name, size in FILES.items():
        y = torch.from_numpy(with_channels(planes(folder / name), channels))
        x = jf.restore(y, jf.Denoising(), network, SIGMA).x
        if size[2] < channels:  # it comes back grey
            x = torch.from_numpy(with_channels(x.numpy(), 1))
        written = planes(out / name)
        assert written.shape == (min(size[2], channels), *size[:2])
        assert np.abs(written - x.clip(0, 1).numpy()).max() <= 0.501 / 255
    notes = {p.source: p.notes for p in report.pictures}
    told = ("colours turned grey, as the prior is",) if channels == 1 else ()
    assert notes == {name: told if name == "b.png" else () for name in FILES}
    with np.load(out / "restored.npz") as arrays:
        assert sorted(arrays) == ["converged", "names", "objective"]
        assert list(arrays["names"]) == list(FILES)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["method"] == "encoder" and summary["restored"] == 4


def test_a_run_with_several_sizes_goes_on_where_it_was_stopped(
    folder, prior, tmp_path, monkeypatch
):
    fields = {**PLAIN, "inputs": (folder,), "prior": prior}
    run(RestoreRequest(**fields, output=tmp_path / "whole"))
    add, out = Journal.add, tmp_path / "out"

    def stopping(self: Journal, entries: Any) -> None:
        add(self, entries)
        if len(self.done) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "add", stopping)
        run(RestoreRequest(**fields, output=out))
    assert (out / FOLDER).exists() and not (out / "c.png").exists()
    report = run(RestoreRequest(**fields, output=out, resume=True))
    assert [p.source for p in report.pictures] == list(FILES)
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with np.load(out / "restored.npz") as arrays:
        assert list(arrays["names"]) == list(FILES)


def test_pictures_of_one_size_are_restored_together(folder, prior, tmp_path, monkeypatch):
    for index in range(3):
        values = pixels(20, 26)[..., 0]
        Image.fromarray(values).save(folder / f"a{index}.png")
    sizes, batch = [], Restoring.batch

    def counted(self: Restoring, items: Any, progress: Any = None) -> Any:
        sizes.append([item.name for item in items])
        return batch(self, items, progress)

    monkeypatch.setattr(Restoring, "batch", counted)
    request = RestoreRequest(**PLAIN, inputs=(folder,), output=tmp_path / "out", prior=prior)
    run(request)
    first = ["a.png", "a0.png", "a1.png", "a2.png"]
    assert sizes == [first, ["b.png"], ["c.png"], ["d.png"]]
    monkeypatch.setattr("jpmap_fast.jobs._opened.MOST_NUMBERS", 2 * 20 * 26)
    sizes.clear()
    run(request)
    assert sizes[:2] == [first[:2], first[2:]]


def test_a_mask_fits_some_and_the_others_fail_by_name(folder, prior, tmp_path):
    mask = np.full((20, 26), 255, np.uint8)
    mask[8:12] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    request = RestoreRequest(
        operator="inpainting",
        options={"mask": tmp_path / "mask.png"},
        sigma=SIGMA,
        inputs=(folder,),
        output=tmp_path / "out",
        prior=prior,
    )
    report = run(request)
    assert [p.source for p in report.restored] == ["a.png", "c.png"]
    assert [name for name, _ in report.failures] == ["b.png", "d.png"]
    assert "mask: expected one for images of shape [1, 31, 17]" in report.failures[0][1]


def test_a_kernel_and_measurements_that_do_not_fit_a_picture_fail_by_name(folder, prior, tmp_path):
    fields = {"sigma": SIGMA, "inputs": (folder,), "prior": prior}
    options = {"kernel": "box:5"}
    report = run(
        RestoreRequest(operator="blur", options=options, output=tmp_path / "out", **fields)
    )
    assert [p.source for p in report.restored] == ["a.png", "b.png", "c.png"]
    ((name, reason),) = report.failures
    assert name == "d.png" and "kernel: expected at most [1, 1]" in reason
    options = {"factor": 2}
    report = run(
        RestoreRequest(
            operator="super-resolution", options=options, output=tmp_path / "large", **fields
        )
    )
    assert not report.failures
    assert planes(tmp_path / "large" / "b.png").shape == (1, 62, 34)


def test_masks_of_several_images_go_with_as_many_pages(prior, tmp_path):
    masks = np.ones((2, 1, 12, 9), np.float32)
    masks[1, :, :4] = 0
    np.save(tmp_path / "masks.npy", masks)
    pages = np.stack([pixels(12, 9)[..., 0]] * 2)
    tifffile.imwrite(tmp_path / "two.tif", pages, photometric="minisblack")
    Image.fromarray(pages[0]).save(tmp_path / "one.png")
    fields = {
        "operator": "inpainting",
        "options": {"mask": tmp_path / "masks.npy"},
        "sigma": SIGMA,
        "prior": prior,
    }
    report = run(RestoreRequest(inputs=(tmp_path / "two.tif",), output=tmp_path / "out", **fields))
    assert [p.source for p in report.restored] == ["two.tif[0]", "two.tif[1]"]
    both = (tmp_path / "two.tif", tmp_path / "one.png")
    report = run(RestoreRequest(inputs=both, output=tmp_path / "both", **fields))
    assert not report.pictures
    assert all("expected one mask or kernel for 2 picture files" in r for _, r in report.failures)


def test_pages_of_several_shapes_fail_by_name(folder, prior, tmp_path):
    with tifffile.TiffWriter(folder / "b.tif") as writer:
        for size in ((12, 9), (9, 12)):
            writer.write(pixels(*size)[..., 0], photometric="minisblack", metadata=None)
    report = run(RestoreRequest(**PLAIN, inputs=(folder,), output=tmp_path / "out", prior=prior))
    assert report.failures == (("b.tif", "expected pages of one shape, got several"),)
    assert [p.source for p in report.pictures] == list(FILES)


def test_what_was_simulated_is_kept_beside_each_picture(folder, prior, tmp_path):
    out = tmp_path / "out"
    request = RestoreRequest(
        operator="inpainting",
        options={"missing": 0.3},
        sigma=SIGMA,
        simulate=True,
        inputs=(folder,),
        output=out,
        prior=prior,
    )
    report = run(request)
    assert not report.failures and all(p.psnr is not None for p in report.pictures)
    assert sorted(p.name for p in (out / "measured").iterdir()) == [f"{n}.npz" for n in FILES]
    assert not (out / "measured.npz").exists()
    with np.load(out / "measured" / "b.png.npz") as arrays:
        y, mask = arrays["y"], arrays["mask"]
    assert y.shape == (1, 1, 31, 17)
    x = jf.restore(y, jf.Inpainting(mask), small_photo_prior(), SIGMA).x[0]
    assert np.abs(planes(out / "b.png") - x.clip(0, 1).numpy()).max() <= 0.501 / 255
    again = tmp_path / "again"  # as measurements they are an array like any other
    path = out / "measured" / "b.png.npz"
    run(
        RestoreRequest(
            operator="inpainting",
            options={"mask": path},
            sigma=SIGMA,
            inputs=(path,),
            output=again,
            prior=prior,
        )
    )
    with np.load(again / "restored.npz") as arrays:
        np.testing.assert_allclose(arrays["x"][0], x.numpy(), atol=1e-6)


def test_an_array_has_one_shape_and_all_results(prior, tmp_path):
    images = np.stack([pixels(14, 18)[..., 0]] * 3)[:, None].astype(np.float32) / 255
    out = tmp_path / "out"
    report = run(RestoreRequest(**PLAIN, output=out, prior=prior, simulate=True), images=images)
    assert len(report.restored) == 3
    with np.load(out / "restored.npz") as arrays:
        assert arrays["x"].shape == (3, 1, 14, 18) and arrays["z"].shape == (3, 0)
    with np.load(out / "measured.npz") as arrays:
        assert arrays["y"].shape == (3, 1, 14, 18)
    colour = saved(tmp_path, 3)
    for array, count in ((images, 3), (images[:, 0], 1), (np.moveaxis(images[:, 0], 0, 2), 1)):
        path = tmp_path / "array.npy"
        np.save(path, array)
        run(RestoreRequest(**PLAIN, inputs=(path,), output=out, prior=colour))
        with np.load(out / "restored.npz") as arrays:
            assert arrays["x"].shape == (count, 3, 14, 18)


def test_vectors_tell_no_size(prior):
    for fields in (
        {"options": {"measurements": 9}, "simulate": True},
        {"options": {"matrix": "matrix.npy"}},
    ):
        request = RestoreRequest(operator="compressed-sensing", sigma=SIGMA, prior=prior, **fields)
        with pytest.raises(ValueError, match=r"expected a prior of a fixed image shape.*y \[m\]"):
            Restoring(request)


def test_pictures_in_memory_have_any_size_and_what_is_made_of_the_last_is_kept():
    network = small_photo_prior()
    request = RestoreRequest(operator="blur", options={"kernel": "box:3"}, sigma=SIGMA)
    ready = Restoring(request, prior=network)
    assert ready.shape == (1, None, None)
    for size in [(9 + n, 12) for n in range(pictures_.KEPT + 2)] + [(9, 12)]:
        y = torch.rand(1, *size)
        expected = jf.restore(y, jf.Blur(jf.box_kernel(3)), network, SIGMA).x
        torch.testing.assert_close(ready.picture(y).x, expected)
        assert len(ready._by_shape) <= pictures_.KEPT and (1, *size) in ready._by_shape
    kept = ready.at((1, 9, 12))
    assert ready.at((1, 9, 12)) is kept
    for wrong in (torch.rand(3, 9, 12), torch.rand(9, 12), torch.rand(1, 0, 12)):
        with pytest.raises(ValueError, match=r"picture: expected shape \[1, H, W\], got"):
            ready.picture(wrong)
    bound = Restoring(request, prior=network.bind((1, 9, 12)))
    assert bound.shape == (1, 9, 12) and bound.at((1, 9, 12)) is bound.fixed


def test_the_method_is_that_of_the_prior_unless_it_is_named(prior):
    request = RestoreRequest(**PLAIN, prior=prior)
    assert request.method is None and json.loads(json.dumps(request.to_dict()))["method"] is None
    assert RestoreRequest.from_dict({**PLAIN, "method": None}).method is None
    assert Restoring(request).request.method == "encoder"
    assert Restoring(RestoreRequest(**PLAIN)).request.method == "jpmap"
    assert Restoring(RestoreRequest(**PLAIN, prior=prior, settings={"steps": 2})).algorithm.steps
    with pytest.raises(ValueError, match="settings: expected settings of encoder.*got 'starts'"):
        Restoring(RestoreRequest(**PLAIN, prior=prior, settings={"starts": 2}))
    with pytest.raises(ValueError, match="settings: expected settings of jpmap.*got 'steps'"):
        Restoring(RestoreRequest(**PLAIN, settings={"steps": 2}))
    with pytest.raises(ValueError, match="settings: expected settings of jpmap.*got 'magic'"):
        RestoreRequest(**PLAIN, settings={"magic": 2})
    with pytest.raises(ValueError, match="method: expected 'encoder'.*PhotoPrior.*got JPMAP"):
        Restoring(RestoreRequest(**PLAIN, prior=prior, method="jpmap"))


def test_each_picture_has_its_own_noise_level_found(folder, prior, tmp_path):
    out = tmp_path / "out"
    request = RestoreRequest(
        operator="denoising", sigma="auto", inputs=(folder,), output=out, prior=prior
    )
    assert RestoreRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    report = run(request)
    ((name, reason),) = report.failures
    assert name == "d.png" and "sigma: expected a number" in reason
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["sigma"] == "auto"
    for picture, line in zip(report.pictures, summary["images"], strict=True):
        y = torch.from_numpy(with_channels(planes(folder / picture.source), 1))
        assert picture.sigma == pytest.approx(float(jf.estimate_sigma(y, jf.Denoising())))
        assert line["sigma"] == pytest.approx(255 * picture.sigma)
    found = restore_picture(y, RestoreRequest(operator="denoising", sigma="auto", prior=prior))
    assert found.report.sigma == picture.sigma


@pytest.mark.parametrize("sampled", [False, True])
def test_a_noise_level_is_found_once(sampled, tmp_path, monkeypatch):
    inputs = tmp_path / "in"
    inputs.mkdir()
    count = 1 if sampled else 3
    for i in range(count):
        Image.fromarray(pixels(28, 28)[..., 0] + np.uint8(i)).save(inputs / f"{i}.png")
    level, found = _noise_level._level, []

    def counted(picture: torch.Tensor, seen: Any) -> torch.Tensor:
        found.append(level(picture, seen))
        return found[-1]

    monkeypatch.setattr(_noise_level, "_level", counted)
    request = RestoreRequest(
        operator="denoising", sigma="auto", inputs=(inputs,), output=tmp_path / "out"
    )
    report = run_sampling(SampleRequest(restore=request, draws=2)) if sampled else run(request)
    assert len(found) == count
    assert [p.sigma for p in report.pictures] == [float(sigma) for sigma in found]


def test_noise_that_is_added_is_not_estimated():
    with pytest.raises(ValueError, match="sigma: expected a number with simulate.*got auto"):
        RestoreRequest(operator="denoising", sigma="auto", simulate=True)
    with pytest.raises(TypeError, match="sigma: expected a number, got 'automatic'"):
        RestoreRequest(operator="denoising", sigma="automatic")


def test_passes_are_told(folder, prior, tmp_path, capsys):
    told: list[tuple[int, int]] = []
    request = RestoreRequest(
        operator="blur",
        options={"kernel": "box:3"},
        sigma=SIGMA,
        settings={"steps": 3},
        inputs=(folder / "a.png", folder / "b.png"),
        output=tmp_path / "out",
        prior=prior,
    )
    run(request, passes=lambda done, total: told.append((done, total)))
    assert told == 2 * [(n, 3) for n in range(4)]
    y = torch.rand(1, 1, 12, 14)
    kernel = jf.Blur(jf.box_kernel(3))
    method = request.algorithm("encoder")
    jf.restore(y, kernel, small_photo_prior(), SIGMA, method=method, progress=True)
    assert "3/3" in capsys.readouterr().err
    told.clear()
    jf.restore(
        jf.mnist_test_digits(2)[0],
        jf.Denoising(),
        "mnist",
        0.1,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[0] == (0, 4) and told[-1] == (4, 4)  # from two starts each


def command(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["restore", *map(str, arguments)])
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result


def test_the_command_line_restores_photographs(folder, prior, tmp_path):
    out = tmp_path / "out"
    (folder / "d.png").unlink()
    common = ("--operator", "denoising", "--prior", prior, "--output", out)
    result = command(folder, *common, "--sigma", "auto", "--progress")
    assert "3 restored, 0 failed" in result.stdout and "at hand" in result.stderr
    assert "colours turned grey" in result.stderr
    assert sorted(p.name for p in out.glob("*.png")) == ["a.png", "b.png", "c.png"]
    for sigma in ("much", "-1", "nan", "0"):
        result = command(folder, *common, "--sigma", sigma, code=2)
        assert "--sigma: expected a number > 0, in 255ths, or auto" in result.stderr
    result = command(folder, *common, "--sigma", "auto", "--simulate", code=2)
    assert "--sigma: expected a number with --simulate" in result.stderr
    result = command(folder, *common, "--sigma", "5", "--alpha", "3", code=2)
    assert "--alpha: only for --method map-z" in result.stderr


def test_a_photograph_for_a_prior_of_one_size_is_told_of_the_others(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (90, 120, 30)).save(tmp_path / "beach.png")
    request = RestoreRequest(
        operator="denoising",
        sigma=0.1,
        inputs=(str(tmp_path / "beach.png"),),
        output=str(tmp_path / "out"),
    )
    ((name, reason),) = run(request).failures
    assert name == "beach.png" and "expected an image of shape [1, 28, 28]" in reason
    assert "photos and photos-grey take pictures of any size" in reason
