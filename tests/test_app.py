"""What the page asks for and shows; it needs no browser and no gradio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jpmap_fast as jf
from jpmap_fast.app import painting
from jpmap_fast.app.asked import Asked, prepare
from jpmap_fast.app.settings import PageSettings
from jpmap_fast.app.work import looked_at, of_one_size, restored, sampled
from jpmap_fast.jobs import RestoreRequest, run


@pytest.fixture
def settings(tmp_path: Path) -> PageSettings:
    return PageSettings(folder=tmp_path / "page", device="cpu")


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """A digit as somebody has it."""
    path = tmp_path / "mine" / "digit.png"
    path.parent.mkdir()
    values = jf.mnist_test_digits(1)[0][0, 0].numpy()
    Image.fromarray((255 * values).round().astype(np.uint8)).save(path)
    return path


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


def _nothing(done: int, total: int) -> None:
    pass


def _strokes(height: int, width: int, rows: slice) -> np.ndarray[Any, Any]:
    """Paint over some rows of what is painted on."""
    up, down = painting.scale(height, width)
    layer = np.zeros((-(-height // down) * up, -(-width // down) * up, 4), np.uint8)
    layer[rows] = (214, 39, 40, 255)
    return layer


@pytest.mark.parametrize(
    "height, width, expected", [(28, 28, (15, 1)), (300, 500, (1, 1)), (40, 3300, (1, 3))]
)
def test_paint_comes_back_to_the_pixels_it_was_over(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    assert painting.scale(height, width) == expected
    up, down = expected
    picture = np.zeros((height, width, 3), np.uint8)
    layer = np.zeros((*painting.preview(picture).shape[:2], 4), np.uint8)
    y, x = height // down // 2, width // down - 1
    layer[y * up, x * up, 3] = 1  # the faintest touch of one pixel
    found = painting.painted([layer], height, width)
    wanted = np.zeros((height, width), bool)
    wanted[y * down : (y + 1) * down, x * down : (x + 1) * down] = True
    assert np.array_equal(found, wanted)
    assert not painting.painted([], height, width).any()


def test_paint_of_another_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="paint: expected 420 x 420 pixels, got 400 x 420"):
        painting.painted([np.zeros((420, 400, 4), np.uint8)], 28, 28)


def test_a_painted_restoration_is_that_of_its_request(
    digit: Path, job: Path, settings: PageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(
        picture=digit,
        operator="inpainting",
        sigma="5",
        paint=(_strokes(28, 28, slice(150, 210)),),
        method="jpmap",
        settings={"starts": 2},
    )
    found = restored(asked, job, settings, _nothing)
    assert [path.name for path in found.files] == ["digit.png", "mask.png"]
    mask = np.asarray(Image.open(found.files[1]))
    assert (mask[10:14] == 0).all() and (np.delete(mask, range(10, 14), axis=0) == 255).all()
    assert found.before is not None and found.after is not None
    assert found.before.shape == found.after.shape == (420, 420, 3)
    small = np.asarray(Image.open(found.files[0]))
    assert np.array_equal(found.after[::15, ::15, 0], small)
    assert np.array_equal(found.before[::15, ::15, 0], np.asarray(Image.open(digit)))
    assert "prior mnist" in found.told and "noise 5 of 255" in found.told

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    Path("digit.png").write_bytes(digit.read_bytes())
    Path("mask.png").write_bytes(found.files[1].read_bytes())
    assert str(tmp_path) not in found.recipe.python + found.recipe.command
    exec(found.recipe.python, {})
    assert Path("restored/digit.png").read_bytes() == found.files[0].read_bytes()


def test_paint_and_a_dropped_mask_add_up(digit: Path, job: Path, settings: PageSettings) -> None:
    dropped = digit.with_name("mask.png")
    given = np.full((28, 28), 255, np.uint8)
    given[:, :5] = 0
    Image.fromarray(given).save(dropped)
    asked = Asked(
        picture=digit,
        operator="inpainting",
        sigma="auto",
        files={"mask": dropped},
        paint=(_strokes(28, 28, slice(0, 15)),),
    )
    prepared = prepare(asked, job, settings)
    assert prepared.named.options == {"mask": "mask_2.png"}
    assert prepared.mask is not None
    mask = np.asarray(Image.open(prepared.mask))
    given[:1] = 0
    assert np.array_equal(mask, given)


def test_the_smaller_picture_is_enlarged_over_the_larger(
    digit: Path, job: Path, settings: PageSettings
) -> None:
    half = digit.with_name("half.png")
    Image.open(digit).reduce(2).save(half)
    asked = Asked(
        picture=half,
        operator="super-resolution",
        sigma="5",
        options={"factor": 2},
        prior="mnist",
    )
    found = restored(asked, job, settings, _nothing)
    assert found.before is not None and found.after is not None
    assert found.before.shape == found.after.shape == (420, 420, 3)
    assert np.array_equal(found.before[::30, ::30, 0], np.asarray(Image.open(half)))


def test_a_picture_that_is_no_part_of_the_other_is_laid_on_grey() -> None:
    before, after = of_one_size(np.zeros((398, 400, 3), np.uint8), np.ones((400, 402, 3), np.uint8))
    assert before.shape == after.shape
    assert (before[0] == 128).all() and (before[1, 1:-1] == 0).all()


@pytest.mark.parametrize("operator", ["inpainting", "compressed-sensing"])
def test_a_clean_picture_is_degraded_and_compared(
    operator: str, digit: Path, job: Path, settings: PageSettings
) -> None:
    options: dict[str, Any] = (
        {"missing": 0.5} if operator == "inpainting" else {"measurements": 100}
    )
    asked = Asked(
        picture=digit,
        operator=operator,
        sigma="10",
        options=options,
        fields={"simulate": True, "seed": 2, "background": 1.0},
    )
    found = restored(asked, job, settings, _nothing)
    assert "PSNR" in found.told and "--simulate" in found.recipe.command
    assert found.before is not None
    clean = np.asarray(Image.open(digit))
    # What was measured by a matrix is no picture: the clean one is shown.
    assert np.array_equal(found.before[::15, ::15, 0], clean) == (operator == "compressed-sensing")


def test_deviations_are_shown_where_the_prior_draws(
    digit: Path, job: Path, settings: PageSettings
) -> None:
    asked = Asked(
        picture=digit,
        operator="inpainting",
        sigma="10",
        paint=(_strokes(28, 28, slice(0, 210)),),
        method="csgm",  # of a maximum, which draws have none of
        settings={"starts": 2},
    )
    found = sampled(asked, 10, job, settings)
    assert found.before is None and found.spread is not None
    assert found.spread.max() == 255
    assert found.spread[:210].mean() > 3 * found.spread[210:].mean()  # unsure where nothing is seen
    assert [path.parent.name for path in found.files] == ["mean", "lower", "upper", "std"]
    assert found.recipe.command.startswith("jpmap-fast sample digit.png")
    assert "--method" not in found.recipe.command


def test_a_prior_without_codes_says_why_it_draws_nothing(
    digit: Path, job: Path, settings: PageSettings
) -> None:
    asked = Asked(picture=digit, operator="denoising", sigma="10", prior="photos-grey")
    with pytest.raises(ValueError, match="codes"):
        sampled(asked, 10, job, settings)


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"options": {"mask": "/etc/passwd"}}, "its file beside the request"),
        ({"operator": "blur", "options": {"kernel": "/etc/passwd"}}, "a formula"),
        ({"prior": "../../etc/passwd"}, "prior: expected"),
        ({"sigma": "-1"}, "sigma: expected a number > 0, in 255ths, or auto, got -1"),
        ({"settings": {"starts": 10**9}}, "starts: expected at most"),
        ({"fields": {"device": "cuda"}}, "device: expected none"),
    ],
)
def test_nobody_asks_for_files_or_for_too_much(
    fields: dict[str, Any], match: str, digit: Path, job: Path, settings: PageSettings
) -> None:
    asked = {"picture": digit, "operator": "inpainting", "sigma": "10", **fields}
    with pytest.raises(ValueError, match=match):
        restored(Asked(**asked), job, settings, _nothing)


def test_large_pictures_and_arrays_are_refused(
    digit: Path, job: Path, tmp_path: Path, settings: PageSettings
) -> None:
    small = PageSettings(folder=tmp_path, megapixels=1e-4)
    with pytest.raises(ValueError, match="expected at most 400 numbers"):
        looked_at(digit, small)
    with pytest.raises(ValueError, match="expected at most 400 numbers"):
        restored(Asked(picture=digit, operator="denoising", sigma="10"), job, small, _nothing)
    path = tmp_path / "y.npy"
    np.save(path, np.zeros((1, 28, 28), np.float32))
    with pytest.raises(ValueError, match="expected a picture file"):
        restored(Asked(picture=path, operator="denoising", sigma="10"), job, settings, _nothing)


@pytest.mark.parametrize("name", ["restored.png", "restored", "a.b c'[1].png"])
def test_a_picture_may_have_any_name(
    name: str, digit: Path, job: Path, settings: PageSettings
) -> None:
    picture = digit.rename(digit.with_name(name))
    asked = Asked(
        picture=picture, operator="inpainting", sigma="10", paint=(_strokes(28, 28, slice(0, 30)),)
    )
    found = restored(asked, job, settings, _nothing)
    assert Image.open(found.files[0]).size == (28, 28)
    assert found.files[0].stem == Path(name).stem or name == "restored"
    drawn = sampled(asked, 3, job / "..", settings)
    assert len({path.parent for path in drawn.files}) == 4


def test_pages_are_told_and_all_restored(digit: Path, job: Path, settings: PageSettings) -> None:
    stack = digit.with_name("stack.tif")
    page = Image.open(digit)
    page.save(stack, save_all=True, append_images=[page.rotate(5)])
    _, told = looked_at(stack, settings)
    assert "the first of 2 pages" in told
    found = restored(
        Asked(picture=stack, operator="denoising", sigma="30"), job, settings, _nothing
    )
    assert "1 more pages" in found.told
    request = RestoreRequest(
        operator="denoising", sigma=30 / 255, inputs=(str(stack),), output=str(job / "plain")
    )
    run(request)
    assert (job / "plain/stack.tif").read_bytes() == found.files[0].read_bytes()


def test_what_takes_too_long_is_given_up(digit: Path, job: Path, settings: PageSettings) -> None:
    hasty = replace(settings, seconds=1e-9)
    with pytest.raises(TimeoutError, match="within 1e-09 s"):
        restored(Asked(picture=digit, operator="denoising", sigma="30"), job, hasty, _nothing)


def test_settings_say_what_is_wrong(tmp_path: Path) -> None:
    for fields in ({"megabytes": 0}, {"port": 1 << 16}, {"waiting": -1}, {"device": "tpu"}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            PageSettings(folder=tmp_path, **fields)
    for host, local in (
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
    ):
        assert PageSettings(folder=tmp_path, host=host).is_local == local
