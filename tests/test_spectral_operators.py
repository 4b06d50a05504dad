"""Blur, super-resolution and structured sensing: every shape, kernel and boundary they take."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dense_matrices import cosine_transform
from operator_properties import BATCH, KERNELS, blur_matrix, check, kernel_of
from PIL import Image
from torch.nn import functional as F

import jpmap_fast as jf
from jpmap_fast.operators.transforms import hadamard, hadamard_sizes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("image_shape", [(1, 6, 5), (3, 5, 6), (3, 4, 4)])
def test_circular_blur(image_shape, kind, dtype):
    kernel = kernel_of(kind, image_shape[0], dtype)
    matrix = blur_matrix(kernel, image_shape, "circular")
    check(jf.Blur(kernel), matrix, image_shape, dtype)


@pytest.mark.parametrize("boundary", ["zero", "reflect", "replicate", "valid"])
@pytest.mark.parametrize("image_shape, kind", [((1, 6, 5), "even"), ((3, 5, 6), "image-channels")])
def test_other_boundaries(image_shape, kind, boundary):
    kernel = kernel_of(kind, image_shape[0], torch.float64)
    matrix = blur_matrix(kernel, image_shape, boundary)
    check(jf.Blur(kernel, boundary), matrix, image_shape, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "image_shape, factor, kind",
    [
        ((1, 6, 8), 2, "odd"),
        ((3, 6, 4), 2, "image-channels"),
        ((1, 10, 6), 2, "even"),
        ((3, 6, 9), 3, "channels"),
        ((1, 9, 6), 3, "image"),
        ((1, 4, 8), 4, "odd"),
        ((1, 5, 5), 5, "even"),
        ((2, 5, 6), 1, "odd"),
    ],
)
def test_super_resolution(image_shape, factor, kind, dtype):
    kernel = kernel_of(kind, image_shape[0], dtype)
    matrix = blur_matrix(kernel, image_shape, "circular", factor)
    check(jf.SuperResolution(factor, kernel), matrix, image_shape, dtype)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("blocks", [(1, 1), (2, 3)])
def test_super_resolution_by_default_averages_blocks_as_pooling_does(factor, blocks):
    g = torch.Generator().manual_seed(0)
    shape = (2, factor * blocks[0], factor * blocks[1])
    x = torch.rand(BATCH, *shape, generator=g, dtype=torch.float64)
    for operator in (jf.SuperResolution(factor), jf.SuperResolution(factor, "box")):
        # The kernel is float32, 1 / f^2 rounded.
        torch.testing.assert_close(operator.A(x), F.avg_pool2d(x, factor), rtol=6e-8, atol=0)
    pooling = F.avg_pool2d(torch.eye(x[0].numel()).reshape(-1, *shape), factor).flatten(1).T
    if math.prod(shape) < 400:
        operator = jf.SuperResolution(factor).to(dtype=torch.float64)
        check(operator, pooling.double().expand(BATCH, -1, -1), shape, torch.float64)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 7])
def test_bicubic_super_resolution_is_that_of_other_programs(factor):
    """Within the border, where they do not wrap around: exactly, and after 8-bit rounding."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, factor * 10, factor * 12, generator=g)
    operator = jf.SuperResolution(factor, "bicubic")
    inside = operator.A(x)[0, 0, 2:-2, 2:-2]
    floats = Image.fromarray(x[0, 0].numpy()).resize((12, 10), Image.Resampling.BICUBIC)
    # Sums of at most 28^2 products of numbers below 1 in float32.
    torch.testing.assert_close(
        inside, torch.tensor(np.asarray(floats))[2:-2, 2:-2], rtol=0, atol=2e-6
    )
    theirs = F.interpolate(x, (10, 12), mode="bicubic", antialias=True)[0, 0, 2:-2, 2:-2]
    torch.testing.assert_close(inside, theirs, rtol=0, atol=2e-6)
    eight = (x * 255).round()
    pixels = Image.fromarray(eight[0, 0].byte().numpy()).resize((12, 10), Image.Resampling.BICUBIC)
    ours = operator.A(eight)[0, 0, 2:-2, 2:-2].clamp(0, 255)
    # Pillow rounds to 8 bits after the rows, whose weights sum to 1.3 in absolute value, and again.
    assert (ours - torch.tensor(np.asarray(pixels))[2:-2, 2:-2]).abs().max() <= 0.5 + 0.5 * 1.3
    placed = jf.SuperResolution(factor, jf.bicubic_kernel(factor))
    torch.testing.assert_close(placed.A(x), operator.A(x))


