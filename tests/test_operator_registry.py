"""Operators by name: registered once, known to the command line, to info and to requests."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast._messages import FieldError, typed
from jpmap_fast.cli import app
from jpmap_fast.cli.restore import restore
from jpmap_fast.cli.sample import sample
from jpmap_fast.data import load_mask
from jpmap_fast.jobs import RestoreRequest, SampleRequest, restore_picture, run
from jpmap_fast.operators import registry
from jpmap_fast.operators.registry import NamedOperator, Option, register

DIGITS = jf.mnist_test_digits(3)[0]
ROWS = Option("keep_rows", int, "every such row is kept.", accepts=lambda v: v > 0, expected="> 0")
SIDE = Option("side", str, "the side that is seen.", default="left", choices=("left", "right"))


def _half(options: Any, shape: tuple[int, ...], generators: Any) -> jf.Operator:
    mask = torch.zeros(shape[1:])
    columns = slice(0, 14) if options["side"] == "left" else slice(14, 28)
    mask[:: options["keep_rows"], columns] = 1
    return jf.Inpainting(mask)


HALF = NamedOperator("half", "y = half of x + noise", _half, (ROWS, SIDE), required=("keep_rows",))


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))


def _invoke(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def test_an_operator_of_ones_own_is_known_everywhere(tmp_path: Path) -> None:
    def shown(*arguments: str) -> str:
        return " ".join(_invoke(*arguments).stdout.split())

    assert "half" not in shown("restore", "--help")
    register(HALF)
    text = shown("restore", "--help")
    assert "super-resolution|half>" in text and "For half: every such row is kept." in text
    assert "--side" in text and "--keep-rows" in text
    assert "y = half of x + noise" in shown("info")
    np.save(tmp_path / "y.npy", DIGITS.numpy())
    common = ("restore", tmp_path / "y.npy", "--operator", "half", "--sigma", 10)
    out = tmp_path / "out"
    _invoke(*common, "--side", "right", "--keep-rows", 2, "-o", out)
    operator = _half({"side": "right", "keep_rows": 2}, (1, 28, 28), [])
    expected = jf.restore(DIGITS, operator, "mnist", 10 / 255)
    with np.load(out / "restored.npz") as arrays:
        assert np.array_equal(arrays["x"], expected.x.numpy())
    settings = json.loads((out / "summary.json").read_text())["settings"]
    assert (settings["operator"], settings["keep_rows"], settings["side"]) == ("half", 2, "right")
    for options, message in (
        ((), "Error: --operator half: expected --keep-rows"),
        (("--keep-rows", 0), "Error: --keep-rows: expected > 0, got 0"),
        (("--keep-rows", 1, "--side", "top"), "--side: expected one of left, right, got 'top'"),
        (("--keep-rows", 1, "--factor", 2), "--factor: only for --operator super-resolution, got"),
    ):
        assert message in _invoke(*common, *options, "-o", out, code=2).stderr
    request = RestoreRequest(operator="half", sigma=10 / 255, options={"keep_rows": 2})
    assert request.options == {"keep_rows": 2, "side": "left"}
    assert restore_picture(DIGITS[0], request).x.shape == (1, 28, 28)


def test_masks_of_an_operator_of_ones_own_go_with_their_images(tmp_path: Path) -> None:
    """Whatever the batches; two masks are not those of four images."""
    holes = Option("holes", Path, "masks.", read=load_mask)
    build: Any = lambda options, shape, generators: jf.Inpainting(options["holes"])  # noqa: E731
    register(NamedOperator("masked", "y = mask x + noise", build, (holes,), required=("holes",)))
    images = torch.cat((DIGITS, DIGITS[:1]))
    masks = torch.ones(4, 1, 28, 28)
    masks[1, :, :9], masks[2, :, 15:] = 0, 0
    fields = {"operator": "masked", "sigma": 10 / 255, "chunk_size": 2}
    run(RestoreRequest(**fields, output=tmp_path), images=images, arrays={"holes": masks})
    expected = jf.restore(images, jf.Inpainting(masks), "mnist", 10 / 255)
    with np.load(tmp_path / "restored.npz") as arrays:
        np.testing.assert_allclose(arrays["x"], expected.x.numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="expected one operator or one for each of 4 images"):
        run(RestoreRequest(**fields, output=tmp_path), images=images, arrays={"holes": masks[:2]})


def test_a_setting_hides_no_option_of_its_name(tmp_path: Path) -> None:
    tolerance = Option("tolerance", int, "of nobody.", default=3)
    build: Any = lambda options, shape, generators: jf.Denoising()  # noqa: E731
    register(NamedOperator("tolerant", "y = x + noise", build, (tolerance,)))
    fields = {"operator": "tolerant", "sigma": 0.4, "settings": {"tolerance": 0.01}}
    run(RestoreRequest(**fields, output=tmp_path), images=DIGITS)
    settings = json.loads((tmp_path / "summary.json").read_text())["settings"]
    assert settings["tolerance"] == 3 and settings["jpmap tolerance"] == 0.01


def test_an_option_is_called_like_nothing_else() -> None:
    kinds = (RestoreRequest, SampleRequest)
    request = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    signatures = [inspect.signature(command._command) for command in (restore, sample)]
    own = [parameter for signature in signatures for parameter in signature.parameters.values()]
    flags = {parameter.name for parameter in own if parameter.kind is not parameter.VAR_KEYWORD}
    beside = set(RestoreRequest(operator="denoising", sigma=0.1).to_dict())
    assert set(registry.RESERVED) == request | flags | beside | {"help"}
    for name in registry.RESERVED:
        with pytest.raises(ValueError, match=f"operator third: {name} is a field of requests or"):
            register(NamedOperator("third", "y", _half, (Option(name, int, "x"),)))
    assert "third" not in registry.operator_names()


def test_names_mean_one_thing() -> None:
    register(HALF)
    with pytest.raises(ValueError, match="'half' is registered already"):
        register(HALF)
    other = Option("side", str, "something else.")
    with pytest.raises(ValueError, match="side is an option of half and not the same"):
        register(NamedOperator("third", "y", _half, (other,)))
    for spec in (
        NamedOperator("third", "y", _half, (), required=("mask",)),
        NamedOperator("third", "y", _half, (Option("some", int, "x", draws="mask"),)),
    ):
        with pytest.raises(ValueError, match="mask is required or drawn and no option"):
            register(spec)
    register(NamedOperator("third", "y", _half, (SIDE,)))
    assert registry.owners("side") == ["half", "third"]
    with pytest.raises(ValueError, match="expected one of denoising, .*, got 'fog'"):
        registry.named_operator("fog")


@pytest.mark.parametrize(
    ("name", "given", "simulate", "kind", "message"),
    [
        ("blur", {"kernel": 3}, False, TypeError, "kernel: expected a text, got 3"),
        ("inpainting", {"mask": 3}, False, TypeError, "mask: expected the path of a file, got 3"),
        ("super-resolution", {"factor": 2.0}, False, TypeError, "factor: expected an integer"),
        ("super-resolution", {"factor": True}, False, TypeError, "factor: expected an integer"),
        ("inpainting", {"missing": "all"}, True, TypeError, "missing: expected a number"),
        ("inpainting", {"missing": float("nan")}, True, ValueError, "a fraction in [0, 1), got"),
        ("inpainting", {"missing": 0.5}, False, ValueError, "missing: only with simulate"),
        ("inpainting", {"missing": 0, "mask": "m"}, True, ValueError, "expected mask or missing"),
        ("denoising", {"mask": "m"}, False, ValueError, "only for operator inpainting, got deno"),
        ("blur", {"size": 3}, False, ValueError, "options of it (kernel, boundary), got 'size'"),
        ("denoising", {"size": 3}, False, ValueError, "options of it (none), got 'size'"),
        ("blur", {"kernel": "bicubic"}, False, ValueError, "only for operator super-resolution"),
    ],
)
def test_options_are_refused_by_name(
    name: str, given: dict[str, Any], simulate: bool, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as refused:
        registry.checked_options(name, given, simulate)
    assert message in str(refused.value)


def test_an_operator_is_complete_with_a_file_an_array_or_a_draw() -> None:
    check = registry.check_complete
    for options, beside in (({"mask": "m"}, ()), ({"missing": 0.5}, ()), ({}, ("mask",))):
        check("inpainting", options, beside)
    for name, options, beside, message in (
        ("inpainting", {}, (), "operator inpainting: expected mask FILE, or simulate with missing"),
        ("inpainting", {"mask": "m"}, ("mask",), "expected mask as an array or mask, got both"),
        ("inpainting", {"missing": 0.5}, ("mask",), "expected mask as an array or missing"),
        ("denoising", {}, ("mask",), "mask: only for operator inpainting"),
        ("super-resolution", {}, ("factor",), "factor: expected it in the request"),
        ("blur", {}, (), "operator blur: expected kernel"),
    ):
        with pytest.raises(ValueError) as refused:
            check(name, options, beside)
        assert message in str(refused.value)


def test_errors_about_fields_are_told_in_anybodys_words() -> None:
    error = FieldError("{factor}: expected {count!r}, got {got}", {"count": "2", "got": "{x}"})
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert str(one) == "factor: expected '2', got {x}"
        assert one.told(str.upper) == "FACTOR: expected '2', got {x}"


def test_numbers_of_numpy_and_paths_are_plain() -> None:
    assert type(typed("n", np.int64(3), int)) is int
    assert type(typed("n", torch.tensor(0.5), float)) is float
    assert typed("n", 3, float) == 3.0 and typed("n", Path("a"), str) == "a"
    for value, kind in ((1, bool), (True, int), (True, float), (b"a", str), (None, int)):
        with pytest.raises(TypeError, match="n: expected"):
            typed("n", value, kind)
