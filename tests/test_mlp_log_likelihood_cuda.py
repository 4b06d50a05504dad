"""The data term of many codes an image on a GPU, against plain torch in float64."""

from __future__ import annotations

import pytest
import torch
from op_cases import scattered
from test_mlp_cuda import on_gpu
from test_mlp_kernels import fused, problem
from test_mlp_log_likelihood import draws, exact, first_of, masked

import jpmap_fast as jf
from jpmap_fast.kernels import reference
from jpmap_fast.kernels.mlp import mlp_log_likelihood
from jpmap_fast.objective import Projection
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.solvers import GaussNewton

pytestmark = pytest.mark.cuda

# Products of factors with eleven digits of the binary, behind three layers.
TOLERANCE = 4e-3
NATS = 0.05  # between the draws of an image


def agrees(f, z) -> None:
    found, expected = mlp_log_likelihood(z.cuda(), fused(on_gpu(f))).cpu(), exact(f, z)
    assert found.dtype == torch.float64 and found.shape == z.shape[:2]
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("hidden", ["elu", "relu", "silu", "softplus", "tanh"])
@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_every_activation(hidden, output):
    f, z = problem(3, hidden=hidden, output=output, dtype=torch.float32)
    agrees(f, draws(z, 5))
    agrees(f, draws(30 * z, 5))


@pytest.mark.parametrize("number", [0, 1, 13, 33, 5000])
@pytest.mark.parametrize(
    "sizes", [(1, 1), (2, 33), (8, 64, 31), (5, 7, 9, 11, 13, 6), (64, 40), (8, 512, 512, 784)]
)
def test_every_size(number, sizes):
    for batch in (0, 1, 3):
        f, z = problem(batch, sizes, dtype=torch.float32)
        agrees(f, draws(z, number))


@pytest.mark.parametrize("scale", ["none", "shared", "each"])
@pytest.mark.parametrize("weight", ["one", "each"])
@pytest.mark.parametrize("measurements", [0, 14])
def test_every_measurement(scale, weight, measurements):
    f, z = problem(4, scale=scale, weight=weight, measurements=measurements, dtype=torch.float32)
    if measurements and scale != "none":
        f.scale = None
    agrees(masked(f, 0.5), draws(z, 20))


def test_a_draw_has_the_same_bits_whatever_is_beside_it():
    f, z = problem(9, (8, 65, 70, 100), dtype=torch.float32)
    g, codes = fused(on_gpu(masked(f, 0.5))), draws(z, 4000).cuda()
    whole = mlp_log_likelihood(codes, g)
    for first, last in ((0, 1), (131, 133), (150, 400)):
        part = mlp_log_likelihood(codes[:, first:last], g)
        assert torch.equal(part, whole[:, first:last])
    assert torch.equal(mlp_log_likelihood(codes[:1], first_of(g)), whole[:1])


def test_what_is_not_finite_stays_alone():
    f, z = problem(5, (3, 20, 50), dtype=torch.float32)
    codes = draws(z, 40)
    clean = mlp_log_likelihood(codes.cuda(), fused(on_gpu(f)))
    codes[2, 17, 1] = torch.nan
    f.target[3, 7] = torch.nan
    found = mlp_log_likelihood(codes.cuda(), fused(on_gpu(f)))
    spoilt = torch.zeros(5, 40, dtype=torch.bool, device="cuda")
    spoilt[2, 17] = spoilt[3] = True
    assert torch.equal(found.isnan(), spoilt)
    assert torch.equal(found[~spoilt], clean[~spoilt])


def test_an_error_between_draws_of_digits_is_no_weight():
    number = 16
    digits = jf.mnist_test_digits(number)[0]
    g = torch.Generator().manual_seed(0)
    for operator, sigma in (
        (jf.Denoising(), 110 / 255),
        (jf.Inpainting(jf.random_masks(number, (1, 28, 28), 0.8, generator=g)), 10 / 255),
        (jf.CompressedSensing.gaussian(140, (1, 28, 28), g), 10 / 255),
    ):
        y = operator.measure(digits, sigma, generator=g)
        forms = []
        for device, dtype in (("cuda", torch.float32), ("cpu", torch.float64)):
            prior = jf.load_prior("mnist", device=device, dtype=dtype)
            like = torch.ones(number, device=device, dtype=dtype)
            bound = operator.to(device, dtype).bind((1, 28, 28), number)
            project = Projection(bound, make_decoder(prior))
            forms.append(project(y.to(like), like / prior.gamma**2, sigma * like))
        start = torch.zeros(number, 8, device="cuda")
        mode = GaussNewton().minimise(forms[0], start).z.cpu()
        apart = torch.randn(number, 256, 8, generator=g)
        codes = mode[:, None] + 0.1 * apart
        found = mlp_log_likelihood(codes.cuda(), fused(forms[0])).cpu()
        expected = reference.mlp_log_likelihood(codes.double(), fused(forms[1]))
        assert bool(((found - expected).std(dim=1) < NATS).all())


def test_in_a_cuda_graph():
    f, z = problem(4, dtype=torch.float32)
    g, codes = fused(on_gpu(f)), draws(z, 50).cuda()
    expected = mlp_log_likelihood(codes, g)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        mlp_log_likelihood(codes, g)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = mlp_log_likelihood(codes, g)
    captured.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)


def test_arguments_may_lie_apart_and_float64_is_refused():
    f, z = problem(3, dtype=torch.float32, scale="shared")
    g, codes = fused(on_gpu(f)), draws(z, 4).cuda()
    expected = mlp_log_likelihood(codes, g)
    assert torch.equal(mlp_log_likelihood(scattered(codes), g), expected)
    with pytest.raises(RuntimeError, match="same type|float32"):
        mlp_log_likelihood(codes.double(), g)
    network = (g.network.weights, g.network.adjoints, g.network.tangents, g.network.biases)
    given = (codes, *network, g.network.codes, g.target, g.weight, g.scale, g.law)
    torch.library.opcheck(torch.ops.jpmap.mlp_log_likelihood.default, given)
