"""Total variation, EPLL and the supervised network, through ``restore``."""

from __future__ import annotations

import copy
import math
import sys

import pytest
import torch
from problems import CASE_NAMES, IMAGE_SHAPE, case
from torch import nn

import jpmap_fast as jf
from jpmap_fast._metrics import psnr

deepinv = pytest.importorskip("deepinv")

from tune_baselines import Axis, geometric, keep, search  # noqa: E402

from jpmap_fast.deepinv.physics import OperatorPhysics  # noqa: E402
from jpmap_fast.experiments import supervised_change  # noqa: E402
from jpmap_fast.experiments.baselines import (  # noqa: E402
    EPLL,
    Supervised,
    TotalVariation,
    fit_mixture,
    load_mixture,
    load_network,
    save_mixture,
    save_network,
    tuned,
)
from jpmap_fast.experiments.baselines.network import build_network  # noqa: E402
from jpmap_fast.priors.overlapping import extract_patches  # noqa: E402


def shape_only(*shape: int, dtype: torch.dtype = torch.float32) -> jf.ModulePrior:
    """A prior that gives shape and precision, and fails when it is asked for anything else."""

    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.blank = nn.Parameter(torch.zeros(1, dtype=dtype), requires_grad=False)

        def forward(self, value):
            raise AssertionError("a method in pixel space asked the prior")

    return jf.ModulePrior(Nothing(), Nothing(), 1.0, 2, shape)


def smooth_images(number: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Random images with large uniform parts, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(number, shape[0], 4, 4, generator=generator)
    return torch.nn.functional.interpolate(draws, size=shape[1:], mode="nearest")


def digits_problem(number: int, name: str = "inpainting"):
    """Digits, the operator of a degradation and measurements."""
    from jpmap_fast._problems import make_problem
    from jpmap_fast.experiments.digit_images import digits

    return make_problem(name, digits(number), torch.Generator().manual_seed(0), torch.device("cpu"))


@pytest.fixture(scope="module")
def mixture():
    """A mixture of patches of 5 x 5 pixels of smooth images, in double precision."""
    patches = extract_patches(smooth_images(40, 1, 24, 24, seed=5), 5).mT.flatten(0, 1).double()
    found, _ = fit_mixture(
        patches, 6, iterations=8, floor=1e-4, generator=torch.Generator().manual_seed(0)
    )
    return found


# The physics of an operator


@pytest.mark.parametrize("name", CASE_NAMES)
def test_physics_has_the_matrix_of_the_operator(name):
    c = case(name)
    operator = c.operator.bind(IMAGE_SHAPE, 4)
    physics = OperatorPhysics(operator, c.sigma)
    x = torch.randn(4, *IMAGE_SHAPE, dtype=torch.float64)
    expected = (c.matrix @ x.flatten(1)[:, :, None])[:, :, 0]
    torch.testing.assert_close(physics.A(x).flatten(1), expected)
    back = (c.matrix.mT @ c.y.flatten(1)[:, :, None])[:, :, 0]
    torch.testing.assert_close(physics.A_adjoint(c.y).flatten(1), back)
    torch.testing.assert_close(physics.noise_model.sigma, c.sigma.float())


@pytest.mark.parametrize("name", CASE_NAMES)
def test_proximal_map_is_the_dense_solution(name):
    """(gamma A^T A + I) x = gamma A^T y + z, another gamma for each image."""
    c = case(name)
    physics = OperatorPhysics(c.operator.bind(IMAGE_SHAPE, 4), 0.1)
    z = torch.randn(4, *IMAGE_SHAPE, dtype=torch.float64)
    gamma = torch.tensor([0.2, 1.0, 7.0, 50.0], dtype=torch.float64)
    weight = gamma[:, None, None]
    identity = torch.eye(z[0].numel(), dtype=torch.float64)
    system = weight * (c.matrix.mT @ c.matrix) + identity
    right = weight * (c.matrix.mT @ c.y.flatten(1)[:, :, None]) + z.flatten(1)[:, :, None]
    expected = torch.linalg.solve(system, right)[:, :, 0]
    for given in (gamma, gamma[:, None, None, None]):
        found = physics.prox_l2(z, c.y, given)
        # Conjugate gradients of operators known as functions stop at 1e-10 of the residual.
        torch.testing.assert_close(found.flatten(1), expected, rtol=1e-7, atol=1e-8)
    number = physics.prox_l2(None, c.y, 2.0)
    torch.testing.assert_close(number, physics.prox_l2(torch.zeros_like(z), c.y, 2.0))


def test_physics_draws_noise_of_each_image_s_level():
    levels = torch.tensor([0.01, 0.5])
    physics = OperatorPhysics(jf.Denoising().bind((1, 40, 40)), levels)
    x = torch.zeros(2, 1, 40, 40)
    # 1,600 draws: a standard deviation is known to 1 / sqrt(3200) = 1.8%; five times that.
    torch.testing.assert_close(physics(x).flatten(1).std(dim=1), levels, rtol=0.09, atol=0)


def test_physics_moves_with_its_operator():
    operator = jf.Inpainting(torch.ones(1, 3, 3)).bind((1, 3, 3))
    physics = OperatorPhysics(operator, 0.1).to(torch.float64)
    x = torch.rand(1, 1, 3, 3, dtype=torch.float64)
    assert physics.A(x).dtype == physics.prox_l2(x, x, 1.0).dtype == torch.float64
    kept = OperatorPhysics(operator.to(dtype=torch.float64), 0.1).to("cpu")
    assert kept.prox_l2(x, x, 1.0).dtype == torch.float64


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, [0.1, math.inf]])
def test_physics_refuses_noise_levels(sigma):
    with pytest.raises(ValueError, match="sigma: expected finite values > 0"):
        OperatorPhysics(jf.Denoising(), torch.tensor(sigma))
    with pytest.raises(ValueError, match="gamma: expected finite values > 0"):
        y = torch.zeros(2, 1, 2, 2)
        OperatorPhysics(jf.Denoising(), 1.0).prox_l2(y, y, torch.tensor(sigma))


