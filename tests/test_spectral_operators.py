"""Blur, super-resolution and structured sensing: every shape, kernel and boundary they take."""

from __future__ import annotations

import math

import pytest
import torch
from dense_matrices import convolution, cosine_transform, decimation
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.batch_invariant import RowProduct
from jpmap_fast.operators.transforms import hadamard, hadamard_sizes
from jpmap_fast.priors.decoder import MLPDecoder

# Tolerances on relative errors: rounding times the condition number of the systems below, which
# is at most 1 + ||A||^2 / (beta sigma^2), about 30.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
BATCH = 3
KERNELS = ["odd", "even", "channels", "image", "image-channels"]


def kernel_of(kind: str, channels: int, dtype: torch.dtype) -> Tensor:
    shape = {
        "odd": (3, 3),
        "even": (2, 4),
        "channels": (channels, 4, 3),
        "image": (BATCH, 1, 3, 2),
        "image-channels": (BATCH, channels, 2, 2),
    }[kind]
    g = torch.Generator().manual_seed(7)
    return torch.rand(shape, generator=g, dtype=torch.float64).to(dtype) / 6


def blur_matrix(kernel: Tensor, image_shape, boundary: str, factor: int = 1) -> Tensor:
    """[B, m, n] float64."""
    kernel = kernel.double()
    kernel = kernel[None] if kernel.dim() == 2 else kernel
    kernels = kernel if kernel.dim() == 4 else kernel[None].expand(BATCH, -1, -1, -1)
    matrices = torch.stack([convolution(k, image_shape, boundary) for k in kernels])
    return decimation(image_shape, factor, torch.float64) @ matrices if factor > 1 else matrices


def check(operator: jf.Operator, matrix: Tensor, image_shape, dtype: torch.dtype) -> None:
    """A, A^T, the x-update at any beta, J(z) = min_x J1 and its derivatives, and ``select``."""
    tolerance = TOLERANCE[dtype]
    g = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64).to(dtype)

    operator = operator.bind(image_shape, BATCH)
    n, k = math.prod(image_shape), 3
    x, decoded, z = draw(BATCH, *image_shape), draw(BATCH, *image_shape), draw(BATCH, k)
    sigma, beta = draw(BATCH) * 0.3 + 0.3, 1 + 20 * draw(BATCH)
    y = operator.A(x) + 0.1 * draw(*operator.A(x).shape)
    assert tuple(y.shape[1:]) == operator.measurement_shape(image_shape, x)
    expected = (matrix @ x.double().flatten(1)[:, :, None])[:, :, 0]
    near(operator.A(x), expected, tolerance)
    back = (matrix.mT @ y.double().flatten(1)[:, :, None])[:, :, 0]
    near(operator.A_adjoint(y), back, tolerance)

    for b in (beta, torch.full_like(beta, torch.inf)):
        found = operator.x_update(decoded, y, z, b, sigma)
        for value, exact in zip(found, exact_update(matrix, decoded, y, z, b, sigma), strict=True):
            near(value, exact, 10 * tolerance)
    part = operator.select(torch.tensor([2, 0, 2]))
    rows = torch.tensor([2, 0, 2])
    again = part.x_update(decoded[rows], y[rows], z[rows], beta[rows], sigma[rows])
    whole = operator.x_update(decoded, y, z, beta, sigma)
    for value, other in zip(again, whole, strict=True):
        near(value, other[rows].double(), tolerance)

    decoder = MLPDecoder([RowProduct(draw(n, k) - 0.5, draw(n))], ["sigmoid"])
    for b in (beta, torch.full_like(beta, torch.inf)):
        f = operator.projected(decoder, y, b, sigma)
        exact = exact_objective(matrix, decoder, y, z, b, sigma)
        value, gradient, system = f.normal_equations(z)
        near(value, exact, 10 * tolerance)
        near(f.value(z), exact, 10 * tolerance)
        near(f.gradient(z)[1], gradient.double(), 100 * tolerance)
        near(f.select(rows).value(z[rows]), exact[rows], 10 * tolerance)
        if dtype == torch.float64:
            step = 1e-5 * torch.eye(k, dtype=dtype)
            slopes = [(f.value(z + s) - f.value(z - s)) / 2e-5 for s in step]
            # Central differences: truncation 1e-10 of the third derivative, rounding 1e-11.
            near(gradient, torch.stack(slopes, dim=1), 1e-7)
        _, tangents = decoder.linearise(z.to(dtype))
        j = matrix @ tangents.double().mT
        w = weight(matrix, b, sigma)
        near(system, j.mT @ w @ j + torch.eye(k, dtype=torch.float64), 100 * tolerance)


def near(found: Tensor, exact: Tensor, tolerance: float) -> None:
    """Rows agree relative to their norm."""
    found, exact = found.double().reshape(len(found), -1), exact.reshape(len(exact), -1)
    assert ((found - exact).norm(dim=1) <= tolerance * exact.norm(dim=1).clamp_min(1e-12)).all()


def weight(matrix: Tensor, beta: Tensor, sigma: Tensor) -> Tensor:
    identity = torch.eye(matrix.shape[1], dtype=torch.float64)
    system = sigma.double().square()[:, None, None] * identity
    return torch.linalg.inv(system + matrix @ matrix.mT / beta.double()[:, None, None])


