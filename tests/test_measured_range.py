"""Measurements that are none of images in [0, 1] are refused, and legitimate ones never."""

from __future__ import annotations

import math

import pytest
import torch
from operator_kinds import KINDS, SHAPE, bound
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._validate import noise_levels
from jpmap_fast.operators import measured_range, reach

PHOTO = (3, 32, 32)
_G = torch.Generator().manual_seed(5)
_MASK = (torch.rand(32, 32, generator=_G) < 0.3).float()
_KERNEL = jf.gaussian_kernel(1.5)
OPERATORS = {
    "denoising": jf.Denoising(),
    "inpainting": jf.Inpainting(_MASK),
    "blur": jf.Blur(_KERNEL),
    "blur-with-gain": jf.Blur(20 * _KERNEL),
    "blur-reflect": jf.Blur(_KERNEL, "reflect"),
    "edges": jf.Blur(torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])),
    "super-resolution": jf.SuperResolution(4),
    "bicubic": jf.SuperResolution(2, "bicubic"),
    "gaussian": jf.CompressedSensing.gaussian(60, PHOTO, _G),
    "unnormalised": jf.CompressedSensing(torch.randn(60, 3072, generator=_G)),
    "positive": jf.CompressedSensing(torch.rand(60, 3072, generator=_G)),
    "dct": jf.StructuredSensing.dct(100, PHOTO, _G),
    "masked-blur": jf.Composition(jf.Inpainting(_MASK), jf.Blur(_KERNEL)),
    "stack": jf.Stack([jf.SuperResolution(2), jf.Inpainting(_MASK)], noise=[0.5, 2]),
    "sums-of-rows": jf.LinearOperator(
        lambda x: x.sum(dim=-1) * 1.0, lambda y: y[..., None].expand(*y.shape, 32)
    ),
}
PIXELWISE = ["denoising", "inpainting", "blur", "blur-with-gain", "blur-reflect", "masked-blur"]


