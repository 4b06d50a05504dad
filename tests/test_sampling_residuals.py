"""Samples under truer models of p(x|z): against dense formulas and quadrature, and by ranks."""

from __future__ import annotations

import math

import pytest
import torch
from problems import CASE_NAMES, IMAGE_SHAPE, PIXELS, Case, LinearPrior, case, small_mlp
from test_sampling import FEW, FIELDS, QUICK, seeded
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast._prepared import prepare
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.random_numbers import Streams

BATCH = 4
LONG = jf.AMIS(rounds=(512, 512, 2048))
# Known by its action alone: no determinant, and var(x | z, y) by draws.
ACTIONS = ("blur-per-image", "masked-blur-per-image", "stack-per-image")
GREY = jf.GreyValueVariance(0.1, 0.6)
MODELS = ("covariance", "pixel")


def covariance(name: str, pixels: int = PIXELS) -> jf.ResidualCovariance:
    g = seeded(8)
    d = 0.005 + 0.05 * torch.rand(pixels, generator=g, dtype=torch.float64)
    factor = 0.15 * torch.randn(pixels, 4, generator=g, dtype=torch.float64)
    return jf.ResidualCovariance(d, factor if name == "covariance" else None)


class Known:
    """The exact posterior of a linear decoder where x - G(z) has the covariance C."""

    def __init__(self, c: Case, prior: LinearPrior, of_residual: Tensor) -> None:
        layer = prior.decoder_layers[0]
        w, b = layer.weight.detach(), layer.bias.detach()
        y, a = c.y.flatten(1).double(), c.matrix.double()
        noise = c.sigma.double().square()[:, None, None] * torch.eye(a.shape[1])
        of_x = w @ w.T + of_residual
        of_y = a @ of_x @ a.mT + noise
        apart = y - a @ b
        gain = torch.linalg.solve(of_y, a @ of_x).mT
        self.mean = b + (gain @ apart[..., None])[..., 0]
        self.deviation = (of_x - gain @ a @ of_x).diagonal(dim1=1, dim2=2).sqrt()
        given = torch.linalg.solve(a @ of_residual @ a.mT + noise, a @ of_residual).mT
        self.given_z = (of_residual - given @ a @ of_residual).diagonal(dim1=1, dim2=2)
        seen = a.abs().sum(dim=2) > 0
        law = [
            torch.distributions.MultivariateNormal(
                torch.zeros(int(s.sum()), dtype=torch.float64), cov[s][:, s]
            ).log_prob(r[s])
            for s, cov, r in zip(seen, of_y, apart, strict=True)
        ]
        self.log_evidence = torch.stack(law)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [n for n in CASE_NAMES if n not in ACTIONS])
def test_a_linear_decoder_has_its_exact_posterior(name, model):
    c, prior, residual = case(name), LinearPrior(), covariance(model)
    known = Known(c, prior, residual.over(1.0, IMAGE_SHAPE, c.y).matrix())
    found = jf.sample(
        c.y,
        c.operator,
        prior,
        c.sigma,
        draws=400,
        method=LONG,
        residual=residual,
        generator=seeded(),
    )
    assert bool((found.ess > 0.8 * sum(LONG.rounds)).all()), "nearly its own proposal"
    error = 4 / found.ess.sqrt()[:, None]
    assert bool(((found.mean.flatten(1) - known.mean).abs() < error * known.deviation).all())
    # Deviations of deviations from 3,072 draws, and from 400.
    assert bool(((found.std.flatten(1) / known.deviation - 1).abs() < 0.08).all())
    assert bool(((found.log_evidence - known.log_evidence).abs() < 0.02).all())
    drawn = found.x.flatten(2).std(dim=1)
    assert bool(((drawn / known.deviation - 1).abs() < 0.25).all())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", CASE_NAMES)
def test_the_variance_of_x_given_z_is_that_of_the_model(name, model):
    c, prior, residual = case(name), LinearPrior(), covariance(model)
    model = Model(prepare(c.y, c.operator, prior, c.sigma, residual=residual).problem)
    known = Known(c, prior, residual.over(1.0, IMAGE_SHAPE, c.y).matrix()).given_z
    found = model.variance_x(Streams.of(0, model.problem.y))
    exact = model.variance_given(torch.zeros(BATCH, *IMAGE_SHAPE, dtype=torch.float64)) is not None
    assert exact == (name not in ACTIONS)
    assert bool(((found / known - 1).abs() < (1e-8 if exact else 0.7)).all())
    assert bool(model.log_constant().isnan().all()) != exact


