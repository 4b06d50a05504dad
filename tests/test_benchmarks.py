"""The benchmark scripts run at small sizes and write tables; their own functions are right."""

from __future__ import annotations

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import chart
import numpy as np
import picture
import pytest
import torch
from pages import format_table
from PIL import Image
from restoration_problems import degradations, make_problem, ssim
from small_photos import small_hierarchical_prior

import jpmap_fast as jf
from jpmap_fast._metrics import ssim as ssim_of_torchmetrics
from jpmap_fast._timing import timed
from jpmap_fast.priors.conv_vae import ConvVAE
from jpmap_fast.priors.weights import save_prior

SCRIPTS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a script and gives what it wrote, every table formatted once."""

    def call(script: str, *options: str) -> dict[str, Any]:
        output = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [script, *options, "--output", str(output)])
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
        document: dict[str, Any] = json.loads(output.read_text())
        for table in (document["table"], *document.get("tables", {}).values()):
            assert len(format_table(table).splitlines()) >= 3
        return document

    return call


@pytest.fixture
def faces(tmp_path: Path) -> list[str]:
    """Options for made-up faces and an untrained prior for them."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 3, 64, 64), dtype=np.uint8)
    np.savez(tmp_path / "faces_test.npz", x=images)
    torch.manual_seed(0)
    prior = ConvVAE(latent_dim=4, channels=(4, 4, 4, 4)).eval()
    save_prior(prior, tmp_path / "faces.safetensors")
    return ["--data", str(tmp_path), "--faces-prior", str(tmp_path / "faces.safetensors")]


def test_encoder_counts_every_image_once(run: Any, faces: list[str]) -> None:
    small = ["--digits", "2", "--faces", "2", "--problems", "DCT", "--singles", "1"]
    document = run("encoder", *faces, *small, "--repeats", "1", "--limit", "0")
    assert [row["problem"].split(":")[0] for row in document["rows"]] == ["mnist", "faces"]
    for row in document["rows"]:
        assert sum(row["winners"].values()) == pytest.approx(1)
        assert sum(row["z2_against_z3"].values()) == pytest.approx(1)
        for method in row["methods"].values():
            assert method["mean_excess"] >= 0


def test_a_second_stage_is_compared_with_none_and_with_a_linear_one(
    run: Any, tmp_path: Path
) -> None:
    digits = (255 * jf.mnist_test_digits(80)[0][:, 0]).byte().numpy()
    np.savez(tmp_path / "mnist.npz", x_train=digits[40:], x_test=digits[:40])
    options = ["--data", str(tmp_path), "--images", "2", "--samples", "40"]
    document = run("two_stage", *options)
    assert len(document["table"]["rows"]) == 3 * 2 * 3
    plain, whitened, _ = document["priors"].values()
    # Other coordinates of the same images, in which codes have the norm that N(0, I) has.
    assert whitened["reconstruction"] == pytest.approx(plain["reconstruction"], abs=1e-3)
    assert 2 < whitened["rms_norm_of_codes"] < 4 < plain["rms_norm_of_codes"]
    for of in document["priors"].values():
        for row in of["rows"]:
            assert all(0 <= share <= 1 for share in row["reached"].values())


def test_restorations_compare_every_method(run: Any, faces: list[str]) -> None:
    small = ["--digits", "2", "--faces", "2", "--problems", "super-resolution x4"]
    document = run("restorations", *faces, *small, "--repeats", "1", "--limit", "0")
    methods = {"JPMAP()", "MAPz()", "CSGM(starts=2)", "Tikhonov"}
    assert {row["method"] for row in document["rows"]} == methods
    assert len(document["table"]["rows"]) == 2


def test_faces_are_compared_with_adam(run: Any, faces: list[str]) -> None:
    small = ["--batch", "3", "--latency-images", "2", "--baseline-images", "2"]
    document = run("bench_faces", *faces, *small, "--baseline-seconds", "1", "--limit", "0")
    assert set(document["tables"]) == {"adam"}
    assert document["against_adam"]["baseline"]["caps"]["seconds"] == 1


