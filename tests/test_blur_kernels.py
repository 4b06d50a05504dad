"""The usual blur kernels."""

from __future__ import annotations

import pytest
import torch

import jpmap_fast as jf


@pytest.mark.parametrize("sigma, size", [(1.0, None), (0.3, 4), (20.0, 5), (0.01, 4)])
def test_gaussian_kernels(sigma, size):
    kernel = jf.gaussian_kernel(sigma, size)
    assert abs(float(kernel.sum()) - 1) < 1e-6 and (kernel >= 0).all()
    torch.testing.assert_close(kernel, kernel.flip(0, 1))
    torch.testing.assert_close(kernel, kernel.T)
    if size is None:
        variance = (torch.arange(-3.0, 4).square() * kernel.sum(0)).sum()
        assert abs(float(variance) - sigma**2) < 0.03  # cut off at three deviations


@pytest.mark.parametrize("length", [1, 2.5, 7, 9])
def test_motion_kernels(length):
    flat = jf.motion_kernel(length, 0)
    middle = flat.shape[0] // 2
    assert abs(float(flat.sum()) - 1) < 1e-6
    assert float(flat[middle].sum()) == pytest.approx(1)
    torch.testing.assert_close(jf.motion_kernel(length, 90), flat.T)
    torch.testing.assert_close(jf.motion_kernel(length, 30), jf.motion_kernel(length, 210))
    # A line that rises to the right: rows count downwards.
    rising = jf.motion_kernel(7, 45)
    assert rising[1, -2] > 0 and rising[1, 1] == 0


def test_box_kernels():
    torch.testing.assert_close(jf.box_kernel(4), torch.full((4, 4), 1 / 16))
