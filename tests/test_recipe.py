"""A request's recipe makes the same files: its command line and its Python are run."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.cli.recipe import recipe
from jpmap_fast.jobs import RestoreRequest, SampleRequest, run, run_sampling


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a digit and a mask, which is where commands are typed."""
    monkeypatch.chdir(tmp_path)
    digit = jf.mnist_test_digits(1)[0][0, 0].numpy()
    Image.fromarray((255 * digit).round().astype(np.uint8)).save("a digit.png")
    mask = np.full((28, 28), 255, np.uint8)
    mask[10:14] = 0
    Image.fromarray(mask).save("mask's.png")
    return tmp_path


REQUESTS: dict[str, dict[str, Any]] = {
    "mask": {"operator": "inpainting", "options": {"mask": "mask's.png"}, "sigma": 10 / 255},
    "auto": {"operator": "denoising", "sigma": "auto", "method": "csgm", "seed": 3},
    "odd-sigma": {"operator": "denoising", "sigma": 0.0123456789012345, "settings": {"starts": 3}},
    "kernel": {
        "operator": "blur",
        "options": {"kernel": "motion:3:30", "boundary": "zero"},
        "sigma": 0.1 / 255,
    },
    "simulate": {
        "operator": "inpainting",
        "options": {"missing": 0.5},
        "simulate": True,
        "sigma": 25.5 / 255,
        "method": "map-z",
        "settings": {"alpha": 2.0},
        "background": 0.5,
    },
    "integers": {
        "operator": "compressed-sensing",
        "options": {"measurements": 60},
        "simulate": True,
        "sigma": 0.05,
        "residual": "white",
    },
}


def _files(folder: Path) -> dict[str, bytes]:
    """What a run left, but for its duration."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".npz":
            with np.load(path) as content:
                found |= {f"{path.name} {key}": content[key].tobytes() for key in content.files}
        elif path.is_file() and path.name != "summary.json":
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    assert found
    return found


def _moved(folder: Path, name: str) -> dict[str, bytes]:
    (folder / "restored").rename(folder / name)
    return _files(folder / name)


def _typed(command: str) -> None:
    program, *words = shlex.split(command)
    assert program == "jpmap-fast"
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", REQUESTS)
def test_both_forms_make_the_files_of_the_request(name: str, folder: Path) -> None:
    request = RestoreRequest(inputs=("a digit.png",), **REQUESTS[name])
    assert not run(request).failures
    expected = _moved(folder, "expected")
    made = recipe(request)
    exec(compile(made.python, "recipe", "exec"), {})
    assert _moved(folder, "by python") == expected
    _typed(made.command)
    assert _moved(folder, "by command") == expected


def test_draws_have_a_recipe_too(folder: Path) -> None:
    restore = RestoreRequest(
        inputs=("a digit.png",),
        operator="inpainting",
        options={"mask": "mask's.png"},
        sigma=10 / 255,
        output="drawn",
    )
    request = SampleRequest(restore=restore, draws=4, level=0.8)
    assert not run_sampling(request).failures
    (folder / "drawn").rename(folder / "restored")
    expected = _moved(folder, "expected")
    made = recipe(request)
    for number, work in enumerate((lambda: exec(made.python, {}), lambda: _typed(made.command))):
        work()
        (folder / "drawn").rename(folder / "restored")
        assert _moved(folder, f"again {number}") == expected


def test_python_makes_an_equal_request() -> None:
    for name, fields in REQUESTS.items():
        request = RestoreRequest(inputs=('quote".png', "back\\slash.png"), **fields)
        call = recipe(request).python.replace("report = run(", "found = (")
        names: dict[str, Any] = {}
        exec(call, names)
        assert names["found"] == request, name


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"chunk_size": 2}, "chunk_size: the command has no flag"),
        ({"bits": 16}, "bits: the command has no flag"),
        ({"settings": {"n1": 2}}, "no flag for n1"),
    ],
)
def test_what_has_no_flag_is_refused(fields: dict[str, Any], match: str) -> None:
    request = RestoreRequest(operator="denoising", sigma=0.1, inputs=("x.png",), **fields)
    with pytest.raises(ValueError, match=match):
        recipe(request)


def test_a_name_is_never_taken_for_a_flag(folder: Path) -> None:
    (folder / "a digit.png").rename(folder / "--simulate.png")
    request = RestoreRequest(operator="denoising", sigma=0.1, inputs=("--simulate.png",))
    _typed(recipe(request).command)
    picture = (folder / "restored" / "--simulate.png").read_bytes()
    (folder / "restored").rename(folder / "first")
    run(replace(request, inputs=("./--simulate.png",)))
    assert (folder / "restored" / "--simulate.png").read_bytes() == picture
