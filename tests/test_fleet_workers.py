"""What stands in the way of a worker, and of a fleet, without Ray."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast._versions import versions
from jpmap_fast.cli import app
from jpmap_fast.fleet import FleetSettings
from jpmap_fast.fleet.worker import Errand, Found, Picture, Worker
from jpmap_fast.jobs import RestoreRequest, Restoring, run
from jpmap_fast.jobs._settings import settings

COMMON = ("--operator", "denoising", "--sigma", "20")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "in"
    found.mkdir()
    for number, digit in enumerate(jf.mnist_test_digits(3)[0][:, 0].numpy()):
        Image.fromarray((255 * digit).round().astype(np.uint8)).save(found / f"{number}.png")
    np.save(tmp_path / "mask.npy", np.ones((28, 28), np.float32))
    return found


@pytest.fixture
def errand(folder: Path) -> Errand:
    request = RestoreRequest(
        operator="inpainting",
        options={"mask": str(folder.parent / "mask.npy")},
        sigma=0.1,
        inputs=[str(folder)],
        output=str(folder.parent / "out"),
        device="cpu",
    )
    request = Restoring(request).request
    kept = settings(request, {})
    return Errand(request, kept, versions(), (str(folder),), 3, torch.get_num_threads())


def _pictures(folder: Path) -> list[Picture]:
    found = []
    for number, path in enumerate(sorted(folder.iterdir())):
        stat = path.stat()
        found.append(Picture(str(number), str(path), [stat.st_size, stat.st_mtime_ns]))
    return found


def _asked(errand: Errand, pictures: list[Picture]) -> Found:
    """The answer of a worker, as it travels."""
    worker = Worker(pickle.loads(pickle.dumps(errand)))
    found = pickle.loads(worker({"pictures": pickle.dumps(pictures)})["found"])
    assert isinstance(found, Found)
    return found


def test_a_worker_answers_with_the_files_of_a_run_and_writes_none(
    errand: Errand, folder: Path
) -> None:
    found = _asked(errand, _pictures(folder))
    out = Path(errand.request.output)
    assert found.error is None and not out.exists()
    run(errand.request)
    for name, answer in found.answers.items():
        assert answer.picture == (out / f"{name}.png").read_bytes()
    assert len(found.answers) == 3 and not found.failures


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda e: replace(e, versions={**e.versions, "torch": "1.0"}), "torch: expected version"),
        (lambda e: replace(e, folders=("/nowhere",)), "expected /nowhere on the machine of every"),
        (lambda e: replace(e, kept={**e.kept, "mask": "another"}), "mask: expected another, got"),
        (lambda e: replace(e, request=replace(e.request, device="cuda:99")), "cuda"),
    ],
)
def test_a_worker_at_the_wrong_place_says_so(
    errand: Errand, folder: Path, change: Any, message: str
) -> None:
    found = _asked(change(errand), _pictures(folder))
    assert isinstance(found.error, ValueError) and not found.answers
    assert "a worker cannot restore" in str(found.error) and message in str(found.error)


def test_another_file_by_the_same_name_is_a_failure(errand: Errand, folder: Path) -> None:
    pictures = _pictures(folder)
    os.utime(folder / "1.png", ns=(1, 1))
    (folder / "2.png").unlink()
    found = _asked(errand, pictures)
    assert set(found.answers) == {"0"} and set(found.failures) == {"1", "2"}
    assert "expected the file that the run has found" in found.failures["1"][1]
    assert "No such file" in found.failures["2"][1]


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--workers", "2"), "--workers: only with --ray, got 2"),
        (("--worker-gpus", "1"), "--worker-gpus: only with --ray, got 1"),
        (("--ray", "local", "--workers", "0"), "--workers: expected at least 1, got 0"),
        (("--ray", "local", "--worker-gpus", "1.5"), "--worker-gpus: expected a whole number or"),
        (("--ray", "ray://x:1"), "--ray: expected local, auto or HOST:PORT"),
    ],
)
def test_flags_that_do_not_go_together_are_told(
    folder: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    arguments = ["restore", str(folder), *COMMON, "-o", str(tmp_path / "out"), *flags]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_array_is_not_for_a_fleet(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", jf.mnist_test_digits(2)[0].numpy())
    arguments = ["restore", str(tmp_path / "y.npy"), *COMMON, "--ray", "local"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 2 and "with --ray, got one array" in result.stderr


def test_without_ray_the_command_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    arguments = ["restore", str(folder), *COMMON, "-o", str(tmp_path / "out"), "--ray", "local"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "pip install 'jpmap-fast[ray]'" in result.stderr


def test_workers_are_data() -> None:
    assert FleetSettings(workers=2, worker_gpus=0.5).told() == {
        "workers": 2,
        "worker_cpus": 1,
        "worker_gpus": 0.5,
    }
    with pytest.raises(TypeError, match="workers: expected an integer"):
        FleetSettings(workers="2")  # type: ignore[arg-type]
