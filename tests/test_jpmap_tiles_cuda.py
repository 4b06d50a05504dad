"""JPMAP in one launch of tiles, for batches: against float64 on the CPU, each image on its own."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from test_jpmap_cuda import (
    CUT_SHORT,
    FLOAT_LIMITS,
    OPERATORS,
    STARTS,
    both,
    digits,
    ends_alike,
    says_that_it_is_cut_short,
)
from test_jpmap_kernels import KINDS, codes, same

import jpmap_fast as jf
from jpmap_fast._prepared import prepare
from jpmap_fast.algorithms import outcome, whole
from jpmap_fast.kernels import jpmap
from jpmap_fast.kernels.jpmap import JointEnd, MLPJoint, mlp_jpmap, takes
from jpmap_fast.solvers import GaussNewton

pytestmark = pytest.mark.cuda
# Images of which there are more starts than slots, in tiles of 16 and of 32.
BATCHES = [7, 3000, 18_000]


@pytest.fixture(autouse=True)
def tiles(monkeypatch):
    """No batch is so small that it goes to clusters of blocks."""
    monkeypatch.setattr(jpmap, "LOW_LATENCY_DESCENTS", 0)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize("changed", [{}, {"n1": 2, "n2": 1}, {"second_order": False}])
def test_ends_where_float64_ends(name, starts, changed):
    given, exact = both(name)
    assert takes(given, starts)
    ends_alike(given, exact, codes(starts), replace(FLOAT_LIMITS, **changed))


@pytest.mark.parametrize("name", ["inpainting", "compressed-sensing"])
@pytest.mark.parametrize("latent", [1, 12, 40])
def test_codes_of_any_size(name, latent):
    given, exact = both(name, latent=latent)
    draws = torch.Generator().manual_seed(1)
    z = torch.randn(2, latent, generator=draws, dtype=torch.float64)
    z[0] = 0
    ends_alike(given, exact, z, FLOAT_LIMITS)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "activations", [("silu", "softplus"), ("softplus", "silu"), ("tanh", "tanh")]
)
def test_codes_of_any_activation(name, activations):
    given, exact = both(name, activations=activations)
    ends_alike(given, exact, codes(3), FLOAT_LIMITS)


def test_descends_from_codes_an_image_without_an_encoder():
    given, exact = both("inpainting", encoder=False)
    z = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends_alike(given, exact, z, FLOAT_LIMITS)


@pytest.mark.parametrize("changed, status", CUT_SHORT)
@pytest.mark.parametrize("name", ["inpainting", "compressed-sensing"])
def test_what_is_cut_short_says_so(name, changed, status):
    says_that_it_is_cut_short(name, changed, status)


@pytest.mark.parametrize("name", ["inpainting", "compressed-sensing"])
@pytest.mark.parametrize("move", [0.3, 0.1, 0.03])
def test_goes_on_without_an_encoder_as_long_as_float64_does(name, move):
    """Points are made late there; one is asked how far a descent that was cut short has moved."""
    given, exact = both(name, encoder=False)
    draws = torch.Generator().manual_seed(0)
    z = torch.randn(6, 1, 3, generator=draws, dtype=torch.float64)
    # Beside a minimum, by Gauss-Newton's steps: elsewhere rounding decides how many there are.
    near = mlp_jpmap(exact, z, FLOAT_LIMITS).z[:, None]
    near = near + 0.3 * torch.randn(near.shape, generator=draws.manual_seed(1), dtype=near.dtype)
    limits = replace(FLOAT_LIMITS, max_steps=1, move=move, second_order=False)
    ends_alike(given, exact, near, limits)
    found, expected = (
        mlp_jpmap(of, start, limits) for of, start in ((given, near.float().cuda()), (exact, near))
    )
    assert torch.equal(found.iterations.cpu(), expected.iterations)
    assert int(expected.iterations.max()) > 1


def repeated(given: MLPJoint, batch: int) -> tuple[MLPJoint, torch.Tensor]:
    """A batch of the same images again and again, and which each is."""
    index = torch.arange(batch, device=given.y.device) % len(given.y)
    return given.select(index), index


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("starts", [1, 3])
@pytest.mark.parametrize("changed", [{}, {"n1": 2, "n2": 1}, {"max_steps": 2}])
def test_an_image_has_the_same_bits_alone_and_in_any_batch(name, starts, changed):
    given, _ = both(name)
    limits = replace(FLOAT_LIMITS, **changed)
    z = codes(starts, torch.float32).cuda()
    alone = [mlp_jpmap(given.select(slice(b, b + 1)), z, limits) for b in range(6)]
    parts = zip(*(vars(end).values() for end in alone), strict=True)
    expected = JointEnd(*map(torch.cat, parts))
    for batch in BATCHES:
        many, index = repeated(given, batch)
        for _ in range(2):
            same(mlp_jpmap(many, z, limits), expected, index)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_image_touches_no_other(name, value):
    given, index = repeated(both(name)[0], 600)
    starts = codes(STARTS, torch.float32).cuda()
    found = mlp_jpmap(given, starts, FLOAT_LIMITS)
    y, target = given.y.clone(), given.f.target.clone()
    bad = index == 2
    y[bad], target[bad] = value, value
    broken = mlp_jpmap(replace(given, y=y, f=replace(given.f, target=target)), starts, FLOAT_LIMITS)
    assert bool((broken.status[bad] == outcome.FAILED).all())
    same(JointEnd(*(part[~bad] for part in vars(broken).values())), found, ~bad)


def test_nothing_is_shared_with_the_descents_where_the_decoder_is_another():
    """A decoder of equal weights elsewhere: its layers are passed for points alone."""
    given, exact = both("inpainting")
    copied = replace(given.decoder, weights=[w.clone() for w in given.decoder.weights])
    ends_alike(replace(given, decoder=copied), exact, codes(STARTS), FLOAT_LIMITS)


@pytest.mark.parametrize("name", OPERATORS)
def test_digits_are_restored_as_by_the_loop(name, monkeypatch):
    make, sigma = OPERATORS[name]
    operator = make(torch.Generator().manual_seed(0))
    y, prior = digits(operator, sigma, 300)
    operator = operator.to("cuda")
    found = jf.restore(y, operator, prior, sigma)
    graph = jf.Restorer(operator, prior, sigma, batch_size=300)
    assert graph.captured
    for _ in range(2):  # the queue is cleared in every replay
        assert torch.equal(graph(y).x, found.x)
    monkeypatch.setattr(jf.JPMAP, "run_whole", jf.algorithms.Algorithm.run_whole)
    expected = jf.restore(y, operator, prior, sigma)
    assert found.path == expected.path == "compiled"
    assert not torch.equal(found.x, expected.x), "the loop has run twice"
    assert found.status == expected.status
    close = (found.objective - expected.objective).abs() <= 1e-3 * expected.objective
    assert float(close.double().mean()) >= 0.9


@pytest.mark.parametrize("name", OPERATORS)
def test_memory_beside_inputs_and_results_is_of_tasks_at_work(name):
    """An image more costs a record of its starts, where one temporary of its size has 3 kB."""
    make, sigma = OPERATORS[name]
    operator = make(torch.Generator().manual_seed(0))
    y, prior = digits(operator, sigma, 100)
    problem = prepare(y, operator.to("cuda"), prior, sigma).problem
    beta = torch.full_like(problem.sigma, 30.0)
    given = whole.joint_of(problem, GaussNewton(), True, beta, keep=False)
    assert given is not None
    starts = torch.zeros(3, 8, device="cuda")
    used = []
    gc.collect()  # or what other tests have left behind is freed in a call that is measured
    for batch in (20_000, 40_000):
        many, _ = repeated(given, batch)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = mlp_jpmap(many, starts, FLOAT_LIMITS)
        held = sum(part.numel() * part.element_size() for part in vars(found).values())
        used.append(torch.cuda.max_memory_allocated() - before - held)
    assert used[1] - used[0] <= 1024 * 20_000 and used[1] <= 4096 * 40_000


def test_float64_is_refused():
    given, _ = both("denoising")
    assert not takes(replace(given, y=given.y.double()), STARTS)
    with pytest.raises(RuntimeError, match="expected float32"):
        mlp_jpmap(replace(given, y=given.y.double()), codes(STARTS).cuda(), FLOAT_LIMITS)
