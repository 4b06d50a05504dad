"""``jpmap-fast sample`` and the job behind it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from test_cli import _run, _summary
from test_cli_folders import KILLED

import jpmap_fast as jf
from jpmap_fast.jobs import RestoreRequest, SampleRequest, _opened, _sample_job, run_sampling

COMMON = ("--operator", "denoising", "--sigma", "80")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two noisy digits as floats in TIFF, and one as PNG."""
    path = tmp_path_factory.mktemp("in")
    digits = jf.mnist_test_digits(3)[0]
    g = torch.Generator().manual_seed(0)
    noisy = jf.Denoising().measure(digits, 80 / 255, g)
    for i in range(2):
        tifffile.imwrite(path / f"digit{i}.tif", noisy[i, 0].numpy())
    shown = (255 * noisy[2, 0]).round().clamp(0, 255).byte().numpy()
    Image.fromarray(shown).save(path / "digit2.png")
    return path


@pytest.fixture(scope="module")
def sampled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    result = _run("sample", folder, *COMMON, "--draws", 12, "--write-draws", "-o", out)
    assert "3 sampled" in result.stdout and "0 failed" in result.stdout
    return out


def test_numbers_are_those_of_sample(folder, sampled):
    with np.load(sampled / "posterior.npz") as arrays:
        found = dict(arrays)
    assert found["x"].shape == (3, 12, 1, 28, 28) and found["z"].shape == (3, 12, 8)
    y = torch.from_numpy(tifffile.imread(folder / "digit1.tif"))[None, None]
    known = jf.sample(
        y,
        jf.Denoising(),
        "mnist",
        80 / 255,
        draws=12,
        generator=torch.Generator().manual_seed(0),
    )
    place = found["names"].tolist().index("digit1.tif")
    lower, upper = known.interval(0.9)
    fields = {"x": known.x, "mean": known.mean, "std": known.std, "lower": lower, "upper": upper}
    fields |= {"ess": known.ess, "log_evidence": known.log_evidence}
    for name, value in fields.items():
        assert np.array_equal(found[name][place], value[0].numpy()), name


def test_pictures_are_written_in_kind(sampled):
    with np.load(sampled / "posterior.npz") as arrays:
        found = dict(arrays)
    place = found["names"].tolist().index("digit0.tif")
    for name in ("mean", "lower", "upper"):
        assert np.array_equal(tifffile.imread(sampled / name / "digit0.tif"), found[name][place, 0])
    std = found["std"][place, 0]
    assert np.array_equal(tifffile.imread(sampled / "std" / "digit0.tif"), std)
    shown = tifffile.imread(sampled / "std-picture" / "digit0.tif")
    assert shown.max() == 255 and np.abs(shown / 255 - std / std.max()).max() <= 0.5 / 255 + 1e-6
    assert tifffile.imread(sampled / "std" / "digit2.tif").dtype == np.float32
    place = found["names"].tolist().index("digit2.png")
    mean = np.asarray(Image.open(sampled / "mean" / "digit2.png")) / 255
    assert np.abs(mean - found["mean"][place, 0].clip(0, 1)).max() <= 0.5 / 255 + 1e-6
    draws = sorted(path.name for path in (sampled / "draws" / "digit2.png").iterdir())
    assert draws == [f"{number:02d}.png" for number in range(1, 13)]
    draw = tifffile.imread(sampled / "draws" / "digit0.tif" / "03.tif")
    place = found["names"].tolist().index("digit0.tif")
    assert np.array_equal(draw, found["x"][place, 2, 0])


def test_the_summary_tells_how_far_to_trust(sampled):
    summary = _summary(sampled)
    assert summary["sampled"] == 3 and summary["settings"]["draws"] == 12
    assert summary["settings"]["level"] == 0.9 and summary["settings"]["sampler"] == "amis"
    for line in summary["images"]:
        assert line["ess"] > 20 and line["misfit"] > 0 and line["largest_std"] > 0
        assert "covered" not in line and line["status"]
        (note,) = line["notes"]
        assert note == (
            "intervals between the extremes of 12 draws are sure to 0.85, not 0.9: that takes 19 "
            "draws"
        )


