"""Loops over unfinished images: each ends as it does alone, whenever the device is asked."""

from __future__ import annotations

import pytest
import torch
from contract_data import Shrink
from problems import cases, small_mlp
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast import _working_set
from jpmap_fast._working_set import WorkingSet, polling_interval, rung, rungs_below
from jpmap_fast.solvers import gauss_newton

# Steps after which each image is done; several at once, the first at once, the last alone.
LENGTHS = [3, 1, 7, 3, 2, 12, 7]


class Rows:
    """Something that is no tensor and has a row an image."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def select(self, index: Tensor) -> Rows:
        return Rows(self.values[index])


def counted(every: int, full: float) -> tuple[Tensor, Tensor, int]:
    """A loop that adds each image's number to its row until it is done; how often it asked."""
    length = torch.tensor(LENGTHS)
    working = WorkingSet(len(length), length.device, every=every, full=full)
    working._interval = every  # as on a GPU
    number = Rows(torch.arange(len(length)))
    steps, value = torch.zeros_like(length), torch.zeros(len(length), 2)
    running, asked, step = torch.ones_like(length, dtype=torch.bool), 0, 0
    while working.left:
        assert torch.equal(number.values, working.index)
        value = torch.where(running[:, None], value + number.values[:, None], value)
        steps = steps + running
        running = running & (steps < length)
        step += 1
        if not working.due(step):
            continue
        asked += 1
        if working.finish(running, steps, value):
            number, length = working.select(number), working.select(length)
            steps, value, running = map(working.select, (steps, value, running))
            assert bool(running.all()) and len(running) == working.left
    steps, value = working.results(steps, value)
    return steps, value, asked


@pytest.mark.parametrize("every", [1, 2, 5, 50])
@pytest.mark.parametrize("full", [1.0, 0.75, 0.2])
def test_results_depend_on_no_question(every, full):
    steps, value, asked = counted(every, full)
    assert steps.tolist() == LENGTHS
    expected = torch.arange(len(LENGTHS)) * torch.tensor(LENGTHS)
    assert torch.equal(value, expected[:, None].expand(-1, 2).float())
    assert asked == -(-max(LENGTHS) // every)


def test_rows_are_dropped_once_few_are_left():
    working = WorkingSet(4, torch.device("cpu"), full=0.5)
    values = torch.arange(4)
    assert not working.finish(torch.tensor([True, True, False, True]), values)
    assert working.left == 3 and working.index.tolist() == [0, 1, 2, 3]
    assert working.finish(torch.tensor([False, True, False, True]), values)
    assert working.left == 2 and working.index.tolist() == [1, 3]
    assert working.select(values).tolist() == [1, 3]


@pytest.mark.parametrize("batch", [0, 3])
def test_results_are_no_tensors_of_a_caller(batch):
    working = WorkingSet(batch, torch.device("cpu"))
    begin = torch.ones(batch, 2)
    assert not working.finish(torch.zeros(batch, dtype=torch.bool), begin)
    assert working.left == 0
    (found,) = working.results(begin)
    found.zero_()
    assert torch.equal(begin, torch.ones(batch, 2))


def test_a_cpu_is_asked_at_every_step():
    assert polling_interval(torch.device("cpu"), 50) == 1
    assert polling_interval(torch.device("cuda"), 50) == 50


METHODS = {
    "gauss-newton": jf.CSGM(starts=3, z_solver=jf.GaussNewton(fused=False)),
    "few steps": jf.CSGM(starts=3, z_solver=jf.GaussNewton(fused=False, max_steps=4)),
    "adam": jf.CSGM(starts=3, z_solver=jf.Adam(0.05, tolerance=1e-2, max_steps=120)),
    "pnp-admm": jf.PnPADMM(Shrink(), max_iterations=33),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_end_the_same_whenever_they_ask(name, monkeypatch):
    """As on a GPU: questions at intervals, rows of finished images kept for a while."""
    case = cases(6)[0]

    def restored() -> jf.Result:
        generator = torch.Generator().manual_seed(3)
        method = METHODS[name]
        return jf.restore(
            case.y, case.operator, small_mlp(), case.sigma, method=method, generator=generator
        )

    expected = restored()
    monkeypatch.setattr(_working_set, "polling_interval", lambda device, every: every)
    few = {"full": 0.3, "few_sizes": True}
    monkeypatch.setattr(gauss_newton, "WorkingSet", lambda *a, **_: WorkingSet(*a, **few))
    found = restored()
    for field in ("x", "objective", "iterations", "status_code"):
        exact = {"rtol": 0, "atol": 0, "equal_nan": True}
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), **exact)
    assert len(set(expected.iterations.tolist())) > 1 or name == "few steps"


def test_rungs_are_few_and_near():
    found = [rung(number) for number in range(1, 4097)]
    assert all(number <= size < 1.5 * number + 1 for number, size in enumerate(found, 1))
    assert len(set(found)) == 24 and found == sorted(found)


def test_a_set_shrinks_by_rungs():
    assert rungs_below(256, 8, 0.75) == [192, 128, 96, 64, 48, 32, 24, 16, 12, 8]
    assert rungs_below(100, 24, 0.75) == [64, 48, 32, 24]
    assert rungs_below(8, 8, 0.75) == rungs_below(1, 1, 1.0) == []


@pytest.mark.parametrize("full", [1.0, 0.75])
def test_few_sizes_change_no_result(full):
    length = torch.randint(1, 40, (53,), generator=torch.Generator().manual_seed(0))
    working = WorkingSet(len(length), length.device, full=full, few_sizes=True)
    limit, steps, sizes = length, torch.zeros_like(length), set()
    running = torch.ones_like(length, dtype=torch.bool)
    while working.left:
        steps = steps + running
        running = running & (steps < limit)
        if working.finish(running, steps):
            limit, steps, running = map(working.select, (limit, steps, running))
            assert int(running.sum()) == working.left and len(running) == len(working.index)
            sizes.add(len(running))
    assert torch.equal(working.results(steps)[0], length)
    assert sizes and all(size == rung(size) for size in sizes)
