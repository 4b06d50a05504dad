"""``jf.deepinv.Sampler`` where DeepInverse takes a sampler."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

import jpmap_fast as jf
from jpmap_fast.deepinv import Sampler

deepinv = pytest.importorskip("deepinv", reason="needs deepinv, the extra [deepinv]")

FEW = jf.AMIS(rounds=(64, 64), screen=64, extra_rounds=0, fallback=None)
SIGMA = 0.3


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return jf.mnist_test_digits(4)[0]


@pytest.fixture
def physics():
    g = torch.Generator().manual_seed(0)
    noise = deepinv.physics.GaussianNoise(SIGMA, rng=g)
    return deepinv.physics.Inpainting((1, 28, 28), mask=0.4, rng=g, noise_model=noise)


def test_mean_and_variance_are_those_of_sample(digits, physics):
    y, sampler = physics(digits), Sampler("mnist", FEW)
    assert isinstance(sampler, deepinv.sampling.BaseSampling)
    mean, var = sampler.sample(y, physics, seed=3)
    generator = torch.Generator().manual_seed(3)
    known = jf.sample(y, physics, "mnist", draws=0, method=FEW, generator=generator)
    assert torch.equal(mean, known.mean) and torch.equal(var, known.var)
    assert torch.equal(sampler(y, physics, None, 3), mean)
    assert torch.equal(sampler(y, physics, x_init=None, seed=3), mean)
    assert not torch.equal(sampler(y, physics, seed=4), mean)
    assert sampler.mean_has_converged == sampler.var_has_converged == bool(known.converged.all())
    with pytest.raises(RuntimeError, match="history"):
        sampler.get_chain()


def test_a_seed_leaves_the_global_generator_alone(digits, physics):
    y, sampler = physics(digits[:1]), Sampler("mnist", FEW)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    sampler.sample(y, physics, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_statistics_are_those_of_the_draws(digits, physics):
    y, sampler = physics(digits), Sampler("mnist", FEW, draws=12)
    posterior = sampler.posterior(y, physics, seed=1)
    chain = sampler.get_chain()
    assert len(chain) == 12 and torch.equal(chain[5]["x"], posterior.x[:, 5])
    of_x, of_z = lambda d: d["x"], lambda d: d["z"]
    mean, var = sampler.sample(y, physics, seed=1, g_statistics=of_x)
    assert torch.allclose(mean, posterior.x.mean(dim=1), atol=1e-6)
    assert torch.allclose(var, posterior.x.var(dim=1), atol=1e-6)
    means, variances = sampler.sample(y, physics, seed=1, g_statistics=[of_x, of_z])
    assert torch.equal(means[0], mean) and variances[1].shape == (4, 8)
    with pytest.raises(ValueError, match="draws: expected 2 or more"):
        Sampler("mnist", FEW).sample(y, physics, g_statistics=of_x)


def test_starts_are_codes_or_images(digits, physics):
    y, sampler = physics(digits), Sampler("mnist", FEW)
    codes = jf.load_prior("mnist").encode(digits)[0].detach()
    known = jf.sample(
        y,
        physics,
        "mnist",
        draws=0,
        method=FEW,
        z0=codes,
        generator=torch.Generator().manual_seed(0),
    )
    for start in (digits, {"x": digits}, {"z": codes}):
        assert torch.equal(sampler.sample(y, physics, start, 0)[0], known.mean)


def test_it_is_a_model_for_deepinverse(digits, physics):
    dataset = deepinv.datasets.TensorDataset(x=digits)
    scores = deepinv.test(
        Sampler("mnist", FEW),
        DataLoader(dataset, 2),
        physics,
        online_measurements=True,
        verbose=False,
        show_progress_bar=False,
    )
    assert scores["PSNR"] > 15


def test_physics_are_kept_and_copies_begin_anew(digits, physics):
    y, sampler = physics(digits), Sampler("mnist", FEW, residual="grey", sigma=SIGMA)
    mean = sampler(y, physics, seed=0)
    assert len(sampler._known) == 1
    for other in (copy.copy(sampler), copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert len(other._known) == 0
        assert torch.equal(other(y, physics, seed=0), mean)
    known = jf.sample(
        y,
        physics,
        "mnist",
        SIGMA,
        draws=0,
        method=FEW,
        residual="grey",
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(known.mean, mean)


def test_what_cannot_be_sampled_is_refused(digits):
    with pytest.raises(ValueError, match="latent codes"):
        Sampler("photos-grey")
    with pytest.raises(TypeError, match="method: expected one of amis"):
        Sampler("mnist", jf.JPMAP())
    with pytest.raises(TypeError, match="unexpected keyword"):
        Sampler("mnist", FEW)(digits, jf.Denoising(), sigma=0.3, burnin=3)
    with pytest.raises(ValueError, match="seed"):
        Sampler("mnist", FEW)(digits, jf.Denoising(), sigma=0.3, seed=-1)
