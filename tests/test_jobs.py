"""Requests and reports: JSON, pictures in memory, runs over files, and no word on the terminal."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import jpmap_fast as jf
from jpmap_fast.jobs import (
    PictureReport,
    RestoreReport,
    RestoreRequest,
    Restoring,
    restore_picture,
    run,
)
from jpmap_fast.jobs._journal import FOLDER, Journal

DIGITS = jf.mnist_test_digits(4)[0]
SIGMA = 20 / 255
PLAIN = {"operator": "denoising", "sigma": SIGMA}
MEAN = {"estimate": "mean"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two 8-bit pictures, one of 16 bits with two pages, and one that is none."""
    found = tmp_path / "in"
    found.mkdir()
    eight = (255 * DIGITS[:, 0]).round().byte().numpy()
    for i in range(2):
        Image.fromarray(eight[i]).save(found / f"{i}.png")
    pages = (65535 * DIGITS[2:, 0].double()).round().numpy().astype(np.uint16)
    tifffile.imwrite(found / "pages.tif", pages, photometric="minisblack")
    (found / "z.png").write_bytes(b"nothing")
    return found


def test_a_finished_run_with_another_mask_is_not_written_over(tmp_path: Path) -> None:
    """Arrays beside the request and the contents of files count, not their names alone."""
    mask = torch.ones(28, 28)
    mask[:10] = 0
    request = RestoreRequest(
        operator="inpainting", sigma=SIGMA, output=tmp_path / "out", resume=True, device="cpu"
    )
    run(request, images=DIGITS[:1], arrays={"mask": mask})
    with pytest.raises(ValueError, match="mask"):
        run(request, images=DIGITS[:1], arrays={"mask": mask.mT.contiguous()})
    run(request, images=DIGITS[:1], arrays={"mask": mask})
    file = tmp_path / "mask.npy"
    np.save(file, mask.numpy())
    named = replace(request, options={"mask": str(file)}, output=tmp_path / "named")
    run(named, images=DIGITS[:1])
    np.save(file, mask.mT.numpy())
    with pytest.raises(ValueError, match="mask"):
        run(named, images=DIGITS[:1])