class Wave(nn.Module):
    """Two codes to ten grey values, all from 0.03 to 0.97; its encoder knows nothing."""

    gamma, latent_dim, image_shape = 0.2, 2, (1, 2, 5)

    def decode(self, z: Tensor) -> Tensor:
        phases = torch.linspace(0, 3, 10, dtype=z.dtype)
        waves = 0.5 + 0.47 * torch.sin(z[:, :1] * (1 + phases / 4) + phases + 0.5 * z[:, 1:])
        return waves.reshape(-1, 1, 2, 5)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.zeros(len(x), 2, dtype=x.dtype)
        return mean, torch.zeros_like(mean)


@pytest.mark.parametrize("masked", [False, True])
def test_a_variance_by_grey_value_agrees_with_quadrature(masked):
    """Codes, evidence and both moments of x on a grid, where nothing is affine in G."""
    prior, g = Wave(), seeded(3)
    mask = torch.ones(2, 5, dtype=torch.float64)
    if masked:
        mask[0, 1] = mask[1, 3] = 0
        mask[0, 0] = 0.5
    clean = prior.decode(torch.randn(2, 2, generator=g, dtype=torch.float64))
    clean = clean + GREY.variance(clean).sqrt() * torch.randn(
        clean.shape, generator=g, dtype=torch.float64
    )
    sigma = 0.15
    operator = jf.Inpainting(mask) if masked else jf.Denoising()
    y = operator.measure(clean, sigma, g)
    found = jf.sample(
        y, operator, prior, sigma, draws=3000, method=LONG, residual=GREY, generator=g
    )
    line = torch.linspace(-5, 5, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    images = prior.decode(grid).flatten(1)  # [P, 10]
    m, v = mask.flatten(), GREY.variance(images)
    s = sigma**2 + m**2 * v
    apart = y.flatten(1)[:, None] - m * images  # [2, P, 10]
    each = -0.5 * (apart.square() / s + s.log() + math.log(2 * math.pi)) * (m != 0)
    log = each.sum(dim=2) - grid.square().sum(dim=1) / 2 - math.log(2 * math.pi)
    known = torch.softmax(log, dim=1)
    evidence = torch.logsumexp(log, dim=1) + 2 * math.log(10 / 400)
    assert bool(((found.log_evidence - evidence).abs() < 0.03).all())
    given = images + m * v / s * apart
    within = v * sigma**2 / s
    mean = (known[..., None] * given).sum(dim=1)
    spread = (known[..., None] * (within + given.square())).sum(dim=1) - mean.square()
    deviation = spread.sqrt()
    error = 4 * deviation / found.ess.sqrt()[:, None]
    assert bool(((found.mean.flatten(1) - mean).abs() < error).all())
    assert bool(((found.std.flatten(1) / deviation - 1).abs() < 0.05).all())
    assert bool(((found.x.flatten(2).std(dim=1) / deviation - 1).abs() < 0.1).all())
    assert bool(((found.decoded.flatten(1) - known @ images).abs() < error).all())
    # chi^2 has the variance of its own code and no logarithms.
    best = found.modes[:, 0]
    there = prior.decode(best).flatten(1)
    r = (y.flatten(1) - m * there) * (m != 0)
    chi = (r.square() / (sigma**2 + m**2 * GREY.variance(there))).sum(dim=1) / (m != 0).sum()
    assert torch.allclose(found.misfit, chi)


@pytest.mark.parametrize("residual", ["covariance", "pixel", "grey"])
def test_truths_of_a_model_rank_like_draws(residual):
    """Simulation-based calibration; the draws of the white model do not pass on the same truths."""
    g, truths, draws, bins = seeded(11), 300, 19, 10
    prior = small_mlp(dtype=torch.float64)
    model = GREY if residual == "grey" else covariance(residual)
    z = torch.randn(truths, 3, generator=g, dtype=torch.float64)
    normal = torch.randn(truths, *IMAGE_SHAPE, generator=g, dtype=torch.float64)
    with torch.no_grad():
        decoded = prior.decode(z)
    if isinstance(model, jf.GreyValueVariance):
        x = decoded + model.variance(decoded).sqrt() * normal
    else:
        spread = model.over(1.0, IMAGE_SHAPE, z).root(normal.flatten(1))
        x = decoded + spread.reshape(decoded.shape)
    y = jf.Denoising().measure(x, 0.1, g)

    def least_p(told: object) -> float:
        found = jf.sample(
            y,
            jf.Denoising(),
            prior,
            0.1,
            draws=draws,
            method=jf.AMIS(rounds=(64, 64, 128), screen=128, more_starts=(), fallback=None),
            residual=told,
            generator=g,
        )
        centre = found.mean.flatten(1)
        statistics = [(found.z[..., i], z[:, i]) for i in range(3)]
        statistics += [
            (found.z.norm(dim=-1), z.norm(dim=-1)),
            (found.x.flatten(2).mean(dim=-1), x.flatten(1).mean(dim=-1)),
            (
                (found.x.flatten(2) - centre[:, None]).norm(dim=-1),
                (x.flatten(1) - centre).norm(dim=-1),
            ),
        ]
        values = []
        for drawn, truth in statistics:
            ranks = (drawn < truth[:, None]).sum(dim=1)
            counts = torch.bincount(ranks * bins // (draws + 1), minlength=bins).double()
            square = ((counts - truths / bins) ** 2 / (truths / bins)).sum()
            half = torch.tensor((bins - 1) / 2, dtype=torch.float64)
            values.append(float(torch.special.gammaincc(half, square / 2)))
        return min(values)

    # Of six statistics: one in a thousand runs of a right sampler would be refused.
    assert least_p(model) > 1e-4 > least_p("white")


@pytest.mark.parametrize("residual", ["covariance", "pixel", "grey"])
@pytest.mark.parametrize("name", ["denoising", "inpainting", "inpainting-per-image", "blur"])
def test_an_image_has_the_same_bits_alone(name, residual):
    if residual == "grey" and name == "blur":
        return
    prior, c = small_mlp(dtype=torch.float32), case(name, dtype=torch.float32)
    model = GREY if residual == "grey" else covariance(residual)
    options = {"draws": 4, "residual": model, "method": FEW if name in ACTIONS else QUICK}
    whole = jf.sample(c.y, c.operator, prior, c.sigma, generator=seeded(), **options)
    cut = jf.sample(c.y, c.operator, prior, c.sigma, generator=seeded(), chunk_size=3, **options)
    bound = c.operator.bind(IMAGE_SHAPE, BATCH, like=c.y).select(torch.tensor([2]))
    one = jf.sample(c.y[[2]], bound.operator, prior, c.sigma[[2]], generator=seeded(), **options)
    for field in FIELDS:
        a, b, other = (getattr(p, field).nan_to_num(7) for p in (whole, cut, one))
        assert torch.equal(a, b) and torch.equal(a[2], other[0]), field


def test_the_bundled_models_are_asked_for_by_name():
    clean = jf.mnist_test_digits(2)[0]
    y = jf.Denoising().measure(clean, 0.4, seeded(1))
    options = {"draws": 0, "method": QUICK}
    found = {
        name: jf.sample(
            y, jf.Denoising(), "mnist", 0.4, residual=name, generator=seeded(), **options
        )
        for name in ("white", "covariance", "pixel", "grey")
    }
    plain = jf.sample(y, jf.Denoising(), "mnist", 0.4, generator=seeded(), **options)
    assert torch.equal(plain.mean, found["white"].mean)
    for name in ("covariance", "pixel", "grey"):
        assert not torch.equal(plain.mean, found[name].mean), name
        assert bool(found[name].log_evidence.isfinite().all()), name
    with pytest.raises(ValueError, match="residual: expected one of 'white'"):
        jf.sample(y, jf.Denoising(), "mnist", 0.4, residual="coloured")
    with pytest.raises(ValueError, match="Denoising or Inpainting"):
        jf.sample(y, jf.Blur(jf.gaussian_kernel(1.0)), "mnist", 0.4, residual="grey")
