"""Samples where everything is known: linear decoders, one and two dimensions by quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from problems import CASE_NAMES, PIXELS, Case, LinearPrior, case
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast._prepared import prepare
from jpmap_fast.operators.data_term import Whitening
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.modes import find_modes
from jpmap_fast.sampling.random_numbers import Streams
from jpmap_fast.sampling.rounds import Rounds

BATCH = 4
LONG = jf.AMIS(rounds=(512, 512, 2048))
SHORT = jf.AMIS(rounds=(128, 128), screen=64)  # where every draw takes conjugate gradients
ITERATED = ("linear-operator", "blur-reflect", "masked-blur-per-image", "stack-per-image")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Gaussian:
    """The exact posterior of a linear decoder, image by image."""

    def __init__(self, c: Case, prior: LinearPrior) -> None:
        layer = prior.decoder_layers[0]
        w, b = layer.weight.detach(), layer.bias.detach()
        y, self.matrix = c.y.flatten(1).double(), c.matrix.double()
        self.observed = self.matrix.abs().sum(dim=2) > 0
        variance = c.sigma.double().square()[:, None, None]
        eye = torch.eye(PIXELS, dtype=torch.float64)
        of_x = w @ w.T + prior.gamma**2 * eye  # covariance of x
        cross = self.matrix @ of_x
        of_y = cross @ self.matrix.mT + variance * torch.eye(y.shape[1], dtype=torch.float64)
        apart = y - self.matrix @ b
        gain = torch.linalg.solve(of_y, cross).mT
        self.mean = b + (gain @ apart[..., None])[..., 0]
        covariance = of_x - gain @ cross
        self.deviation = covariance.diagonal(dim1=1, dim2=2).sqrt()
        of_z = torch.linalg.solve(of_y, self.matrix @ w).mT
        self.z = (of_z @ apart[..., None])[..., 0]
        self.of_z = torch.eye(w.shape[1]) - of_z @ (self.matrix @ w)
        self.given_z = prior.gamma**2 * eye - prior.gamma**4 * self.matrix.mT @ torch.linalg.solve(
            prior.gamma**2 * self.matrix @ self.matrix.mT
            + variance * torch.eye(y.shape[1], dtype=torch.float64),
            self.matrix,
        )
        law = [
            torch.distributions.MultivariateNormal(
                torch.zeros(int(seen.sum()), dtype=torch.float64), cov[seen][:, seen]
            ).log_prob(r[seen])
            for seen, cov, r in zip(self.observed, of_y, apart, strict=True)
        ]
        self.log_evidence = torch.stack(law)


@pytest.mark.parametrize("name", CASE_NAMES)
def test_a_linear_decoder_has_its_exact_posterior(name):
    c, prior = case(name), LinearPrior()
    known = Gaussian(c, prior)
    closed = name not in ITERATED
    way = LONG if closed else SHORT
    found = jf.sample(c.y, c.operator, prior, c.sigma, draws=400, method=way, generator=seeded())
    assert bool((found.ess > 0.8 * sum(way.rounds)).all()), "nearly its own proposal"
    error = 4 / found.ess.sqrt()[:, None]
    spread = known.of_z.diagonal(dim1=1, dim2=2).sqrt()
    mean = (found.weights[..., None] * found.codes).sum(dim=1)
    assert bool(((mean - known.z).abs() < error * spread).all())
    assert bool(((found.mean.flatten(1) - known.mean).abs() < error * known.deviation).all())
    # Deviations of deviations from 3,072 draws, or from the 128 behind var(x | z, y).
    apart = found.std.flatten(1) / known.deviation - 1
    assert bool((apart.abs() < (0.08 if closed else 0.4)).all())
    if isinstance(c.operator.bind((1, 6, 5), BATCH, like=c.y).data_term(), Whitening):
        assert bool(((found.log_evidence - known.log_evidence).abs() < 0.02).all())
    else:
        assert bool(torch.isnan(found.log_evidence).all())
    drawn = found.x.flatten(2).std(dim=1)
    assert bool(((drawn / known.deviation - 1).abs() < 0.25).all())


@pytest.mark.parametrize("name", CASE_NAMES)
def test_the_variance_of_x_given_z_is_that_of_the_operator(name):
    c, prior = case(name), LinearPrior()
    model = Model(prepare(c.y, c.operator, prior, c.sigma).problem)
    known = Gaussian(c, prior).given_z.diagonal(dim1=1, dim2=2)
    found = model.variance_x(Streams.of(0, model.problem.y))
    zeros = torch.zeros(BATCH, 1, 6, 5, dtype=torch.float64)
    exact = model.variance_given(zeros) is not None
    assert bool(((found / known - 1).abs() < (1e-6 if exact else 0.7)).all())


def test_draws_of_x_have_the_covariance_of_x_given_z():
    c, prior = case("compressed-sensing"), LinearPrior()
    model = Model(prepare(c.y, c.operator, prior, c.sigma).problem)
    decoded = torch.zeros(BATCH, 4000, 1, 6, 5, dtype=torch.float64)
    x = model.draw_x(decoded, "x", Streams.of(1, model.problem.y)).flatten(2)[..., :16]
    apart = x - x.mean(dim=1, keepdim=True)
    found = apart.mT @ apart / 4000
    known = Gaussian(c, prior).given_z[:, :16, :16]
    assert bool(((found - known).abs() < 5 * prior.gamma**2 / math.sqrt(4000)).all())


class Square(nn.Module):
    """G(z) = z^2 / 4 in every pixel: the sign of z is never seen. Its encoder knows one sign."""

    gamma, latent_dim, image_shape = 0.1, 1, (1, 2, 2)

    def decode(self, z: Tensor) -> Tensor:
        return (z.square() / 4).expand(-1, 4).reshape(-1, 1, 2, 2)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = 2 * x.flatten(1).mean(dim=1, keepdim=True).clamp_min(0).sqrt()
        return mean, torch.zeros_like(mean)


@pytest.fixture(scope="module")
def two_modes() -> Tensor:
    return torch.full((1, 1, 2, 2), 0.4, dtype=torch.float64)


def test_two_modes_have_their_masses(two_modes):
    found = jf.sample(
        two_modes, jf.Denoising(), Square(), 0.1, draws=0, method=LONG, generator=seeded()
    )
    assert found.modes.shape[1] == 2 and found.status == ["converged"]
    assert bool(((found.mode_weights - 0.5).abs() < 0.02).all())
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    log = -2 * (grid.square() / 4 - 0.4).square() / 0.02 - grid.square() / 2
    density = torch.softmax(log, dim=0)
    edges = torch.linspace(-2.4, 2.4, 13, dtype=torch.float64)
    bins, known = torch.bucketize(grid, edges), torch.zeros(14, dtype=torch.float64)
    known.index_add_(0, bins, density)
    own = torch.zeros(14, dtype=torch.float64)
    own.index_add_(0, torch.bucketize(found.codes[0, :, 0].contiguous(), edges), found.weights[0])
    assert float((own - known).abs().sum()) / 2 < 0.02
    size = 8 / 4001
    constant = -2 * math.log(2 * math.pi * 0.02) - 0.5 * math.log(2 * math.pi)
    evidence = float(torch.logsumexp(log, dim=0)) + math.log(size) + constant
    assert abs(float(found.log_evidence) - evidence) < 0.02


def test_a_mode_that_is_left_out_is_noticed(two_modes):
    model = Model(prepare(two_modes, jf.Denoising(), Square(), 0.02).problem)
    streams = Streams.of(3, two_modes)
    modes = find_modes(model, torch.ones(1, 1).double(), 4, 512, (), streams)
    assert modes.there.tolist() == [[True, True]]
    modes.there[:, 1] = False
    found = Rounds(model, modes.mixture(8, 0.05), streams, "round", 0).after(128).weighted()
    assert float(found.pareto_k) > 0.7 or float(found.ess) < 20
    # ... and found again, by a descent from the draw that reached it.
    way = jf.AMIS(extra_rounds=0, fallback=None, defensive=0.05, rounds=(128,))
    found, known = way.draw(model, modes, streams)
    assert known.there.tolist() == [[True, True]] and float(found.pareto_k) < 0.7
    assert abs(float((found.weights * (found.z[..., 0] > 0)).sum()) - 0.5) < 0.1


def test_a_plane_of_the_digits_agrees_with_quadrature():
    digits = jf.load_prior("mnist")
    axes = torch.linalg.qr(torch.randn(8, 2, generator=seeded(4))).Q

    class Plane(nn.Module):
        gamma, latent_dim, image_shape = digits.gamma, 2, (1, 28, 28)

        def decode(self, z: Tensor) -> Tensor:
            return digits.decode(z @ axes.T)

        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean = digits.encode(x)[0] @ axes
            return mean, torch.zeros_like(mean)

    g = seeded(2)
    clean = digits.decode(torch.randn(2, 2, generator=g) @ axes.T).detach()
    y = clean + 0.5 * torch.randn(clean.shape, generator=g)
    found = jf.sample(y, jf.Denoising(), Plane(), 0.5, draws=0, method=LONG, generator=g)
    line = torch.linspace(-4, 4, 161)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        images = digits.decode(grid @ axes.T).flatten(1).double()
    apart = (y.flatten(1).double()[:, None] - images).square().sum(dim=2)
    log = -apart / (2 * (0.25 + digits.gamma**2)) - grid.double().square().sum(dim=1) / 2
    known = torch.softmax(log, dim=1)
    mean, own = known @ grid.double(), (found.weights[..., None] * found.codes).sum(dim=1)
    spread = (known @ grid.double().square() - mean.square()).sqrt()
    assert bool(((own - mean).abs() < 4 * spread / found.ess.sqrt()[:, None]).all())
    constant = -392 * math.log(2 * math.pi * (0.25 + digits.gamma**2)) - math.log(2 * math.pi)
    evidence = torch.logsumexp(log, dim=1) + 2 * math.log(8 / 160) + constant
    assert bool(((found.log_evidence - evidence).abs() < 0.05).all())


def test_the_evidence_is_unbiased(two_modes):
    """The mean of the estimate over its truth is 1, to 3 standard errors of 200 seeds.

    Of one round: those after it are fitted to its draws, which costs exactness in favour of spread.
    """
    model = Model(prepare(two_modes, jf.Denoising(), Square(), 0.1).problem)
    way = jf.AMIS(extra_rounds=0, fallback=None, rounds=(128,))
    modes = find_modes(model, torch.ones(1, 1).double(), 4, 512, (), Streams.of(0, two_modes))
    index = torch.zeros(200, dtype=torch.int64)
    keys = torch.arange(200) * 7919
    drawn, _ = way.draw(model.select(index), modes.select(index), Streams(keys))
    found = drawn.log_evidence
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    log = -2 * (grid.square() / 4 - 0.4).square() / 0.02 - grid.square() / 2
    known = torch.logsumexp(log, dim=0) + math.log(8 / 4000) - 0.5 * math.log(2 * math.pi)
    ratio = (found - known).exp()
    assert abs(float(ratio.mean()) - 1) < 3 * float(ratio.std()) / math.sqrt(200)