def exact_update(matrix, decoded, y, z, beta, sigma):
    flat = decoded.double().flatten(1)
    residual = y.double().flatten(1) - (matrix @ flat[:, :, None])[:, :, 0]
    solved = (weight(matrix, beta, sigma) @ residual[:, :, None])[:, :, 0]
    step = (matrix.mT @ solved[:, :, None])[:, :, 0] / beta.double()[:, None]
    value = 0.5 * ((residual * solved).sum(1) + z.double().square().sum(1))
    return flat + step, value, step.square().sum(1)


def exact_objective(matrix, decoder, y, z, beta, sigma):
    return exact_update(matrix, decoder.value(z), y, z, beta, sigma)[1]


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


def test_super_resolution_by_default_averages_the_pixels_about_each_kept_one():
    x = torch.rand(1, 1, 6, 6)
    y = jf.SuperResolution(3).A(x)
    torch.testing.assert_close(y[0, 0, 1, 1], x[0, 0, 2:5, 2:5].mean())


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


def test_masks_may_be_weights_and_operators_may_follow_one_another():
    """Weighted masks of every image after a blur of every image, and Stack of all of it."""
    g = torch.Generator().manual_seed(3)
    shape, dtype = (3, 5, 4), torch.float64
    masks = torch.rand(BATCH, *shape, generator=g, dtype=dtype)
    kernel = kernel_of("image-channels", 3, dtype)
    blur = blur_matrix(kernel, shape, "replicate")
    masked = torch.diag_embed(masks.flatten(1)) @ blur
    operator = jf.Composition(jf.Inpainting(masks), jf.Blur(kernel, "replicate"))
    check(operator, masked, shape, dtype)
    both = jf.Stack([operator, jf.Denoising()], noise=[0.5, 2]).to(dtype=dtype)
    identity = torch.eye(60, dtype=dtype).expand(BATCH, -1, -1)
    check(both, torch.cat((masked / 0.5, identity / 2), dim=1), shape, dtype)


def test_a_stack_weighs_each_measurement_by_its_own_noise():
    """J1 at any x and z is the sum over the measurements, each with the deviation sigma s_i."""
    g = torch.Generator().manual_seed(3)
    shape = (1, 6, 6)
    x, decoded = (torch.rand(2, *shape, generator=g, dtype=torch.float64) for _ in range(2))
    parts = [jf.Denoising(), jf.SuperResolution(2).to(dtype=torch.float64)]
    stack = jf.Stack(parts, noise=[3.0, 0.5]).to(dtype=torch.float64).bind(shape)
    raw = [part.A(x) + 0.1 for part in parts]
    y = stack.join(*raw)
    for back, given in zip(stack.split(y), raw, strict=True):
        torch.testing.assert_close(back, given)
    beta, sigma = torch.full((2,), 5.0).double(), torch.tensor([0.2, 0.4]).double()
    z = torch.zeros(2, 3, dtype=torch.float64)
    found, objective, gap = stack.x_update(decoded, y, z, beta, sigma)
    data = sum(
        (part.A(found) - measured).flatten(1).square().sum(1) / (2 * (sigma * s).square())
        for part, measured, s in zip(parts, raw, stack.noise, strict=True)
    )
    torch.testing.assert_close(objective, data + beta / 2 * gap)


@pytest.mark.parametrize(
    "operator, kind",
    [
        (jf.Composition(jf.Inpainting(torch.rand(6, 6)), jf.Denoising()), jf.Inpainting),
        (jf.Composition(jf.Denoising(), jf.SuperResolution(2)), jf.SuperResolution),
        (jf.Composition(jf.Inpainting(torch.rand(6, 6)), jf.Inpainting(torch.rand(2, 1, 6, 6))),
         jf.Inpainting),
        (jf.Composition(jf.CompressedSensing(torch.rand(4, 9)), jf.SuperResolution(2)),
         jf.CompressedSensing),
        (jf.Composition(jf.Inpainting(torch.rand(6, 6)), jf.Blur(torch.rand(3, 3))),
         jf.Composition),
    ],
)  # fmt: skip
def test_compositions_use_a_closed_form_where_there_is_one(operator, kind):
    bound = operator.bind((1, 6, 6), 2)
    assert type(bound) is kind
    x = torch.rand(2, 1, 6, 6)
    torch.testing.assert_close(bound.A(x), operator.A(x))


def test_warm_starts_save_iterations_and_change_no_result():
    """A second evaluation at the same z begins at its own solution."""
    g = torch.Generator().manual_seed(3)
    kernel = kernel_of("odd", 1, torch.float64)
    operator = jf.Blur(kernel, "zero").bind((1, 8, 8))
    calls = 0
    forward = operator.A

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(x)

    operator.A = counted
    weights = torch.rand(64, 3, generator=g, dtype=torch.float64)
    decoder = MLPDecoder([RowProduct(weights, weights[:, 0])], ["tanh"])
    y = torch.rand(2, 1, 8, 8, generator=g, dtype=torch.float64)
    f = operator.projected(
        decoder, y, torch.full((2,), 4.0).double(), torch.full((2,), 0.1).double()
    )
    z = torch.rand(2, 3, generator=g, dtype=torch.float64)
    first = f.normal_equations(z)
    cold, calls = calls, 0
    second = f.select(torch.tensor([1, 0])).normal_equations(z.flip(0))
    assert calls <= 4 < cold  # A G, A of the columns, and one residual for each solve
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b.flip(0), rtol=1e-9, atol=1e-9)


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
