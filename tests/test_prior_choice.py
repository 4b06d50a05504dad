"""Which prior a command takes where nobody names one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast.cli import app
from jpmap_fast.jobs import RestoreRequest, with_prior


def chosen(*inputs, operator="denoising", simulate=True, **options) -> str:
    paths = tuple(map(str, inputs))
    own = {"operator": operator, "simulate": simulate, "options": options}
    return with_prior(RestoreRequest(inputs=paths, sigma=0.1, **own)).prior


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    for name, size, mode in (
        ("digit", (28, 28), "L"),
        ("half", (14, 14), "L"),
        ("grey", (40, 30), "L"),
        ("colour", (40, 30), "RGB"),
        ("small-colour", (28, 28), "RGB"),
        ("digit-in-rgb", (28, 28), "grey RGB"),
        ("palette", (40, 30), "P"),
        ("grey16", (40, 30), "I;16"),
    ):
        shape = (*size[::-1], 3) if mode == "RGB" else size[::-1]
        if mode == "I;16":
            Image.fromarray(generator.integers(0, 65536, shape, dtype=np.uint16)).save(
                tmp_path / f"{name}.png"
            )
            continue
        values = generator.integers(0, 256, shape, dtype=np.uint8)
        image = Image.fromarray(values)
        kind = {"P": "P", "grey RGB": "RGB"}.get(mode)
        (image.convert(kind) if kind else image).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(
    "names, prior",
    [
        (["digit"], "mnist"),
        (["grey"], "photos-grey"),
        (["grey16"], "photos-grey"),
        (["palette"], "photos"),
        (["colour"], "photos"),
        (["small-colour"], "photos"),
        (["digit-in-rgb"], "mnist"),
        (["digit", "digit-in-rgb"], "mnist"),
        (["digit", "small-colour"], "photos"),
        (["grey", "colour"], "photos"),
        (["digit", "grey"], "photos-grey"),
    ],
)
def test_by_size_and_colour(pictures, names, prior):
    assert chosen(*[pictures / f"{name}.png" for name in names]) == prior


def test_a_folder_is_looked_through(pictures):
    assert chosen(pictures) == "photos"


def test_what_the_operator_leaves_of_a_digit_is_one(pictures):
    enlarged = {"operator": "super-resolution", "simulate": False, "factor": 2}
    assert chosen(pictures / "half.png", **enlarged) == "mnist"
    assert chosen(pictures / "digit.png", **enlarged) == "photos-grey"


def test_an_array_is_of_digits(tmp_path):
    np.save(tmp_path / "y.npy", np.zeros((2, 30, 40), np.float32))
    assert chosen(tmp_path / "y.npy") == "mnist"


def test_measurements_that_are_no_pictures_are_of_digits(tmp_path):
    np.save(tmp_path / "y.npy", np.zeros((4, 100), np.float32))
    matrix = tmp_path / "a.npy"
    np.save(matrix, np.zeros((100, 784), np.float32))
    sensed = {"operator": "compressed-sensing", "simulate": False, "matrix": str(matrix)}
    assert chosen(tmp_path / "y.npy", **sensed) == "mnist"


def test_what_cannot_be_read_is_passed_over(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    assert chosen(tmp_path / "broken.png") == "mnist"


def restored(*arguments):
    common = ("--operator", "denoising", "--sigma", "20")
    result = CliRunner().invoke(app, ["restore", *map(str, (*arguments, *common))])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("name, shape", [("colour", (3, 30, 40)), ("small-colour", (3, 28, 28))])
def test_the_command_restores_a_photograph_unasked(pictures, name, shape):
    out = pictures / "out"
    result = restored(pictures / f"{name}.png", "-o", out)
    assert "1 restored with photos, " in result.output
    assert next(jf.read_pictures(out / f"{name}.png")).values.shape == shape


def test_colours_do_not_turn_grey_without_a_word(pictures):
    out, told = pictures / "out", "colours turned grey, as the prior is"
    named = ("--prior", "mnist", "-o", out)
    assert f"small-colour.png: {told}" in restored(pictures / "small-colour.png", *named).stderr
    assert told not in restored(pictures / "digit-in-rgb.png", *named).stderr
    colours = np.random.default_rng(0).random((2, 3, 28, 28), np.float32)
    colours[1] = colours[1, :1]
    np.save(pictures / "y.npy", colours)
    stderr = restored(pictures / "y.npy", *named).stderr
    assert f"y[0]: {told}" in stderr and "y[1]" not in stderr