def test_a_request_is_json_and_back() -> None:
    request = RestoreRequest(
        operator="inpainting",
        sigma=0.05,
        options={"mask": Path("mask.png")},
        inputs=[Path("photos"), "more.png"],
        method="csgm",
        settings={"starts": np.int64(3)},
        chunk_size=8,
        format="tiff",
        bits=16,
    )
    content = json.loads(json.dumps(request.to_dict()))
    assert content["version"] == 1 and content["options"] == {"mask": "mask.png"}
    assert RestoreRequest.from_dict(content) == request == pickle.loads(pickle.dumps(request))
    assert RestoreRequest.from_dict(PLAIN) == RestoreRequest(**PLAIN)
    assert request.algorithm() == jf.CSGM(starts=3)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"sigam": 1}, ValueError, "sigam: expected fields of RestoreRequest, operator, sigma"),
        ({"version": 2}, ValueError, "version: expected RestoreRequest of version 1, got 2"),
        ({"version": "1"}, TypeError, "version: expected an integer"),
        ({"operator": "fog"}, ValueError, "operator: expected one of denoising"),
        ({"operator": 3}, TypeError, "operator: expected a text"),
        ({"sigma": "10"}, TypeError, "sigma: expected a number, got '10'"),
        ({"sigma": None}, TypeError, "sigma: expected a number, got None"),
        ({"sigma": 0}, ValueError, "sigma: expected a finite number > 0"),
        ({"sigma": float("inf")}, ValueError, "sigma: expected a finite number > 0"),
        ({"inputs": "photos"}, TypeError, "inputs: expected a list of paths, got 'photos'"),
        ({"inputs": [1]}, TypeError, "inputs: expected the path of a file, got 1"),
        ({"options": [1]}, TypeError, "options: expected a dictionary"),
        ({"options": {"mask": "m"}}, ValueError, "mask: only for operator inpainting"),
        ({"simulate": 1}, TypeError, "simulate: expected True or False, got 1"),
        ({"seed": 1.5}, TypeError, "seed: expected an integer"),
        ({"method": "magic"}, ValueError, "method: expected one of jpmap"),
        ({"method": "smc"}, ValueError, "method: expected one of jpmap"),
        ({"estimate": "median"}, ValueError, "estimate: expected one of map, mean, got 'median'"),
        ({"estimate": None}, TypeError, "estimate: expected a text"),
        ({**MEAN, "method": "csgm"}, ValueError, "method: expected one of amis, smc, mala for the"),
        (
            {**MEAN, "settings": {"n1": 1}},
            ValueError,
            "settings: expected settings of amis, starts",
        ),
        ({"settings": {"alpha": 1}}, ValueError, "settings: expected settings of jpmap"),
        ({"settings": {"starts": 0}}, ValueError, "starts"),
        ({"settings": {"beta": [1.0]}}, TypeError, "a boolean as beta, got [1.0]"),
        ({"chunk_size": 0}, ValueError, "chunk_size: expected at least 1"),
        ({"background": 2}, ValueError, "background: expected a grey level"),
        ({"seed": 1 << 64}, ValueError, "seed: expected an integer of 64 bits"),
        ({"format": "jpeg"}, ValueError, "format: expected one of png, tiff, got 'jpeg'"),
        ({"bits": 12}, ValueError, "bits: expected one of 8, 16, 32, got 12"),
        ({"bits": 32, "format": "png"}, ValueError, "bits: expected 8 or 16 for format png"),
    ],
)
def test_a_request_that_will_not_do_is_refused_by_name(
    change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as refused:
        RestoreRequest.from_dict({**PLAIN, **change})
    assert message in str(refused.value)


def test_requests_are_keys_of_what_was_done() -> None:
    fields = {"operator": "super-resolution", "sigma": SIGMA, "options": {"factor": 2}}
    settings = {"starts": 2, "tolerance": 0.01}
    request = RestoreRequest(**fields, settings=settings)
    turned = dict(reversed(settings.items()))
    same = RestoreRequest(**fields, settings=turned)
    assert request == same and hash(request) == hash(same)
    other = RestoreRequest(**fields, settings={**settings, "starts": 3})
    assert {request: "done", other: "not yet"}[same] == "done"
    # Equal numbers of other kinds are equal requests.
    assert hash(RestoreRequest(**fields, settings={"beta": 2})) == hash(
        RestoreRequest(**fields, settings={"beta": 2.0})
    )


def test_a_request_without_what_it_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma: expected it among the fields"):
        RestoreRequest.from_dict({"operator": "denoising"})
    with pytest.raises(TypeError, match="expected a dictionary of its fields"):
        RestoreRequest.from_dict([1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got neither"):
        run(RestoreRequest(**PLAIN))
    with pytest.raises(ValueError, match="got both"):
        run(RestoreRequest(**PLAIN, inputs=("photos",)), images=DIGITS)
    with pytest.raises(ValueError, match="operator inpainting: expected mask FILE"):
        run(RestoreRequest(operator="inpainting", sigma=0.1), images=DIGITS)


def test_a_picture_in_memory_is_what_restore_gives() -> None:
    mask = torch.ones(28, 28)
    mask[10:16] = 0
    request = RestoreRequest(operator="inpainting", sigma=SIGMA)
    expected = jf.restore(DIGITS[0], jf.Inpainting(mask), "mnist", SIGMA)
    prior = jf.load_prior("mnist")
    for given in (DIGITS[0], DIGITS[0].numpy()):
        for array in (mask, mask.numpy()):
            found = restore_picture(given, request, prior=prior, arrays={"mask": array}, name="a")
            assert torch.equal(found.x, expected.x) and torch.equal(found.z, expected.z)
            assert torch.equal(found.decoded, expected.decoded)
            assert torch.equal(found.y, DIGITS[0])
    report = found.report
    assert (report.source, report.sigma, report.status) == ("a", SIGMA, expected.status)
    assert report.objective == pytest.approx(float(expected.objective))
    assert report.psnr is None and report.output is None and report.seconds > 0


def test_the_mean_is_what_restore_gives(tmp_path: Path) -> None:
    own = {**PLAIN, **MEAN, "settings": {"screen": 64, "starts": 1}, "seed": 3}
    request = RestoreRequest(**own, output=tmp_path / "out")
    assert RestoreRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    told: list[tuple[int, int]] = []
    report = run(request, images=DIGITS[:2], passes=lambda done, total: told.append((done, total)))
    expected = jf.restore(
        DIGITS[:2],
        jf.Denoising(),
        "mnist",
        SIGMA,
        estimate="mean",
        method=jf.AMIS(screen=64, starts=1),
        generator=torch.Generator().manual_seed(3),
    )
    with np.load(tmp_path / "out" / "restored.npz") as arrays:
        for name in ("x", "z", "decoded", "objective"):
            assert np.array_equal(arrays[name], getattr(expected, name).numpy()), name
    assert [p.status for p in report.pictures] == expected.status and not told
    assert report.algorithm.startswith("AMIS(") and "screen=64" in report.algorithm
    assert Restoring(RestoreRequest(**PLAIN, **MEAN)).request.method == "amis"
    with pytest.raises(ValueError, match="prior: expected one with latent codes"):
        Restoring(RestoreRequest(**PLAIN, **MEAN, prior="patches"))


def test_a_clean_picture_is_measured_first() -> None:
    options = {"missing": 0.5}
    request = RestoreRequest(operator="inpainting", sigma=SIGMA, options=options, simulate=True)
    found = restore_picture(DIGITS[0], request)
    assert found.report.psnr == pytest.approx(float(jf.psnr(found.x[None], DIGITS[:1])))
    assert not torch.equal(found.y, DIGITS[0])
    assert torch.equal(found.x, restore_picture(DIGITS[0], request).x)
    assert not torch.equal(found.y, restore_picture(DIGITS[0], request, name="other").y)


@pytest.mark.parametrize(
    ("picture", "kind", "message"),
    [
        (DIGITS[:1], ValueError, r"picture: expected shape \[1, 28, 28\], got \[1, 1, 28, 28\]"),
        ((255 * DIGITS[0]).byte(), TypeError, "picture: expected floating-point"),
        (255 * DIGITS[0], ValueError, "divide by 255"),
    ],
)
@pytest.mark.parametrize("simulate", [False, True])
def test_pictures_that_are_none_are_refused(
    picture: torch.Tensor, kind: type[Exception], message: str, simulate: bool
) -> None:
    with pytest.raises(kind, match=message):
        restore_picture(picture, RestoreRequest(**PLAIN, simulate=simulate))


def test_one_picture_has_one_mask() -> None:
    request = RestoreRequest(operator="inpainting", sigma=SIGMA)
    masks = {"mask": torch.ones(3, 1, 28, 28)}
    with pytest.raises(ValueError, match="expected one mask or one for each of 1 images, got 3"):
        restore_picture(DIGITS[0], request, arrays=masks)


def test_a_picture_that_is_not_finite_fails_in_its_report() -> None:
    broken = DIGITS[0].clone()
    broken[0, 3, 3] = torch.nan
    found = Restoring(RestoreRequest(**PLAIN)).picture(broken)
    assert found.report.failure == found.report.status and "NaN" in found.report.failure
    assert found.report.objective is None and bool(found.x.isnan().all())


def test_a_run_reports_every_picture_and_prints_nothing(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[int, int]] = []
    out = tmp_path / "out"
    request = RestoreRequest(**PLAIN, inputs=(folder,), output=out, simulate=True, chunk_size=2)
    report = run(request, progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 4) for i in range(5)]
    names = ["0.png", "1.png", "pages.tif[0]", "pages.tif[1]"]
    assert [picture.source for picture in report.pictures] == names
    assert [picture.output for picture in report.pictures] == [*names[:2], *["pages.tif"] * 2]
    assert [name for name, _ in report.failures] == ["z.png"]
    assert report.output == str(out) and report.converged == len(report.restored) == 4
    assert report.means["psnr"] == pytest.approx(sum(p.psnr or 0 for p in report.pictures) / 4)
    assert all(picture.seconds > 0 and picture.sigma == SIGMA for picture in report.pictures)
    content = json.loads(json.dumps(report.to_dict()))
    assert RestoreReport.from_dict(content) == report
    with pytest.raises(ValueError, match="psnrr: expected fields of PictureReport"):
        PictureReport.from_dict({**content["pictures"][0], "psnrr": 1})
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err == ""
    whole = run(RestoreRequest(**PLAIN, inputs=(folder,), output=tmp_path / "b", simulate=True))
    assert [p.objective for p in whole.pictures] == [p.objective for p in report.pictures]


def test_a_run_of_nothing_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(RestoreRequest(**PLAIN, inputs=(folder / "z.png",), output=out))
    assert report.pictures == () and report.output is None and not out.exists()
    assert report.failures[0][0] == "z.png"


@pytest.mark.parametrize(
    ("form", "bits", "names", "types"),
    [
        (None, 16, ["0.png", "pages.tif"], ["uint16", "uint16"]),
        (None, 32, ["0.tif", "pages.tif"], ["float32", "float32"]),
        ("tiff", None, ["0.tif", "pages.tif"], ["uint8", "uint16"]),
        ("tiff", 8, ["0.tif", "pages.tif"], ["uint8", "uint8"]),
        ("png", 16, ["0.png", None], ["uint16", None]),
    ],
)
def test_pictures_are_written_in_the_form_asked_for(
    form: str | None,
    bits: int | None,
    names: list[str | None],
    types: list[str | None],
    folder: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    inputs = (folder / "0.png", folder / "pages.tif")
    report = run(RestoreRequest(**PLAIN, inputs=inputs, output=out, format=form, bits=bits))
    written = [report.pictures[0].output]
    if names[1] is None:
        ((name, reason),) = report.failures
        assert name == "pages.tif" and "expected one picture" in reason and "2 pages" in reason
        assert len(report.pictures) == 1
        written.append(None)
    else:
        written.append(report.pictures[1].output)
    assert written == names
    with np.load(out / "restored.npz") as arrays:
        x = arrays["x"][0, 0]
    for name, kind in zip(names, types, strict=True):
        if name is None or kind is None:
            continue
        path = out / name
        read = tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))
        assert read.dtype == kind
        if name[0] == "0":
            top = 1 if kind == "float32" else np.iinfo(kind).max
            shown = x if top == 1 else x.clip(0, 1)
            assert np.abs(read / top - shown).max() <= 0.5 / top


def test_images_beside_a_request_go_on_as_files_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.ones((4, 1, 28, 28), np.float32)
    mask[1, :, :9] = 0
    fields = {"operator": "inpainting", "sigma": SIGMA, "chunk_size": 1}
    whole = run(
        RestoreRequest(**fields, output=tmp_path / "whole"), images=DIGITS, arrays={"mask": mask}
    )
    assert [p.source for p in whole.pictures] == [f"images[{i}]" for i in range(4)]
    add, count = Journal.add, [0]

    def stopping(self: Journal, entries: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        add(self, entries)

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "add", stopping)
        run(RestoreRequest(**fields, output=out), images=DIGITS, arrays={"mask": mask})
    assert (out / FOLDER).exists()
    again = RestoreRequest(**fields, output=out, resume=True)
    with pytest.raises(ValueError, match="had mask = 'float32 .*, now it is"):
        run(again, images=DIGITS, arrays={"mask": 0.5 * mask})
    with pytest.raises(ValueError, match=r"images\[0:1\] has changed"):
        run(again, images=0.5 * DIGITS, arrays={"mask": mask})
    other = RestoreRequest(**{**fields, "sigma": 0.5}, output=out, resume=True)
    with pytest.raises(ValueError, match=f"had sigma = {SIGMA}, now it is 0.5"):
        run(other, images=DIGITS, arrays={"mask": mask})
    report = run(again, images=DIGITS, arrays={"mask": mask})
    assert [p.objective for p in report.pictures] == [p.objective for p in whole.pictures]
    with np.load(out / "restored.npz") as a, np.load(tmp_path / "whole/restored.npz") as b:
        assert np.array_equal(a["x"], b["x"])
    expected = jf.restore(DIGITS, jf.Inpainting(mask), "mnist", SIGMA)
    with np.load(out / "restored.npz") as arrays:
        np.testing.assert_allclose(arrays["x"], expected.x.numpy(), atol=1e-5)


def test_measurements_beside_a_request_are_vectors_of_compressed_sensing(tmp_path: Path) -> None:
    matrix = torch.randn(60, 784, generator=torch.Generator().manual_seed(0)) / 60**0.5
    operator = jf.CompressedSensing(matrix, (1, 28, 28))
    y = operator.A(DIGITS[:2])
    request = RestoreRequest(operator="compressed-sensing", sigma=SIGMA, output=tmp_path / "out")
    report = run(request, images=y, arrays={"matrix": matrix})
    assert len(report.restored) == 2
    found = restore_picture(y[1], request, arrays={"matrix": matrix})
    assert found.report.objective == pytest.approx(report.pictures[1].objective)
    with pytest.raises(ValueError, match="compressed sensing restores measurements"):
        run(
            RestoreRequest(operator="compressed-sensing", sigma=SIGMA, inputs=("in.png",)),
            arrays={"matrix": matrix},
        )


@pytest.mark.parametrize("sigma", [1e308, 1e-308])
def test_a_noise_level_that_pictures_cannot_have_is_told(sigma: float) -> None:
    request = RestoreRequest(operator="denoising", sigma=sigma)
    with pytest.raises(ValueError, match="sigma: .* is out of range in torch.float32"):
        restore_picture(torch.zeros(1, 28, 28), request)
