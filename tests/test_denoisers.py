"""Denoisers keep their Lipschitz constant: when made, trained, rounded, stored and used."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import jpmap_fast as jf
from jpmap_fast.denoisers import (
    LipschitzDenoiser,
    available_denoisers,
    convolution_norm,
    convolution_norm_bound,
    load_denoiser,
    save_denoiser,
)
from jpmap_fast.denoisers.lipschitz import max_min
from jpmap_fast.denoisers.spectral_norm import PowerIteration
from jpmap_fast.training.denoiser import DenoiserRecipe, denoising_psnr, train_denoiser

# Relative error of a chain of ten float32 convolutions, some hundred sums each.
ROUNDING = 1e-5
SHAPE = (2, 6, 5)


def dense(weight: Tensor, height: int, width: int) -> Tensor:
    """The matrix [O h w, I h w] of a convolution with zeros beyond the border."""
    pixels = weight.shape[1] * height * width
    basis = torch.eye(pixels, dtype=torch.float64, device=weight.device)
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    images = basis.reshape(pixels, weight.shape[1], height, width)
    return functional.conv2d(images, weight.double(), padding=padding).flatten(1).T


@torch.no_grad()
def product_of_norms(denoiser: LipschitzDenoiser) -> float:
    """L from dense matrices, without the code under test."""
    height, width = denoiser.image_shape[1:]
    kernels = (denoiser.first, *denoiser.hidden, denoiser.last)
    norms = [float(torch.linalg.matrix_norm(dense(k, height, width), 2)) for k in kernels]
    return math.prod(norms)


@torch.no_grad()
def random_denoiser(
    shape: tuple[int, int, int] = SHAPE, width: int = 8, depth: int = 4, lipschitz: float = 0.9
) -> LipschitzDenoiser:
    """Kernels without structure, biases about the size of what goes through."""
    denoiser = LipschitzDenoiser(shape, lipschitz, width, depth)
    for parameter in denoiser.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter))
    denoiser.normalise()
    return denoiser.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def trained() -> tuple[LipschitzDenoiser, dict]:
    """A few steps on real digits: kernels that training has shaped."""
    digits, _ = jf.mnist_test_digits(400)
    settings = dict(width=8, depth=4, steps=150, batch_size=16, learning_rate=3e-3)
    return train_denoiser(digits[100:], progress=False, **settings)


# --- spectral norms ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (6, 5)])
@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (1, 4, 5, 3), (2, 2, 1, 1)])
def test_norm_is_that_of_the_dense_matrix(size, shape, device):
    weight = torch.randn(shape).to(device)
    exact = float(torch.linalg.matrix_norm(dense(weight, *size), 2))
    assert convolution_norm(weight, *size) == pytest.approx(exact, rel=1e-9)


def test_norm_of_kernels_known_by_hand():
    # Nine ones on a large image sum nine pixels; on a single pixel only the middle is left.
    ones = torch.ones(1, 1, 3, 3)
    assert convolution_norm(ones, 1, 1) == pytest.approx(1)
    # Separable: (1 + 2 cos(pi / (n + 1)))^2, from the eigenvalues of a tridiagonal matrix.
    exact = (1 + 2 * math.cos(math.pi / 10)) ** 2
    assert convolution_norm(ones, 9, 9) == pytest.approx(exact, rel=1e-9)
    assert convolution_norm(torch.zeros(2, 3, 3, 3), 4, 4) == 0


def test_norm_grows_with_the_image_up_to_its_bound():
    weight = torch.randn(3, 2, 3, 3)
    sizes = (1, 2, 4, 8, 16)
    norms = [convolution_norm(weight, size, size + 1) for size in sizes]
    assert norms == sorted(norms) and norms[0] < norms[-1]
    bounds = [convolution_norm_bound(weight, size, size + 1) for size in sizes]
    assert all(norm <= bound for norm, bound in zip(norms, bounds, strict=True))
    assert bounds[-1] < 1.03 * norms[-1]
    # Nothing but the middle of the kernel: no border, and the bound is the norm.
    weight = weight * torch.eye(3)[1].outer(torch.eye(3)[1])
    exact = float(torch.linalg.matrix_norm(weight[:, :, 1, 1], 2))
    assert convolution_norm_bound(weight, 4, 5) == pytest.approx(exact, rel=1e-6)


def test_norm_is_not_that_of_the_reshaped_weights():
    weight = torch.ones(1, 1, 3, 3)
    assert convolution_norm(weight, 20, 20) > 2.5 * float(
        torch.linalg.matrix_norm(weight.flatten(1), 2)
    )


def test_norm_of_what_is_no_kernel():
    with pytest.raises(ValueError, match=r"odd h, w, got \[1, 1, 2, 3\]"):
        convolution_norm(torch.ones(1, 1, 2, 3), 4, 4)
    with pytest.raises(ValueError, match="NaN or infinity"):
        convolution_norm(torch.full((1, 1, 3, 3), torch.nan), 4, 4)
    with pytest.raises(ValueError, match="height: expected at least 1"):
        convolution_norm(torch.ones(1, 1, 3, 3), 0, 4)


def test_power_iteration_finds_all_norms_and_their_gradients(device):
    weight = torch.randn(3, 4, 2, 3, 3, dtype=torch.float64)
    # A small image: its singular values lie farther apart.
    power = PowerIteration(3, 4, 2, 3, 2, device=device, generator=torch.Generator().manual_seed(1))
    power.v = power.v.double()
    mine = weight.clone().to(device).requires_grad_()
    for _ in range(1000):
        norms = power(mine)
    norms.sum().backward()
    theirs = weight.clone().requires_grad_()
    exact = torch.stack([torch.linalg.matrix_norm(dense(k, 3, 2), 2) for k in theirs])
    exact.sum().backward()
    torch.testing.assert_close(norms.cpu(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(mine.grad.cpu(), theirs.grad, rtol=0, atol=1e-3)


# --- the denoiser -----------------------------------------------------------------------------


def test_sorting_moves_values_and_changes_none():
    h = torch.randn(3, 6, 4, 5)
    out = max_min(h)
    assert torch.equal(out.sort(dim=1).values, h.sort(dim=1).values)
    assert bool((out[:, :3] >= out[:, 3:]).all())


@pytest.mark.parametrize("lipschitz", [0.3, 0.9])
def test_bound_of_a_new_denoiser_and_of_a_normalised_one(lipschitz):
    new = LipschitzDenoiser(SHAPE, lipschitz, 8, 5)
    for denoiser in (new, random_denoiser(lipschitz=lipschitz)):
        exact = product_of_norms(denoiser)
        assert denoiser.lipschitz == lipschitz
        assert lipschitz * (1 - 1e-3) < exact <= lipschitz


@pytest.mark.parametrize("height, width", [(6, 5), (3, 5)])
def test_residual_differences_stay_below_the_bound(height, width, device):
    denoiser = random_denoiser().to(device)
    x = torch.randn(64, 2, height, width, device=device)
    for size in (1e-2, 1.0, 30.0):
        other = x + size * torch.randn(x.shape, device=device)
        moved = denoiser.residual(x, 0.2) - denoiser.residual(other, 0.2)
        ratio = moved.flatten(1).norm(dim=1) / (x - other).flatten(1).norm(dim=1)
        assert float(ratio.max()) <= denoiser.lipschitz * (1 + ROUNDING)


def test_the_bound_is_attained():
    # As many channels inside as outside: every layer is an orthogonal matrix at each pixel, and
    # the activation sorts, so that nothing loses norm but the factor L.
    denoiser = LipschitzDenoiser(SHAPE, 0.9, 2, 6).requires_grad_(False)
    x = torch.randn(5, *SHAPE)
    other = x + 1e-2 * torch.randn(x.shape)
    moved = denoiser.residual(x, 0.1) - denoiser.residual(other, 0.1)
    ratio = moved.flatten(1).norm(dim=1) / (x - other).flatten(1).norm(dim=1)
    torch.testing.assert_close(ratio.max(), torch.tensor(denoiser.lipschitz), rtol=1e-3, atol=0)
    local = denoiser.local_lipschitz(x, 0.1)
    exact = torch.full((5,), denoiser.layer_norm**6)
    torch.testing.assert_close(local, exact, rtol=1e-5, atol=0)
    assert 0.999 * denoiser.lipschitz < float(exact[0]) < denoiser.lipschitz


def test_local_constants_are_spectral_norms_of_the_jacobian():
    denoiser = random_denoiser().double()
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    local = denoiser.local_lipschitz(x, sigma, iterations=400)
    for image, level, found in zip(x, sigma, local, strict=True):
        jacobian = torch.func.jacrev(lambda v, s=level: denoiser.residual(v[None], float(s)))(image)
        exact = torch.linalg.matrix_norm(jacobian.reshape(image.numel(), -1), 2)
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)
    assert bool((local < denoiser.lipschitz).all())
    with torch.inference_mode():
        assert torch.equal(denoiser.local_lipschitz(x, sigma, iterations=400), local)
    assert denoiser.local_lipschitz(x[:0], 0.1).shape == (0,)


def test_denoiser_is_the_image_less_its_residual_and_knows_the_level(device):
    denoiser = random_denoiser().to(device)
    x = torch.rand(4, *SHAPE, device=device)
    levels = torch.tensor([0.1, 0.2, 0.3, 0.1], device=device)
    whole = denoiser(x, levels)
    torch.testing.assert_close(whole, x - denoiser.residual(x, levels))
    for row, level in enumerate((0.1, 0.2, 0.3, 0.1)):
        alone = denoiser(x[row : row + 1], level)
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=0, atol=1e-6)
    assert not torch.allclose(denoiser(x, 0.1), denoiser(x, 0.3), atol=1e-3)


def test_nan_stays_in_its_image():
    denoiser = random_denoiser()
    x = torch.rand(3, *SHAPE)
    clean = denoiser(x, 0.1)
    x[1, 0, 0, 0] = torch.nan
    found = denoiser(x, 0.1)
    assert bool(found[1].isnan().any())
    torch.testing.assert_close(found[[0, 2]], clean[[0, 2]])


def test_settings_and_images_that_do_not_fit():
    with pytest.raises(ValueError, match=r"expected a number in \(0, 1\), got 1.0"):
        LipschitzDenoiser(SHAPE, 1.0)
    with pytest.raises(ValueError, match="depth: expected at least 3, got 2"):
        LipschitzDenoiser(SHAPE, depth=2)
    with pytest.raises(ValueError, match="even number, got 7"):
        LipschitzDenoiser(SHAPE, width=7)
    with pytest.raises(ValueError, match=r"image_shape: expected \(C, H, W\), got \(6, 5\)"):
        LipschitzDenoiser((6, 5))
    denoiser = LipschitzDenoiser(SHAPE, width=4, depth=3)
    with pytest.raises(ValueError, match=r"at most 6 x 5 pixels.*got \[1, 2, 7, 5\]"):
        denoiser(torch.rand(1, 2, 7, 5), 0.1)
    with pytest.raises(ValueError, match=r"expected shape \[B, C, H, W\], got \[2, 6, 5\]"):
        denoiser(torch.rand(SHAPE), 0.1)
    with pytest.raises(ValueError, match="sigma: expected a finite number > 0, got -0.1"):
        denoiser(torch.rand(1, *SHAPE), -0.1)
    with pytest.raises(ValueError, match="sigma: expected a number or a vector of 2"):
        denoiser(torch.rand(2, *SHAPE), torch.full((3,), 0.1))
    with torch.no_grad():
        denoiser.hidden.zero_()
    with pytest.raises(ValueError, match="convolution 1 is zero"):
        denoiser.normalise()


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
def test_the_bound_survives_the_file(tmp_path: Path, trained, half):
    path = tmp_path / "denoiser.safetensors"
    denoiser, log = trained
    save_denoiser(denoiser, path, log["recipe"], half=half)
    back = jf.load_denoiser(path)
    assert back.settings == denoiser.settings and not back.training
    assert not any(parameter.requires_grad for parameter in back.parameters())
    height, width = back.image_shape[1:]
    kernels = (back.first, *back.hidden, back.last)
    exact = math.prod(convolution_norm(kernel, height, width) for kernel in kernels)
    assert 0.9 * (1 - 1e-3) < exact <= 0.9 == back.lipschitz
    x = torch.rand(3, 1, 28, 28)
    # float16 keeps 11 bits of each weight; the largest values here are about 1.
    tolerance = 1e-2 if half else 1e-5
    torch.testing.assert_close(back(x, 0.2), denoiser(x, 0.2), rtol=0, atol=tolerance)


def test_half_precision_rounds_kernels_only_and_halves_the_file(tmp_path: Path):
    from safetensors.torch import load_file

    denoiser = random_denoiser(width=16, depth=5)
    for name, half in (("whole", False), ("half", True)):
        save_denoiser(denoiser, tmp_path / name, half=half)
    tensors = load_file(tmp_path / "half")
    types = {name: tensors[name].dtype for name in ("first", "hidden", "last", "bias", "norms")}
    half_type = torch.float16
    assert types == dict(
        first=half_type, hidden=half_type, last=half_type, bias=torch.float32, norms=torch.float64
    )
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "whole").stat().st_size


def test_loading_leaves_the_generator_alone(tmp_path: Path):
    save_denoiser(random_denoiser(), tmp_path / "a.safetensors")
    before = torch.get_rng_state()
    load_denoiser(tmp_path / "a.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_files_that_are_no_denoiser(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    with pytest.raises(ValueError, match="unknown denoiser 'nobody'; known: "):
        load_denoiser("nobody")
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        load_denoiser(tmp_path / "nobody.safetensors")
    good = tmp_path / "good.safetensors"
    save_denoiser(random_denoiser(), good)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged, truncated or of another kind"):
        load_denoiser(cut)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(2)}, foreign)
    with pytest.raises(ValueError, match="foreign safetensors file"):
        load_denoiser(foreign)

    tensors, header = load_file(good), header_of(good)

    def rewritten(changes: dict[str, Tensor], settings: dict | None = None) -> Path:
        path = tmp_path / "rewritten.safetensors"
        text = header if settings is None else {**header, "architecture": json.dumps(settings)}
        save_file({**tensors, **changes}, path, metadata=text)
        return path

    for changes, message in (
        ({"extra": torch.ones(1)}, r"missing \[\], unexpected \['extra'\]"),
        ({"shift": torch.ones(3)}, r"expected shift of shape \[2\], got \[3\]"),
        ({"shift": torch.full((2,), torch.nan)}, "shift contains NaN"),
        ({"norms": torch.zeros(4, dtype=torch.float64)}, "expected spectral norms > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            load_denoiser(rewritten(changes))
    with pytest.raises(ValueError, match="architecture cannot be built"):
        load_denoiser(rewritten({}, {"lipschitz": 2.0}))


def header_of(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("name", available_denoisers())
def test_bundled_denoisers(name, device):
    """Small, bounded, and of use on noise they were trained for."""
    from jpmap_fast.denoisers.load import BUNDLED

    assert (BUNDLED / f"{name}.safetensors").stat().st_size <= 3_000_000
    denoiser = load_denoiser(name, device)
    assert denoiser.lipschitz < 1
    kernels = (denoiser.first, *denoiser.hidden, denoiser.last)
    norms, bounds = (
        [norm(kernel, *denoiser.image_shape[1:]) for kernel in kernels]
        for norm in (convolution_norm, convolution_norm_bound)
    )
    assert 0.998 * denoiser.lipschitz < math.prod(norms) <= denoiser.lipschitz
    # Of images this small the bound, nothing iterated, is up to half a percent more.
    assert math.prod(norms) <= math.prod(bounds) <= 1.005 * denoiser.lipschitz < 1
    clean = jf.mnist_test_digits(4)[0] if name == "mnist" else portrait()
    before, after = denoising_psnr(denoiser, clean, 25 / 255)
    assert after > before + 3
    noisy = (clean[:2] + 25 / 255 * torch.randn(clean[:2].shape)).to(device)
    local = denoiser.local_lipschitz(noisy, 25 / 255, iterations=5)
    assert bool((local <= denoiser.lipschitz * (1 + ROUNDING)).all())


def portrait() -> Tensor:
    """The photograph of the package, 64 x 64."""
    from jpmap_fast.data import portrait as photograph

    return photograph()


# --- training ---------------------------------------------------------------------------------


def test_training_denoises_within_the_bound(trained):
    denoiser, log = trained
    digits, _ = jf.mnist_test_digits(100)
    before, after = denoising_psnr(denoiser, digits, 75 / 255)
    assert after > before + 2
    assert denoiser.lipschitz <= 0.9
    assert log["steps"] == 150 and len(log["losses"]) == 3
    assert log["losses"][-1] < log["losses"][0] / 2
    # Power iteration finds norms from below; so few steps leave them behind.
    assert all(0.5 < ratio <= 1 + 1e-6 for ratio in log["estimated_over_true_norms"])
    found = [convolution_norm(kernel, 28, 28) for kernel in denoiser.hidden]
    assert found == pytest.approx([denoiser.layer_norm] * 2, rel=1e-6)


def test_training_is_the_same_by_its_seed_and_within_its_time():
    digits, _ = jf.mnist_test_digits(20)
    settings = dict(width=4, depth=3, steps=3, batch_size=4, progress=False)

    def weights(**other) -> Tensor:
        return train_denoiser(digits, **settings, **other)[0].hidden

    assert torch.equal(weights(seed=1), weights(seed=1))
    assert not torch.equal(weights(seed=1), weights(seed=2))
    many = dict(settings, steps=10**9)
    assert train_denoiser(digits, **many, seconds=1e-3)[1]["steps"] == 50


def test_mirrored_images_are_trained_on():
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 0] = 1
    from jpmap_fast.training.denoiser import _draw

    recipe = DenoiserRecipe(mirror=True, batch_size=64, sigma_low=0.1, sigma_high=0.2)
    clean, noise, sigma = _draw(image, recipe, torch.Generator().manual_seed(0))
    mirrored = (clean == image.flip(3)).flatten(1).all(dim=1)
    assert bool(((clean == image).flatten(1).all(dim=1) ^ mirrored).all())
    assert 16 < int(mirrored.sum()) < 48
    assert float(sigma.min()) >= 0.1 and float(sigma.max()) <= 0.2
    assert float(noise.std()) == pytest.approx(1, abs=0.1)


def test_learning_rate_rises_and_falls():
    recipe = DenoiserRecipe(learning_rate=1e-2, rise=0.1)
    rates = [recipe.learning_rate_at(share) for share in (0.05, 0.1, 0.55, 1.0, 1.2)]
    assert rates == pytest.approx([5e-3, 1e-2, 5e-3, 0, 0], abs=1e-9)
    assert DenoiserRecipe(width=40, rise=0).learning_rate_at(0) == pytest.approx(2.5e-4)


def test_recipes_that_do_not_work():
    for settings, message in (
        ({"sigma_low": 0.5, "sigma_high": 0.1}, "sigma_high: expected a standard deviation"),
        ({"steps": 0}, "steps: expected at least 1"),
        ({"rise": 1.0}, r"rise: expected a share in \[0, 1\)"),
        ({"precision": "float16"}, "precision: expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            DenoiserRecipe(**settings)
    digits, _ = jf.mnist_test_digits(20)
    settings = dict(width=4, depth=3, steps=100, batch_size=4, progress=False)
    with pytest.raises(ValueError, match="training diverged within 50 steps"):
        train_denoiser(digits, **settings, learning_rate=1e30)


@pytest.mark.cuda
def test_captured_steps_train_as_eager_ones():
    digits, _ = jf.mnist_test_digits(100)
    settings = dict(width=8, depth=4, steps=60, batch_size=16, precision="float32")
    runs = [
        train_denoiser(digits, device="cuda", progress=False, cuda_graph=graph, **settings)
        for graph in (False, True)
    ]
    # The same draws and the same kernels; Adam's division spreads rounding of the first steps.
    torch.testing.assert_close(
        torch.tensor(runs[0][1]["losses"]), torch.tensor(runs[1][1]["losses"]), rtol=0.02, atol=0
    )
    assert runs[1][0].lipschitz <= 0.9
