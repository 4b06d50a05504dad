"""PSNR, SSIM, masks, bundled digits and figures."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jpmap_fast import _figures as figures
from jpmap_fast._masks import random_masks
from jpmap_fast._metrics import psnr, ssim
from jpmap_fast.data.digits import mnist_test_digits


def test_psnr_is_its_definition_for_each_image() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 2, 5, 4, generator=generator)
    x0 = torch.rand(3, 2, 5, 4, generator=generator)
    found = psnr(x, x0)
    assert found.dtype == torch.float64
    for i in range(3):
        error = np.mean((x[i].double().numpy() - x0[i].double().numpy()) ** 2)
        assert float(found[i]) == pytest.approx(10 * math.log10(1 / error), rel=1e-12)


def test_psnr_of_equal_images_is_infinite_and_does_not_clip() -> None:
    x = torch.full((2, 1, 3, 3), 0.25)
    assert psnr(x, x).tolist() == [math.inf, math.inf]
    assert float(psnr(torch.full((1, 1, 2, 2), 1.5), torch.ones(1, 1, 2, 2))[0]) == pytest.approx(
        10 * math.log10(4)
    )


def test_an_image_is_judged_alike_alone_and_in_a_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    x, x0 = torch.rand(2, 4, 1, 28, 28, generator=generator)
    for measure in (psnr, ssim):
        together = measure(x, x0)
        for i in range(4):
            alone = measure(x[i : i + 1], x0[i : i + 1])
            assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-6)


def test_ssim_is_one_for_equal_images_and_less_for_noise() -> None:
    clean, _ = mnist_test_digits(3)
    assert torch.allclose(ssim(clean, clean), torch.ones(3))
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert bool((ssim(noisy, clean) < 0.9).all())


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_metrics_refuse_what_does_not_fit(measure: Callable[[Any, Any], torch.Tensor]) -> None:
    image = torch.rand(2, 1, 12, 12)
    with pytest.raises(ValueError, match=r"expected the shape of images, \[2, 1, 12, 12\]"):
        measure(image, image[:1])
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        measure(image[0], image[0])
    with pytest.raises(TypeError, match="divide by 255"):
        measure((255 * image).byte(), image)


@pytest.mark.parametrize("missing", ["torchmetrics", "matplotlib"])
def test_a_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {missing!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    image = torch.zeros(1, 1, 12, 12)
    with pytest.raises(ImportError, match=r"jpmap_fast\[demo\]"):
        if missing == "torchmetrics":
            ssim(image, image)
        else:
            figures.grid_figure("title", [figures.Row("a", image)])


def test_bundled_digits_hold_every_class_in_turn() -> None:
    images, labels = mnist_test_digits()
    assert images.shape == (500, 1, 28, 28) and images.dtype == torch.float32
    assert float(images.min()) == 0 and float(images.max()) == 1
    assert labels.tolist() == list(range(10)) * 50
    first, _ = mnist_test_digits(7)
    assert torch.equal(first, images[:7])


@pytest.mark.parametrize("count", [0, -1, 501])
def test_bundled_digits_refuse_a_count_out_of_range(count: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 500"):
        mnist_test_digits(count)
    with pytest.raises(TypeError, match="expected an integer"):
        mnist_test_digits(2.0)  # type: ignore[arg-type]


def test_random_masks_are_seeded_and_hide_the_fraction_asked_for() -> None:
    def draw() -> torch.Tensor:
        return random_masks(50, (3, 20, 30), 0.8, torch.Generator().manual_seed(3))

    masks = draw()
    assert masks.shape == (50, 1, 20, 30) and torch.equal(masks, draw())
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    # Five standard deviations of a mean of 30,000 draws.
    assert abs(float(masks.mean()) - 0.2) < 5 * math.sqrt(0.2 * 0.8 / masks.numel())
    for bad in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"fraction in \[0, 1\)"):
            random_masks(1, (1, 4, 4), bad)


def test_grid_is_written_and_rows_must_match(tmp_path: Path) -> None:
    grey, colour = torch.rand(3, 1, 8, 8), torch.rand(3, 3, 8, 8)
    rows = [figures.Row("a", grey, "detail", ["1", "2", "3"]), figures.Row("b", colour)]
    figures.save_grid(tmp_path / "grid.png", "title", rows)
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    for wrong, message in (
        ([], "at least one row"),
        ([rows[0], figures.Row("c", grey[:2])], "expected 3 images in row 'c'"),
        ([figures.Row("d", grey, captions=["1"])], "expected 3 captions"),
        ([figures.Row("e", torch.rand(2, 2, 8, 8))], "1 or 3"),
    ):
        with pytest.raises(ValueError, match=message):
            figures.grid_figure("title", wrong)


def test_missing_pixels_are_marked_in_blue() -> None:
    marked = figures.mark_missing(torch.full((1, 1, 1, 2), 0.3), torch.tensor([[1.0, 0.0]]))
    assert marked[0, :, 0, 0].tolist() == pytest.approx([0.3] * 3)
    assert marked[0, :, 0, 1].tolist() == pytest.approx(figures.MISSING)