def test_a_hierarchical_prior_is_measured_beside_photos(run: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("BSD68", "Set12"):
        (tmp_path / name).mkdir()
        for n, shape in enumerate(((12, 16), (16, 13))):
            grey = generator.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(grey).save(tmp_path / name / f"{n}.png")
    save_prior(small_hierarchical_prior(), tmp_path / "prior.safetensors")
    where = ["--data", str(tmp_path), "--prior", str(tmp_path / "prior.safetensors")]
    parts = ["--only", "likelihood", "samples", "denoising", "joint-denoising", "--pictures", "1"]
    parts += ["--iterations", "1"]
    document = run("hierarchical", *where, *parts)
    assert len(document["table"]["rows"]) == 12
    joint = [row for row in document["rows"] if row["part"] == "joint-denoising"]
    assert all(row["pictures"] == 1 and {"joint 0", "joint 0.25"} < set(row) for row in joint)
    assert Image.open(tmp_path / "out.png").size == (768, 384)


def test_linear_solvers_reach_the_same_minimum(run: Any) -> None:
    small = ["--networks", "MLPVAE", "--latent-dims", "4", "6", "--batches", "2"]
    document = run("bench_linear_solver", *small, "--repeats", "1", "--limit", "0")
    assert len(document["rows"]) == 2
    for row in document["rows"]:
        assert row["direct"]["converged"] == row["conjugate-gradient"]["converged"] == 1


def test_draws_are_weighed_as_plain_torch_weighs_them(run: Any) -> None:
    small = ["--batches", "2", "--draws", "3", "--threads", "1", "--repeats", "1"]
    document = run("bench_log_likelihood", *small)
    assert len(document["rows"]) == 3
    for row in document["rows"]:
        assert row["compiled_error"] < 1e-5 and row["chunks_error"] < 1e-5


def test_one_call_is_compared_with_the_loop(run: Any) -> None:
    document = run("bench_whole", "--batches", "1", "--rounds", "1")
    assert len(document["cases"]) == 6
    for row in document["cases"]:
        assert row["same"] == row["level"] == 1


def test_descents_are_counted_by_where_they_end() -> None:
    import bench_isa

    rows = bench_isa.ends(bench_isa.degradations()[0], jf.mnist_test_digits(8)[0])
    assert len(bench_isa.ends_table(rows)["rows"]) == 2
    for row in rows:
        assert row["images"] == 8 and min(row["as_low_bfloat16"], row["as_low_float32"]) >= 0.75
        assert abs(row["steps_bfloat16"] - row["steps_float32"]) < 0.3 * row["steps_float32"]


def test_adam_stops_when_its_time_is_up() -> None:
    import bench_faces

    prior = jf.load_prior("mnist")
    problem = make_problem("mnist", "inpainting 80%", prior, jf.mnist_test_digits(2)[0])
    out_of_time = bench_faces.TimedAdam(0)
    time.sleep(0.001)
    begin = time.perf_counter()
    result = bench_faces.call_of(
        problem, jf.JPMAP(coupling="alternating", z_solver=out_of_time, starts=1), problem.y
    )()
    assert time.perf_counter() - begin < 5
    assert out_of_time.cut == 2
    assert bool(torch.isfinite(result.objective).all())


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 64, 64)])
def test_ssim_is_that_of_torchmetrics(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(shape, generator=generator)
    noisy = clean + 0.1 * torch.randn(shape, generator=generator)
    expected = ssim_of_torchmetrics(noisy, clean)
    # float32 sums over an 11 x 11 window, then a mean over the image.
    assert torch.allclose(ssim(noisy, clean), expected.double(), rtol=0, atol=1e-5)


def test_measurements_of_missing_pixels_are_zero() -> None:
    prior = jf.load_prior("mnist")
    problem = make_problem("mnist", "inpainting 80%", prior, jf.mnist_test_digits(2)[0])
    mask = degradations((1, 28, 28))["inpainting 80%"].operator.A(torch.ones(1, 1, 28, 28))
    assert bool((problem.y[:, :, mask[0, 0] == 0] == 0).all())


def test_a_long_first_call_is_timed_and_a_short_one_is_not() -> None:
    calls: list[int] = []
    cpu = torch.device("cpu")
    _, _, runs = timed(lambda: calls.append(1), cpu, repeats=3, limit=10)
    assert (runs, len(calls)) == (3, 4)
    calls.clear()
    _, seconds, runs = timed(lambda: (calls.append(1), time.sleep(0.01)), cpu, repeats=3, limit=0)
    assert (runs, len(calls)) == (1, 1)
    assert seconds >= 0.01


def test_the_chart_is_the_same_for_the_same_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for name in ("one.svg", "two.svg"):
        monkeypatch.setattr(chart, "OUTPUT", tmp_path / name)
        chart.main()
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert b"compressed sensing" in written[0]


def test_tiles_of_the_picture_are_not_interpolated() -> None:
    for shape in ((1, 28, 28), (3, 64, 64)):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        tile, step = picture.tile(image), picture.SIDE // shape[1]
        assert tile.shape == (3, picture.SIDE, picture.SIDE)
        assert torch.equal(tile[:, ::step, ::step], image.expand(3, -1, -1))
        assert torch.equal(tile[:, step - 1 :: step, step - 1 :: step], image.expand(3, -1, -1))