def test_physics_refuses_other_things_than_operators():
    with pytest.raises(TypeError, match="operator: expected one of jpmap_fast, got Linear"):
        OperatorPhysics(nn.Linear(1, 1), 0.1)


# Total variation


def tv_of(x: torch.Tensor) -> torch.Tensor:
    """TV from its definition, [B]."""
    right = torch.zeros_like(x)
    below = torch.zeros_like(x)
    right[..., :-1] = x[..., 1:] - x[..., :-1]
    below[..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    return (right.square() + below.square()).sum(dim=1).sqrt().flatten(1).sum(dim=1)


def test_constant_images_stay_as_they_are():
    x = torch.full((2, 3, 8, 9), 0.3)
    result = jf.restore(x, jf.Denoising(), shape_only(3, 8, 9), 0.1, method=TotalVariation(2.0))
    torch.testing.assert_close(result.x, x)
    assert result.converged.all() and result.iterations.tolist() == [10, 10]
    # Rounding of 0.3, squared: (0.3 * 2^-24)^2 / (2 * 0.1^2) for each of 216 values.
    assert (result.objective < 1e-10).all()


def test_a_large_weight_leaves_the_mean_of_each_channel():
    y = torch.rand(2, 3, 7, 6, dtype=torch.float64)
    method = TotalVariation(1e4, 20_000, 1e-6)
    prior = shape_only(3, 7, 6, dtype=torch.float64)
    result = jf.restore(y, jf.Denoising(), prior, 0.2, method=method)
    expected = y.mean(dim=(2, 3), keepdim=True).expand_as(y)
    torch.testing.assert_close(result.x, expected, rtol=0, atol=1e-4)
    expected_objective = (expected - y).square().sum(dim=(1, 2, 3)) / (2 * 0.2**2)
    torch.testing.assert_close(result.objective, expected_objective, rtol=1e-4, atol=0)


def test_a_step_edge_loses_height_as_known_in_closed_form():
    """Two halves of W/2 columns each, one channel: each level moves by weight sigma^2 2 / W."""
    y = torch.zeros(1, 1, 6, 10, dtype=torch.float64)
    y[..., 5:] = 1.0
    method = TotalVariation(2.0, 50_000, 1e-9)
    prior = shape_only(1, 6, 10, dtype=torch.float64)
    result = jf.restore(y, jf.Denoising(), prior, 0.5, method=method)
    shift = 2.0 * 0.5**2 / 5
    torch.testing.assert_close(result.x, (y - shift).abs(), rtol=0, atol=1e-6)


def test_objective_is_what_is_minimised():
    problem = digits_problem(4)
    method = TotalVariation(1.5)
    result = jf.restore(
        problem.y, problem.operator, shape_only(1, 28, 28), problem.sigma, method=method
    )
    residual = (problem.operator.A(result.x) - problem.y).flatten(1)
    expected = residual.square().sum(dim=1) / (2 * problem.sigma**2) + 1.5 * tv_of(result.x)
    # A float32 sum of 784 terms.
    torch.testing.assert_close(result.objective, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["denoising", "inpainting", "compressed-sensing"])
@pytest.mark.parametrize("weight", [0.5, 4.0])
def test_a_tolerance_bounds_the_excess_over_a_far_longer_run(name, weight):
    problem = digits_problem(4, name)
    prior = shape_only(1, 28, 28)

    def restored(**settings):
        method = TotalVariation(weight, **settings)
        return jf.restore(problem.y, problem.operator, prior, problem.sigma, method=method)

    short, long = restored(), restored(max_iterations=3000, tolerance=1e-9)
    assert short.converged.all()
    assert (short.objective <= long.objective * (1 + 1e-3)).all()


def test_images_that_ran_out_of_iterations_say_so():
    problem = digits_problem(2)
    method = TotalVariation(1.0, max_iterations=13)
    result = jf.restore(
        problem.y, problem.operator, shape_only(1, 28, 28), problem.sigma, method=method
    )
    assert result.iterations.tolist() == [13, 13] and not result.converged.any()
    assert all("iteration limit" in text for text in result.status)


def test_denoising_agrees_with_deepinv():
    """1/2 ||x - y||^2 + gamma TV is sigma^2 times what is minimised here at gamma / sigma^2."""
    y = smooth_images(1, 1, 12, 12).double() + 0.2 * torch.randn(1, 1, 12, 12, dtype=torch.float64)
    gamma, sigma = 0.1, 0.2
    # Its iterates have converged to about 1e-6 at crit = 1e-9.
    expected = deepinv.models.TVDenoiser(n_it_max=20_000, crit=1e-9, tau=0.1)(y, gamma)
    prior = shape_only(1, 12, 12, dtype=torch.float64)
    method = TotalVariation(gamma / sigma**2, 50_000, 1e-9)
    result = jf.restore(y, jf.Denoising(), prior, sigma, method=method)
    assert result.converged.all()
    torch.testing.assert_close(result.x, expected, rtol=0, atol=1e-5)


def test_channels_share_edges():
    """Vectorial TV of a grey image in colour is sqrt(3) times the grey one's."""
    grey = smooth_images(2, 1, 10, 10).double()
    grey = grey + 0.1 * torch.randn(grey.shape, dtype=torch.float64)
    colour = grey.expand(-1, 3, -1, -1).contiguous()
    ends = []
    for y, weight in ((grey, 2.0), (colour, 2.0 * math.sqrt(3))):
        prior = shape_only(*y.shape[1:], dtype=torch.float64)
        method = TotalVariation(weight, 20_000, 1e-7)
        ends.append(jf.restore(y, jf.Denoising(), prior, 0.3, method=method).x)
    torch.testing.assert_close(ends[1], ends[0].expand(-1, 3, -1, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"weight": 0.0}, {"weight": math.nan}, {"weight": 1.0, "max_iterations": 0}],
)
def test_total_variation_refuses_settings(settings):
    with pytest.raises(ValueError, match="TotalVariation: (weight|max_iterations)"):
        TotalVariation(**settings)


