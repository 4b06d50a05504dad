"""DeepInverse's physics as operators, against the real package."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import jpmap_fast as jf

deepinv = pytest.importorskip("deepinv", reason="needs deepinv, the extra [deepinv]")
physics_ = deepinv.physics

from jpmap_fast.deepinv import as_operator  # noqa: E402
from jpmap_fast.deepinv.snapshot import converted  # noqa: E402
from jpmap_fast.deepinv.translation import translate  # noqa: E402

GREY, COLOUR, BATCH = (1, 6, 8), (3, 6, 8), 3
# Sums and transforms of at most a few hundred numbers, in float64.
EXACT = {"rtol": 1e-11, "atol": 1e-11}


pytestmark = pytest.mark.usefixtures("quiet")


@dataclass
class Case:
    make: Callable[[torch.Generator], Any]
    kind: str
    image_shape: tuple[int, int, int] = GREY


def _masks(g, count):
    return (torch.rand(count, *GREY, generator=g) < 0.5).float()


CASES = {
    "denoising": Case(lambda g: physics_.Denoising(), "Denoising"),
    "inpainting": Case(lambda g: physics_.Inpainting(GREY, mask=0.5, rng=g), "Inpainting"),
    "inpainting per image": Case(
        lambda g: physics_.Inpainting(GREY, mask=_masks(g, BATCH)), "Inpainting"
    ),
    "inpainting, mask beyond 1": Case(
        lambda g: physics_.Inpainting(GREY, mask=3 * _masks(g, 1)), "PhysicsOperator"
    ),
    "demosaicing": Case(lambda g: physics_.Demosaicing(COLOUR), "Inpainting", COLOUR),
    "compressed sensing": Case(
        lambda g: physics_.CompressedSensing(9, GREY, rng=g), "CompressedSensing"
    ),
    "compressed sensing by channel, grey": Case(
        lambda g: physics_.CompressedSensing(9, GREY, channelwise=True, rng=g), "CompressedSensing"
    ),
    "compressed sensing by channel, colour": Case(
        lambda g: physics_.CompressedSensing(9, COLOUR, channelwise=True, rng=g),
        "PhysicsOperator",
        COLOUR,
    ),
    "compressed sensing, complex": Case(
        lambda g: physics_.CompressedSensing(9, GREY, dtype=torch.cfloat, rng=g), "PhysicsOperator"
    ),
    "single pixel, dense": Case(
        lambda g: physics_.SinglePixelCamera(9, GREY, fast=False, rng=g), "CompressedSensing"
    ),
    "single pixel, Hadamard": Case(
        lambda g: physics_.SinglePixelCamera(9, (1, 4, 8)), "PhysicsOperator", (1, 4, 8)
    ),
    "structured random": Case(
        lambda g: physics_.StructuredRandom(GREY, (1, 4, 5), rng=g), "PhysicsOperator"
    ),
    "blur fft, even kernel": Case(
        lambda g: physics_.BlurFFT(COLOUR, torch.rand(1, 1, 4, 2, generator=g)), "Blur", COLOUR
    ),
    "blur per image": Case(
        lambda g: physics_.Blur(torch.rand(BATCH, 1, 3, 2, generator=g), padding="circular"), "Blur"
    ),
    "blur per image, reflected": Case(
        lambda g: physics_.Blur(torch.rand(BATCH, 1, 3, 2, generator=g), padding="reflect"), "Blur"
    ),
    "blur of colours": Case(
        lambda g: physics_.Blur(torch.rand(1, 3, 3, 3, generator=g), padding="circular"),
        "Blur",
        COLOUR,
    ),
    "downsampling": Case(
        lambda g: physics_.Downsampling(GREY, torch.rand(1, 1, 4, 3, generator=g), 2),
        "SuperResolution",
    ),
    "downsampling per image": Case(
        lambda g: physics_.Downsampling(GREY, torch.rand(BATCH, 1, 3, 3, generator=g), 2),
        "SuperResolution",
    ),
    "downsampling, no filter": Case(
        lambda g: physics_.Downsampling(GREY, None, 2), "SuperResolution"
    ),
    "downsampling, indivisible": Case(
        lambda g: physics_.Downsampling(GREY, torch.rand(1, 1, 3, 3, generator=g), 5),
        "PhysicsOperator",
    ),
    "downsampling, valid": Case(
        lambda g: physics_.Downsampling(
            GREY, torch.rand(1, 1, 3, 3, generator=g), 2, padding="valid"
        ),
        "PhysicsOperator",
    ),
    "upsampling": Case(
        lambda g: physics_.Upsampling((1, 12, 16), torch.rand(1, 1, 3, 3, generator=g)),
        "PhysicsOperator",
    ),
    "decolorize": Case(lambda g: physics_.Decolorize(), "PhysicsOperator", COLOUR),
    "tomography": Case(
        lambda g: physics_.Tomography(5, img_width=6, normalize=True), "PhysicsOperator", (1, 6, 6)
    ),
    "mri": Case(
        lambda g: physics_.MRI(mask=_masks(g, 1)[0, 0], img_size=(2, 6, 8)),
        "PhysicsOperator",
        (2, 6, 8),
    ),
    "space-varying blur per image": Case(
        lambda g: physics_.SpaceVaryingBlur(
            filters=torch.rand(BATCH, 1, 2, 3, 3, generator=g),
            multipliers=torch.rand(BATCH, 1, 2, 6, 8, generator=g),
            padding="circular",
        ),
        "PhysicsOperator",
    ),
    "spectral imaging, whose A_adjoint is no transpose": Case(
        lambda g: physics_.CompressiveSpectralImaging((3, 6, 8), rng=g), "PhysicsOperator", COLOUR
    ),
    "functions": Case(
        lambda g: physics_.LinearPhysics(
            A=lambda x: x[..., ::2, :],
            A_adjoint=lambda y: torch.stack((y, 0 * y), -2).flatten(-3, -2),
        ),
        "PhysicsOperator",
    ),
    "a function without its transpose": Case(
        lambda g: physics_.LinearPhysics(A=lambda x: x[..., ::2, :] + x[..., 1::2, :]),
        "PhysicsOperator",
    ),
    "composition": Case(
        lambda g: (
            physics_.Inpainting(GREY, mask=_masks(g, BATCH))
            * physics_.Blur(torch.rand(1, 1, 3, 3, generator=g), padding="circular")
        ),
        "Composition",
    ),
    "composition of colour and blur": Case(
        lambda g: (
            physics_.Blur(torch.rand(1, 1, 3, 3, generator=g), padding="valid")
            * physics_.Decolorize()
        ),
        "PhysicsOperator",
        COLOUR,
    ),
    "stack": Case(
        lambda g: physics_.stack(
            physics_.Blur(torch.rand(1, 1, 3, 3, generator=g)),
            physics_.Downsampling(GREY, "bilinear", 2),
        ),
        "PhysicsOperator",
    ),
    "stack whose A_adjoint is a mean": Case(
        lambda g: physics_.StackedLinearPhysics(
            [physics_.Blur(torch.rand(1, 1, 3, 3, generator=g)), physics_.Denoising()],
            reduction="mean",
        ),
        "PhysicsOperator",
    ),
    "pansharpening": Case(
        lambda g: physics_.Pansharpen(COLOUR, factor=2), "PhysicsOperator", COLOUR
    ),
    **{
        f"blur, {padding}, fft {fft}": Case(
            lambda g, padding=padding, fft=fft: physics_.Blur(
                torch.rand(1, 1, 3, 4, generator=g), padding=padding, use_fft=fft
            ),
            "Blur",
        )
        for padding in ("circular", "reflect", "replicate", "zeros", "constant", "valid")
        for fft in (False, True)
    },
}


def problem(name):
    """The physics in float64, its translation, and A as a matrix [B, m, n] by DeepInverse's own A.

    The matrix is made column by column from whole batches, as a physics with parameters for each
    image wants it.
    """
    case = CASES[name]
    physics = converted(case.make(torch.Generator().manual_seed(0)), dtype=torch.float64)
    if isinstance(physics, physics_.BlurFFT):
        physics.update(filter=physics.filter)  # its spectrum was made in float32
    made = translate(physics, case.image_shape, BATCH)
    basis = torch.eye(math.prod(case.image_shape), dtype=torch.float64)
    lift = torch.complex128 if "complex" in name else torch.float64
    columns = []
    for column in basis:
        images = column.reshape(1, *case.image_shape).repeat(BATCH, 1, 1, 1)
        columns.append(made.layout.pack(physics.A(images.to(lift))).flatten(1))
    return case, physics, made, torch.stack(columns, dim=2)


@pytest.mark.parametrize("name", CASES)
def test_operator_is_the_physics(name):
    case, _, made, matrix = problem(name)
    assert type(made.operator).__name__ == case.kind
    operator = made.operator.to(dtype=torch.float64).bind(case.image_shape, BATCH)
    x = torch.rand(BATCH, *case.image_shape, dtype=torch.float64)
    y = (matrix @ x.flatten(1)[:, :, None])[:, :, 0]
    torch.testing.assert_close(operator.A(x).flatten(1), y, **EXACT)
    v = torch.randn_like(operator.A(x))
    back = (matrix.mT @ v.flatten(1)[:, :, None])[:, :, 0]
    torch.testing.assert_close(operator.A_adjoint(v).flatten(1), back, **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_x_update_solves_the_normal_equations(name):
    """Against a dense solve. Conjugate gradients stop at 1e-12 of a system of condition < 1e4."""
    case, _, made, matrix = problem(name)
    operator = made.operator.to(dtype=torch.float64).bind(case.image_shape, BATCH)
    decoded = torch.rand(BATCH, *case.image_shape, dtype=torch.float64)
    y = torch.randn_like(operator.A(decoded))
    beta = torch.tensor([1.0, 20.0, 83.0], dtype=torch.float64)
    sigma = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64)
    x, *_ = operator.x_update(decoded, y, torch.zeros(BATCH, 2).double(), beta, sigma)
    system = matrix.mT @ matrix + torch.diag_embed(
        (beta * sigma**2)[:, None].expand(BATCH, matrix.shape[2])
    )
    right = matrix.mT @ y.flatten(1)[:, :, None]
    right = right + (beta * sigma**2)[:, None, None] * decoded.flatten(1)[:, :, None]
    expected = torch.linalg.solve(system, right)[:, :, 0]
    torch.testing.assert_close(x.flatten(1), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "name",
    ["denoising", "inpainting", "inpainting per image", "blur fft, even kernel", "downsampling"],
)
def test_x_update_is_prox_l2(name):
    """Those that DeepInverse solves in closed form: argmin gamma/2 |Ax - y|^2 + 1/2 |x - z|^2."""
    case, physics, made, _ = problem(name)
    decoded = torch.rand(BATCH, *case.image_shape, dtype=torch.float64)
    y = torch.randn_like(physics.A(decoded))
    beta, sigma = 50.0, 0.2
    expected = physics.prox_l2(decoded, y, gamma=1 / (beta * sigma**2))
    per_image = torch.ones(BATCH, dtype=torch.float64)
    z = torch.zeros(BATCH, 2, dtype=torch.float64)
    x, *_ = made.operator.x_update(decoded, y, z, beta * per_image, sigma * per_image)
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


def test_rows_of_a_physics_with_parameters_for_each_image_come_in_any_order():
    case, _, made, _ = problem("space-varying blur per image")
    x = torch.rand(BATCH, *case.image_shape, dtype=torch.float64)
    index = torch.tensor([2, 0, 2, 2, 1])
    some = made.operator.select(index)
    assert some.batch == 5
    torch.testing.assert_close(some.A(x[index]), made.operator.A(x)[index], **EXACT)
    again = some.select(torch.tensor([4, 4, 1]))
    torch.testing.assert_close(again.A(x[[1, 1, 0]]), made.operator.A(x)[[1, 1, 0]], **EXACT)
    assert again.select(torch.zeros(0, dtype=torch.int64)).A(x[:0]).shape == (0, *case.image_shape)
    with pytest.raises(ValueError, match="expected 5 rows"):
        some.A(x)


def test_a_subclass_with_another_A_keeps_its_own():
    class Twice(physics_.Denoising):
        def A(self, x, **kwargs):
            return 2 * x

        def A_adjoint(self, y, **kwargs):
            return 2 * y

    operator = as_operator(Twice(), GREY)
    assert type(operator).__name__ == "PhysicsOperator"
    x = torch.rand(2, *GREY)
    torch.testing.assert_close(operator.A(x), 2 * x)


def test_later_changes_of_a_physics_are_not_seen():
    x = torch.rand(1, *GREY)
    for physics, name in (
        (physics_.Inpainting(GREY, mask=_masks(None, 1)), "mask"),
        (physics_.Blur(torch.rand(1, 1, 3, 3)), "filter"),
        (physics_.Decolorize(), "srf"),
    ):
        images = x.expand(1, 3, -1, -1) if name == "srf" else x
        operator = as_operator(physics, images.shape[1:])
        before = operator.A(images)
        getattr(physics, name).zero_()
        torch.testing.assert_close(operator.A(images), before)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: "blur", TypeError, "expected a deepinv physics, got str"),
        (physics_.Haze, TypeError, "expected a deepinv LinearPhysics, got Haze"),
        (lambda: physics_.Physics(A=torch.square), TypeError, "LinearPhysics, got Physics"),
        (lambda: physics_.Decolorize(), ValueError, r"images of shape \[1, 6, 8\].*SRF"),
        (lambda: physics_.Blur(), ValueError, "filter is None"),
        (
            lambda: physics_.SpaceVaryingBlur(
                torch.rand(2, 1, 2, 3, 3), torch.rand(2, 1, 2, 6, 8), padding="circular"
            ),
            ValueError,
            "batch= together if it has parameters for each",
        ),
        (
            lambda: physics_.Tomography(5, 6, normalize=False, adjoint_via_backprop=False),
            ValueError,
            "expected A_adjoint to be the transpose of A",
        ),
    ],
)
def test_what_is_no_linear_map_of_the_images_is_refused(make, error, message):
    physics = make()
    shape = (1, 6, 6) if isinstance(physics, physics_.Tomography) else GREY
    with pytest.raises(error, match=message):
        as_operator(physics, shape)


def test_the_package_works_without_deepinv():
    code = (
        "import sys; sys.modules['deepinv'] = None\n"
        "import torch, jpmap_fast as jf\n"
        "model = jf.Reconstructor('mnist', sigma=0.3)\n"
        "x = model(torch.zeros(1, 1, 28, 28), jf.Denoising())\n"
        "print(type(model).__mro__[1].__name__, x.shape)\n"
        "few = jf.AMIS(rounds=(32,), screen=16, extra_rounds=0, fallback=None)\n"
        "sampler = jf.deepinv.Sampler('mnist', few, sigma=0.3)\n"
        "mean, var = sampler.sample(torch.zeros(1, 1, 28, 28), jf.Denoising(), seed=0)\n"
        "print(type(sampler).__mro__[1].__name__, mean.shape, float(var.min()) > 0)\n"
        "try:\n    jf.deepinv.as_operator(None, (1, 28, 28))\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    model, sampler, refusal = done.stdout.splitlines()
    assert model == "Module torch.Size([1, 1, 28, 28])"
    assert sampler == "Module torch.Size([1, 1, 28, 28]) True"
    assert "deepinv" in refusal


def test_physics_may_hold_a_tensor_as_plain_attribute():
    class Scale(physics_.LinearPhysics):
        def __init__(self, factor: Tensor) -> None:
            super().__init__()
            self.factor = factor

        def A(self, x, **kwargs):
            return self.factor * x

        def A_adjoint(self, y, **kwargs):
            return self.factor * y

    operator = as_operator(Scale(torch.tensor(3.0)), GREY).to(dtype=torch.float64)
    assert operator.A(torch.ones(1, *GREY).double()).dtype == torch.float64


class _Halved(deepinv.physics.Inpainting):
    """A of its own, which no operator here has."""

    def A(self, x, **kwargs):
        return 0.5 * super().A(x)

    def A_adjoint(self, y, **kwargs):
        return 0.5 * super().A_adjoint(y)


def test_a_physics_of_its_own_differentiates_and_takes_either_precision():
    g = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, 6, 6, generator=g) < 0.5).float()
    operator = jf.deepinv.as_operator(_Halved((1, 6, 6), mask=mask), (1, 6, 6))
    assert type(operator).__name__ == "PhysicsOperator"
    x = torch.rand(2, 1, 6, 6, generator=g, dtype=torch.float64).requires_grad_()
    y = operator.A(x)
    torch.testing.assert_close(y, 0.5 * mask.double() * x, rtol=1e-14, atol=0)
    assert operator.to(dtype=torch.float64).A(x.float()).dtype == torch.float32
    assert torch.autograd.gradcheck(operator.A, (x,), fast_mode=True)
    assert torch.autograd.gradcheck(operator.A_adjoint, (y.detach().requires_grad_(),))
    assert operator.to(dtype=torch.float64) is operator.to(dtype=torch.float64)
    with pytest.raises(TypeError, match="divide by 255"):
        operator.A(torch.ones(2, 1, 6, 6, dtype=torch.uint8))
