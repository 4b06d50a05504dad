"""JPMAP in one launch of clusters: against float64 on the CPU and the loop, images on their own."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import case, small_mlp
from test_jpmap_kernels import KINDS, LIMITS, codes, same

import jpmap_fast as jf
from jpmap_fast._prepared import prepare
from jpmap_fast.algorithms import outcome, whole
from jpmap_fast.kernels import reference_joint
from jpmap_fast.kernels.jpmap import JointEnd, JointLimits, MLPJoint, mlp_jpmap, takes
from jpmap_fast.kernels.mlp import LOW_LATENCY_DESCENTS
from jpmap_fast.solvers import GaussNewton

pytestmark = pytest.mark.cuda
FLOAT_LIMITS = replace(LIMITS, tolerance=1e-4)
STARTS = 2
MOST = LOW_LATENCY_DESCENTS // STARTS


def has_clusters() -> bool:
    built = [int(a) for a in re.findall(r"\d+", jf.build_info()["cuda_architectures"])]
    return torch.cuda.get_device_capability() == (9, 0) and max(built) >= 90


@pytest.fixture(autouse=True)
def clusters():
    """Where a device has no clusters there is nothing to test but that nobody asks for them."""
    if not has_clusters():
        pytest.skip("needs clusters of blocks, compute capability 9.0")


def both(
    name: str,
    batch: int = 6,
    encoder: bool = True,
    latent: int = 3,
    activations: tuple[str, str] = ("elu", "sigmoid"),
) -> tuple[MLPJoint, MLPJoint]:
    """A problem in float32 on the GPU, and the same numbers in float64 on the CPU.

    With the activations of hidden layers and of outputs.
    """
    c = case(name, batch=batch, dtype=torch.float32)
    beta = torch.linspace(20, 60, batch)
    found = []
    for move in ({"device": "cuda"}, {"dtype": torch.float64}):
        y, sigma, own = (t.to(**move) for t in (c.y, c.sigma, beta))
        operator: Any = c.operator.to(**move)
        prior = small_mlp(latent, dtype=torch.float32).to(**move)
        prior.hidden_activation, prior.output_activation = activations
        of_batch = prepare(y, operator, prior, sigma).problem
        joint = whole.joint_of(of_batch, GaussNewton(), encoder, own, keep=False)
        assert joint is not None
        found.append(joint)
    return found[0], found[1]


def on_cpu(end: JointEnd) -> JointEnd:
    return JointEnd(*(value.cpu() for value in vars(end).values()))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize("changed", [{}, {"n1": 2, "n2": 1}, {"second_order": False}])
def test_ends_where_float64_ends(name, starts, changed):
    given, exact = both(name)
    assert takes(given, starts)
    ends_alike(given, exact, codes(starts), replace(FLOAT_LIMITS, **changed))


def ends_alike(given: MLPJoint, exact: MLPJoint, z: torch.Tensor, limits: JointLimits) -> None:
    """The GPU ends from the codes z where float64 does, and what it tells belongs together."""
    found = on_cpu(mlp_jpmap(given, z.float().cuda(), limits))
    expected = mlp_jpmap(exact, z, limits)
    assert torch.equal(found.status, expected.status)
    # Rounding may lead to another of several minima, rarely.
    close = (found.objective.double() - expected.objective).abs() <= 1e-3 * expected.objective
    assert int(close.sum()) >= len(close) - 1
    for b in range(len(close)):  # x, G(z), J1 and gap belong to z
        image = reference_joint._Image(exact.select(slice(b, b + 1)))
        point = image.point(found.z[b].double())
        for key in ("x", "decoded", "objective", "gap"):
            one, other = getattr(found, key)[b], torch.as_tensor(getattr(point, key))
            torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-5)


def test_descends_from_codes_an_image_without_an_encoder():
    given, exact = both("inpainting", encoder=False)
    z = torch.randn(6, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = on_cpu(mlp_jpmap(given, z.float().cuda(), FLOAT_LIMITS))
    expected = mlp_jpmap(exact, z, FLOAT_LIMITS)
    assert torch.equal(found.status, expected.status)
    close = (found.objective.double() - expected.objective).abs() <= 1e-3 * expected.objective
    assert int(close.sum()) >= 5


# Limits that cut a task short, and what it may say of that.
CUT_SHORT = [
    ({"max_steps": 1, "max_iterations": 1}, {outcome.ITERATION_LIMIT}),
    ({"max_steps": 1, "again": False}, {outcome.ITERATION_LIMIT}),
    ({"max_steps": 1, "move": 1e9}, {outcome.TOLERANCE_LIMIT, outcome.CONVERGED}),
]


def says_that_it_is_cut_short(name, changed, status):
    given, exact = both(name)
    limits = replace(FLOAT_LIMITS, **changed)
    found = on_cpu(mlp_jpmap(given, codes(1, torch.float32).cuda(), limits))
    expected = mlp_jpmap(exact, codes(1), limits)
    assert set(found.status.tolist()) <= status
    assert torch.equal(found.status, expected.status)
    assert torch.equal(found.iterations, expected.iterations)


@pytest.mark.parametrize("changed, status", CUT_SHORT)
@pytest.mark.parametrize("name", ["inpainting", "compressed-sensing"])
def test_what_is_cut_short_says_so(name, changed, status):
    says_that_it_is_cut_short(name, changed, status)


@pytest.mark.parametrize("name", KINDS)
def test_an_image_has_the_same_bits_alone_and_in_any_batch(name):
    given, _ = both(name, batch=MOST)
    starts = codes(STARTS, torch.float32).cuda()
    found = mlp_jpmap(given, starts, FLOAT_LIMITS)
    for _ in range(3):
        same(mlp_jpmap(given, starts, FLOAT_LIMITS), found)
    for rows in (slice(5, 6), slice(0, 1), slice(3, 10)):
        same(mlp_jpmap(given.select(rows), starts, FLOAT_LIMITS), found, rows)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_image_touches_no_other(name, value):
    given, _ = both(name)
    starts = codes(STARTS, torch.float32).cuda()
    found = mlp_jpmap(given, starts, FLOAT_LIMITS)
    y, target = given.y.clone(), given.f.target.clone()
    y[2], target[2] = value, value
    broken = mlp_jpmap(replace(given, y=y, f=replace(given.f, target=target)), starts, FLOAT_LIMITS)
    assert int(broken.status[2]) == outcome.FAILED
    for rows in (slice(0, 2), slice(3, 6)):
        same(JointEnd(*(part[rows] for part in vars(broken).values())), found, rows)


def digits(operator: jf.Operator, sigma: float, count: int) -> tuple[torch.Tensor, Any]:
    y = operator.measure(
        jf.mnist_test_digits(count)[0], sigma, generator=torch.Generator().manual_seed(0)
    )
    return y.cuda(), jf.load_prior("mnist", device="cuda")


OPERATORS = {
    "denoising": (lambda g: jf.Denoising(), 0.4),
    "inpainting": (lambda g: jf.Inpainting((torch.rand(28, 28, generator=g) < 0.2).float()), 0.04),
    "sensing": (lambda g: jf.CompressedSensing.gaussian(140, (1, 28, 28), generator=g), 0.04),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_digits_are_restored_as_by_the_loop(name, monkeypatch):
    make, sigma = OPERATORS[name]
    operator = make(torch.Generator().manual_seed(0))
    y, prior = digits(operator, sigma, MOST)
    operator = operator.to("cuda")
    found = jf.restore(y, operator, prior, sigma)
    graph = jf.Restorer(operator, prior, sigma, batch_size=MOST)
    assert graph.captured and torch.equal(graph(y).x, found.x)
    monkeypatch.setattr(jf.JPMAP, "run_whole", jf.algorithms.Algorithm.run_whole)
    expected = jf.restore(y, operator, prior, sigma)
    assert found.path == expected.path == "compiled"
    assert not torch.equal(found.x, expected.x), "the loop has run twice"
    assert found.status == expected.status
    close = (found.objective - expected.objective).abs() <= 1e-3 * expected.objective
    assert float(close.double().mean()) >= 0.9


def test_more_images_are_the_work_of_tiles():
    """To rounding: one more start than clusters are for."""
    given, _ = both("denoising", batch=MOST + 1)
    starts = codes(STARTS, torch.float32).cuda()
    found = mlp_jpmap(given, starts, FLOAT_LIMITS)
    few = mlp_jpmap(given.select(slice(0, MOST)), starts, FLOAT_LIMITS)
    assert not torch.equal(found.x[:MOST], few.x)
    close = (found.objective[:MOST] - few.objective).abs() <= 1e-3 * few.objective
    assert float(close.double().mean()) >= 0.9