# Mixtures and EPLL


def test_patches_are_in_deepinv_s_order():
    x = torch.rand(2, 3, 7, 6)
    from deepinv.utils import patch_extractor

    places = torch.arange(5 * 4)
    theirs, _ = patch_extractor(x, 20, 3, position_inds_linear=places)
    torch.testing.assert_close(extract_patches(x, 3).mT, theirs.reshape(2, 20, -1))


def test_a_fit_raises_the_likelihood_and_finds_two_known_lines():
    generator = torch.Generator().manual_seed(0)
    directions = torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 1.0]], dtype=torch.float64)
    which = torch.rand(4000, generator=generator) < 0.7
    scale = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    noise = 0.05 * torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    patches = scale * torch.where(which[:, None], directions[0], directions[1]) + noise
    values = []
    for iterations in (1, 5, 30):
        seeded = torch.Generator().manual_seed(1)
        mixture, value = fit_mixture(patches, 2, iterations=iterations, generator=seeded)
        values.append(value)
    assert values[0] < values[1] < values[2]
    order = mixture.get_weights().argsort(descending=True)
    # 4,000 draws know a share to 0.007 and a variance to 2.7%; four times that.
    torch.testing.assert_close(
        mixture.get_weights()[order].double(), torch.tensor([0.7, 0.3]).double(), atol=0.03, rtol=0
    )
    for k, direction in zip(order, directions, strict=True):
        expected = direction[:, None] * direction + 0.05**2 * torch.eye(3, dtype=torch.float64)
        torch.testing.assert_close(mixture.get_cov()[k], expected, atol=0.12, rtol=0)
    assert not mixture.mu.any()


