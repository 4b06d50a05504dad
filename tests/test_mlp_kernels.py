"""The fused MLP operators against plain torch in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import jpmap_fast as jf
from jpmap_fast.kernels.activations import ACTIVATIONS
from jpmap_fast.kernels.mlp import MLPLeastSquares, mlp_gauss_newton, mlp_restore, supports
from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.objective import WeightedLeastSquares
from jpmap_fast.priors.mlp_decoder import MLPDecoder
from jpmap_fast.solvers import GaussNewton

# Relative errors of sums of a few hundred terms behind three layers.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}
# Of matrices from tangents in bfloat16: four roundings of eight bits, which mostly cancel in sums.
BFLOAT16_TOLERANCE = 2.0**-7
DTYPES = [torch.float32, torch.float64]


def problem(
    batch: int,
    sizes: tuple[int, ...] = (3, 21, 40, 37),
    hidden: str = "elu",
    output: str = "sigmoid",
    scale: str = "none",
    weight: str = "each",
    measurements: int = 0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[WeightedLeastSquares, torch.Tensor]:
    """Targets near what the network can draw, and a starting point for each image."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    layers = [
        RowProduct((draw(o, i) / i**0.5).to(dtype), (0.3 * draw(o)).to(dtype))
        for i, o in zip(sizes, sizes[1:], strict=False)
    ]
    decoder = MLPDecoder(layers, [hidden] * (len(layers) - 1) + [output])
    outputs, matrix = sizes[-1], None
    if measurements:
        matrix = RowProduct((draw(measurements, outputs) / outputs**0.5).to(dtype))
        outputs = measurements
    columns = 1 if weight == "one" else outputs
    shape = {"none": None, "shared": (outputs,), "each": (batch, outputs)}[scale]
    f = WeightedLeastSquares(
        decoder,
        (0.5 + 0.3 * draw(batch, outputs)).to(dtype),
        (1 + 5 * draw(batch, columns).abs()).to(dtype),
        scale=None if shape is None else draw(*shape).abs().to(dtype),
        matrix=matrix,
        constant=draw(batch).abs(),
    )
    return f, (0.5 * draw(batch, sizes[0])).to(dtype)


def fused(f: WeightedLeastSquares) -> MLPLeastSquares:
    found = f.fused()
    assert found is not None
    return found


def in_double(f: WeightedLeastSquares) -> WeightedLeastSquares:
    decoder = f.decoder
    assert isinstance(decoder, MLPDecoder)
    layers = [layer.to(dtype=torch.float64) for layer in decoder.layers]
    return WeightedLeastSquares(
        MLPDecoder(layers, decoder.activations),
        f.target.double(),
        f.weight.double(),
        scale=None if f.scale is None else f.scale.double(),
        matrix=None if f.matrix is None else f.matrix.to(dtype=torch.float64),
        constant=f.constant,
    )


def in_full(form: MLPLeastSquares) -> MLPLeastSquares:
    """Without tangents in bfloat16, which not every processor has."""
    return replace(form, network=replace(form.network, tangents=[]))


def agree(
    form: MLPLeastSquares, z: torch.Tensor, exact: tuple[torch.Tensor | None, ...], tolerance: float
) -> None:
    """Systems are ``exact``, in the type of z and where there are tangents in bfloat16 as well."""
    output, *found = mlp_gauss_newton(z, in_full(form))
    assert output.shape == form.target.shape and output.dtype == z.dtype
    for a, b in zip(found, exact, strict=True):
        assert b is not None and a.shape == b.shape
        assert (a - b).norm() <= tolerance * b.norm()
    if form.network.tangents:
        same, *narrow = mlp_gauss_newton(z, form)
        assert torch.equal(same, output)
        assert torch.equal(narrow[0], found[0]) and torch.equal(narrow[1], found[1])
        for a, b in zip(narrow[2:], exact[2:], strict=True):
            assert b is not None and (a - b).norm() <= BFLOAT16_TOLERANCE * b.norm()


