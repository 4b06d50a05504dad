"""Models of p(x|z): against dense float64 formulas, on every kind of operator."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from operator_kinds import BATCH, KINDS, PIXELS, SHAPE, images
from small_photos import small_photo_prior
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._fit_residuals import factor_analysis
from jpmap_fast.objective import Projection
from jpmap_fast.operators import BoundOperator
from jpmap_fast.operators.residual import with_residual
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.residuals import checked_residual

GAMMA = 0.2
SIGMA = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
BETA = torch.tensor([25.0, 12.0, 60.0], dtype=torch.float64)
DIAGONAL_KINDS = ("denoising", "inpainting", "inpainting-per-image")


def covariance(rank: int = 5, pixels: int = PIXELS) -> jf.ResidualCovariance:
    g = torch.Generator().manual_seed(8)
    d = 0.005 + 0.03 * torch.rand(pixels, generator=g, dtype=torch.float64)
    factor = 0.1 * torch.randn(pixels, rank, generator=g, dtype=torch.float64)
    return jf.ResidualCovariance(d, factor if rank else None)


def dense(model: jf.ResidualCovariance) -> Tensor:
    c = model.diagonal.double().diag()
    return c if model.factor is None else c + model.factor.double() @ model.factor.double().T


def small_prior(dtype: torch.dtype = torch.float64) -> jf.MLPVAE:
    torch.manual_seed(0)
    prior = jf.MLPVAE(SHAPE, 3, (20,)).to(dtype).eval().requires_grad_(False)
    with torch.no_grad():
        for layer in prior.decoder_layers:
            layer.weight.mul_(3)
        prior.log_gamma.fill_(math.log(GAMMA))
    return prior


def matrices(operator: BoundOperator) -> list[Tensor]:
    """A [m, n] of each image, float64."""
    basis = torch.eye(PIXELS, dtype=torch.float64).reshape(PIXELS, *SHAPE)
    every = range(BATCH)
    rows = [operator.select(torch.full((PIXELS,), i)) for i in every]
    return [of.A(basis).flatten(1).T for of in rows]


def setting(name: str, model: jf.ResidualCovariance | jf.GreyValueVariance):
    white = KINDS[name]().bind(SHAPE, BATCH, like=images(torch.float64))
    operator = with_residual(white, model, GAMMA, images(torch.float64))
    g = torch.Generator().manual_seed(4)
    y = white.measure(images(torch.float64), 0.2, g)
    decoded = images(torch.float64, seed=1)
    z = torch.randn(BATCH, 3, generator=g, dtype=torch.float64)
    return white, operator, y, decoded, z


@pytest.mark.parametrize("rank", [0, 5])
@pytest.mark.parametrize("name", KINDS)
def test_the_x_update_is_the_minimum_of_j1_for_a_covariance(name, rank):
    model = covariance(rank)
    white, operator, y, decoded, z = setting(name, model)
    x, value, gap = operator.x_update(decoded, y, z, BETA, SIGMA)
    flat = decoded.flatten(1)
    for i, a in enumerate(matrices(white)):
        c = dense(model) / (GAMMA**2 * BETA[i])
        s = SIGMA[i] ** 2 * torch.eye(len(a), dtype=torch.float64) + a @ c @ a.T
        residual = y[i].flatten() - a @ flat[i]
        solved = torch.linalg.solve(s, residual)
        expected = flat[i] + c @ a.T @ solved
        assert torch.allclose(x[i].flatten(), expected, atol=1e-8)
        least = 0.5 * (residual @ solved + z[i] @ z[i])
        assert torch.allclose(value[i], least, rtol=1e-8)
        assert torch.allclose(gap[i], (expected - flat[i]).square().sum(), rtol=1e-6)
    # J1 there, and more of it anywhere else.
    there, _ = operator.evaluate(x, decoded, y, z, BETA, SIGMA)
    assert torch.allclose(there, value, rtol=1e-8)
    beside, _ = operator.evaluate(x + 0.01 * images(torch.float64), decoded, y, z, BETA, SIGMA)
    assert bool((beside > there).all())


@pytest.mark.parametrize("rank", [0, 5])
@pytest.mark.parametrize("name", KINDS)
def test_the_projected_objective_is_the_least_j1(name, rank):
    _, operator, y, _, z = setting(name, covariance(rank))
    check_projection(operator, y, z)


@pytest.mark.parametrize("name", DIAGONAL_KINDS)
def test_the_projected_objective_of_a_grey_value_variance(name):
    _, operator, y, _, z = setting(name, jf.GreyValueVariance(0.05, 0.4))
    check_projection(operator, y, z, fisher=True)


def check_projection(operator: BoundOperator, y: Tensor, z: Tensor, fisher: bool = False) -> None:
    """Value, gradient and selections of J(z) = min_x J1(x, z)."""
    decoder = make_decoder(small_prior())

    def least(codes: Tensor) -> Tensor:
        decoded = decoder.value(codes).reshape(-1, *SHAPE)
        return operator.x_update(decoded, y, codes, BETA, SIGMA)[1]

    f = Projection(operator, decoder)(y, BETA, SIGMA)
    assert torch.allclose(f.value(z), least(z), rtol=1e-7)
    value, gradient, matrix, _ = f.newton_system(z)
    assert torch.allclose(value, least(z), rtol=1e-7)
    step = 1e-5
    for k in range(z.shape[1]):
        e = torch.zeros_like(z)
        e[:, k] = step
        slope = (least(z + e) - least(z - e)) / (2 * step)
        assert torch.allclose(gradient[:, k], slope, rtol=1e-4, atol=1e-5)
    assert bool((torch.linalg.eigvalsh(matrix)[:, 0] > 0).all())
    product = f.gauss_newton_product(z)(torch.ones_like(z))
    tolerance = 1e-5 if not fisher else 1e-8
    assert torch.allclose(product, matrix.sum(dim=2), rtol=tolerance, atol=1e-7)
    index = torch.tensor([2, 0])
    assert torch.allclose(f.select(index).value(z[index]), f.value(z)[index], rtol=1e-7)


@pytest.mark.parametrize("name", DIAGONAL_KINDS)
def test_a_grey_value_variance_is_the_marginal_likelihood(name):
    law = jf.GreyValueVariance(0.05, 0.4)
    white, operator, y, decoded, z = setting(name, law)
    x, value, _ = operator.x_update(decoded, y, z, BETA, SIGMA)
    g, seen = decoded.flatten(1), (white.A(torch.ones_like(decoded)) != 0).flatten(1)
    v = law.variance(g) / (GAMMA**2 * BETA[:, None])
    s = v + SIGMA.square()[:, None]
    r = y.flatten(1) - g
    assert torch.allclose(x.flatten(1), torch.where(seen, g + v * r / s, g))
    level = (SIGMA.square() + 1 / BETA)[:, None]
    terms = torch.where(seen, r.square() / s + (s / level).log(), 0)
    lost = torch.where(seen, 0, y.flatten(1)).square() / SIGMA.square()[:, None]
    expected = 0.5 * (terms.sum(1) + lost.sum(1) + z.square().sum(1))
    assert torch.allclose(value, expected)
    there, _ = operator.evaluate(x, decoded, y, z, BETA, SIGMA)
    assert torch.allclose(there, value)


def test_white_by_another_name_is_white():
    white = jf.ResidualCovariance(torch.full((784,), jf.load_prior("mnist").gamma ** 2))
    digits = jf.mnist_test_digits(6)[0]
    generator = torch.Generator().manual_seed(0)
    sensing = jf.CompressedSensing.gaussian(100, (1, 28, 28), generator)
    for operator in (jf.Denoising(), jf.Inpainting(jf.random_masks(6, (1, 28, 28), 0.5)), sensing):
        y = operator.measure(digits, 0.1, generator=generator)
        one = jf.restore(y, operator, "mnist", 0.1)
        same = jf.restore(y, operator, "mnist", 0.1, residual=white)
        assert torch.allclose(one.x, same.x, atol=2e-3)
        assert torch.allclose(one.objective, same.objective, rtol=1e-4)
        assert same.path == one.path == "compiled"
        named = jf.restore(y, operator, "mnist", 0.1, residual="white")
        assert torch.equal(named.x, one.x)


@pytest.mark.parametrize("name", ("denoising", "inpainting-per-image", "blur", "blur-per-image"))
def test_draws_of_x_have_the_covariance_of_the_posterior(name):
    model = covariance()
    white, _, y, decoded, _ = setting(name, model)
    draws, level = 3000, torch.ones(3000, dtype=torch.float64)
    first = torch.zeros(draws, dtype=torch.int64)
    operator = with_residual(white.select(first), model, GAMMA, images(torch.float64))
    g = torch.Generator().manual_seed(1)
    many = decoded[:1].expand(draws, *SHAPE).contiguous()
    x = operator.sample_x(many, level / GAMMA**2, 0.3 * level, y[:1], g).flatten(1)
    a = matrices(white)[0]
    precision = a.T @ a / 0.09 + torch.linalg.inv(dense(model))
    mean = decoded[0].flatten() + torch.linalg.solve(
        precision, a.T @ (y[0].flatten() - a @ decoded[0].flatten()) / 0.09
    )
    values, basis = torch.linalg.eigh(precision)
    free = (x - mean) @ basis * values.sqrt()
    error = 5.5 / math.sqrt(draws)
    assert free.mean(dim=0).abs().max() < error
    eye = torch.eye(PIXELS, dtype=torch.float64)
    off = (free.T @ free / draws - eye).abs() / torch.where(eye == 1, math.sqrt(2), 1.0)
    assert off.max() < error


@pytest.mark.parametrize("residual", ["covariance", "pixel", "grey"])
def test_an_image_has_the_bits_that_it_has_alone(residual):
    prior = jf.load_prior("mnist")
    digits = jf.mnist_test_digits(4)[0]
    masks = jf.random_masks(4, (1, 28, 28), 0.7, generator=torch.Generator().manual_seed(0))
    operator = jf.Inpainting(masks)
    y = operator.measure(digits, 0.05, generator=torch.Generator().manual_seed(1)) * masks
    y[2, 0, 0, 0] = torch.nan
    together = jf.restore(y, operator, prior, 0.05, residual=residual)
    assert together.status[2].startswith("failed: the measurement")
    alone = jf.restore(y[1:2], jf.Inpainting(masks[1:2]), prior, 0.05, residual=residual)
    assert torch.equal(together.x[1], alone.x[0])
    assert bool(together.converged[[0, 1, 3]].all())


@pytest.mark.parametrize("residual", ["covariance", "grey"])
@pytest.mark.parametrize("method", ["jpmap", "map-z", "csgm", "alternate-convex-search"])
def test_methods_take_the_models(method, residual):
    digits = jf.mnist_test_digits(2)[0]
    y = jf.Denoising().measure(digits, 0.3, generator=torch.Generator().manual_seed(2))
    result = jf.restore(y, jf.Denoising(), "mnist", 0.3, method=method, residual=residual)
    assert bool(torch.isfinite(result.x).all())
    assert bool((jf.psnr(result.x, digits) > jf.psnr(y, digits)).all())


def test_a_restorer_and_restore_agree():
    digits = jf.mnist_test_digits(3)[0]
    generator = torch.Generator().manual_seed(3)
    operator = jf.CompressedSensing.gaussian(100, (1, 28, 28), generator)
    y = operator.measure(digits, 0.05, generator=generator)
    restorer = jf.Restorer(operator, "mnist", 0.05, batch_size=3, residual="covariance")
    one, other = restorer(y), jf.restore(y, operator, "mnist", 0.05, residual="covariance")
    assert torch.allclose(one.x, other.x, atol=1e-3)
    assert restorer.path == "compiled"
    assert torch.equal(copy.deepcopy(restorer)(y).x, one.x)


def test_the_bundled_models_are_better_than_white_noise():
    """Means over 60 test digits, which no model was fitted on."""
    digits = jf.mnist_test_digits(60)[0]
    generator = torch.Generator().manual_seed(4)
    sensing = jf.CompressedSensing.gaussian(140, (1, 28, 28), generator)
    for operator, sigma, residual, gain in (
        (sensing, 10 / 255, "covariance", 1.4),
        (jf.Denoising(), 110 / 255, "grey", 0.4),
        (jf.Denoising(), 110 / 255, "covariance", 0.2),
    ):
        y = operator.measure(digits, sigma, generator=generator)
        better = jf.restore(y, operator, "mnist", sigma, residual=residual).x
        white = jf.restore(y, operator, "mnist", sigma).x
        assert float((jf.psnr(better, digits) - jf.psnr(white, digits)).mean()) > gain


def test_a_fit_finds_the_model_that_pictures_are_of(tmp_path):
    prior = small_prior(torch.float32)
    g = torch.Generator().manual_seed(6)
    law, rank = covariance(2), 2
    z = torch.randn(6000, 3, generator=g)
    noise = torch.randn(6000, PIXELS, generator=g) * law.diagonal.float().sqrt()
    noise = noise + torch.randn(6000, rank, generator=g) @ law.factor.float().T
    pictures = (prior.decode(z).flatten(1) + noise).clamp(0, 1).reshape(-1, *SHAPE)
    found = jf.fit_residuals(prior, pictures, rank=rank)
    assert set(found) == {"pixel", "covariance", "grey"}
    # A code of three numbers takes some of the residual with it, clamping a little more.
    ratio = dense(found["covariance"]).trace() / dense(law).trace()
    assert 0.6 < float(ratio) < 1.05
    assert torch.allclose(
        dense(found["covariance"]).diagonal(), found["pixel"].diagonal.double(), rtol=0.02
    )
    prior.residuals = found
    jf.save_prior(prior, tmp_path / "p.safetensors", half=True)
    again = jf.load_prior(tmp_path / "p.safetensors").residuals
    assert again["grey"] == found["grey"]
    assert torch.allclose(
        dense(again["covariance"]), dense(found["covariance"]), rtol=0.02, atol=1e-4
    )


def test_a_prior_without_codes_is_refused_for_what_it_lacks():
    for prior in (small_photo_prior(), jf.load_prior("patches")):
        with pytest.raises(ValueError, match="prior: expected one with latent codes z.*no G") as no:
            jf.fit_residuals(prior, torch.rand(5, 1, 8, 8), rank=2)
        assert "method" not in str(no.value) and type(prior).__name__ in str(no.value)


def test_factor_analysis_recovers_a_covariance():
    g = torch.Generator().manual_seed(9)
    law, number = covariance(3), 40_000
    rows = torch.randn(number, PIXELS, generator=g) * law.diagonal.float().sqrt()
    rows = rows + torch.randn(number, 3, generator=g) @ law.factor.float().T
    whiten = torch.linalg.inv(torch.linalg.cholesky(dense(law)))
    for found in (factor_analysis(rows, 3), factor_analysis(rows, 3, most_pixels=0)):
        ratio = torch.linalg.eigvalsh(whiten @ dense(found) @ whiten.T)
        # The extremes of a sample of 40,000 in 48 dimensions,.
        assert 0.93 < float(ratio[0]) and float(ratio[-1]) < 1.07


@pytest.mark.cuda
def test_large_pictures_are_fitted_where_they_are(monkeypatch):
    """Beyond so many pixels factors are drawn at random first."""
    monkeypatch.setattr(
        "jpmap_fast._fit_residuals.factor_analysis", partial(factor_analysis, most_pixels=1)
    )
    pictures = torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(0)).cuda()
    models = jf.fit_residuals(small_prior(torch.float32).cuda(), pictures, rank=3)
    assert models["covariance"].factor.shape == (PIXELS, 3)


def test_what_does_not_fit_is_refused():
    y = torch.zeros(1, 1, 28, 28)
    with pytest.raises(ValueError, match=r"'white', 'covariance', 'grey', 'pixel'.*got 'purple'"):
        jf.restore(y, jf.Denoising(), "mnist", 0.1, residual="purple")
    with pytest.raises(TypeError, match="a ResidualCovariance"):
        jf.restore(y, jf.Denoising(), "mnist", 0.1, residual=3)
    with pytest.raises(ValueError, match="784 pixels.*got one of 48"):
        jf.restore(y, jf.Denoising(), "mnist", 0.1, residual=covariance())
    with pytest.raises(ValueError, match="Denoising or Inpainting"):
        jf.restore(y, jf.Blur(jf.gaussian_kernel(1.0)), "mnist", 0.1, residual="grey")
    with pytest.raises(ValueError, match="without latent codes"):
        method = jf.PnPADMM(jf.load_denoiser("mnist"))
        jf.restore(y, jf.Denoising(), "mnist", 0.1, method=method, residual="covariance")
    with pytest.raises(ValueError, match="variances > 0"):
        jf.ResidualCovariance(torch.zeros(3))
    with pytest.raises(ValueError, match=r"\[3, r\]"):
        jf.ResidualCovariance(torch.ones(3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="coupling: expected 'projected'"):
        method = jf.JPMAP(coupling="alternating")
        jf.restore(y, jf.Denoising(), "mnist", 0.1, method=method, residual="grey")
    with pytest.raises(ValueError, match="floor"):
        jf.GreyValueVariance(0, 1)
    assert checked_residual(None, {}) is None


def test_a_factorisation_is_kept_for_the_same_numbers_alone():
    _, operator, y, decoded, z = setting("inpainting-per-image", covariance())
    first = operator.x_update(decoded, y, z, BETA, SIGMA)
    again = operator.x_update(decoded, y, z, BETA.clone(), SIGMA.clone())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for beta, sigma in ((BETA, 2 * SIGMA), (0.5 * BETA, SIGMA)):
        _, fresh, *_ = setting("inpainting-per-image", covariance())
        expected = fresh.x_update(decoded, y, z, beta, sigma)
        found = operator.x_update(decoded, y, z, beta, sigma)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert not torch.equal(found[0], first[0])
    changed = SIGMA.clone()
    operator.x_update(decoded, y, z, BETA, changed)
    changed.mul_(2)
    expected = operator.x_update(decoded, y, z, BETA, 2 * SIGMA)
    assert torch.equal(operator.x_update(decoded, y, z, BETA, changed)[0], expected[0])


def test_nothing_observed_is_the_prior():
    nothing = torch.zeros(28, 28)
    for operator in (
        jf.Inpainting(nothing),
        jf.Composition(jf.Inpainting(nothing), jf.Blur(jf.gaussian_kernel(1.0))),
    ):
        y = torch.zeros(2, 1, 28, 28)
        for residual in ("covariance", "pixel"):
            result = jf.restore(y, operator, "mnist", 0.1, residual=residual)
            assert bool(result.converged.all())
            assert result.z.abs().max() < 1e-3


@pytest.mark.parametrize("residual", ["pixel", "covariance"])
def test_evidence_counts_what_was_observed_alone(residual):
    """A mask, the same in a stack and after a blur that does nothing, and its rows as a matrix."""
    g = torch.Generator().manual_seed(3)
    mask = (torch.rand(28, 28, generator=g) < 0.2).float()
    digits = jf.mnist_test_digits(2)[0]
    y = mask * (digits + 0.1 * torch.randn(digits.shape, generator=g))
    one = torch.ones(1, 1)
    rows = torch.eye(784)[mask.flatten() > 0]
    found = []
    for operator, measured in (
        (jf.Inpainting(mask), y),
        (jf.Stack([jf.Inpainting(mask)]), y.flatten(1)),
        (jf.Composition(jf.Inpainting(mask), jf.Blur(one)), y),
        (jf.CompressedSensing(rows, (1, 28, 28)), y.flatten(1) @ rows.T),
    ):
        posterior = jf.sample(
            measured,
            operator,
            "mnist",
            0.1,
            draws=0,
            residual=residual,
            generator=torch.Generator().manual_seed(0),
        )
        found.append((posterior.log_evidence, posterior.misfit))
    for evidence, misfit in found[1:]:
        assert torch.allclose(evidence, found[0][0], atol=0.5)
        assert torch.allclose(misfit, found[0][1], rtol=0.02)


def test_models_are_their_own_and_named_by_their_names(tmp_path):
    d = torch.full((784,), 0.01)
    model = jf.ResidualCovariance(d)
    y = jf.mnist_test_digits(1)[0]
    one = jf.restore(y, jf.Denoising(), "mnist", 0.1, residual=model).x
    d.mul_(50)
    assert torch.equal(jf.restore(y, jf.Denoising(), "mnist", 0.1, residual=model).x, one)
    model.diagonal.mul_(50)
    other = jf.restore(y, jf.Denoising(), "mnist", 0.1, residual=model).x
    fresh = jf.ResidualCovariance(torch.full((784,), 0.5))
    assert torch.equal(other, jf.restore(y, jf.Denoising(), "mnist", 0.1, residual=fresh).x)
    prior = jf.load_prior("mnist")
    prior.residuals = {"white": model}
    with pytest.raises(ValueError, match="other names than 'white'"):
        jf.restore(y, jf.Denoising(), prior, 0.1)
    prior.residuals = {"small": covariance()}
    with pytest.raises(ValueError, match="covariance of 784 pixels.*got one of 48"):
        jf.save_prior(prior, tmp_path / "p.safetensors")