def test_a_mixture_comes_back_from_its_file(mixture, tmp_path):
    save_mixture(mixture, tmp_path / "m.safetensors", {"why": "a test"})
    found = load_mixture(tmp_path / "m.safetensors")
    # Factors are rounded to 2^-11 of themselves; a covariance is a sum of products of two.
    scale = mixture.get_cov().diagonal(dim1=1, dim2=2).sqrt()
    bound = 2**-10 * scale[:, :, None] * scale[:, None]
    assert ((found.get_cov().double() - mixture.get_cov()).abs() <= 1.01 * bound + 1e-7).all()
    torch.testing.assert_close(found.get_weights().double(), mixture.get_weights())
    assert (torch.linalg.eigvalsh(found.get_cov().double()) > 0).all()


@pytest.mark.parametrize("name", ["mnist", "faces"])
def test_bundled_mixtures_are_positive_definite(name):
    mixture = load_mixture(name)
    assert mixture.dimension == {"mnist": 36, "faces": 108}[name]
    assert (torch.linalg.eigvalsh(mixture.get_cov().double()) > 0).all()
    assert float(mixture.get_weights().sum()) == pytest.approx(1, abs=1e-5)


def small_operators():
    """One operator of each kind the experiments use, for 3 images of 14 x 12 pixels."""
    generator = torch.Generator().manual_seed(3)
    return {
        "denoising": jf.Denoising(),
        "inpainting": jf.Inpainting((torch.rand(3, 1, 14, 12, generator=generator) < 0.6).double()),
        "blur": jf.Blur(jf.box_kernel(3).double()),
    }


