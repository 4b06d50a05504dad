"""Truths of the prior rank among their draws as one of them would, and wrong models are found out.

Small and quick: benchmarks/posterior_calibration.py does the same with digits.
"""

from __future__ import annotations

import pytest
import torch
from problems import IMAGE_SHAPE, small_mlp
from torch import Tensor

import jpmap_fast as jf

TRUTHS, DRAWS, BINS = 600, 19, 10
# Of some ten statistics: one in a thousand runs of a right sampler would be refused.
REFUSED = 1e-4
MATRIX = torch.randn(12, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 3
OPERATORS = {
    "denoising": jf.Denoising(),
    "inpainting": jf.Inpainting(torch.arange(30).reshape(6, 5) % 3 != 0),
    "compressed-sensing": jf.CompressedSensing(MATRIX, IMAGE_SHAPE),
    "blur": jf.Blur(jf.gaussian_kernel(0.7)[1:-1, 1:-1].double()),
    "linear-operator": jf.LinearOperator(
        lambda x: x.flatten(1) @ MATRIX.T, lambda y: (y @ MATRIX).reshape(-1, *IMAGE_SHAPE)
    ),
}
QUICK = jf.AMIS(rounds=(64, 64, 128), screen=256, more_starts=(), extra_rounds=1, fallback=None)


def least_p(
    operator: jf.Operator, sigma: float, told: float, gamma: float, weighted: bool = True
) -> float:
    """The least chi-square p-value of the ranks of codes, |z|, the mean of x and its distance.

    Args:
        operator: A.
        sigma: of the noise that there is.
        told: of the noise that ``sample`` is told of.
        gamma: factor on the prior's, as it is told.
        weighted: draws by their weights.
    """
    g = torch.Generator().manual_seed(11)
    prior = small_mlp(dtype=torch.float64)
    z = torch.randn(TRUTHS, 3, generator=g, dtype=torch.float64)
    with torch.no_grad():
        noise = torch.randn(TRUTHS, *IMAGE_SHAPE, generator=g, dtype=torch.float64)
        x = prior.decode(z) + prior.gamma * noise
        prior.log_gamma += torch.tensor(gamma).log()
    y = operator.measure(x, sigma, g)
    found = jf.sample(y, operator, prior, told, draws=DRAWS, method=QUICK, generator=g)
    codes = found.z if weighted else found.codes[:, ::13][:, :DRAWS]

    def p_value(draws: Tensor, truth: Tensor) -> float:
        ranks = (draws < truth[:, None]).sum(dim=1)
        counts = torch.bincount(ranks * BINS // (DRAWS + 1), minlength=BINS).double()
        value = ((counts - TRUTHS / BINS) ** 2 / (TRUTHS / BINS)).sum()
        half = torch.tensor((BINS - 1) / 2, dtype=torch.float64)
        return float(torch.special.gammaincc(half, value / 2))

    centre = found.mean.flatten(1)
    apart = found.x.flatten(2) - centre[:, None]
    flat = x.flatten(1)
    return min(
        *(p_value(codes[..., i], z[:, i]) for i in range(3)),
        p_value(codes.norm(dim=-1), z.norm(dim=-1)),
        p_value(found.x.flatten(2).mean(dim=-1), flat.mean(dim=-1)),
        p_value(apart.norm(dim=-1), (flat - centre).norm(dim=-1)),
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_truths_rank_like_draws(name):
    assert least_p(OPERATORS[name], 0.2, 0.2, 1.0) > REFUSED


@pytest.mark.parametrize(
    "told, gamma, weighted", [(0.2, 1.2, True), (0.3, 1.0, True), (0.2, 1.0, False)]
)
def test_a_wrong_sampler_is_found_out(told, gamma, weighted):
    assert least_p(jf.Denoising(), 0.2, told, gamma, weighted) < REFUSED