@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (2, 3, 9, 17), (1, 1, 8, 1), (2, 1, 5, 7)])
def test_means_of_windows_are_those_of_a_pooling(shape):
    images = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    size = (min(8, shape[-2]), min(8, shape[-1]))
    stride = tuple(max(1, side // 2) for side in size)
    expected = torch.nn.functional.avg_pool2d(images, size, stride)
    torch.testing.assert_close(measured_range._windows(images, size), expected)


def photographs(count: int, contrast: float = 1.0) -> Tensor:
    """Smooth random images in [0, contrast]."""
    coarse = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, PHOTO[1:], mode="bicubic")
    return torch.sigmoid(2 * smooth) * contrast


def refused(operator: jf.Operator, y: Tensor, sigma: float) -> int:
    """How many images of a batch are refused by themselves."""
    count = 0
    for row in y.split(1):
        told = torch.full((1,), sigma)
        without_asking = reach.refused(operator.operator, row, told)
        try:
            operator.check_range(row, told)
        except ValueError as error:
            assert "image 0" in str(error)
            assert without_asking.tolist() == [True]
            count += 1
        else:
            assert without_asking.tolist() == [False]
    return count


@pytest.mark.parametrize("name", OPERATORS)
def test_noise_of_any_level_is_no_reason(name):
    """Levels that are right, too small by half a decade and more, or given to data without any."""
    operator = OPERATORS[name].bind(PHOTO)
    g = torch.Generator().manual_seed(0)
    for x in (photographs(30), photographs(10, 0.1), torch.zeros(2, *PHOTO), torch.ones(2, *PHOTO)):
        for true, told in (
            (0, 1e-3), (0, 0.04), (0.04, 0.04), (0.3, 0.04), (0.5, 0.5), (0.5, 0.1), (1, 0.3),
            (3, 3), (10, 10), (40, 40), (0, 2.0), (0.1, 2.0), (3, 2),
        ):  # fmt: skip
            assert refused(operator, operator.measure(x, true, g), told) == 0, (true, told)


@pytest.mark.parametrize("name", OPERATORS)
def test_values_of_8_and_16_bits_are_refused(name):
    operator = OPERATORS[name].bind(PHOTO)
    g = torch.Generator().manual_seed(0)
    for scale in (255, 65535):
        for noise, told in ((0.04, 0.04), (0, 0.01), (10 / 255, 10 / 255 * scale)):
            y = scale * operator.measure(photographs(5), noise, g)
            assert refused(operator, y, told) == 5
            with pytest.raises(ValueError, match="divide by 255"):
                operator.check_range(y, torch.full((5,), float(told)))


@pytest.mark.parametrize("name", PIXELWISE)
def test_values_about_zero_are_refused(name):
    operator = OPERATORS[name].bind(PHOTO)
    x, g = photographs(5), torch.Generator().manual_seed(0)
    for images in (2 * x - 1, (x - x.mean()) / x.std()):
        y = operator.measure(images, 0.04, g)
        assert refused(operator, y, 0.04) == 5
        with pytest.raises(ValueError, match=r"image 0; bring \[-1, 1\] into it by \(y \+ 1\) / 2"):
            operator.check_range(y, torch.full((5,), 0.04))


def test_digits_in_other_units_are_refused():
    x, _ = jf.mnist_test_digits(20)
    denoising = jf.Denoising().bind((1, 28, 28))
    for y, sigma in ((255 * x, 10 / 255), (255 * x, 10.0), (2 * x - 1, 0.1), (x, 10.0)):
        assert refused(denoising, y, sigma) == 20
    for y, sigma in ((x, 10 / 255), (x + 10 * torch.randn_like(x), 10.0), (0 * x, 25.0)):
        assert refused(denoising, y, sigma) == 0


def test_one_bad_image_is_named_and_broken_ones_are_passed_over():
    y, sigma = photographs(4), torch.full((4,), 0.1)
    y[1, 0, 0, 0] = math.nan
    y[2] *= 255
    with pytest.raises(ValueError, match=r"got values from .* to 25\d.* in image 2; divide"):
        jf.Denoising().bind(PHOTO).check_range(y, sigma)
    y[2, 0, 0, 0] = math.inf
    jf.Denoising().bind(PHOTO).check_range(y, sigma)
    jf.Denoising().bind(PHOTO).check_range(y[:0], sigma[:0])


def test_what_was_not_observed_may_hold_anything():
    y, sigma = photographs(3), torch.full((3,), 0.1)
    spoiled = torch.where(_MASK == 0, -9999.0, y)
    operator = jf.Inpainting(_MASK).bind(PHOTO)
    operator.check_range(spoiled, sigma)
    several = jf.Inpainting(_MASK.expand(3, 1, 32, 32)).bind(PHOTO, 3)
    several.check_range(spoiled, sigma)
    jf.Inpainting(torch.zeros(32, 32)).bind(PHOTO).check_range(255 * y, sigma)
    with pytest.raises(ValueError, match="divide by 255"):
        several.check_range(255 * y, sigma)


@pytest.mark.parametrize("name", KINDS)
def test_every_operator_has_a_range(name):
    operator = bound(name)
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((3,), 0.05)
    operator.check_range(operator.measure(x, 0.05), sigma)
    with pytest.raises(ValueError, match="divide by 255"):
        operator.check_range(255 * operator.measure(x, 0.05), sigma)


def test_functions_are_asked_for_their_norm_only_where_it_counts():
    calls = []

    def forward(x):
        calls.append(len(x))
        return 0.5 * x

    operator = jf.LinearOperator(forward, forward).bind(PHOTO)
    y, sigma = photographs(2), torch.full((2,), 0.1)
    operator.check_range(y, sigma)
    assert not calls
    for _ in range(2):
        with pytest.raises(ValueError, match="divide by 255"):
            operator.check_range(200 * y, sigma)
        made = len(calls)
    assert len(calls) == made <= 30


@pytest.mark.parametrize("dtype, least", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_noise_levels_have_a_least(dtype, least):
    like = torch.zeros((), dtype=dtype)
    found = noise_levels("sigma", [2 * least, 1], 2, like).like(like)
    assert found.tolist() == pytest.approx([2 * least, 1])
    for bad in (0, 0.0, least / 2, [0.1, 0.0], 1e-300):
        with pytest.raises(ValueError, match=r"sigma: .*limit of small sigma: pass 1e-3"):
            noise_levels("sigma", bad, 2, like)
    with pytest.raises(ValueError, match="expected finite values > 0, got -1"):
        noise_levels("sigma", -1, 2, like)


@pytest.mark.parametrize("each", [False, True], ids=["one mask", "masks"])
def test_many_images_are_looked_at_part_by_part(each, monkeypatch):
    y = photographs(7) + 0.1 * torch.randn(7, *PHOTO, generator=torch.Generator().manual_seed(2))
    y[3] *= 255
    y[5] = 2 * y[5] - 2
    y[6, 0, 0, 0] = math.nan
    seen = torch.rand(7 if each else 1, *PHOTO, generator=torch.Generator().manual_seed(3)) < 0.6
    seen = seen if each else seen[0]
    sigma, whole = torch.full((7,), 0.1), torch.full((7,), float(y[0].numel()) ** 0.5)

    def looked_at() -> list[Tensor]:
        low = measured_range.too_low(y, sigma, (1.0, 0.0), seen)
        assert low is not None
        return [measured_range.too_large(y, sigma, whole, 1.0, seen), low]

    together = looked_at()
    assert together[0].nonzero().flatten().tolist() == [3]
    assert together[1].nonzero().flatten().tolist() == [5]
    loud = measured_range.quiet(y, 50 * sigma)
    mask = jf.Inpainting(seen.float()).bind(PHOTO, 7)
    constant = mask.data_term().constant(y.nan_to_num(), sigma)
    monkeypatch.setattr("jpmap_fast._arrays.TOGETHER", 2 * y[0].numel())
    monkeypatch.setattr("jpmap_fast.operators.diagonal.TOGETHER", 1)
    for one, other in zip(together, looked_at(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(loud, measured_range.quiet(y, 50 * sigma))
    assert constant is not None
    assert torch.equal(constant, mask.data_term().constant(y.nan_to_num(), sigma))