@pytest.mark.parametrize("settings", [{}, {"noise_levels": (0.3, 0.1, 0.05)}, {"sigma_scale": 1.3}])
@pytest.mark.parametrize("name", ["denoising", "inpainting", "blur"])
def test_epll_is_deepinv_s_image_by_image(name, settings, mixture, monkeypatch):
    """deepinv by its own forward on one image each, with the exact A; another sigma for each."""
    gradients = deepinv.optim.utils.conjugate_gradient
    monkeypatch.setattr(
        "deepinv.optim.epll.conjugate_gradient",
        lambda operator, right, **_: gradients(operator, right, max_iter=500, tol=1e-12, eps=0),
    )
    operator = small_operators()[name].to(dtype=torch.float64)
    clean = smooth_images(3, 1, 14, 12, seed=7).double()
    sigma = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    y = operator.measure(clean, sigma, generator=torch.Generator().manual_seed(2))
    prior = shape_only(1, 14, 12, dtype=torch.float64)
    result = jf.restore(y, operator, prior, sigma, method=EPLL(mixture, **settings))
    theirs = deepinv.optim.EPLL(copy.deepcopy(mixture), pretrained=None, patch_size=5)
    bound = operator.bind((1, 14, 12), 3)
    levels = settings.get("noise_levels")
    betas = None if levels is None else [1 / level**2 for level in levels]
    for i in range(3):
        level = float(sigma[i]) * settings.get("sigma_scale", 1.0)
        physics = OperatorPhysics(bound.select(torch.tensor([i])), level)
        expected = theirs(y[i : i + 1], physics, sigma=level, betas=betas)
        torch.testing.assert_close(result.x[i : i + 1], expected, rtol=0, atol=1e-8)
    assert result.iterations.tolist() == [3 if levels else 5] * 3


def test_epll_denoises_and_raises_the_likelihood(mixture):
    clean = smooth_images(4, 1, 20, 20, seed=11).double()
    y = jf.Denoising().measure(clean, 0.1, generator=torch.Generator().manual_seed(0))
    method = EPLL(mixture)
    prior = shape_only(1, 20, 20, dtype=torch.float64)
    result = jf.restore(y, jf.Denoising(), prior, 0.1, method=method)
    assert (psnr(result.x, clean) > psnr(y, clean) + 3).all()
    before, after = method.log_likelihood(y), method.log_likelihood(result.x)
    assert (after > before).all()
    fit = (result.x - y).square().sum(dim=(1, 2, 3)) / (2 * 0.1**2)
    torch.testing.assert_close(result.objective, fit - after / 25)
    theirs = deepinv.optim.EPLL(copy.deepcopy(mixture), pretrained=None, patch_size=5)
    patches = extract_patches(result.x, 5).mT
    likelihood = -theirs.negative_log_likelihood(patches.contiguous()).sum(dim=1)
    torch.testing.assert_close(after, likelihood)


def test_a_start_is_what_missing_pixels_begin_at(mixture):
    """With weak patches and one step x is the fit to the filtered constant image."""
    y = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    operator = jf.Inpainting(torch.zeros(1, 9, 9, dtype=torch.float64))
    prior = shape_only(1, 9, 9, dtype=torch.float64)
    ends = [
        jf.restore(
            y, operator, prior, 0.1, method=EPLL(mixture, noise_levels=(1e-3,), start=start)
        ).x
        for start in (None, 0.4)
    ]
    assert not ends[0].any()
    torch.testing.assert_close(ends[1], torch.full_like(y, 0.4), rtol=0, atol=0.01)


def test_epll_refuses_what_it_cannot_use(mixture):
    with pytest.raises(TypeError, match="EPLL: expected a GaussianMixtureModel, got 'mnist'"):
        EPLL("mnist")
    moved = copy.deepcopy(mixture)
    moved.mu.data += 0.1
    with pytest.raises(ValueError, match="mixture of mean 0"):
        EPLL(moved)
    for settings in ({"betas": ()}, {"betas": (1.0, -1.0)}, {"noise_levels": (0.0,)}):
        with pytest.raises(ValueError, match="EPLL: "):
            EPLL(mixture, **settings)
    with pytest.raises(TypeError, match="expected betas to be numbers"):
        EPLL(mixture, betas=3.0)
    with pytest.raises(ValueError, match="start"):
        EPLL(mixture, start=math.nan)
    y = torch.rand(1, 3, 9, 9)
    with pytest.raises(ValueError, match=r"patches of images of shape \[3, 9, 9\].*dimension 25"):
        jf.restore(y, jf.Denoising(), shape_only(3, 9, 9), 0.1, method=EPLL(mixture))


