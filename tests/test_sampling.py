"""`sample`: what it returns, what it refuses, and that an image depends on nothing else."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from problems import CASE_NAMES, IMAGE_SHAPE, case, small_mlp

import jpmap_fast as jf
from jpmap_fast.sampling.amis import AMIS
from jpmap_fast.sampling.pareto import effective, smoothed
from jpmap_fast.sampling.random_numbers import Streams, digest
from jpmap_fast.sampling.weighted import systematic

QUICK = jf.AMIS(rounds=(64, 64), extra_rounds=0, fallback=None, screen=256)
ITERATED = ("blur-reflect", "masked-blur-per-image", "stack-per-image")  # by conjugate gradients
FEW = jf.AMIS(rounds=(32,), extra_rounds=0, fallback=None, screen=16, starts=2, more_starts=())
SIGMA = 10 / 255
FIELDS = ("x", "z", "mean", "std", "decoded", "ess", "log_evidence", "misfit", "status_code")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def posterior() -> jf.Posterior:
    clean = jf.mnist_test_digits(3)[0]
    y = jf.Denoising().measure(clean, 0.4, seeded(1))
    y[1, 0, 3, 4] = math.nan
    return jf.sample(y, jf.Denoising(), "mnist", 0.4, draws=30, generator=seeded())


def same(one: jf.Posterior, other: jf.Posterior, names=FIELDS) -> bool:
    return all(
        torch.equal(getattr(one, n).nan_to_num(7), getattr(other, n).nan_to_num(7)) for n in names
    )


def test_shapes_and_failed_images(posterior):
    assert posterior.x.shape == (3, 30, 1, 28, 28) and posterior.z.shape == (3, 30, 8)
    assert posterior.mean.shape == posterior.std.shape == posterior.decoded.shape == (3, 1, 28, 28)
    assert posterior.converged.tolist() == [True, False, True]
    assert posterior.status[0] == "converged" and posterior.status[1].startswith("failed: the meas")
    good = torch.tensor([0, 2])
    assert bool(torch.isfinite(posterior.x[good]).all()) and bool(posterior.x[1].isnan().all())
    assert bool(((posterior.weights[good].sum(dim=1) - 1).abs() < 1e-12).all())
    assert torch.equal(posterior.var[good], posterior.std[good].square())
    assert bool((posterior.ess[good] > 100).all()) and posterior.method[0] == "amis"


@pytest.mark.parametrize(
    "name, dtype",
    [
        (name, dtype)
        for name in CASE_NAMES
        for dtype in (torch.float32, torch.float64)
        if dtype == torch.float32 or name not in ITERATED
    ],
)
def test_an_image_has_the_same_bits_in_any_batch_place_and_chunk(name, dtype):
    prior, c = small_mlp(dtype=dtype), case(name, dtype=dtype)
    if name == "linear-operator":  # whose product by a matrix is not torch's, cut by its rows
        half = torch.arange(30) % 2 == 0
        c.operator = jf.LinearOperator(
            lambda x: x.flatten(1)[:, half],
            lambda y: (
                torch.zeros(len(y), 30, dtype=y.dtype)
                .index_copy(1, half.nonzero()[:, 0], y)
                .reshape(-1, *IMAGE_SHAPE)
            ),
        )
        c.y = c.operator.A(torch.rand(4, *IMAGE_SHAPE, generator=seeded(), dtype=dtype))
    options = {"draws": 5, "method": FEW if name in ITERATED else QUICK}
    whole = jf.sample(c.y, c.operator, prior, c.sigma, generator=seeded(), **options)
    cut = jf.sample(c.y, c.operator, prior, c.sigma, generator=seeded(), chunk_size=3, **options)
    assert same(whole, cut)
    index = torch.tensor([2, 0])
    part = c.operator.bind(IMAGE_SHAPE, 4, like=c.y).select(index).operator
    y = c.y[index].clone()
    y[1] = math.nan
    pair = jf.sample(y, part, prior, c.sigma[index], generator=seeded(), **options)
    for field in FIELDS[:-1]:
        assert torch.equal(getattr(pair, field)[0], getattr(whole, field)[2]) or (
            field == "log_evidence" and bool(whole.log_evidence.isnan().all())
        ), field


@pytest.mark.parametrize(
    "method",
    [
        jf.MALA(chains=2, steps=32, screen=64),
        jf.SMC(particles=64, moves=1, screen=64),
        jf.SMC(particles=64, moves=2, begin="modes", screen=64),
        AMIS(rounds=(32,), extra_rounds=1, max_pareto_k=0.01, screen=64),
    ],
)
def test_other_methods_keep_an_images_bits(method):
    prior, c = small_mlp(), case("inpainting")
    options = {"draws": 5, "method": method}
    whole = jf.sample(c.y, c.operator, prior, c.sigma, generator=seeded(), **options)
    one = jf.sample(c.y[1], c.operator, prior, c.sigma[1], generator=seeded(), **options)
    for field in ("x", "z", "mean", "std", "ess", "r_hat", "evaluations"):
        a, b = getattr(one, field), getattr(whole, field)[1]
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7)), field
    assert isinstance(one.status, str) and isinstance(one.method, str)


def test_methods_agree():
    """Means of the samplers within 0.25 posterior deviations, evidence within 0.2."""
    prior, c = small_mlp(), case("inpainting")
    found = {
        name: jf.sample(c.y, c.operator, prior, c.sigma, draws=0, method=method, generator=seeded())
        for name, method in {
            "amis": "amis",
            "smc": jf.SMC(particles=4096),
            "modes": jf.SMC(particles=1024, begin="modes"),
            "mala": jf.MALA(steps=800),
        }.items()
    }
    means = {n: (p.weights[..., None] * p.codes).sum(dim=1) for n, p in found.items()}
    deviation = (
        (found["amis"].weights[..., None] * found["amis"].codes.square()).sum(dim=1)
        - means["amis"].square()
    ).sqrt()
    for name in ("smc", "modes", "mala"):
        assert bool(((means[name] - means["amis"]).abs() < 0.25 * deviation).all()), name
    for name in ("smc", "modes"):
        apart = (found[name].log_evidence - found["amis"].log_evidence).abs()
        assert bool((apart < 0.2).all()), name
    assert bool(found["mala"].log_evidence.isnan().all())
    assert bool((found["mala"].r_hat < 1.1).all()) and bool(found["amis"].r_hat.isnan().all())


def test_a_fallback_goes_on_where_weights_cannot_be_trusted():
    prior, c = small_mlp(), case("denoising")
    way = AMIS(rounds=(32,), extra_rounds=0, max_pareto_k=1e-3, fallback="mala", screen=64)
    found = jf.sample(c.y, c.operator, prior, c.sigma, draws=2, method=way, generator=seeded())
    assert "mala" in found.method and bool(torch.isfinite(found.mean).all())
    without = AMIS(rounds=(32,), extra_rounds=0, max_pareto_k=1e-3, fallback=None, screen=64)
    found = jf.sample(c.y, c.operator, prior, c.sigma, draws=2, method=without, generator=seeded())
    bad = [text for text in found.status if text.startswith("pareto_k")]
    assert bad and set(found.method) == {"amis"}


def test_the_seed_decides_and_the_noise_level_is_part_of_the_key():
    prior, c = small_mlp(), case("denoising")
    options = {"draws": 3, "method": QUICK}
    one = jf.sample(c.y, c.operator, prior, c.sigma, generator=seeded(1), **options)
    again = jf.sample(c.y, c.operator, prior, c.sigma, generator=seeded(1), **options)
    other = jf.sample(c.y, c.operator, prior, c.sigma, generator=seeded(2), **options)
    assert same(one, again) and not same(one, other)
    twice = jf.sample(c.y[[0, 0]], c.operator, prior, [0.1, 0.2], generator=seeded(1), **options)
    assert not torch.equal(twice.z[0], twice.z[1])


def test_a_given_code_stands_in_for_the_restoration():
    prior, c = small_mlp(), case("compressed-sensing")
    options = {"draws": 0, "method": jf.AMIS(starts=1, more_starts=(), screen=16)}
    own = jf.sample(c.y, c.operator, prior, c.sigma, generator=seeded(), **options)
    z0 = own.modes[:, 0] + 0.01
    found = jf.sample(c.y, c.operator, prior, c.sigma, z0=z0, generator=seeded(), **options)
    assert bool(((found.modes[:, 0] - own.modes[:, 0]).abs() < 1e-3).all())
    assert bool(((found.mean - own.mean).abs() < 0.1).all())


def test_without_draws_there_are_moments(posterior):
    y = jf.Denoising().measure(jf.mnist_test_digits(1)[0], 0.4, seeded(1))
    found = jf.sample(y[0], jf.Denoising(), "mnist", 0.4, draws=0, generator=seeded())
    assert found.x is None and found.z.shape == (0, 8) and found.status == "converged"
    assert found.mean.shape == (1, 28, 28) and float(found.std.min()) > 0
    for ask in (found.to_arviz, lambda: found.interval(0.9), lambda: found.probability(torch.abs)):
        with pytest.raises((ValueError, ImportError), match=r"draws=0|arviz"):
            ask()


@pytest.mark.parametrize("draws", [1, 2, 5, 30])
def test_a_quantile_is_that_of_another_draw(posterior, draws):
    """Of rank q (n + 1), which NumPy names after Weibull; so an interval holds another draw."""
    few = replace(posterior, x=posterior.x[:, :draws])
    for q in (0.01, 0.05, 0.25, 0.5, 0.9, 0.99):
        known = np.quantile(few.x[0].double().numpy(), q, axis=0, method="weibull")
        assert np.abs(few.quantile(q)[0].numpy() - known).max() < 1e-6
        assert bool(few.quantile(q)[1].isnan().all())
        assert torch.equal(few.select(2).quantile(q), few.quantile(q)[2])
    x = torch.rand(1, 20_000, 1, 1, draws + 1, generator=seeded(3), dtype=torch.float64)
    exchangeable = replace(posterior, x=x[..., :draws].movedim(-1, 1).reshape(1, draws, 1, 1, -1))
    level = 0.8 if draws > 8 else (draws - 1) / (draws + 1)
    lower, upper = exchangeable.interval(max(level, 1e-9))
    inside = (x[..., draws].reshape(1, 1, 1, -1) - lower) * (x[..., draws].reshape(-1) - upper) <= 0
    # Three standard errors of 20,000 tosses are 0.01 at most.
    assert abs(float(inside.double().mean()) - level) < 0.01


def test_intervals_quantiles_and_probabilities(posterior):
    lower, upper = posterior.interval(0.8)
    assert torch.equal(lower, posterior.quantile(0.1)[...]) or bool(lower.isnan().any())
    assert bool((lower[0] <= upper[0]).all())
    inside = (posterior.x[0] >= lower[0]) & (posterior.x[0] <= upper[0])
    assert abs(float(inside.double().mean()) - 0.8) < 0.05
    bright = posterior.probability(lambda x: x > 0.5)
    assert torch.equal(bright[0], (posterior.x[0] > 0.5).float().mean(dim=0))
    assert bool(bright[1].isnan().all())
    assert posterior.probability(lambda x: x.mean((1, 2, 3)) > 0.1).shape == (3,)
    one = posterior.select(2)
    assert torch.equal(one.interval(0.8)[0], lower[2])
    assert torch.equal(one.probability(lambda x: x > 0.5), bright[2])
    fixed = SimpleNamespace(interval=lambda found, level: (found.mean - level, found.mean + level))
    assert torch.equal(posterior.interval(0.5, fixed)[1][0], posterior.mean[0] + 0.5)
    for wrong in (0, 1, 1.5, math.nan):
        with pytest.raises(ValueError, match="expected"):
            posterior.interval(wrong)
    with pytest.raises(ValueError, match="one an image"):
        posterior.probability(lambda x: x.mean())
    with pytest.raises(ValueError, match=r"event: expected booleans, or numbers in \[0, 1\]"):
        posterior.probability(lambda x: x)
    with pytest.raises(TypeError, match="event: expected a function"):
        posterior.probability(0.5)
    shares = posterior.probability(lambda x: x.clamp(0, 1))
    assert torch.equal(shares[0], posterior.x[0].clamp(0, 1).mean(dim=0))


def test_a_seed_is_no_generator():
    y = torch.zeros(1, 1, 28, 28)
    for call in (jf.sample, jf.restore):
        with pytest.raises(TypeError, match="generator: expected a torch.Generator or None, got 3"):
            call(y, jf.Denoising(), "mnist", 0.4, generator=3)


def test_arviz_gets_draws_and_diagnostics(posterior, monkeypatch):
    arviz = ModuleType("arviz")
    arviz.InferenceData = object
    arviz.from_dict = lambda **groups: groups
    monkeypatch.setitem(sys.modules, "arviz", arviz)
    groups = posterior.to_arviz()
    assert groups["posterior"]["z"].shape == (1, 30, 3, 8)
    assert groups["posterior"]["x"].shape == (1, 30, 3, 1, 28, 28)
    assert groups["constant_data"]["pareto_k"].shape == (3,)
    assert posterior.select(0).to_arviz()["posterior"]["z"].shape == (1, 30, 8)
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match="pip install arviz"):
        posterior.to_arviz()


def test_what_cannot_be_sampled_is_refused():
    class NoCodes(jf.MLPVAE):
        def autoencode(self, x, s):
            return x

    y, operator = torch.rand(1, *IMAGE_SHAPE), jf.Denoising()
    with pytest.raises(ValueError, match=r"latent codes.*NoCodes.*restore"):
        jf.sample(y, operator, NoCodes(image_shape=IMAGE_SHAPE, latent_dim=3).eval(), 0.1)
    prior = small_mlp(dtype=torch.float32)
    with pytest.raises(ValueError, match="one of 'amis', 'smc', 'mala'"):
        jf.sample(y, operator, prior, 0.1, method="hmc")
    with pytest.raises(TypeError, match="AMIS"):
        jf.sample(y, operator, prior, 0.1, method=jf.JPMAP())
    with pytest.raises(ValueError, match="draws"):
        jf.sample(y, operator, prior, 0.1, draws=-1)
    with pytest.raises(TypeError, match="sigma"):
        jf.sample(y, operator, prior)
    with pytest.raises(ValueError, match="z0"):
        jf.sample(y, operator, prior, 0.1, z0=torch.zeros(2, 3))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: jf.AMIS(rounds=(8,)), "rounds"),
        (lambda: jf.AMIS(defensive=0), "defensive"),
        (lambda: jf.AMIS(fallback="hmc"), "fallback"),
        (lambda: jf.AMIS(starts=0), "starts"),
        (lambda: jf.MALA(chains=1), "chains"),
        (lambda: jf.MALA(max_r_hat=1), "max_r_hat"),
        (lambda: jf.SMC(particles=3), "particles"),
        (lambda: jf.SMC(begin="nowhere"), "begin"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_images_are_no_error():
    prior = small_mlp(dtype=torch.float32)
    found = jf.sample(torch.zeros(0, *IMAGE_SHAPE), jf.Denoising(), prior, 0.1, draws=2)
    assert found.x.shape == (0, 2, *IMAGE_SHAPE) and found.status == []


def test_pareto_shapes_are_those_of_known_laws():
    """The weights u^-k have shape k; as published for PSIS, to the spread of 50 tries."""
    u = Streams(torch.arange(50)).uniform("u", (2000,))
    for k in (0.2, 0.5, 0.7, 1.0):
        weights, found = smoothed(-k * u.log())
        # The fit leans towards 1/2, as published.
        assert abs(float(found.mean()) - (k * 134 + 5) / 144) < 0.06
        assert bool((weights <= 0).all())
    weights = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    assert abs(float(effective(weights)) - 1 / 0.375) < 1e-12


def test_systematic_resampling_keeps_shares():
    weights = torch.tensor([[0.5, 0.0, 0.25, 0.25, 0.0]], dtype=torch.float64)
    u = (torch.arange(8) + 0.5).double()[None] / 8
    assert torch.bincount(systematic(weights, u)[0], minlength=5).tolist() == [4, 0, 2, 2, 0]
    assert int(systematic(weights, torch.tensor([[1.0]]).double())) == 3


def test_streams_are_standard_and_of_their_image():
    streams = Streams.of(5, torch.rand(3, 10, generator=seeded()))
    u = streams.uniform("u", (20000,))
    assert float(u.min()) > 0 and float(u.max()) < 1
    assert bool(((u.mean(dim=1) - 0.5).abs() < 4 / math.sqrt(12 * 20000)).all())
    normal = streams.normal("n", (20000,))
    assert bool((normal.mean(dim=1).abs() < 4 / math.sqrt(20000)).all())
    assert bool(((normal.var(dim=1) - 1).abs() < 4 * math.sqrt(2 / 20000)).all())
    assert abs(float((normal[0] * normal[1]).mean())) < 4 / math.sqrt(20000)
    pair = torch.corrcoef(torch.stack((u[0, :-1], u[0, 1:], streams.uniform("v", (20000,))[0, 1:])))
    assert bool(((pair - torch.eye(3)).abs() < 4 / math.sqrt(20000)).all())
    for degrees in (1, 7, 8):
        spread = streams.chi_square("c", degrees, (5000,))
        error = math.sqrt(2 * degrees / 5000)
        assert bool(((spread.mean(dim=1) - degrees).abs() < 4 * error).all())
        spread = (spread - degrees).square() / (2 * degrees)  # 1, with a variance of 2 + 12 / v
        assert bool(
            ((spread.mean(dim=1) - 1).abs() < 4 * math.sqrt((2 + 12 / degrees) / 5000)).all()
        )
    y = torch.rand(2, 5, generator=seeded())
    other = y.clone()
    other[0, 3] = torch.nextafter(other[0, 3], torch.tensor(2.0))
    assert (digest(y) == digest(other)).tolist() == [False, True]
    assert int(digest(torch.tensor([[0.0]]))) == int(digest(torch.tensor([[-0.0]])))
