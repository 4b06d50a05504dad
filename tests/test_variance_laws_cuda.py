"""What ``test_variance_laws`` says, on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_mlp_log_likelihood import draws
from test_variance_laws import SCALES, dependent, fused, in_double

import jpmap_fast as jf
from jpmap_fast.kernels import reference
from jpmap_fast.kernels.mlp import mlp_gauss_newton, mlp_log_likelihood
from jpmap_fast.objective.dependent import DependentLeastSquares
from jpmap_fast.priors.mlp_decoder import MLPDecoder
from jpmap_fast.solvers import GaussNewton

pytestmark = pytest.mark.cuda

# As in test_mlp_cuda and test_mlp_log_likelihood_cuda.
TOLERANCE, MATRIX_TOLERANCE, DRAW_TOLERANCE = 1e-5, 2e-3, 4e-3


def on_gpu(f: DependentLeastSquares) -> DependentLeastSquares:
    decoder, term = f.decoder, f._term
    assert isinstance(decoder, MLPDecoder)
    return DependentLeastSquares(
        MLPDecoder([layer.to("cuda") for layer in decoder.layers], decoder.activations),
        replace(term, weight=term.weight.cuda(), seen=term.seen.cuda()),
        f.target.cuda(),
        f._beta.cuda(),
        f._sigma.cuda(),
        None if f.constant is None else f.constant.cuda(),
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("output", ["sigmoid", "identity"])
@pytest.mark.parametrize("batch", [0, 1, 6, 40])
def test_systems_are_those_of_plain_torch_in_float64(scale, output, batch):
    f, z = dependent(batch, scale=scale, output=output, dtype=torch.float32)
    exact = in_double(f).newton_system(z.double())
    _, *found = mlp_gauss_newton(z.cuda(), fused(on_gpu(f)))
    for a, b, bound in zip(found, exact, [TOLERANCE] * 2 + [MATRIX_TOLERANCE] * 2, strict=True):
        assert b is not None and (a.cpu() - b).norm() <= bound * b.norm()


@pytest.mark.parametrize("low_latency", [False, True])
@pytest.mark.parametrize("sizes", [(3, 21, 40, 37), (8, 512, 512, 784)])
def test_solves_end_where_float64_ends(sizes, low_latency):
    f, z = dependent(40, sizes, dtype=torch.float32)
    found = GaussNewton(max_steps=500).minimise_on_device(
        on_gpu(f), z.cuda(), low_latency=low_latency
    )
    exact = GaussNewton(max_steps=500, fused=False).minimise(in_double(f), z.double())
    assert found.path == "compiled" and bool(found.converged.all())
    there = in_double(f).value(found.z.cpu().double())
    torch.testing.assert_close(found.objective.cpu(), there, rtol=TOLERANCE, atol=TOLERANCE)
    close = (there - exact.objective).abs() <= 1e-3 * exact.objective.abs()
    assert float(close.double().mean()) >= 0.9


@pytest.mark.parametrize(
    "batch, low_latency", [(40, False), (40, True), (2500, False), (17_500, False)]
)
def test_an_image_has_the_bits_that_it_has_alone(batch, low_latency):
    """In a tile of one slot, of sixteen and of 32, where an image is in another place."""
    f, z = dependent(40, (8, 65, 70, 100), dtype=torch.float32)
    rows = torch.arange(batch) % 40
    f, z = f.select(rows), z[rows]
    whole = GaussNewton().minimise_on_device(on_gpu(f), z.cuda(), low_latency=low_latency)
    index = torch.tensor([39, 0, 15])
    part = GaussNewton().minimise_on_device(
        on_gpu(f.select(index)), z[index].cuda(), low_latency=low_latency
    )
    assert torch.equal(part.z, whole.z[index.cuda()])
    assert torch.equal(part.objective, whole.objective[index.cuda()])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("sizes", [(3, 21, 40, 37), (8, 90)])
def test_draws_are_those_of_float64(sizes, scale):
    f, z = dependent(5, sizes, scale=scale, dtype=torch.float32)
    codes = draws(z, 30)
    found = mlp_log_likelihood(codes.cuda(), fused(on_gpu(f))).cpu()
    expected = reference.mlp_log_likelihood(codes.double(), fused(in_double(f)))
    torch.testing.assert_close(found, expected, rtol=DRAW_TOLERANCE, atol=DRAW_TOLERANCE)


def test_restorations_with_a_variance_by_grey_value_are_compiled():
    digits = jf.mnist_test_digits(12)[0]
    prior = jf.load_prior("mnist", device="cuda")
    y = jf.Denoising().measure(digits, 110 / 255, generator=torch.Generator().manual_seed(0))
    given = (y.cuda(), jf.Denoising(), prior, 110 / 255)
    found = [
        jf.restore(*given, method=jf.JPMAP(z_solver=GaussNewton(fused=on)), residual="grey")
        for on in (True, False)
    ]
    assert [result.path for result in found] == ["compiled", "torch"]
    close = found[0].objective <= found[1].objective + 1e-3 * found[1].objective.abs()
    assert float(close.double().mean()) >= 0.9
