"""JPMAP in one compiled call: against plain torch, against the loop, and each image on its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jpmap_fast._C as _C
import pytest
import torch
from problems import CASE_NAMES, IMAGE_SHAPE, case, small_mlp

import jpmap_fast as jf
from jpmap_fast._prepared import prepare
from jpmap_fast.algorithms import joint, outcome, whole
from jpmap_fast.kernels import reference_joint
from jpmap_fast.kernels.jpmap import JointEnd, JointLimits, MLPJoint, mlp_jpmap
from jpmap_fast.solvers import GaussNewton

KINDS = ["denoising", "inpainting", "inpainting-per-image", "compressed-sensing"]
KINDS.append("compressed-sensing-tall")
LIMITS = JointLimits(1e-7, 200, 0.1, True, 0, 3, 500, 1 / 2550)
COUNTS = ("status", "iterations", "candidates")


def problem(
    name: str, batch: int = 4, encoder: bool = True, dtype: torch.dtype = torch.float64
) -> MLPJoint:
    c = case(name, batch=batch, dtype=dtype)
    of_batch = prepare(c.y, c.operator, small_mlp(dtype=dtype), c.sigma).problem
    beta = torch.linspace(20, 60, batch, dtype=dtype)
    found = whole.joint_of(of_batch, GaussNewton(), encoder, beta, keep=False)
    assert found is not None
    return found


def codes(count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The start at z = 0, twice, and others."""
    draws = torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    draws[:2] = 0
    return draws


def same(a: JointEnd, b: JointEnd, rows: Any = slice(None)) -> None:
    for name, value in vars(a).items():
        assert torch.equal(value, getattr(b, name)[rows]), name


VARIED = [
    LIMITS,
    replace(LIMITS, n2=1),
    replace(LIMITS, n1=1, n2=1),
    replace(LIMITS, n1=2, n2=0),
    replace(LIMITS, n2=1, max_steps=2, max_iterations=4),
    replace(LIMITS, n2=1, max_steps=2, again=False),
    replace(LIMITS, max_steps=1, move=0.3),
    replace(LIMITS, max_iterations=1, max_steps=20, second_order=False),
]


@pytest.mark.parametrize("number, limits", list(enumerate(VARIED)))
def test_ends_where_plain_torch_ends(number, limits):
    for name, starts in ((KINDS[number % 5], 2), (KINDS[(number + 2) % 5], 1)):
        given = problem(name, batch=2).select(slice(number % 2, number % 2 + 1))
        found = mlp_jpmap(given, codes(starts), limits)
        exact = reference_joint.mlp_jpmap(given, codes(starts), limits)
        # Of two descents or starts that meet, the last digit says which one is kept.
        for key in COUNTS if starts == 1 and limits.n2 <= 1 else COUNTS[:1]:
            assert torch.equal(getattr(found, key), getattr(exact, key)), (name, key)
        for key in ("x", "z", "decoded", "objective", "gap"):
            one, other = getattr(found, key), getattr(exact, key)
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_descends_from_codes_an_image_without_an_encoder():
    given, z = problem("inpainting", 2, encoder=False), codes(2)
    found = mlp_jpmap(given, z[:, None], LIMITS)
    exact = reference_joint.mlp_jpmap(given, z[:, None], LIMITS)
    torch.testing.assert_close(found.objective, exact.objective, rtol=1e-9, atol=0)
    same(mlp_jpmap(given.select(slice(1, 2)), z[1:], LIMITS), found, slice(1, 2))


METHODS = [
    jf.JPMAP(),
    jf.JPMAP(starts=1),
    jf.JPMAP(starts=4, n1=3, n2=1),
    jf.JPMAP(n2=0),
    jf.JPMAP(tolerance=1e9),
    jf.JPMAP(z_solver=GaussNewton(max_steps=1), max_iterations=3),
    jf.JPMAP(z_solver=GaussNewton(max_steps=1), tolerance=0.3, starts=1),
    jf.JPMAP(z_solver=GaussNewton(second_order=False), beta=[30.0, 2.0, 9.0] * 2),
]


