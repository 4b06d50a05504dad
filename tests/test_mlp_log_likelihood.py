"""The data term of many codes an image, against plain torch in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from op_cases import scattered
from test_mlp_kernels import DTYPES, TOLERANCE, fused, in_double, problem
from torch import Tensor

from jpmap_fast.kernels import reference
from jpmap_fast.kernels.activations import ACTIVATIONS
from jpmap_fast.kernels.mlp import (
    MLPLeastSquares,
    mlp_log_likelihood,
    mlp_log_likelihood_kept,
)
from jpmap_fast.objective import WeightedLeastSquares
from jpmap_fast.objective.least_squares import half_squared_norm


def draws(z: Tensor, number: int, seed: int = 1) -> Tensor:
    """Codes [B, N, k] around z [B, k]."""
    g = torch.Generator().manual_seed(seed)
    apart = torch.randn(len(z), number, z.shape[1], generator=g, dtype=torch.float64)
    return (z.double()[:, None] + 0.3 * apart).to(z.dtype)


def exact(f: WeightedLeastSquares, z: Tensor) -> Tensor:
    """By the objective in float64, an image at a time."""
    f = in_double(f)
    assert f.constant is not None
    found = [
        half_squared_norm(codes) - f.select(torch.full((len(codes),), i)).value(codes) + constant
        for i, (codes, constant) in enumerate(zip(z.double(), f.constant, strict=True))
    ]
    return torch.stack(found) if found else torch.zeros(z.shape[:2], dtype=torch.float64)


def agrees(f: WeightedLeastSquares, z: Tensor, tolerance: float) -> None:
    found, expected = mlp_log_likelihood(z, fused(f)), exact(f, z)
    assert found.dtype == torch.float64 and found.shape == z.shape[:2]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    twin = reference.mlp_log_likelihood(z.double(), fused(in_double(f)))
    torch.testing.assert_close(twin, expected, rtol=1e-12, atol=1e-12)


def masked(f: WeightedLeastSquares, missing: float, seed: int = 2) -> WeightedLeastSquares:
    """With another mask for each image."""
    g = torch.Generator().manual_seed(seed)
    f.weight = f.weight * (torch.rand(f.target.shape, generator=g) >= missing)
    return f


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", sorted(set(ACTIVATIONS) - {"sigmoid", "identity"}))
@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_every_activation(dtype, hidden, output):
    f, z = problem(3, hidden=hidden, output=output, dtype=dtype)
    agrees(f, draws(z, 5), TOLERANCE[dtype])
    agrees(f, draws(30 * z, 5), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [0, 1, 13, 131, 300])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 33), (8, 64, 31), (5, 7, 9, 11, 13, 6), (64, 40)])
def test_every_size(dtype, number, sizes):
    for batch in (0, 1, 3):
        f, z = problem(batch, sizes, dtype=dtype)
        agrees(f, draws(z, number), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", ["none", "shared", "each"])
@pytest.mark.parametrize("weight", ["one", "each"])
@pytest.mark.parametrize("measurements", [0, 14])
def test_every_measurement(dtype, scale, weight, measurements):
    f, z = problem(4, scale=scale, weight=weight, measurements=measurements, dtype=dtype)
    if measurements and scale != "none":
        f.scale = None  # a matrix takes the place of a scale
    agrees(f, draws(z, 20), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("missing", [0.2, 0.3, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("scale", ["none", "shared", "each"])
def test_masks_of_each_image(dtype, missing, scale):
    f, z = problem(6, (4, 30, 90), scale=scale, dtype=dtype)
    agrees(masked(f, missing), draws(z, 20), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("missing", [0.0, 0.8])
def test_a_draw_has_the_same_bits_whatever_is_beside_it(dtype, missing):
    f, z = problem(9, (8, 65, 70, 100), dtype=dtype)
    g = fused(masked(f, missing))
    codes = draws(z, 400)
    whole = mlp_log_likelihood(codes, g)
    for first, last in ((0, 1), (131, 133), (150, 400)):
        part = mlp_log_likelihood(codes[:, first:last], g)
        assert torch.equal(part, whole[:, first:last])
    for rows in ([7], [8, 0, 3]):
        alone = fused(f.select(torch.tensor(rows)))
        assert torch.equal(mlp_log_likelihood(codes[rows], alone), whole[rows])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(mlp_log_likelihood(codes, g), whole)
        assert torch.equal(mlp_log_likelihood(codes[:1], first_of(g)), whole[:1])
    finally:
        torch.set_num_threads(threads)


def first_of(f: MLPLeastSquares) -> MLPLeastSquares:
    return replace(f, target=f.target[:1], weight=f.weight[:1])


@pytest.mark.parametrize("missing", [0.0, 0.8])
def test_what_is_not_finite_stays_alone(missing):
    f, z = problem(5, (3, 20, 50))
    codes = draws(z, 40)
    f = masked(f, missing)
    clean = mlp_log_likelihood(codes, fused(f))
    codes[2, 17, 1] = torch.nan
    f.target[3, 7] = torch.nan
    found = mlp_log_likelihood(codes, fused(f))
    spoilt = torch.zeros(5, 40, dtype=torch.bool)
    spoilt[2, 17] = spoilt[3] = True
    assert torch.equal(found.isnan(), spoilt)
    assert torch.equal(found[~spoilt], clean[~spoilt])


def test_arguments_may_lie_apart_and_those_that_do_not_fit_are_refused():
    f, z = problem(3, scale="each")
    g, codes = fused(f), draws(z, 4)
    expected = mlp_log_likelihood(codes, g)
    apart = replace(g, target=scattered(g.target), weight=scattered(g.weight))
    assert torch.equal(mlp_log_likelihood(scattered(codes), apart), expected)
    with pytest.raises(RuntimeError, match=r"expected z \[B, N, k\]"):
        mlp_log_likelihood(z, g)
    with pytest.raises(RuntimeError, match="layer 0 has 3 inputs, expected 2"):
        mlp_log_likelihood(codes[..., :2], g)
    with pytest.raises(RuntimeError, match="expected target of size 2"):
        mlp_log_likelihood(codes[:2], g)
    with pytest.raises(RuntimeError, match="same type"):
        mlp_log_likelihood(codes.float(), g)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("missing", [0.0, 0.8])
@pytest.mark.parametrize("sizes", [(8, 65, 70, 100), (3, 33)])
def test_a_layer_may_be_kept(dtype, missing, sizes):
    f, z = problem(4, sizes, dtype=dtype)
    g, codes = fused(masked(f, missing)), draws(z, 133)
    double = fused(in_double(f))
    for layer in range(len(sizes) - 1):
        found, kept = mlp_log_likelihood_kept(codes, g, layer)
        expected = reference.mlp_log_likelihood_kept(codes.double(), double, layer)
        torch.testing.assert_close(
            (found, kept.double()), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )
        if layer + 2 < len(sizes) or not missing:  # else more outputs are computed, and summed
            assert torch.equal(found, mlp_log_likelihood(codes, g))
        alone = mlp_log_likelihood_kept(codes[:1, 5:], first_of(g), layer)
        assert torch.equal(alone[0], found[:1, 5:]) and torch.equal(alone[1], kept[:1, 5:])
    with pytest.raises(RuntimeError, match="expected a layer from 0"):
        mlp_log_likelihood_kept(codes, g, len(sizes) - 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    f, z = problem(3, dtype=dtype, scale="shared")
    g = fused(f)
    network = (g.network.weights, g.network.adjoints, g.network.tangents, g.network.biases)
    given = (draws(z, 4), *network, g.network.codes, g.target, g.weight, g.scale, g.law)
    torch.library.opcheck(torch.ops.jpmap.mlp_log_likelihood.default, given)
    torch.library.opcheck(torch.ops.jpmap.mlp_log_likelihood_kept.default, (*given, 0))