def test_a_calibration_gives_the_intervals(tmp_path):
    digits = jf.mnist_test_digits(14)[0]
    g = torch.Generator().manual_seed(0)
    few = jf.AMIS(rounds=(64,), screen=64)
    made = jf.calibrate("mnist", jf.Denoising(), 80 / 255, digits[:12], method=few, generator=g)
    made.save(tmp_path / "made.json")
    np.savez(tmp_path / "clean.npz", y=digits[12:].numpy())
    out = tmp_path / "out"
    arguments = ("--calibration", tmp_path / "made.json", "--residual", "pixel", "--simulate")
    _run("sample", tmp_path / "clean.npz", *COMMON, *arguments, "--draws", 5, "-o", out)
    with np.load(out / "posterior.npz") as found:
        half = (found["upper"] - found["lower"]) / 2 / found["std"]
        kinds = np.array(sorted(made.factors))
        assert np.abs(half[..., None] / kinds - 1).min(axis=-1).max() < 1e-4
    summary = _summary(out)
    assert summary["mean_psnr"] > 15 and len(summary["images"]) == 2
    assert all(0.5 < line["covered"] <= 1 for line in summary["images"])
    wrong = (*COMMON, *arguments[:2], "--level", 0.5, "--simulate", "--draws", 5)
    result = _run("sample", tmp_path / "clean.npz", *wrong, "-o", tmp_path / "no", code=2)
    assert "level: expected 0.9" in result.stderr and not (tmp_path / "no").exists()


def test_an_interrupted_run_goes_on(folder, sampled, tmp_path, monkeypatch):
    monkeypatch.setattr(_opened, "DRAWN", 1)
    real, calls = _sample_job._SampleJob.worked, []

    def failing(self, items):
        calls.append(items)
        if len(calls) == 3:
            raise OSError("no room")
        return real(self, items)

    monkeypatch.setattr(_sample_job._SampleJob, "worked", failing)
    out = tmp_path / "out"
    arguments = ("sample", folder, *COMMON, "--draws", 12, "-o", out)
    _run(*arguments, code=2)
    other = ("sample", folder, *COMMON, "--draws", 13, "-o", out)
    assert "draws = 12" in _run(*other, "--resume", code=2).stderr
    _run(*arguments, "--resume")
    assert len(calls) == 4
    with np.load(out / "posterior.npz") as a, np.load(sampled / "posterior.npz") as b:
        for name in a.files:
            assert np.array_equal(a[name], b[name]), name


@pytest.mark.parametrize(
    "changed, message",
    [
        (("--seed", 1), "seed = 0, now it is 1"),
        (("--residual", "covariance"), "residual = 'white', now it is 'covariance'"),
        (("--draws", 13), "draws = 12, now it is 13"),
        (("--sigma", 70), "sigma = 80.0, now it is 70.0"),
        (("--method", "smc"), "sampler = 'amis', now it is 'smc'"),
    ],
)
def test_a_finished_run_is_made_again_with_the_same_settings_alone(
    changed, message, folder, sampled
):
    before = {path: path.stat().st_mtime_ns for path in sampled.rglob("*")}
    given = ("--draws", 12, "--write-draws", *changed, "-o", sampled, "--resume")
    refused = _run("sample", folder, *COMMON, *given, code=2).stderr
    assert "--resume: the run in" in refused and f"had {message}" in refused
    assert before == {path: path.stat().st_mtime_ns for path in sampled.rglob("*")}


def test_images_with_more_draws_are_done_fewer_at_a_time(tmp_path, monkeypatch):
    """An array and pictures alike, so that little is lost with a run that is killed."""
    batches: list[int] = []
    few, real = jf.AMIS(rounds=(64,), screen=64, starts=1, more_starts=(), fallback=None), jf.sample

    def quick(y, *rest, **options):
        batches.append(len(y))
        return real(y, *rest, **{**options, "method": few})

    monkeypatch.setattr(jf, "sample", quick)
    monkeypatch.setattr(_opened, "MOST_NUMBERS", 3 * 5 * 784)
    values = jf.mnist_test_digits(4)[0].numpy()
    np.save(tmp_path / "y.npy", values)
    tifffile.imwrite(tmp_path / "0.tif", values[0, 0])
    tifffile.imwrite(tmp_path / "1.tif", values[1, 0])
    restore = {"operator": "denoising", "sigma": 0.4, "output": tmp_path / "out"}
    for inputs, draws, chunk_size, expected in (
        (("y.npy",), 5, None, [3, 1]),
        (("0.tif", "1.tif"), 8, None, [1, 1]),
        (("0.tif", "1.tif"), 8, 64, [2]),
    ):
        paths = tuple(tmp_path / name for name in inputs)
        own = RestoreRequest(**restore, inputs=paths, chunk_size=chunk_size)
        batches.clear()
        run_sampling(SampleRequest(restore=own, draws=draws))
        assert batches == expected