# The supervised network


@pytest.fixture(scope="module")
def small_network():
    """An untrained network whose normalisation is not the identity."""
    torch.manual_seed(0)
    network = build_network(1, (4, 6))
    network.train()
    network(torch.rand(8, 1, 12, 12))
    return network.requires_grad_(False).eval()


def test_supervised_applies_the_network_to_the_adjoint(small_network):
    matrix = torch.randn(20, 12 * 12, generator=torch.Generator().manual_seed(0)) / 10
    operator = jf.CompressedSensing(matrix, (1, 12, 12))
    y = torch.randn(3, 20)
    result = jf.restore(y, operator, shape_only(1, 12, 12), 0.1, method=Supervised(small_network))
    expected = small_network((y @ matrix).reshape(3, 1, 12, 12))
    torch.testing.assert_close(result.x, expected)
    assert result.iterations.tolist() == [1, 1, 1] and result.converged.all()
    assert result.objective.isnan().all() and result.z.isnan().all()


def test_a_network_comes_back_from_its_file(small_network, tmp_path):
    path = tmp_path / "n.safetensors"
    save_network(small_network, path, 1, (4, 6))
    found = load_network(path)
    assert not any(module.training for module in found.modules())
    x = torch.rand(2, 1, 12, 12)
    # Kernels are rounded to 2^-11 of themselves, four layers deep.
    torch.testing.assert_close(found(x), small_network(x), rtol=0, atol=1e-2)
    for name, value in small_network.state_dict().items():
        if value.dim() < 2:
            torch.testing.assert_close(found.state_dict()[name], value)


def test_the_bundled_network_inpaints():
    problem = digits_problem(10)
    prior = shape_only(1, 28, 28)
    method = Supervised(load_network("mnist"))
    result = jf.restore(problem.y, problem.operator, prior, problem.sigma, method=method)
    measured = psnr(problem.display, problem.clean).mean()
    assert psnr(result.x, problem.clean).mean() > measured + 6


def test_supervised_refuses_what_it_cannot_use(small_network):
    with pytest.raises(TypeError, match="Supervised: expected a network"):
        Supervised(torch.relu)
    with pytest.raises(ValueError, match="evaluation mode"):
        Supervised(copy.deepcopy(small_network).train())
    halves = nn.AvgPool2d(2).eval()
    with pytest.raises(ValueError, match="expected a network to images"):
        jf.restore(
            torch.rand(1, 1, 8, 8),
            jf.Denoising(),
            shape_only(1, 8, 8),
            0.1,
            method=Supervised(halves),
        )


# All of them


def methods(mixture, network):
    return {
        "tv": TotalVariation(2.0),
        "epll": EPLL(mixture),
        "epll-absolute": EPLL(mixture, noise_levels=(0.3, 0.1), start=0.4),
        "supervised": Supervised(network),
    }


@pytest.mark.parametrize("name", ["tv", "epll", "epll-absolute", "supervised"])
def test_an_image_does_not_depend_on_its_batch(name, mixture, small_network):
    """Another noise level and another mask for each image; alone, in chunks and together."""
    generator = torch.Generator().manual_seed(4)
    operator = jf.Inpainting((torch.rand(5, 1, 16, 16, generator=generator) < 0.5).float())
    sigma = torch.tensor([0.05, 0.1, 0.1, 0.2, 0.3])
    y = operator.measure(smooth_images(5, 1, 16, 16), sigma, generator=generator)
    method = methods(mixture, small_network)[name]
    prior = shape_only(1, 16, 16)
    whole = jf.restore(y, operator, prior, sigma, method=method)
    chunks = jf.restore(y, operator, prior, sigma, method=method, chunk_size=2)
    bound = operator.bind((1, 16, 16), 5)
    for i in range(5):
        index = torch.tensor([i])
        alone = jf.restore(y[index], bound.select(index), prior, sigma[index], method=method)
        assert alone.iterations[0] == whole.iterations[i] == chunks.iterations[i]
        # Convolutions of other shapes may sum in another order.
        exact = {} if name == "supervised" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(alone.x[0], whole.x[i], **exact)
        torch.testing.assert_close(chunks.x[i], whole.x[i], **exact)
        torch.testing.assert_close(alone.objective[0], whole.objective[i], equal_nan=True)


