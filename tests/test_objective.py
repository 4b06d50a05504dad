"""The operator objective."""

from __future__ import annotations

import pytest
import torch
from op_cases import DTYPES, SIZES, TOLERANCE, draw, rows_error, scattered

from jpmap_fast import kernels
from jpmap_fast.kernels import reference


def arguments(batch, pixels, dtype, device, measurements=140):
    return [
        draw((batch, pixels), dtype, device, 0, True),
        draw((batch, pixels), dtype, device, 1, True),
        draw((batch, measurements), dtype, device, 2, False),
        draw((batch, 8), dtype, device, 3, False),
        1 + 500 * draw((batch,), dtype, device, 4, True),
        0.02 + draw((batch,), dtype, device, 5, True),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("measurements", [1, 140, 20_000])
@pytest.mark.parametrize("batch, pixels", SIZES)
def test_agrees_with_its_float64_twin(batch, pixels, measurements, dtype, device):
    batch = min(batch, 64) if measurements > 140 else batch
    args = arguments(batch, pixels, dtype, device, measurements)
    expected = reference.objective(*(a.double() for a in args))
    for found, right in zip(kernels.objective(*args), expected, strict=True):
        assert found.shape == right.shape and found.dtype == dtype
        assert rows_error(found, right) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_beta_without_a_gap_adds_nothing(dtype, device):
    args = arguments(3, 784, dtype, device)
    args[1] = args[0]
    args[4] = torch.full_like(args[4], torch.inf)
    value, gap = kernels.objective(*args)
    expected = reference.objective(*(a.double() for a in args))[0]
    assert rows_error(value, expected) <= TOLERANCE[dtype] and (gap == 0).all()


def test_memory_layout_does_not_matter(device):
    args = arguments(5, 784, torch.float32, device)
    for a, b in zip(
        kernels.objective(*(scattered(a) for a in args)), kernels.objective(*args), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("pixels", [33, 784, 12_288, 40_001])
def test_an_image_keeps_its_bits_in_any_batch(pixels, device):
    args = arguments(37, pixels, torch.float32, device)
    whole = kernels.objective(*args)
    for rows in (slice(5, 6), slice(30, 37)):
        part = kernels.objective(*(a[rows].clone() for a in args))
        for a, b in zip(part, whole, strict=True):
            assert torch.equal(a, b[rows])


def test_nan_stays_in_its_image(device):
    args = arguments(9, 784, torch.float32, device)
    clean = kernels.objective(*args)
    args[2][4, 100] = torch.nan
    dirty = kernels.objective(*args)
    assert torch.isnan(dirty[0][4])
    others = [i for i in range(9) if i != 4]
    assert torch.equal(clean[0][others], dirty[0][others])


def test_opcheck(device):
    args = arguments(3, 33, torch.float64, device)
    torch.library.opcheck(torch.ops.jpmap.objective.default, tuple(args))


@pytest.mark.parametrize(
    "place, value, error, message",
    [
        (0, torch.zeros(4), ValueError, r"x of shape \[B, n\], got \[4\]"),
        (1, torch.zeros(2, 5), ValueError, r"decoded of shape \[2, 4\], got \[2, 5\]"),
        (2, torch.zeros(3, 5), ValueError, r"residual of shape \[2, 5\], got \[3, 5\]"),
        (2, torch.zeros(2, 5).double(), TypeError, "residual in torch.float32"),
        (4, torch.zeros(2, 1), ValueError, r"beta of shape \[2\], got \[2, 1\]"),
    ],
)
def test_misfits_are_refused(place, value, error, message):
    args = arguments(2, 4, torch.float32, torch.device("cpu"))
    args[place] = value
    with pytest.raises(error, match=message):
        kernels.objective(*args)