def test_a_killed_run_goes_on_where_it_stopped(folder, sampled, tmp_path, monkeypatch):
    """With two images at a time: of the third some draws are written at SIGKILL, and no line."""
    out = tmp_path / "out"
    arguments = ["sample", str(folder), *COMMON, "--draws", "12", "--write-draws", "-o", str(out)]
    written = 2 * (5 + 12) + 8
    died = subprocess.run([sys.executable, "-c", KILLED, "write", str(written), *arguments])
    assert died.returncode == -signal.SIGKILL
    drawn = []
    sample = jf.sample

    def counted(y, *rest, **options):
        drawn.append(len(y))
        return sample(y, *rest, **options)

    monkeypatch.setattr(jf, "sample", counted)
    _run(*arguments, "--resume")
    assert drawn == [1]
    files = sorted(path.relative_to(sampled) for path in sampled.rglob("*.*") if path.is_file())
    assert files == sorted(path.relative_to(out) for path in out.rglob("*.*") if path.is_file())
    for name in files:
        if name.suffix in (".png", ".tif"):
            assert (out / name).read_bytes() == (sampled / name).read_bytes(), name
    with np.load(out / "posterior.npz") as a, np.load(sampled / "posterior.npz") as b:
        assert a.files == b.files
        for name in a.files:
            assert np.array_equal(a[name], b[name]), name
    assert _summary(out)["images"] == _summary(sampled)["images"]


def test_restore_gives_the_mean_alone(folder, sampled, tmp_path):
    out = tmp_path / "out"
    _run("restore", folder / "digit1.tif", *COMMON, "--estimate", "mean", "-o", out)
    mean = tifffile.imread(sampled / "mean" / "digit1.tif")
    assert np.array_equal(tifffile.imread(out / "digit1.tif"), mean)
    assert _summary(out)["settings"]["estimate"] == "mean"


def test_failures_are_named_and_photos_refused(tmp_path):
    values = jf.mnist_test_digits(2)[0].numpy()
    values[1, 0, 0, 0] = np.nan
    np.savez(tmp_path / "y.npz", y=values)
    result = _run(
        "sample", tmp_path / "y.npz", *COMMON, "--draws", 3, "-o", tmp_path / "out", code=1
    )
    assert "1 sampled" in result.stdout and "y[1]" in result.stderr
    if "photos-grey" in jf.available_priors():
        Image.new("L", (40, 30)).save(tmp_path / "photo.png")
        photo = ("sample", tmp_path / "photo.png", *COMMON, "-o", tmp_path / "no")
        result = _run(*photo, "--prior", "photos-grey", code=2)
        assert "latent codes" in result.stderr and not (tmp_path / "no").exists()
        # Alone it fails; the others of a folder would not.
        result = _run(*photo, code=1)
        assert "expected an image of shape [1, 28, 28]" in result.stderr
        assert "photos" not in result.stderr


def test_a_command_of_draws_takes_starts_and_tells_of_flags(folder, tmp_path):
    out = tmp_path / "out"
    arguments = ("sample", folder / "digit1.tif", *COMMON, "--draws", 2, "-o", out)
    _run(*arguments, "--starts", 1)
    settings = _summary(out)["settings"]
    assert settings["starts"] == 1 and settings["algorithm"] == repr(jf.AMIS(starts=1))
    for given, message in (
        (("--starts", 0), "--starts: expected at least 1, got 0"),
        (("--method", "hmc"), "--method: expected one of amis, smc, mala, got 'hmc'"),
        (("--level", 90), "--level: expected a number in (0, 1), got 90.0"),
        (("--draws", 1), "--draws: expected at least 2, got 1"),
    ):
        assert f"Error: {message}\n" == _run(*arguments, *given, code=2).stderr


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"draws": 1}, "draws: expected at least 2"),
        ({"level": 1.0}, "level: expected"),
        ({"sampler": "hmc"}, "sampler: expected one of amis, smc, mala, got 'hmc'"),
        ({"settings": {"n1": 3}}, "settings: expected settings of amis, starts, .*got 'n1'"),
        ({"settings": {"starts": 0}}, "starts: expected at least 1"),
        ({"settings": {"rounds": [3]}}, "a boolean as rounds"),
        ({"settings": [1]}, "settings: expected a dictionary"),
        ({"restore": RestoreRequest(operator="denoising", sigma=0.1, method="csgm")}, "method"),
        (
            {"restore": RestoreRequest(operator="denoising", sigma=0.1, estimate="mean")},
            "estimate: expected map",
        ),
        ({"restore": None}, "restore: expected a RestoreRequest"),
        ({"draws": "many"}, "draws"),
    ],
)
def test_requests_that_make_no_sense_are_refused(changed, message):
    restore = RestoreRequest(operator="denoising", sigma=0.1)
    with pytest.raises((ValueError, TypeError), match=message):
        SampleRequest(**{"restore": restore, **changed})


def test_requests_travel_as_json(tmp_path):
    restore = RestoreRequest(operator="denoising", sigma=0.3, output=str(tmp_path / "out"))
    settings = {"starts": 1, "screen": np.int64(64)}
    request = SampleRequest(restore=restore, draws=4, level=0.5, settings=settings)
    again = SampleRequest.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request and hash(again) == hash(request)
    report = run_sampling(request, images=jf.mnist_test_digits(1)[0])
    assert report.algorithm == repr(jf.AMIS(starts=1, screen=64))
    assert _summary(tmp_path / "out")["settings"]["screen"] == 64
    assert report.pictures[0].source == "images[0]" and report.failures == ()
