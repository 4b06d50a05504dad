"""The hierarchical prior: any size, reach, divergences, samples, bound, files."""

from __future__ import annotations

import math

import pytest
import torch
from small_photos import small_hierarchical_prior as small
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import jpmap_fast as jf
from jpmap_fast.priors.hierarchical_network import kl_from_prior

SIZES = [(1, 1), (5, 7), (33, 64)]


def levels(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_and_bounds_have_any_size(size: tuple[int, int], channels: int) -> None:
    prior, x = small(channels), torch.rand(2, channels, *size)
    sampled = prior.sample(2, size, generator=torch.Generator().manual_seed(0))
    assert sampled.shape == x.shape and bool(torch.isfinite(sampled).all())
    assert bool(torch.isfinite(prior.log_likelihood_bound(x)).all())


@pytest.mark.parametrize("size", SIZES)
def test_a_bound_has_the_bits_it_has_alone(size: tuple[int, int]) -> None:
    prior, x = small(), torch.rand(3, 1, *size)
    bounds = [prior.log_likelihood_bound(x[i : i + 1]) for i in range(3)]
    assert torch.equal(prior.log_likelihood_bound(x), torch.cat(bounds))


def test_the_divergence_is_that_of_two_gaussians() -> None:
    g = torch.Generator().manual_seed(0)
    mean, shift, log_t, log_r = torch.randn(4, 5, 6, generator=g, dtype=torch.float64)
    t, r = log_t.exp(), log_r.exp()
    expected = kl_divergence(Normal(mean + t * shift, t * r), Normal(mean, t))
    assert torch.allclose(kl_from_prior(shift, log_r), expected, rtol=1e-12, atol=1e-12)


def conditionals(prior: jf.HierarchicalPhotoPrior, codes: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """z, m and t of every block, its prior taken apart by hand."""
    network, found = prior.network, []
    batch, _, height, width = codes[0].shape
    h = network.top.expand(batch, -1, height, width)
    index = 0
    for level in reversed(range(len(network.widths))):
        for block in network.decoder[level]:  # type: ignore[attr-defined]
            mean, log_t, passed = block.prior(h).split(
                [network.latent_channels, network.latent_channels, h.shape[1]], dim=1
            )
            t = (4 * torch.tanh(log_t / 4)).exp()
            z = mean + t * codes[index]
            found.append((z, mean, t))
            h = block.residual(h + passed + block.code(z))
            index += 1
        if level:
            h = network.up[level - 1](h.repeat_interleave(2, 2).repeat_interleave(2, 3))
    return found


def test_codes_and_their_density_are_those_of_the_formula() -> None:
    prior, x = small().double(), torch.rand(2, 1, 12, 20, dtype=torch.float64)
    s = levels(0.1, 0.2, dtype=torch.float64)
    codes = prior.codes(x, s)
    assert [tuple(e.shape[1:]) for e in codes] == prior.network.code_shapes((12, 20))
    decoded, energies = prior.generate(codes, (12, 20))
    assert torch.allclose(decoded, prior.autoencode(x, s), rtol=0, atol=1e-12)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for level, (z, mean, t) in zip(prior.network.levels, conditionals(prior, codes), strict=True):
        density = Normal(mean, t).log_prob(z) + 0.5 * math.log(2 * math.pi)
        expected[:, level] -= density.flatten(1).sum(dim=1)
    assert torch.allclose(energies, expected, rtol=1e-10)


def test_the_bound_is_the_negative_evidence_lower_bound() -> None:
    prior, x = small().double(), torch.rand(1, 1, 6, 10, dtype=torch.float64)
    bits = prior.log_likelihood_bound(x, torch.Generator().manual_seed(3))
    decoded, found = prior.network.drawn(
        x, torch.zeros(1, dtype=torch.float64), torch.Generator().manual_seed(3)
    )
    likelihood = Normal(decoded, prior.gamma).log_prob(x).sum()
    divergence = sum(
        kl_divergence(Normal(d, log_r.exp()), Normal(0.0, 1.0)).sum()
        for d, log_r in zip(found.shifts, found.log_scales, strict=True)
    )
    expected = (divergence - likelihood) / (60 * math.log(2)) + math.log2(255)
    assert torch.allclose(bits, expected.reshape(1), rtol=1e-10)


def test_samples_vary_with_the_seed_and_the_temperature() -> None:
    prior = small()

    def drawn(seed: int, temperature: object = 1.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return prior.sample(3, (9, 14), temperature=temperature, generator=generator)

    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))
    cold = drawn(0, 0.0)
    assert torch.allclose(cold[0], cold[1]) and not torch.allclose(drawn(0)[0], drawn(0)[1])
    assert torch.allclose(drawn(0, (0.5, 0.5, 0.5)), drawn(0, 0.5))
    assert not torch.allclose(drawn(0, (0.5, 0.5, 1.0)), drawn(0, 0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.sample(0, (4, 4)), "batch"),
        (lambda p: p.sample(1, (4, 0)), "size"),
        (lambda p: p.sample(1, (4, 4, 4)), r"size: expected \(H, W\)"),
        (lambda p: p.sample(1, (4, 4), temperature=-1.0), "temperature: expected numbers >= 0"),
        (lambda p: p.sample(1, (4, 4), temperature=(1.0, 1.0)), "one for each of 3 levels, got 2"),
        (lambda p: p.log_likelihood_bound(torch.zeros(1, 3, 4, 4)), r"x: expected shape \[B, 1"),
        (lambda p: p.log_likelihood_bound(torch.zeros(1, 1, 4, 4).byte()), "x: expected floating"),
        (lambda p: jf.HierarchicalPhotoPrior(1, (8, 8), (1, 1), (1, 0)), "at the coarsest level"),
        (lambda p: jf.HierarchicalPhotoPrior(1, (8, 8), (1, 1), (1,)), "one number of blocks"),
        (lambda p: jf.HierarchicalPhotoPrior(1, (8,), (1,), (1000,)), "at most 100"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call(small())  # type: ignore[operator]


def test_low_precision_is_near() -> None:
    prior, x = small(), torch.rand(1, 1, 48, 48)
    exact = prior.autoencode(x, levels(0.1))
    prior.low_precision = True
    assert float((prior.autoencode(x, levels(0.1)) - exact).abs().mean()) < 0.01
