"""Operators for weighted draws: mixtures and moments against their float64 twins."""

from __future__ import annotations

import math

import pytest
import torch
from op_cases import scattered

from jpmap_fast.kernels import reference_mixtures as reference
from jpmap_fast.kernels.mixtures import student_mixture, student_mixture_sums
from jpmap_fast.kernels.moments import weighted_moments

DTYPES = [torch.float32, torch.float64]
# Batch, draws, k, components: one of each, odd, as in a sampler, of every size that a GPU tells
# apart, no draws, no images.
SIZES = [
    (1, 1, 1, 1),
    (3, 37, 8, 4),
    (2, 130, 65, 3),
    (2, 70, 64, 2),
    (2, 40, 20, 2),
    (2, 300, 12, 2),
    (2, 0, 3, 2),
    (0, 5, 3, 2),
]
# Sums of some hundred roundings in double.
TOLERANCE = 1e-11


def mixtures(batch: int, number: int, k: int, components: int, device="cpu"):
    """z, weights, and a mixture whose first image has a component of weight 0 at the end."""
    g = torch.Generator().manual_seed(k)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    log_weight = torch.log_softmax(normal(batch, components), dim=1)
    if components > 1:
        log_weight[:1, -1] = -torch.inf
    diagonal = 0.2 + torch.rand(batch, components, k, generator=g, dtype=torch.float64)
    scale = torch.tril(normal(batch, components, k, k) / k, -1) + torch.diag_embed(diagonal)
    weights = torch.softmax(normal(batch, number), dim=1)
    mean = normal(batch, components, k)
    given = (normal(batch, number, k), weights, log_weight, mean, scale)
    return tuple(value.to(device) for value in given)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("degrees, defensive", [(8, 0.05), (3, 0.0), (32, 0.5)])
def test_mixtures_are_their_twins(device, size, degrees, defensive):
    z, weights, *mixture = mixtures(*size, device=device)
    found = student_mixture(z, *mixture, degrees, defensive)
    assert found.shape == size[:2]
    close(found, reference.student_mixture(z, *mixture, degrees, defensive))
    sums = student_mixture_sums(z, weights, *mixture, degrees)
    for one, other in zip(
        sums, reference.student_mixture_sums(z, weights, *mixture, degrees), strict=True
    ):
        close(one, other)
    if size[1]:
        close(sums.mass.sum(dim=1), torch.ones_like(sums.mass[:, 0]))


def test_a_mixture_is_that_of_known_laws():
    stats = pytest.importorskip("scipy.stats")
    z, weights, log_weight, mean, scale = mixtures(1, 20, 3, 2)
    log_weight = torch.tensor([[math.log(0.3), math.log(0.7)]], dtype=torch.float64)
    density = sum(
        w * stats.multivariate_t(m, s @ s.T, df=5).pdf(z[0].numpy())
        for w, m, s in zip((0.3, 0.7), mean[0].numpy(), scale[0].numpy(), strict=True)
    )
    prior = stats.multivariate_normal(torch.zeros(3).numpy()).pdf(z[0].numpy())
    found = student_mixture(z, log_weight, mean, scale, 5, 0.1).exp()[0]
    close(found, torch.from_numpy(0.9 * density + 0.1 * prior))


def test_codes_that_are_far_or_no_numbers(device):
    z, weights, *mixture = mixtures(2, 9, 4, 2, device=device)
    clean = student_mixture(z, *mixture, 8, 0.05)
    z[0, 3], z[1, 5, 2], z[1, 6, 0] = 1e8, torch.nan, 1e200
    found = student_mixture(z, *mixture, 8, 0.05)
    assert found.isnan().nonzero().tolist() == [[1, 5]]
    close(found[0, 3], reference.student_mixture(z[:1], *(v[:1] for v in mixture), 8, 0.05)[0, 3])
    assert float(found[1, 6]) < -1000
    same = torch.ones_like(found, dtype=torch.bool)
    same[0, 3] = same[1, 5] = same[1, 6] = False
    assert torch.equal(found[same], clean[same])


