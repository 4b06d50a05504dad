"""Requests of people elsewhere: no file of this machine, no more work than is fair."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jpmap_fast.data import load_mask, read_pictures
from jpmap_fast.data.picture import at_most
from jpmap_fast.jobs import RestoreRequest, restore_picture
from jpmap_fast.jobs._strangers import check_stranger
from jpmap_fast.operators import registry
from jpmap_fast.operators.kernel_texts import is_formula, read_kernel
from jpmap_fast.operators.registry import NamedOperator, Option, register

PRIORS = ("mnist", "photos")


def _check(operator: str = "denoising", sigma: Any = 0.1, **fields: Any) -> None:
    check_stranger(RestoreRequest(operator=operator, sigma=sigma, **fields), PRIORS)


def test_what_is_fair_passes() -> None:
    _check()
    _check(sigma="auto", prior="photos", method="csgm", settings={"starts": 8}, seed=4)
    _check("blur", options={"kernel": "gaussian:2", "boundary": "zero"})
    _check("super-resolution", options={"kernel": "bicubic", "factor": 2})
    _check("inpainting")  # its mask comes beside it


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"prior": "/etc/passwd"}, "prior: expected mnist or photos, got '/etc/passwd'"),
        ({"prior": "faces"}, "prior"),
        ({"inputs": ("/etc/passwd",)}, "inputs: expected none"),
        ({"output": "/tmp/x"}, "output: expected none"),
        ({"device": "cuda"}, "device: expected none"),
        ({"resume": True}, "resume: expected none"),
        ({"operator": "inpainting", "options": {"mask": "mask.png"}}, "mask: expected its file"),
        ({"operator": "blur", "options": {"kernel": "/etc/passwd"}}, "kernel: expected a formula"),
        ({"operator": "blur", "options": {"kernel": "gaussian:1e9"}}, "of moderate size"),
        ({"operator": "blur", "options": {"kernel": "box:100000"}}, "of moderate size"),
        ({"operator": "blur", "options": {"kernel": "motion:9999:1"}}, "of moderate size"),
        (
            {"operator": "compressed-sensing", "options": {"matrix": "A.npy"}},
            "matrix: expected its file",
        ),
        (
            {
                "operator": "compressed-sensing",
                "options": {"measurements": 10**9},
                "simulate": True,
            },
            "measurements: expected at most 4096",
        ),
        ({"operator": "super-resolution", "options": {"factor": 10**6}}, "factor: expected at"),
        ({"settings": {"starts": 65}}, "starts: expected at most 64"),
        ({"settings": {"max_iterations": 10**6}}, "max_iterations: expected at most 1000"),
    ],
)
def test_what_is_not_is_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        _check(**fields)


def test_a_text_that_an_operator_reads_is_a_file_unless_it_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    table = Option("table", str, "a table.", read=lambda text: Path(text).read_bytes())
    register(NamedOperator("tables", "y = x", lambda *_: None, (table,)))  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="table: expected its file beside the request"):
        _check("tables", options={"table": "secret"})


@pytest.mark.parametrize("text", ["gaussian:2", "box:3", "motion:9:30", "box", "bicubic"])
def test_formulas_are_told_from_files(text: str, tmp_path: Path) -> None:
    assert is_formula(text)
    read_kernel(text)
    assert not is_formula(str(tmp_path))
    assert not is_formula("gaussian")
    assert not is_formula(f"./{text}")


def test_a_bad_formula_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (3, 3), 255).save("box:x", format="png")
    assert is_formula("box:x")
    with pytest.raises(ValueError, match="box:x"):
        read_kernel("box:x")


def test_no_larger_picture_is_read_within(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 10)).save(path)
    with at_most(600):
        assert next(iter(read_pictures(path))).values.shape == (3, 10, 20)
    with at_most(599), pytest.raises(ValueError, match="at most 599 numbers in a picture, got 600"):
        list(read_pictures(path))
    assert list(read_pictures(path))


def test_pages_count_together(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = [Image.new("L", (10, 10), shade) for shade in (1, 2, 3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with at_most(300):
        assert len(list(read_pictures(path))) == 3
    with at_most(299), pytest.raises(ValueError, match="all pages of a file, got 300"):
        list(read_pictures(path))


@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_an_archive_does_not_unpack_to_more(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "mask.npz"
    content = io.BytesIO()
    np.save(content, np.zeros(1_000_000, dtype))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mask.npy", content.getvalue())
    assert path.stat().st_size < 20_000
    with at_most(500_000), pytest.raises(ValueError, match="at most 500000 numbers"):
        load_mask(path)
    assert load_mask(path).numel() == 1_000_000


def test_an_array_file_promises_no_more_than_is_allowed(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.zeros(1000, np.uint8))
    with at_most(999), pytest.raises(ValueError, match="at most 999 numbers"):
        load_mask(tmp_path / "mask.npy")
    with at_most(1000):
        assert load_mask(tmp_path / "mask.npy").numel() == 1000


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"estimate": "mean"}, "estimate: expected none"),
        (
            {"operator": "super-resolution", "options": {"factor": 4096}},
            "factor: expected at most 64",
        ),
    ],
)
def test_work_that_nothing_bounds_is_refused(fields: dict[str, object], told: str) -> None:
    request = RestoreRequest(**{"operator": "denoising", "sigma": 0.1, "prior": "mnist", **fields})
    with pytest.raises(ValueError, match=told):
        check_stranger(request, ["mnist"])


def test_no_larger_picture_is_restored_within() -> None:
    request = RestoreRequest(operator="super-resolution", sigma=0.1, options={"factor": 2})
    with at_most(783), pytest.raises(ValueError, match="numbers in a restored picture, got 784"):
        restore_picture(torch.rand(1, 14, 14), request)