@pytest.mark.parametrize("factor, kernel", [(2, "bicubic"), (3, "bicubic")])
def test_bicubic_super_resolution_has_an_exact_update(factor, kernel):
    shape = (1, 6 * factor, 5 * factor)
    operator = jf.SuperResolution(factor, kernel).to(dtype=torch.float64)
    n = math.prod(shape)
    matrix = operator.A(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).flatten(1).T
    check(operator, matrix.expand(BATCH, -1, -1), shape, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("image_shape", [(1, 4, 5), (3, 4, 3), (2, 3, 2)])
def test_structured_cosine_sensing(image_shape, dtype):
    g = torch.Generator().manual_seed(0)
    operator = jf.StructuredSensing.dct(9, image_shape, generator=g, dtype=dtype)
    matrix = cosine_transform(image_shape, torch.float64)[operator.rows] * operator.signs.double()
    check(operator, matrix.expand(BATCH, -1, -1), image_shape, dtype)


@pytest.mark.parametrize("image_shape", [(1, 4, 5), (1, 4, 3), (1, 4, 7), (3, 4, 4), (1, 8, 8)])
def test_structured_hadamard_sensing(image_shape):
    g = torch.Generator().manual_seed(0)
    operator = jf.StructuredSensing.hadamard(9, image_shape, generator=g, dtype=torch.float64)
    n = math.prod(image_shape)
    matrix = operator.A(torch.eye(n, dtype=torch.float64).reshape(n, *image_shape)).T
    torch.testing.assert_close(matrix.abs(), torch.full((9, n), n**-0.5, dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(9, dtype=torch.float64))
    check(operator, matrix.expand(BATCH, -1, -1), image_shape, torch.float64)


@pytest.mark.parametrize("order", [1, 2, 4, 12, 16, 20, 28, 32])
def test_hadamard_matrices_are_orthogonal_signs(order):
    matrix = hadamard(order)
    assert torch.equal(matrix.abs(), torch.ones_like(matrix))
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


def test_orders_of_the_images_in_use_are_known_and_others_are_refused():
    assert math.prod(hadamard_sizes(784)) == 784 and math.prod(hadamard_sizes(12_288)) == 12_288
    for n in (6, 30, 3, 11, 784 * 3):
        with pytest.raises(ValueError, match=r"use StructuredSensing\.dct"):
            jf.StructuredSensing.hadamard(1, (1, 1, n))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: jf.Blur(torch.ones(3)), ValueError, r"kernel: expected shape \[kh, kw\]"),
        (lambda: jf.Blur(torch.ones(3, 3).long()), TypeError, "kernel: expected floating-point"),
        (lambda: jf.Blur(torch.full((3, 3), torch.nan)), ValueError, "kernel: expected finite"),
        (lambda: jf.Blur(torch.ones(3, 3), "mirror"), ValueError, "boundary: expected one of"),
        (lambda: jf.Blur(torch.ones(9, 3)).bind((1, 8, 8)), ValueError, r"at most \[8, 8\]"),
        (lambda: jf.Blur(torch.ones(2, 3, 3)).bind((3, 8, 8)), ValueError, r"shape \[3, 8, 8\]"),
        (lambda: jf.Blur(torch.ones(2, 1, 3, 3)).bind((1, 8, 8), 3), ValueError, "each of 3 im"),
        (lambda: jf.Blur(torch.ones(3, 3)).A(torch.ones(8, 8)), ValueError, r"\[B, C, H, W\]"),
        (lambda: jf.SuperResolution(0), ValueError, "factor: expected at least 1"),
        (lambda: jf.SuperResolution(2, "lanczos"), ValueError, "expected one of 'box', 'bicubic'"),
        (lambda: jf.SuperResolution(3).bind((1, 8, 9)), ValueError, r"divisor .*\[8, 9\], got 3"),
        (lambda: jf.StructuredSensing.dct(65, (1, 8, 8)), ValueError, "m: expected at most 64"),
        (
            lambda: jf.StructuredSensing.dct(6, (1, 8, 8)).bind((1, 4, 16)),
            ValueError,
            r"images of shape \[1, 8, 8\]",
        ),
        (lambda: jf.Composition(jf.Denoising(), None), TypeError, "inner: expected an operator"),
        (lambda: jf.Stack([]), ValueError, "expected at least one"),
        (lambda: jf.Stack([jf.Denoising()], [1, 2]), ValueError, "each of 1 operators, got 2"),
        (lambda: jf.Stack([jf.Denoising()], [-1]), ValueError, "noise: expected a finite number"),
        (
            lambda: jf.Stack([jf.Denoising()]).split(torch.ones(1, 4)),
            ValueError,
            r"call bind\(image_shape\) first",
        ),
        (
            lambda: jf.Stack([jf.Denoising()]).bind((1, 2, 2)).split(torch.ones(1, 5)),
            ValueError,
            r"y: expected shape \[B, 4\], got \[1, 5\]",
        ),
        (lambda: jf.gaussian_kernel(0), ValueError, "sigma: expected a finite number > 0"),
        (lambda: jf.motion_kernel(9, 0, size=5), ValueError, "size: expected at least 9"),
        (lambda: jf.box_kernel(0), ValueError, "size: expected at least 1"),
    ],
)
def test_misfits_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_kernels_and_boundaries_are_those_of_deepinverse():
    deepinv = pytest.importorskip("deepinv")
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 2, 8, 9, generator=g, dtype=torch.float64)
    for size in ((3, 3), (2, 4), (4, 5), (1, 2)):
        kernel = torch.rand(2, *size, generator=g, dtype=torch.float64)
        for ours, theirs in (("circular", "circular"), ("zero", "constant"), ("reflect", "reflect"),
                             ("replicate", "replicate"), ("valid", "valid")):  # fmt: skip
            expected = deepinv.physics.Blur(filter=kernel[None], padding=theirs).A(x)
            torch.testing.assert_close(jf.Blur(kernel, ours).A(x), expected)
        fourier = deepinv.physics.BlurFFT(img_size=(2, 8, 9), filter=kernel[None])
        torch.testing.assert_close(jf.Blur(kernel).A(x), fourier.A(x))
        square = x[..., :8]
        down = deepinv.physics.Downsampling(img_size=(2, 8, 8), filter=kernel[None], factor=2)
        torch.testing.assert_close(jf.SuperResolution(2, kernel).A(square), down.A(square))