def test_an_images_mixture_has_the_same_bits_in_any_batch(device):
    z, weights, *mixture = mixtures(5, 61, 8, 3, device=device)
    whole = student_mixture(z, *mixture, 8, 0.05)
    sums = student_mixture_sums(z, weights, *mixture, 8)
    for rows in ([3], [4, 0]):
        part = [value[rows] for value in mixture]
        assert torch.equal(student_mixture(z[rows], *part, 8, 0.05), whole[rows])
        alone = student_mixture_sums(z[rows], weights[rows], *part, 8)
        assert all(torch.equal(a, b[rows]) for a, b in zip(alone, sums, strict=True))
    # A code's density depends on no other, and components that are none change nothing.
    assert torch.equal(student_mixture(z[:, 7:], *mixture, 8, 0.05), whole[:, 7:])
    none = torch.full_like(mixture[0][:, :1], -torch.inf)
    more = [torch.cat((value, value[:, :1]), dim=1) for value in mixture]
    more[0][:, -1:] = none
    assert torch.equal(student_mixture(z, *more, 8, 0.05), whole)
    assert torch.equal(student_mixture_sums(z, weights, *more, 8).second[:, :-1], sums.second)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 37, 33), (2, 5, 1025), (2, 0, 4), (0, 3, 4)])
def test_moments_are_their_twin(device, size, dtype):
    g = torch.Generator().manual_seed(1)
    values = torch.randn(*size, generator=g, dtype=torch.float64).to(device, dtype)
    weights = torch.rand(size[:2], generator=g, dtype=torch.float64).to(device)
    found = weighted_moments(values, weights)
    assert found.shape == (size[0], 2, size[2]) and found.dtype == torch.float64
    close(found, reference.weighted_moments(values, weights))
    for b in range(size[0]):
        assert torch.equal(weighted_moments(values[b : b + 1], weights[b : b + 1])[0], found[b])
    if values.numel() > 1 and size[1] > 1:  # what has no weight has no part
        weights[0, 1] = 0
        clean = weighted_moments(values, weights)
        values[0, 1] = torch.nan
        assert torch.equal(weighted_moments(values, weights), clean)
        weights[0, 1] = 0.5
        spoilt = weighted_moments(values, weights).isnan()
        assert bool(spoilt[0].all()) and not bool(spoilt[1:].any())


def test_arguments_may_lie_apart_and_those_that_do_not_fit_are_refused():
    z, weights, log_weight, mean, scale = mixtures(3, 7, 4, 2)
    expected = student_mixture(z, log_weight, mean, scale, 8, 0.05)
    apart = [scattered(value) for value in (z, log_weight, mean, scale)]
    assert torch.equal(student_mixture(*apart, 8, 0.05), expected)
    with pytest.raises(RuntimeError, match="mean of size 4"):
        student_mixture(z, log_weight, mean[..., :3], scale, 8, 0.05)
    with pytest.raises(RuntimeError, match="z in float64"):
        student_mixture(z.float(), log_weight, mean, scale, 8, 0.05)
    with pytest.raises(RuntimeError, match="degrees > 0"):
        student_mixture(z, log_weight, mean, scale, 0, 0.05)
    with pytest.raises(RuntimeError, match=r"defensive in \[0, 1\)"):
        student_mixture(z, log_weight, mean, scale, 8, 1.0)
    with pytest.raises(RuntimeError, match="weights of size 7"):
        student_mixture_sums(z, weights[:, :6], log_weight, mean, scale, 8)
    assert torch.equal(weighted_moments(scattered(z), weights), weighted_moments(z, weights))
    with pytest.raises(RuntimeError, match="weights of type Double"):
        weighted_moments(z, weights.float())
    with pytest.raises(RuntimeError, match=r"values \[B, N, n\]"):
        weighted_moments(z[0], weights)


def test_opcheck():
    z, weights, *mixture = mixtures(2, 5, 3, 2)
    torch.library.opcheck(torch.ops.jpmap.student_mixture.default, (z, *mixture, 8.0, 0.05))
    torch.library.opcheck(torch.ops.jpmap.student_mixture_sums.default, (z, weights, *mixture, 8.0))
    torch.library.opcheck(torch.ops.jpmap.weighted_moments.default, (z.float(), weights))
