"""Compiled evaluations, solves and draws where an output decides its variance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_mlp_kernels import DTYPES, TOLERANCE, agree, problem
from test_mlp_log_likelihood import draws
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.kernels import reference
from jpmap_fast.kernels.mlp import (
    MLPLeastSquares,
    mlp_gauss_newton,
    mlp_log_likelihood,
    mlp_restore,
)
from jpmap_fast.objective.dependent import DependentLeastSquares
from jpmap_fast.objective.least_squares import half_squared_norm
from jpmap_fast.operators.data_term import Dependent
from jpmap_fast.priors.mlp_decoder import MLPDecoder
from jpmap_fast.solvers import GaussNewton

LAW = jf.GreyValueVariance(0.3, 1.5)
SCALES = ["one", "shared", "each"]


def dependent(
    batch: int,
    sizes: tuple[int, ...] = (3, 21, 40, 37),
    scale: str = "each",
    dtype: torch.dtype = torch.float64,
    missing: float = 0.6,
    **network: str,
) -> tuple[DependentLeastSquares, Tensor]:
    """An objective with masks whose seen entries are scaled, and codes."""
    f, z = problem(batch, sizes, dtype=dtype, **network)
    g = torch.Generator().manual_seed(5)
    shape = {"one": (1,), "shared": (sizes[-1],), "each": (batch, sizes[-1])}[scale]
    seen = torch.ones(shape, dtype=dtype)
    if scale != "one":
        seen = (torch.rand(shape, generator=g) >= missing).to(dtype)
    weight = seen * (0.5 + torch.rand(shape, generator=g).to(dtype))
    term = Dependent(
        weight if scale != "one" else seen,
        seen,
        LAW.variance,
        LAW.derivative,
        lambda y: y,
        grey=(LAW.floor**2, LAW.slope**2),
    )
    beta = 0.5 + torch.rand(batch, generator=g).to(dtype)
    sigma = 0.1 + 0.2 * torch.rand(batch, generator=g).to(dtype)
    return DependentLeastSquares(f.decoder, term, f.target, beta, sigma, f.constant), z


def fused(f: DependentLeastSquares) -> MLPLeastSquares:
    found = f.fused()
    assert not isinstance(found, str), found
    return found


def in_double(f: DependentLeastSquares) -> DependentLeastSquares:
    decoder, term = f.decoder, f._term
    assert isinstance(decoder, MLPDecoder)
    layers = [layer.to(dtype=torch.float64) for layer in decoder.layers]
    return DependentLeastSquares(
        MLPDecoder(layers, decoder.activations),
        replace(term, weight=term.weight.double(), seen=term.seen.double()),
        f.target.double(),
        f._beta.double(),
        f._sigma.double(),
        f.constant,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("output", ["sigmoid", "identity"])
@pytest.mark.parametrize("batch", [0, 1, 6])
def test_systems_are_those_of_plain_torch_in_float64(dtype, scale, output, batch):
    """An identity leaves [0, 1], where the variance is flat."""
    f, z = dependent(batch, scale=scale, output=output, dtype=dtype)
    for codes in (z, 20 * z):
        exact = in_double(f).newton_system(codes.double())
        agree(fused(f), codes, exact, 3 * TOLERANCE[dtype])


@pytest.mark.parametrize("scale", SCALES)
def test_solves_end_where_plain_torch_ends(scale):
    f, z = dependent(40, scale=scale)
    found = GaussNewton(tolerance=1e-9, max_steps=500).minimise(f, z)
    plain = GaussNewton(tolerance=1e-9, max_steps=500, fused=False).minimise(f, z)
    assert found.path == "compiled" and bool(found.converged.all())
    # Rounding may lead to another of several minima, rarely.
    close = (found.z - plain.z).abs().amax(dim=1) < 1e-5
    assert float(close.double().mean()) >= 0.95
    torch.testing.assert_close(found.objective[close], plain.objective[close], rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
def test_draws_are_those_of_plain_torch_in_float64(dtype, scale):
    f, z = dependent(5, scale=scale, dtype=dtype)
    codes = draws(z, 30)
    double = in_double(f)
    assert double.constant is not None
    expected = torch.stack(
        [
            half_squared_norm(part) - double.select(torch.full((30,), i)).value(part) + constant
            for i, (part, constant) in enumerate(zip(codes.double(), double.constant, strict=True))
        ]
    )
    found = mlp_log_likelihood(codes, fused(f))
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    twin = reference.mlp_log_likelihood(codes.double(), fused(double))
    torch.testing.assert_close(twin, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_has_the_bits_that_it_has_alone(dtype):
    f, z = dependent(40, (8, 65, 70, 100), dtype=dtype)
    whole = GaussNewton().minimise(f, z)
    likely = mlp_log_likelihood(draws(z, 20), fused(f))
    f.target[4, int(f._term.seen[4].argmax())] = torch.nan
    again = GaussNewton().minimise(f, z)
    others = torch.arange(40) != 4
    assert not bool(again.converged[4]) and bool(again.objective[4].isnan())
    assert torch.equal(again.z[others], whole.z[others])
    for rows in ([7], [39, 0, 15]):
        index = torch.tensor(rows)
        part = GaussNewton().minimise(f.select(index), z[index])
        assert torch.equal(part.z, whole.z[index])
        assert torch.equal(part.objective, whole.objective[index])
        alone = mlp_log_likelihood(draws(z, 20)[index], fused(f.select(index)))
        assert torch.equal(alone, likely[index])


def test_equal_variances_are_the_precisions_of_white_noise():
    """With v = 1 the logarithms are 0."""
    f, z = dependent(6)
    term = replace(f._term, grey=(1.0, 0.0))
    g = DependentLeastSquares(f.decoder, term, f.target, f._beta, f._sigma, f.constant)
    form = fused(g)
    noise = f._sigma.square()[:, None] + term.weight.square() / f._beta[:, None]
    white = replace(form, weight=term.seen / noise, law=None)
    for a, b in zip(mlp_gauss_newton(z, form), mlp_gauss_newton(z, white), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_restorations_with_a_variance_by_grey_value_are_compiled():
    number = 12
    digits = jf.mnist_test_digits(number)[0]
    g = torch.Generator().manual_seed(0)
    for operator, sigma in (
        (jf.Denoising(), 110 / 255),
        (jf.Inpainting(jf.random_masks(1, (1, 28, 28), 0.8, generator=g)[0]), 10 / 255),
        (jf.Inpainting(jf.random_masks(number, (1, 28, 28), 0.8, generator=g)), 10 / 255),
    ):
        y = operator.measure(digits, sigma, generator=g)
        found = [
            jf.restore(
                y,
                operator,
                "mnist",
                sigma,
                method=jf.JPMAP(z_solver=GaussNewton(fused=on)),
                residual="grey",
            )
            for on in (True, False)
        ]
        assert [result.path for result in found] == ["compiled", "torch"]
        apart = (found[0].objective - found[1].objective).abs()
        close = apart <= 1e-3 * found[1].objective.abs()
        assert float(close.double().mean()) >= 0.9
    restorer = jf.Restorer(operator, "mnist", sigma, batch_size=number, residual="grey")
    assert restorer.path == "compiled"


def test_a_law_that_does_not_fit_is_refused():
    f, z = dependent(3)
    form = fused(f)
    assert form.law is not None
    with pytest.raises(RuntimeError, match="expected law of size 4"):
        mlp_restore(z, replace(form, law=form.law[:, :3]), 1e-4, 10, 0.1, True)
    with pytest.raises(RuntimeError, match="law of the same type"):
        mlp_log_likelihood(z[:, None], replace(form, law=form.law.float()))
    term = replace(f._term, grey=None)
    other = DependentLeastSquares(f.decoder, term, f.target, f._beta, f._sigma, f.constant)
    assert "depends on what is decoded" in str(other.fused())
