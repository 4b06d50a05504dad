"""The fused MLP operators on a GPU against plain torch in float64, and their independence."""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from test_mlp_kernels import fused, in_double, problem

import jpmap_fast as jf
from jpmap_fast.kernels.mlp import mlp_gauss_newton, mlp_restore, supports
from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.objective import WeightedLeastSquares
from jpmap_fast.priors.mlp_decoder import MLPDecoder
from jpmap_fast.solvers import GaussNewton

pytestmark = pytest.mark.cuda

# float32 sums of a few hundred terms behind three layers; matrices come from float16 factors.
TOLERANCE = 3e-6
MATRIX_TOLERANCE = 2e-3
HIDDEN = ["elu", "relu", "silu", "softplus", "tanh"]


def on_gpu(f: WeightedLeastSquares) -> WeightedLeastSquares:
    assert isinstance(f.decoder, MLPDecoder)

    def move(product: RowProduct | None) -> RowProduct | None:
        return None if product is None else product.to("cuda")

    layers = [layer.to("cuda") for layer in f.decoder.layers]
    return WeightedLeastSquares(
        MLPDecoder(layers, f.decoder.activations),
        f.target.cuda(),
        f.weight.cuda(),
        scale=None if f.scale is None else f.scale.cuda(),
        matrix=move(f.matrix),
        constant=None if f.constant is None else f.constant.cuda(),
    )


def agrees(f: WeightedLeastSquares, z: torch.Tensor) -> None:
    exact = in_double(f).newton_system(z.double())
    output, *found = mlp_gauss_newton(z.cuda(), fused(on_gpu(f)))
    decoded = in_double(f).decoder.value(z.double())
    if f.matrix is None:
        assert (output.cpu() - decoded).norm() <= TOLERANCE * decoded.norm()
    for a, b in zip(found[:2], exact[:2], strict=True):
        assert (a.cpu() - b).norm() <= TOLERANCE * b.norm()
    for a, b in zip(found[2:], exact[2:], strict=True):
        assert b is not None and (a.cpu() - b).norm() <= MATRIX_TOLERANCE * b.norm()


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("output", ["sigmoid", "identity", "silu", "softplus", "tanh", "relu"])
def test_normal_equations_for_every_activation(hidden, output):
    f, z = problem(5, hidden=hidden, output=output, dtype=torch.float32)
    agrees(f, z)
    agrees(f, 30 * z)


@pytest.mark.parametrize("batch", [0, 1, 3, 33, 700])
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1),
        (2, 33),
        (8, 64, 31),
        (5, 7, 9, 11, 13, 6),
        (24, 40, 20),
        (64, 96, 70),
        (16, 200, 1000),
        (8, 512, 512, 784),
    ],
)
def test_normal_equations_for_every_size(batch, sizes):
    f, z = problem(batch, sizes, dtype=torch.float32)
    agrees(f, z)


@pytest.mark.parametrize("scale", ["none", "shared", "each"])
@pytest.mark.parametrize("weight", ["one", "each"])
@pytest.mark.parametrize("measurements", [0, 14])
def test_normal_equations_for_every_measurement(scale, weight, measurements):
    f, z = problem(6, scale=scale, weight=weight, measurements=measurements, dtype=torch.float32)
    if measurements and scale != "none":
        f.scale = None
    agrees(f, z)


@pytest.mark.parametrize("measurements", [0, 14])
@pytest.mark.parametrize("sizes", [(3, 21, 40, 37), (8, 64, 90), (8, 512, 512, 784)])
def test_solves_end_where_float64_ends(sizes, measurements):
    f, z = problem(64, sizes, measurements=measurements, dtype=torch.float32)
    found = GaussNewton(max_steps=500).minimise(on_gpu(f), z.cuda())
    exact = GaussNewton(max_steps=500, fused=False).minimise(in_double(f), z.double())
    assert bool(found.converged.all())
    there = in_double(f).value(found.z.cpu().double())
    torch.testing.assert_close(found.objective.cpu(), there, rtol=TOLERANCE, atol=0)
    close = (there - exact.objective).abs() <= 1e-3 * exact.objective
    # Different rounding may lead to another of several minima, rarely.
    assert float(close.double().mean()) >= 0.95