@pytest.mark.parametrize("name", ["tv", "epll", "epll-absolute", "supervised"])
def test_nan_in_a_measurement_leaves_the_others_alone(name, mixture, small_network):
    y = smooth_images(3, 1, 16, 16)
    broken = y.clone()
    broken[1, 0, 3, 3] = math.nan
    method = methods(mixture, small_network)[name]
    prior = shape_only(1, 16, 16)
    found = jf.restore(broken, jf.Denoising(), prior, 0.1, method=method)
    expected = jf.restore(y[[0, 2]], jf.Denoising(), prior, 0.1, method=method)
    assert found.status[1].startswith("failed") and found.x[1].isnan().all()
    torch.testing.assert_close(found.x[[0, 2]], expected.x)
    assert found.converged.tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["tv", "epll", "epll-absolute", "supervised"])
def test_an_empty_batch_is_no_error(name, mixture, small_network):
    y = torch.zeros(0, 1, 16, 16)
    method = methods(mixture, small_network)[name]
    result = jf.restore(y, jf.Denoising(), shape_only(1, 16, 16), 0.1, method=method)
    assert result.x.shape == (0, 1, 16, 16) and result.objective.shape == (0,)


@pytest.mark.parametrize("load", [load_mixture, load_network])
def test_files_that_are_none(load, tmp_path):
    kind = "mixture" if load is load_mixture else "unet"
    with pytest.raises(ValueError, match=f"unknown {kind} 'nobody'; known: faces, mnist"):
        load("nobody")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path / "none.safetensors")
    path = tmp_path / "text.safetensors"
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(ValueError, match="damaged"):
        load(path)
    foreign = tmp_path / "prior.safetensors"
    jf.save_prior(jf.load_prior("mnist"), foreign)
    with pytest.raises(ValueError, match="got a foreign safetensors file"):
        load(foreign)


def test_without_deepinv_the_extra_is_named(monkeypatch, mixture):
    for name in [name for name in sys.modules if name.split(".")[0] == "deepinv"]:
        monkeypatch.delitem(sys.modules, name)

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "deepinv":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return None

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    y, prior = torch.rand(1, 1, 4, 4), shape_only(1, 4, 4)
    for action in (
        lambda: jf.restore(y, jf.Denoising(), prior, 0.1, method=TotalVariation(1.0)),
        lambda: load_network("mnist"),
        lambda: load_mixture("mnist"),
        lambda: EPLL(mixture),
    ):
        with pytest.raises(ImportError, match=r"deepinv.*jpmap_fast\[experiments\]"):
            action()


# Their settings


def test_tuned_settings_make_the_methods():
    mixtures = {name: load_mixture(name) for name in ("mnist", "faces")}
    for images, problem in (
        ("mnist", "denoising"),
        ("mnist", "inpainting"),
        ("mnist", "compressed-sensing"),
        ("faces", "inpainting"),
    ):
        TotalVariation(**tuned("tv", images, problem))
        EPLL(mixtures[images], **tuned("epll", images, problem))
    with pytest.raises(ValueError, match="no settings of tv for faces, denoising; known: "):
        tuned("tv", "faces", "denoising")


def test_the_search_leaves_its_first_grid_for_a_peak_beyond_it():
    """-(log2 a - 5)^2 - (b - 0.37)^2, with the peak at a = 32."""
    axes = {"a": Axis((1.0, 2.0, 4.0)), "b": Axis((0.2, 0.4, 0.6), linear=True), "c": Axis((7.0,))}
    best, value, tried = search(
        axes, lambda p: -((math.log2(p["a"]) - 5) ** 2) - (p["b"] - 0.37) ** 2, rounds=2
    )
    assert best["a"] == 32 and best["c"] == 7
    assert abs(best["b"] - 0.37) <= 0.025 and value == pytest.approx(-((best["b"] - 0.37) ** 2))
    assert tried <= 9 + 6 * 9 + 2 * 9