@pytest.mark.parametrize("number, method", list(enumerate(METHODS)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_restoration_is_that_of_the_loop(number, method, dtype, monkeypatch):
    """To the bit: nobody can tell which one has run."""
    kinds = KINDS[number % 2 :: 2] if dtype == torch.float64 else KINDS
    prior = small_mlp(dtype=dtype)
    found: dict[str, list[jf.Result]] = {}
    for way in ("compiled", "loop"):
        if way == "loop":
            monkeypatch.setattr(jf.JPMAP, "run_whole", jf.algorithms.Algorithm.run_whole)
        draws = torch.Generator().manual_seed(3)
        for name in kinds:
            c = case(name, batch=6, dtype=dtype)
            result = jf.restore(c.y, c.operator, prior, c.sigma, method=method, generator=draws)
            found.setdefault(way, []).append(result)
    for one, other in zip(*found.values(), strict=True):
        for key in ("x", "z", "decoded", "objective", "gap", "status_code", *COUNTS[1:], "beta"):
            assert torch.equal(getattr(one, key), getattr(other, key)), key
        assert (one.path, one.reason) == (other.path, other.reason) == ("compiled", "")


def test_digits_are_restored_as_by_the_loop(monkeypatch):
    prior, operator = jf.load_prior("mnist"), jf.CompressedSensing.gaussian(60, (1, 28, 28))
    y = operator.measure(jf.mnist_test_digits(24)[0], 0.05)
    found = jf.restore(y, operator, prior, 0.05)
    monkeypatch.setattr(jf.JPMAP, "run_whole", jf.algorithms.Algorithm.run_whole)
    expected = jf.restore(y, operator, prior, 0.05)
    for key in ("x", "z", "objective", "status_code", *COUNTS[1:]):
        assert torch.equal(getattr(found, key), getattr(expected, key)), key


@pytest.mark.parametrize("name", KINDS)
def test_an_image_has_the_same_bits_alone_and_in_any_batch(name):
    given = problem(name, batch=40, dtype=torch.float32)
    starts = codes(3, torch.float32)
    found = mlp_jpmap(given, starts, LIMITS)
    same(mlp_jpmap(given.select(slice(17, 18)), starts, LIMITS), found, slice(17, 18))
    same(mlp_jpmap(given.select(slice(30, 37)), starts, LIMITS), found, slice(30, 37))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        same(mlp_jpmap(given, starts, LIMITS), found)
    finally:
        torch.set_num_threads(threads)
    assert mlp_jpmap(given.select(slice(0, 0)), starts, LIMITS).x.shape == (0, 30)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_image_touches_no_other(name, value):
    given = problem(name, batch=5)
    found = mlp_jpmap(given, codes(2), LIMITS)
    y, target = given.y.clone(), given.f.target.clone()
    y[2], target[2] = value, value
    broken = mlp_jpmap(replace(given, y=y, f=replace(given.f, target=target)), codes(2), LIMITS)
    assert int(broken.status[2]) == outcome.FAILED
    for rows in (slice(0, 2), slice(3, 5)):
        same(JointEnd(*(value[rows] for value in vars(broken).values())), found, rows)


def test_codes_of_the_status_are_those_of_outcomes():
    for name, code in _C.task_status.items():
        place = outcome if hasattr(outcome, name) else joint
        assert getattr(place, name) == getattr(reference_joint, name) == code, name


def test_every_status_occurs():
    """What the comparisons above compare."""
    found = set()
    for limits in (
        LIMITS,
        replace(LIMITS, max_steps=1, max_iterations=2),
        replace(LIMITS, max_steps=1, move=0.3),
    ):
        for name in KINDS[:2]:
            found |= set(mlp_jpmap(problem(name, batch=12), codes(1), limits).status.tolist())
    assert found == {outcome.CONVERGED, outcome.ITERATION_LIMIT, outcome.TOLERANCE_LIMIT}


class Doubled(jf.Denoising):
    """An operator that measures something else than its base says."""

    def A(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Blurring(jf.MLPVAE):
    """A prior whose encoder is more than its layers."""

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = super().encode(x)
        return 0.5 * mean, log_std


def test_what_it_does_not_know_goes_through_the_loop(monkeypatch):
    def refused(*_: Any) -> None:
        raise AssertionError("was called")

    monkeypatch.setattr(whole, "mlp_jpmap", refused)
    c, prior = case("denoising", batch=1), small_mlp()
    options: dict[str, Any] = {"sigma": c.sigma, "prior": prior, "operator": c.operator}
    with pytest.raises(AssertionError, match="was called"):
        jf.restore(c.y, **options)
    jf.restore(c.y, record=True, **options)
    few = {"max_iterations": 1, "starts": 1}
    for method in (
        jf.JPMAP(coupling="alternating", **few),
        jf.JPMAP(selection="exhaustive", **few),
        jf.JPMAP(z_solver=jf.Adam(max_steps=2), **few),
    ):
        jf.restore(c.y, method=method, **options)


@pytest.mark.parametrize("name", sorted(set(CASE_NAMES) - set(KINDS)))
def test_operators_it_does_not_know(name):
    c = case(name)
    given = prepare(c.y, c.operator, small_mlp(), c.sigma).problem
    assert whole.joint_of(given, GaussNewton(), True, torch.ones_like(c.sigma), False) is None


def test_solvers_priors_and_classes_it_does_not_know():
    c = case("denoising")
    other = Blurring(IMAGE_SHAPE, 3, (16, 12)).double().eval()
    for operator, prior, solver in (
        (c.operator, other, GaussNewton()),
        (Doubled(), small_mlp(), GaussNewton()),
        (c.operator, small_mlp(), GaussNewton(fused=False)),
        (c.operator, small_mlp(), GaussNewton(linear_solver="conjugate-gradient")),
    ):
        given = prepare(c.y, operator, prior, c.sigma).problem
        assert whole.joint_of(given, solver, True, torch.ones_like(c.sigma), False) is None
    # Nobody asks an encoder that is not used.
    given = prepare(c.y, c.operator, other, c.sigma).problem
    assert whole.joint_of(given, GaussNewton(), False, torch.ones_like(c.sigma), False) is not None


def test_whoever_watches_is_told_along_the_way():
    told: list[tuple[int, int]] = []
    c = case("inpainting", batch=150)
    options = {"sigma": c.sigma, "prior": small_mlp(), "operator": c.operator}
    watched = jf.restore(c.y, progress=lambda *counts: told.append(counts), **options)
    assert told == [(0, 300), (128, 300), (256, 300), (300, 300)]
    assert torch.equal(watched.x, jf.restore(c.y, **options).x)


def test_opcheck(monkeypatch):
    calls: list[Any] = []
    operator = torch.ops.jpmap.mlp_jpmap

    class Noted:
        @staticmethod
        def mlp_jpmap(*given: Any) -> Any:
            calls.append(given)
            return operator(*given)

    monkeypatch.setattr("jpmap_fast.kernels.jpmap._ops", Noted)
    mlp_jpmap(problem("compressed-sensing-tall"), codes(2), LIMITS)
    torch.library.opcheck(operator.default, calls[0])


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"beta": torch.ones(3).double()}, "beta"),
        ({"y": torch.zeros(4, 29).double()}, "mask of size 29"),
        ({"mask": torch.ones(29).double()}, "mask"),
        ({"sigma": torch.ones(4)}, "sigma"),
        ({"lost": torch.ones(4, 2).double()}, "no lost part"),
        ({"values": torch.ones(30).double()}, "a mask or values"),
    ],
)
def test_wrong_arguments_are_refused(changed, message):
    given = replace(problem("inpainting"), **changed)
    with pytest.raises(RuntimeError, match=f"mlp_jpmap: .*{message}"):
        mlp_jpmap(given, codes(2), LIMITS)