@pytest.mark.parametrize("measurements", [0, 14])
@pytest.mark.parametrize(
    "sizes", [(8, 64, 90), (3, 21, 40, 37), (5, 7, 9, 11, 13, 6), (8, 512, 512, 784)]
)
def test_clusters_end_where_float64_ends(sizes, measurements):
    batch = 20
    f, z = problem(batch, sizes, measurements=measurements, dtype=torch.float32)
    active = torch.arange(batch) != 3
    found = GaussNewton(max_steps=500).minimise_on_device(
        on_gpu(f), z.cuda(), active.cuda(), low_latency=True
    )
    assert torch.equal(found.z[3].cpu(), z[3]) and bool(found.objective[3].isnan())
    assert bool((found.converged.cpu() == active).all())
    exact = GaussNewton(max_steps=500, fused=False).minimise(in_double(f), z.double())
    there = in_double(f).value(found.z.cpu().double())
    torch.testing.assert_close(found.objective.cpu()[active], there[active], rtol=TOLERANCE, atol=0)
    close = (there - exact.objective).abs() <= 1e-3 * exact.objective
    assert float(close[active].double().mean()) >= 0.9
    part = GaussNewton(max_steps=500).minimise_on_device(
        on_gpu(f.select(torch.tensor([7]))), z[7:8].cuda(), low_latency=True
    )
    assert torch.equal(part.z[0], found.z[7]) and torch.equal(part.steps[0], found.steps[7])


def test_clusters_are_used_where_there_are_any():
    """They sum in another order, which shows in the last bits and in nothing else."""
    built = [int(a) for a in re.findall(r"\d+", jf.build_info()["cuda_architectures"])]
    here = torch.cuda.get_device_capability() == (9, 0) and max(built) >= 90
    f, z = problem(8, (8, 512, 512, 784), dtype=torch.float32)
    found = [
        GaussNewton().minimise_on_device(on_gpu(f), z.cuda(), low_latency=low).z
        for low in (False, True)
    ]
    assert torch.equal(*found) is not here


def test_objective_never_rises():
    f, z = problem(50, dtype=torch.float32)
    before = in_double(f).value(z.double())
    for steps in (1, 2, 5, 100):
        found = GaussNewton(max_steps=steps).minimise(on_gpu(f), z.cuda())
        exact = in_double(f).value(found.z.cpu().double())
        assert bool((found.steps <= steps).all())
        assert bool((exact <= before * (1 + 1e-6)).all())
        before = exact


@pytest.mark.parametrize(
    "hidden, output", [("elu", "sigmoid"), ("silu", "tanh"), ("softplus", "silu")]
)
def test_same_bits_alone_in_seven_and_in_4096(hidden, output):
    f, z = problem(4096, (8, 65, 70, 100), hidden=hidden, output=output, dtype=torch.float32)
    f, z = on_gpu(f), z.cuda()
    whole = GaussNewton().minimise(f, z)
    again = GaussNewton().minimise(f, z)
    assert torch.equal(whole.z, again.z)
    for rows in ([7], list(range(20, 27)), [4095, 0, 150]):
        index = torch.tensor(rows, device="cuda")
        part = GaussNewton().minimise(f.select(index), z[index])
        assert torch.equal(part.z, whole.z[index])
        assert torch.equal(part.objective, whole.objective[index])
        assert torch.equal(part.steps, whole.steps[index])


@pytest.mark.parametrize("outputs", [545, 576, 608])
def test_same_bits_alone_and_in_tiles_of_32(outputs):
    """Batches beyond 128 images a multiprocessor take larger tiles."""
    batch = 65_536
    f, z = problem(16, (8, 512, 512, outputs), dtype=torch.float32, weight="one")
    rows = torch.arange(batch) % 16
    f, z = on_gpu(f.select(rows)), (z[rows] + 0.001 * rows[:, None]).cuda()
    solver = GaussNewton(max_steps=3)  # what differs at all differs after the first
    whole = solver.minimise(f, z)
    for index in ([7], [0, 40_000, 65_535], list(range(20, 36))):
        at = torch.tensor(index, device="cuda")
        part = solver.minimise(f.select(at), z[at])
        assert torch.equal(part.z, whole.z[at])
        assert torch.equal(part.objective, whole.objective[at])


def test_two_networks_in_eight_threads_give_the_bits_of_one():
    """Each launch needs another amount of shared memory, which is the kernel's to allow."""
    cases = []
    for sizes in ((3, 21, 40, 37), (8, 64, 90), (24, 400, 900)):
        f, z = problem(40, sizes, dtype=torch.float32)
        f, z = on_gpu(f), z.cuda()
        cases.append((f, z, GaussNewton().minimise(f, z).z))

    def solve(turn: int) -> bool:
        f, z, expected = cases[turn % len(cases)]
        return torch.equal(GaussNewton().minimise(f, z).z, expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(solve, range(600)))


# Factors of the weights of every layer, first to last.
UNITS = [
    (1e-9, 1.0, 1.0),  # codes in large units
    (1e6, 1.0, 1.0),
    (1.0, 1e-9, 1e9),
    (1.0, 1e8, 1e-8),
    (1e-4, 1e-4, 1e-4),
]