def agrees(f: WeightedLeastSquares, z: torch.Tensor, tolerance: float) -> None:
    agree(fused(f), z, in_double(f).newton_system(z.double()), tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", sorted(set(ACTIVATIONS) - {"sigmoid", "identity"}))
@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_normal_equations_for_every_activation(dtype, hidden, output):
    f, z = problem(5, hidden=hidden, output=output, dtype=dtype)
    agrees(f, z, TOLERANCE[dtype])
    # Far out, where exponentials saturate.
    agrees(f, 30 * z, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [0, 1, 3, 33, 200])
@pytest.mark.parametrize(
    "sizes",
    [(1, 1), (2, 33), (8, 64, 31), (5, 7, 9, 11, 13, 6), (64, 40, 20), (8, 512, 512, 784)],
)
def test_normal_equations_for_every_size(dtype, batch, sizes):
    if batch == 200 and sizes[-1] == 784:
        batch = 40
    f, z = problem(batch, sizes, dtype=dtype)
    agrees(f, z, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", ["none", "shared", "each"])
@pytest.mark.parametrize("weight", ["one", "each"])
@pytest.mark.parametrize("measurements", [0, 14])
def test_normal_equations_for_every_measurement(dtype, scale, weight, measurements):
    f, z = problem(6, scale=scale, weight=weight, measurements=measurements, dtype=dtype)
    if measurements and scale != "none":
        f.scale = None  # a matrix takes the place of a scale
    agrees(f, z, TOLERANCE[dtype])


@pytest.mark.parametrize("measurements", [0, 14])
@pytest.mark.parametrize("sizes", [(3, 21, 40, 37), (8, 64, 90)])
def test_solves_end_where_plain_torch_ends(sizes, measurements):
    f, z = problem(40, sizes, measurements=measurements)
    solver = GaussNewton(tolerance=1e-9, max_steps=500)
    found = solver.minimise(f, z)
    plain = GaussNewton(tolerance=1e-9, max_steps=500, fused=False).minimise(f, z)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.objective, plain.objective, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.z, plain.z, rtol=1e-5, atol=1e-5)
    assert float((found.steps - plain.steps).abs().double().mean()) < 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_objective_never_rises_and_is_that_of_the_point_returned(dtype):
    f, z = problem(50, dtype=dtype)
    before = in_double(f).value(z.double())
    for steps in (1, 2, 5, 100):
        found = GaussNewton(max_steps=steps).minimise(f, z)
        exact = in_double(f).value(found.z.double())
        assert bool((found.steps <= steps).all())
        assert bool((exact <= before * (1 + 1e-6)).all())
        torch.testing.assert_close(found.objective, exact, rtol=TOLERANCE[dtype], atol=0)
        before = exact


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_alone_in_any_batch_and_for_any_number_of_threads(dtype):
    f, z = problem(300, (8, 65, 70, 100), dtype=dtype)
    whole = GaussNewton().minimise(f, z)
    for rows in ([7], list(range(20, 27)), [299, 0, 150]):
        index = torch.tensor(rows)
        part = GaussNewton().minimise(f.select(index), z[index])
        assert torch.equal(part.z, whole.z[index])
        assert torch.equal(part.objective, whole.objective[index])
        assert torch.equal(part.steps, whole.steps[index])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        again = GaussNewton().minimise(f, z)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again.z, whole.z)


def test_an_image_that_is_not_finite_fails_alone():
    f, z = problem(9)
    clean = GaussNewton().minimise(f, z)
    f.target[4, 2] = torch.nan
    found = GaussNewton().minimise(f, z)
    others = torch.arange(9) != 4
    assert not bool(found.converged[4]) and bool(found.converged[others].all())
    assert torch.equal(found.z[others], clean.z[others])


def test_fused_and_plain_restorations_agree():
    number = 24
    prior = jf.load_prior("mnist")
    digits, _ = jf.mnist_test_digits(number)
    g = torch.Generator().manual_seed(0)
    mask = (torch.rand(28, 28, generator=g) < 0.2).float()
    for operator, sigma in (
        (jf.Denoising(), 110 / 255),
        (jf.Inpainting(mask), 10 / 255),
        (jf.Inpainting(mask.expand(number, 1, 28, 28)), 10 / 255),
        (jf.CompressedSensing.gaussian(140, (1, 28, 28), g), 10 / 255),
    ):
        y = operator.measure(digits, sigma, generator=g)
        both = [
            jf.restore(y, operator, prior, sigma, method=jf.JPMAP(z_solver=GaussNewton(fused=on)))
            for on in (True, False)
        ]
        close = (both[0].objective - both[1].objective).abs() <= 1e-3 * both[1].objective
        assert float(close.double().mean()) >= 0.95


def test_what_is_not_supported_takes_the_torch_path():
    like = torch.zeros(1)
    assert supports(64, [20], ["elu"], like)
    assert not supports(65, [20], ["elu"], like)
    assert not supports(8, [20] * 9, ["elu"] * 9, like)
    assert not supports(8, [20], ["gelu"], like)
    f, z = problem(2, (70, 80))
    assert isinstance(f.fused(), str)
    assert bool(GaussNewton().minimise(f, z).converged.all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    f, z = problem(3, dtype=dtype, scale="shared")
    g = fused(f)
    network = (g.network.weights, g.network.adjoints, g.network.tangents, g.network.biases)
    common = (z, *network, g.network.codes, g.target, g.weight, g.scale, g.constant, g.law)
    torch.library.opcheck(torch.ops.jpmap.mlp_gauss_newton.default, common)
    torch.library.opcheck(
        torch.ops.jpmap.mlp_restore.default, (*common, 1e-4, 20, 0.1, True, None, None, False)
    )


def test_arguments_that_do_not_fit_are_refused():
    f, z = problem(3)
    g = fused(f)
    with pytest.raises(RuntimeError, match="layer 0 has 3 inputs, expected 4"):
        mlp_restore(torch.zeros(3, 4, dtype=torch.float64), g, 1e-4, 10, 0.1, True)
    with pytest.raises(RuntimeError, match="expected target"):
        mlp_restore(z[:2], g, 1e-4, 10, 0.1, True)
    with pytest.raises(RuntimeError, match="same type"):
        mlp_restore(z.float(), g, 1e-4, 10, 0.1, True)