def test_noise_levels_go_down_evenly():
    levels = geometric(0.4, 0.05, 4)
    torch.testing.assert_close(torch.tensor(levels), torch.tensor([0.4, 0.2, 0.1, 0.05]))


def test_an_entry_takes_the_place_of_an_older_one(tmp_path):
    import json

    path = tmp_path / "tuned.json"
    for weight in (1.0, 2.0):
        keep(path, "tv", "mnist", "denoising", {"settings": {"weight": weight}})
    keep(path, "tv", "faces", "inpainting", {"settings": {"weight": 3.0}})
    found = json.loads(path.read_text())["settings"]["tv"]
    assert found["mnist"] == {"denoising": {"settings": {"weight": 2.0}}}
    assert found["faces"]["inpainting"]["settings"]["weight"] == 3.0


# The experiment on a change of the degradation


def test_cases_share_their_draws(tmp_path):
    """What one mask misses the next ones miss too; noise is the same in units of sigma."""
    from jpmap_fast.experiments.context import Context, Settings

    context = Context(Settings(), tmp_path)
    clean = torch.zeros(2, 1, 28, 28)
    made = {case: case.make(context, clean) for case in supervised_change.CASES}
    masks = [
        p.operator.mask for case, p in made.items() if case.missing is not None and case.level == 10
    ]
    for more, fewer in zip(masks[1:], masks, strict=False):
        assert (more <= fewer).all() and more.sum() < fewer.sum()
    noise = [p.y / p.sigma for case, p in made.items() if case.missing == 0.8]
    for other in noise[1:]:
        # Rounding of a product and a quotient by sigma.
        torch.testing.assert_close(other, noise[0], rtol=1e-6, atol=0)
    assert [case for case in made if case.trained] == [supervised_change.CASES[2]]


def test_the_finding_names_who_is_ahead_where():
    def scores(*leads):
        found = {}
        for degradation, lead in zip(supervised_change.CASES, leads, strict=True):
            found[degradation] = {
                supervised_change.SUPERVISED: torch.full((3,), 20.0),
                supervised_change.JPMAP_X: torch.full((3,), 20.0 + lead),
            }
        return supervised_change.finding(found)

    text = scores(*[-1.0] * 10, 4.0)
    assert "20.00 dB, with JPMAP 1.00 dB behind" in text
    assert (
        "ahead in 1 of 10 others: compressed sensing (+4.00 dB). It is behind in: 50% missing"
        in text
    )
    assert "ahead in all 10 other degradations" in scores(*[-1.0] * 11)
    assert "1.00 dB ahead" in scores(*[1.0] * 11) and "is behind" not in scores(*[1.0] * 11)


def test_the_experiment_on_four_digits(monkeypatch, tmp_path):
    from jpmap_fast.experiments.context import Context, Settings

    pytest.importorskip("matplotlib")
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr(supervised_change, "digits", lambda _: jf.mnist_test_digits(4)[0])
    section = supervised_change.run(Context(Settings(), tmp_path), "supervised")
    assert len(section.tables[0].rows) == len(supervised_change.CASES) == 11
    for figure in section.figures:
        assert (tmp_path / f"{figure.stem}.png").is_file()
    values = section.as_json()["data"]["psnr"]
    problem = supervised_change.CASES[2].make(
        Context(Settings(), tmp_path), digits_problem(4).clean
    )
    network = Supervised(load_network("mnist"))
    x = jf.restore(problem.y, problem.operator, "mnist", problem.sigma, method=network).x
    assert values[problem.title][supervised_change.SUPERVISED] == pytest.approx(
        psnr(x, problem.clean).tolist()
    )