@pytest.mark.parametrize("latent", [3, 24])
@pytest.mark.parametrize("units", UNITS)
def test_second_derivatives_in_any_units(units, latent):
    f, z = problem(5, (latent, 64, 40, 37), output="identity", hidden="relu", dtype=torch.float32)
    assert isinstance(f.decoder, MLPDecoder)
    layers = [
        RowProduct(layer.weight * unit, layer.bias * unit)
        for layer, unit in zip(f.decoder.layers, units, strict=True)
    ]
    f.decoder = MLPDecoder(layers, f.decoder.activations)
    # So that what is measured is not the identity that the prior adds.
    f.weight = 100 * f.weight / math.prod(units) ** 2
    exact = in_double(f).newton_system(z.double())
    _, *found = mlp_gauss_newton(z.cuda(), fused(on_gpu(f)))
    assert bool((exact[2].norm(dim=(1, 2)) > 100).all())
    assert (found[2].cpu() - exact[2]).norm() <= MATRIX_TOLERANCE * exact[2].norm()


@pytest.mark.parametrize("hidden", HIDDEN)
def test_saturated_neurons_leave_the_hessian_finite(hidden):
    """Slopes among the smallest numbers, whose squares are zero."""
    f, z = problem(5, hidden=hidden, dtype=torch.float32)
    assert isinstance(f.decoder, MLPDecoder)
    first = f.decoder.layers[0]
    assert first.bias is not None
    bias = first.bias.clone()
    bias[::2] = torch.linspace(-89, -85, len(bias[::2]))
    f.decoder = MLPDecoder(
        [RowProduct(first.weight, bias), *f.decoder.layers[1:]], f.decoder.activations
    )
    f.weight = 1e6 * f.weight
    agrees(f, z)


def arguments(batch: int = 3) -> dict[str, Any]:
    """Those of ``mlp_gauss_newton``, by name."""
    f, z = problem(batch, dtype=torch.float32, scale="shared")
    g = fused(on_gpu(f))
    return {
        "z": z.cuda(),
        "weights": g.network.weights,
        "adjoints": g.network.adjoints,
        "tangents": g.network.tangents,
        "biases": g.network.biases,
        "activations": g.network.codes,
        "target": g.target,
        "weight": g.weight,
        "scale": g.scale,
        "constant": g.constant,
        "law": g.law,
    }


def elsewhere(value: Any, where: str) -> Any:
    """A tensor, or the last of a list, on another device."""
    return value.to(where) if torch.is_tensor(value) else [*value[:-1], value[-1].to(where)]


OTHER_DEVICES = [
    "cpu",
    pytest.param(
        "cuda:1",
        marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU"),
    ),
]
SOLVE = (1e-4, 10, 0.1, True)


@pytest.mark.parametrize("where", OTHER_DEVICES)
@pytest.mark.parametrize(
    "name",
    ["weights", "adjoints", "tangents", "biases", "target", "weight", "scale", "constant"],
)
def test_arguments_on_another_device_are_refused(name, where):
    given = arguments()
    given[name] = elsewhere(given[name], where)
    with pytest.raises(RuntimeError, match=f"on the device of the first argument.*got {where}"):
        torch.ops.jpmap.mlp_gauss_newton(*given.values())
    with pytest.raises(RuntimeError, match="on the device of the first argument"):
        torch.ops.jpmap.mlp_restore(*given.values(), *SOLVE, None, None, False)


@pytest.mark.parametrize("where", OTHER_DEVICES)
def test_float16_tangents_and_active_on_another_device_are_refused(where):
    given = arguments()
    first, second, *rest = given["tangents"]
    given["tangents"] = [first, second.to(where), *rest]
    with pytest.raises(RuntimeError, match="expected tangents on the device"):
        torch.ops.jpmap.mlp_gauss_newton(*given.values())
    active = torch.ones(3, dtype=torch.bool, device=where)
    with pytest.raises(RuntimeError, match="expected active on the device"):
        torch.ops.jpmap.mlp_restore(*arguments().values(), *SOLVE, active, None, False)


