"""The command line, run in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.cli.restore import tell
from jpmap_fast.data.example_photograph import photograph
from jpmap_fast.jobs import PictureReport, RestoreReport
from jpmap_fast.jobs._outputs import Targets
from jpmap_fast.operators.kernel_texts import read_kernel

SIGMA = ["--sigma", "10"]


def _run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    shown = f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    assert result.exit_code == code, shown
    assert "Traceback" not in result.stderr
    return result


def _summary(folder: Path) -> dict[str, Any]:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    return json.loads((folder / "summary.json").read_text(), parse_constant=refuse)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three digits as PNG files."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    images, _ = jf.mnist_test_digits(3)
    for i, image in enumerate(images):
        Image.fromarray((255 * image[0]).byte().numpy()).save(folder / f"digit{i}.png")
    return folder


@pytest.fixture
def mask() -> torch.Tensor:
    """Half of the pixels observed."""
    return (torch.rand(28, 28, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def test_restores_image_files_with_a_mask(
    pictures: Path, mask: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray((255 * mask).byte().numpy()).save(path)
    out = tmp_path / "out"
    _run("restore", pictures, "--operator", "inpainting", "--mask", path, *SIGMA, "-o", out)
    summary = _summary(out)
    assert [row["name"] for row in summary["images"]] == ["digit0.png", "digit1.png", "digit2.png"]
    assert summary["restored"] == 3 and summary["failures"] == []
    assert all(row["status"] and row["iterations"] > 0 for row in summary["images"])
    with np.load(out / "restored.npz") as arrays:
        assert set(arrays.files) == {"x", "z", "decoded", "objective", "converged", "names"}
        x = arrays["x"]
    assert x.shape == (3, 1, 28, 28)
    for i in range(3):
        written = np.asarray(Image.open(out / f"digit{i}.png"))
        assert np.abs(written / 255 - x[i, 0].clip(0, 1)).max() <= 0.5 / 255 + 1e-6


def test_restores_single_files_like_a_folder(pictures: Path, tmp_path: Path) -> None:
    common = ("--operator", "denoising", *SIGMA)
    _run("restore", pictures, *common, "-o", tmp_path / "a")
    _run("restore", *sorted(pictures.iterdir()), *common, "-o", tmp_path / "b")
    a, b = (_summary(tmp_path / name)["images"] for name in "ab")
    assert [row["objective"] for row in a] == [row["objective"] for row in b]


def test_measurements_in_an_npz_give_what_python_gives(mask: torch.Tensor, tmp_path: Path) -> None:
    clean, _ = jf.mnist_test_digits(2)
    generator = torch.Generator().manual_seed(0)
    operator = jf.Inpainting(mask)
    y = operator.measure(clean, 10 / 255, generator=generator)
    np.savez(tmp_path / "y.npz", y=y.numpy(), mask=mask.numpy())
    npz, out = tmp_path / "y.npz", tmp_path / "out"
    _run("restore", npz, "--operator", "inpainting", "--mask", npz, *SIGMA, "-o", out)
    expected = jf.restore(y, operator, "mnist", 10 / 255)
    with np.load(out / "restored.npz") as arrays:
        assert np.array_equal(arrays["x"], expected.x.numpy())
        assert np.array_equal(arrays["converged"], expected.converged.numpy())
    assert not list(out.glob("*.png"))


def test_simulated_measurements_can_be_restored_again(pictures: Path, tmp_path: Path) -> None:
    """--simulate leaves measured.npz; restoring that gives the same images."""
    for operator, degraded, source in (
        ("inpainting", ("--missing", 0.8), "--mask"),
        ("compressed-sensing", ("--measurements", 140), "--matrix"),
        ("denoising", (), None),
        ("blur", ("--kernel", "motion:5:30"), "--kernel"),
        ("super-resolution", ("--factor", 2, "--kernel", "gaussian:1"), "--kernel"),
        ("super-resolution", ("--factor", 2), None),
    ):
        first, second = tmp_path / f"{operator}1", tmp_path / f"{operator}2"
        common = ("--operator", operator, *SIGMA)
        _run("restore", pictures, *common, "--simulate", *degraded, "--seed", 3, "-o", first)
        summary = _summary(first)
        assert all(row["psnr"] > 10 for row in summary["images"])
        values = [row["psnr"] for row in summary["images"]]
        assert summary["mean_psnr"] == pytest.approx(sum(values) / len(values))
        measured = first / "measured.npz"
        files = () if source is None else (source, measured)
        if "--factor" in degraded:
            files = (*files, "--factor", 2)
        _run("restore", measured, *common, *files, "--seed", 3, "-o", second)
        with np.load(first / "restored.npz") as a, np.load(second / "restored.npz") as b:
            assert np.allclose(a["x"], b["x"], rtol=0, atol=1e-5)
        assert "psnr" not in _summary(second)["images"][0]


def test_kernels_come_from_formulas_and_files(tmp_path: Path) -> None:
    kernel = jf.gaussian_kernel(1.0)
    np.save(tmp_path / "k.npy", kernel.numpy())
    assert torch.equal(read_kernel(str(tmp_path / "k.npy")), read_kernel("gaussian:1"))
    assert torch.equal(read_kernel("box:3"), jf.box_kernel(3))
    assert torch.equal(read_kernel("motion:9:30"), jf.motion_kernel(9, 30))
    grey = Image.fromarray((255 * kernel / kernel.max()).round().byte().numpy())
    grey.save(tmp_path / "k.png")
    # 8-bit levels: half a level of the largest weight.
    assert (read_kernel(str(tmp_path / "k.png")) - kernel).abs().max() < kernel.max() / 255
    Image.new("L", (3, 3)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="black picture"):
        read_kernel(str(tmp_path / "black.png"))


def test_an_unreadable_file_is_named_and_the_others_are_done(
    pictures: Path, tmp_path: Path
) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG no more")
    out = tmp_path / "out"
    for inputs in ([pictures], sorted(pictures.iterdir())):
        result = _run("restore", *inputs, "--operator", "denoising", *SIGMA, "-o", out, code=1)
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1 and "broken.png" in lines[0]
        summary = _summary(out)
        assert summary["restored"] == 3 and summary["failed"] == 1
        assert "broken.png" in summary["failures"][0]["name"]


def test_an_image_with_nan_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    clean, _ = jf.mnist_test_digits(2)
    y = clean.numpy().copy()
    y[0, 0, 3, 3] = np.nan
    np.savez(tmp_path / "y.npz", y)
    out = tmp_path / "out"
    arguments = ("restore", tmp_path / "y.npz", "--operator", "denoising", *SIGMA, "-o", out)
    result = _run(*arguments, code=1)
    assert "y[0]" in result.stderr and "NaN" in result.stderr
    summary = _summary(out)
    assert summary["restored"] == 1
    assert summary["images"][0]["objective"] is None


def test_method_options_reach_the_algorithm(tmp_path: Path) -> None:
    clean, _ = jf.mnist_test_digits(1)
    np.save(tmp_path / "y.npy", clean.numpy())
    for options, expected in (
        (("--method", "csgm", "--starts", 2), "CSGM(starts=2"),
        (("--method", "map-z", "--alpha", 5), "MAPz(alpha=5.0"),
        (("--method", "jpmap", "--starts", 1), "starts=1"),
    ):
        out = tmp_path / "out"
        common = ("restore", tmp_path / "y.npy", "--operator", "denoising", "--sigma", 110)
        _run(*common, *options, "-o", out)
        assert expected in _summary(out)["settings"]["algorithm"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--operator", "denoising", "--sigma", "0"], "--sigma: expected a number > 0"),
        (["--operator", "denoising", "--sigma", "nan"], "--sigma: expected a number > 0"),
        (["--operator", "fog", "--sigma", "10"], "--operator"),
        (["--operator", "blur", *SIGMA], "expected --kernel"),
        (["--operator", "blur", *SIGMA, "--kernel", "gaussian:-1"], "sigma: expected a finite"),
        (["--operator", "blur", *SIGMA, "--kernel", "box:big"], "--kernel box:big"),
        (["--operator", "blur", *SIGMA, "--kernel", "motion:9"], "motion:LENGTH:ANGLE"),
        (["--operator", "blur", *SIGMA, "--kernel", "nowhere.png"], "or a file, got 'nowhere.png'"),
        (["--operator", "blur", *SIGMA, "--kernel", "box:99"], "kernel: expected at most"),
        (["--operator", "denoising", *SIGMA, "--kernel", "box:3"], "--kernel: only for"),
        (["--operator", "super-resolution", *SIGMA], "expected --factor"),
        (["--operator", "super-resolution", *SIGMA, "--factor", "3"], "divisor of the image sides"),
        (["--operator", "blur", *SIGMA, "--kernel", "box:3", "--factor", "2"], "--factor: only"),
        (["--operator", "inpainting", *SIGMA], "expected --mask FILE"),
        (["--operator", "denoising", *SIGMA, "--mask", "{mask}"], "only for --operator inpainting"),
        (["--operator", "inpainting", *SIGMA, "--missing", "0.8"], "only with --simulate"),
        (
            ["--operator", "inpainting", *SIGMA, "--simulate", "--missing", "1.5"],
            "fraction in [0, 1)",
        ),
        (["--operator", "denoising", *SIGMA, "--method", "magic"], "'magic'"),
        (["--operator", "denoising", *SIGMA, "--starts", "0"], "--starts"),
        (["--operator", "denoising", *SIGMA, "--alpha", "5"], "only for --method map-z"),
        (["--operator", "denoising", *SIGMA, "--prior", "nobody"], "mnist"),
        (["--operator", "denoising", *SIGMA, "--device", "abacus"], "--device"),
        (["--operator", "compressed-sensing", *SIGMA, "--matrix", "{mask}"], "--simulate"),
        (["--operator", "inpainting", *SIGMA, "--mask", "{small}"], "mask: expected one for"),
    ],
)
def test_bad_options_end_with_one_line(
    options: list[str], message: str, pictures: Path, mask: torch.Tensor, tmp_path: Path
) -> None:
    np.save(tmp_path / "mask.npy", mask.numpy())
    np.save(tmp_path / "small.npy", mask.numpy()[:5])
    names = {"mask": tmp_path / "mask.npy", "small": tmp_path / "small.npy"}
    filled = [option.format(**names) if "{" in option else option for option in options]
    out = tmp_path / "out"
    result = _run("restore", pictures, *filled, "-o", out, code=2)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1 and message in errors[0]
    assert not (out / "summary.json").exists()


def test_arrays_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    clean = jf.mnist_test_digits(2)[0].numpy()
    common = ("--operator", "denoising", *SIGMA, "-o", tmp_path / "out")
    for array, message in (
        (255 * clean, "divide by 255"),
        (clean[:, :, :20], "expected images [N, 1, 28, 28]"),
        ((255 * clean).astype(np.int64), "int64"),
    ):
        np.save(tmp_path / "y.npy", array)
        assert message in _run("restore", tmp_path / "y.npy", *common, code=2).stderr
    np.savez(tmp_path / "two.npz", a=clean, b=clean)
    result = _run("restore", tmp_path / "two.npz", *common, code=2)
    assert "a, b" in result.stderr and "--key" in result.stderr
    _run("restore", tmp_path / "two.npz", *common, "--key", "b")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing more")
    assert "broken.npz" in _run("restore", tmp_path / "broken.npz", *common, code=2).stderr


def test_inputs_are_never_overwritten(pictures: Path) -> None:
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    arguments = ("--operator", "denoising", *SIGMA, "-o", pictures)
    for more in ((), ("--resume",)):
        assert "overwritten" in _run("restore", pictures, *arguments, *more, code=2).stderr
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before


def test_output_names_are_all_different() -> None:
    names = ["a.png", "a.jpg", "b/a.png", "A.PNG", "a_2.png", "s.tif", "t/s.TIF", "s.gif"]
    files = [Path(name) for name in names]
    targets = Targets(files)
    one, more = ["uint8"], ["uint8"] * 3
    made = [targets.of(file, stored) for file in files for stored in (one, more)]
    assert targets.of(files[0], one) == "a.png"
    assert targets.of(files[5], more) == "s.tif"
    assert {Path(name).suffix.lower() for name in made} == {".png", ".tif"}
    own = [{targets.of(file, stored).lower() for stored in (one, more)} for file in files]
    assert sum(len(names) for names in own) == len(set().union(*own))


def test_output_names_are_the_inputs_where_they_can_be() -> None:
    files = [Path(name) for name in ("a.gif", "a.jpg", "a.png", "a.tif")]
    targets = Targets(files)
    names = [targets.of(file, ["uint8"]) for file in files]
    assert names == ["a_2.png", "a_3.png", "a.png", "a.tif"]
    assert targets.of(files[2], ["uint8"] * 2) not in names


@pytest.mark.parametrize(
    ("x", "decoded", "told"),
    [
        (20.0, 19.5, "0 failed; mean PSNR 20.00 dB (G(z): 19.50 dB); "),
        (20.0, None, "0 failed; mean PSNR 20.00 dB; "),
        (None, 19.5, "0 failed; mean PSNR of G(z) 19.50 dB; "),
        (None, None, "0 failed; 0.00 s."),
    ],
)
def test_quality_that_is_not_known_is_not_told(
    capsys: pytest.CaptureFixture[str], x: float | None, decoded: float | None, told: str
) -> None:
    picture = PictureReport(
        **{"source": "a", "sigma": 0.1, "status": "converged", "converged": True},
        **{"objective": 1.0, "iterations": 1, "seconds": 0.0, "psnr": x, "psnr_decoded": decoded},
    )
    report = RestoreReport(
        **{"pictures": (picture,), "failures": (), "output": "out", "seconds": 0.0},
        **{"algorithm": "JPMAP()", "versions": {}},
    )
    tell(report)
    assert told in capsys.readouterr().out


def test_info_names_what_there_is() -> None:
    shown = _run("info").stdout
    for word in ("torch", "cuda", "mnist", "jpmap", "csgm", "inpainting", jf.__version__):
        assert word in shown


def test_demo_writes_figures_and_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What becomes of the whole photograph is looked at in test_demo.
    corner = photograph()[..., :64, :64]
    monkeypatch.setattr("jpmap_fast.demo.photograph.photograph", lambda: corner)
    out = tmp_path / "demo"
    shown = _run("demo", "--output", out, "--images", 2, "--device", "cpu").stdout
    assert "PSNR" in shown and str(out / "results.json") in shown
    assert len(list(out.glob("*.png"))) == 4
    assert "1 to 500" in _run("demo", "--output", out, "--images", 0, code=2).stderr


def test_runs_as_a_module_and_help_needs_no_drawing_library() -> None:
    code = (
        "import runpy, sys; sys.argv = ['jpmap-fast', '--help']\n"
        "try:\n    runpy.run_module('jpmap_fast.cli', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    heavy = {'matplotlib', 'torchmetrics', 'PIL'} & set(sys.modules)\n"
        "    sys.exit(end.code or (f'imported {heavy}' if heavy else 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("restore", "train", "info", "demo"):
        assert command in done.stdout


def test_reproduce_makes_a_report_and_goes_on_in_its_folder(tmp_path: Path) -> None:
    for name in ("jinja2", "deepinv"):
        pytest.importorskip(name)
    arguments = ("reproduce", "faces-reconstruction", "--quick", "-o", tmp_path / "r")
    first = _run(*arguments, "--device", "cpu")
    assert "faces-reconstruction" in first.stdout and "report.html" in first.stdout
    made = tmp_path / "r" / "faces-reconstruction"
    stamps = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert {path.suffix for path in stamps} >= {".json", ".png", ".svg"}
    _run(*arguments, "--device", "cpu")
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == stamps
    refused = _run(*arguments, "--device", "cpu", "--seed", 1, code=2)
    assert "choose another --output" in refused.stderr


def test_reproduce_names_what_it_knows(tmp_path: Path) -> None:
    refused = _run("reproduce", "denoise", "-o", tmp_path / "r", "--device", "cpu", code=2)
    assert "compressed-sensing" in refused.stderr and not (tmp_path / "r").exists()