def off_by_one(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, contiguous, one element behind an aligned address."""
    room = tensor.new_empty(tensor.numel() + 1)
    return room[1:].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("name", ["weights", "adjoints", "tangents", "biases"])
def test_layers_that_begin_between_words_are_refused(name):
    given = arguments()
    given[name] = [given[name][0], off_by_one(given[name][1]), *given[name][2:]]
    with pytest.raises(RuntimeError, match=f"expected {name} aligned to 16 bytes"):
        torch.ops.jpmap.mlp_gauss_newton(*given.values())


@pytest.mark.parametrize("name", ["z", "target", "weight", "scale", "constant"])
def test_measurements_may_begin_anywhere(name):
    given = arguments()
    expected = torch.ops.jpmap.mlp_gauss_newton(*given.values())
    given[name] = off_by_one(given[name])
    for a, b in zip(torch.ops.jpmap.mlp_gauss_newton(*given.values()), expected, strict=True):
        assert torch.equal(a, b)


def test_an_image_that_is_not_finite_fails_alone():
    f, z = problem(9, dtype=torch.float32)
    f, z = on_gpu(f), z.cuda()
    clean = GaussNewton().minimise(f, z)
    f.target[4, 2] = torch.nan
    found = GaussNewton().minimise(f, z)
    others = torch.arange(9, device="cuda") != 4
    assert not bool(found.converged[4]) and bool(found.converged[others].all())
    assert torch.equal(found.z[others], clean.z[others])


def test_solve_in_a_cuda_graph_on_a_side_stream():
    f, z = problem(20, dtype=torch.float32)
    g, z = fused(on_gpu(f)), z.cuda()
    expected = mlp_restore(z, g, 1e-4, 100, 0.1, True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        mlp_restore(z, g, 1e-4, 100, 0.1, True)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = mlp_restore(z, g, 1e-4, 100, 0.1, True)
    captured[0].zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured[0], expected[0])


@pytest.mark.parametrize("low_latency", [False, True])
@pytest.mark.parametrize("sizes", [(6, 64, 96), (20, 64, 96)])
def test_descents_back_to_known_minima_are_given_up_as_in_float64(sizes, low_latency):
    f, z = problem(60, sizes, dtype=torch.float32)
    ends = GaussNewton(tolerance=1e-6).minimise(f, z)
    generator = torch.Generator().manual_seed(1)
    near = ends.z + 0.1 * torch.randn(z.shape, generator=generator)
    known = torch.where(torch.arange(60)[:, None] % 4 > 0, ends.z, torch.nan)
    expected = GaussNewton().minimise(in_double(f), near.double(), known=known.double())
    given = (near.cuda(), fused(on_gpu(f)), 1e-4, 200, 0.1, True, None, low_latency)
    steps, converged = (part.cpu() for part in mlp_restore(*given, known=known.cuda())[2:])
    assert int((~expected.converged).sum()) > 30
    assert int((converged == expected.converged).sum()) >= 58
    assert int(((steps - expected.steps).abs() <= 1).sum()) >= 57
    assert bool(mlp_restore(*given)[3].all())


def test_opcheck():
    f, z = problem(3, dtype=torch.float32, scale="shared")
    g = fused(on_gpu(f))
    network = (g.network.weights, g.network.adjoints, g.network.tangents, g.network.biases)
    common = (z.cuda(), *network, g.network.codes, g.target, g.weight, g.scale, g.constant, g.law)
    torch.library.opcheck(torch.ops.jpmap.mlp_gauss_newton.default, common)
    torch.library.opcheck(
        torch.ops.jpmap.mlp_restore.default, (*common, 1e-4, 20, 0.1, True, None, None, False)
    )


@pytest.mark.parametrize("latent", [1, 8, 64])
def test_the_widest_network_that_is_taken_runs(latent):
    """``supports`` and the kernels agree on what fits."""
    like = torch.zeros(1, device="cuda")
    width = 32
    while supports(latent, [width + 32, 40], ["elu", "sigmoid"], like):
        width += 32
    assert width > 512
    f, z = problem(3, (latent, width, 40), dtype=torch.float32)
    agrees(f, z)
    f, z = problem(3, (latent, width + 32, 40), dtype=torch.float32)
    assert "shared memory" in on_gpu(f).fused()


def test_what_does_not_fit_takes_the_torch_path():
    f, z = problem(2, (64, 2000, 2000, 100), dtype=torch.float32)
    f = on_gpu(f)
    assert isinstance(f.fused(), str)
    assert bool(GaussNewton().minimise(f, z.cuda()).converged.all())
    g, z = problem(2, dtype=torch.float64)
    assert isinstance(on_gpu(g).fused(), str)


def test_digits_restore_as_well_fused_as_plain():
    prior = jf.load_prior("mnist", device="cuda")
    digits = jf.mnist_test_digits(64)[0]
    g = torch.Generator().manual_seed(0)
    mask = (torch.rand(28, 28, generator=g) < 0.2).float()
    for operator, sigma in (
        (jf.Denoising(), 110 / 255),
        (jf.Inpainting(mask), 10 / 255),
        (jf.Inpainting(mask.expand(64, 1, 28, 28)), 10 / 255),
        (jf.CompressedSensing.gaussian(140, (1, 28, 28), g), 10 / 255),
    ):
        y = operator.measure(digits, sigma, generator=g).cuda()
        both = [
            jf.restore(
                y,
                operator.to("cuda"),
                prior,
                sigma,
                method=jf.JPMAP(z_solver=GaussNewton(fused=on)),
            )
            for on in (True, False)
        ]
        close = both[0].objective <= 1.001 * both[1].objective
        assert float(close.double().mean()) >= 0.95
