"""Promises for everything that travels: pickles and copies give the same bits, threads share."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import contract_builders as builders
import contract_classes as classes
import pytest
import torch
from contract_checks import QUICK, Situation, differences, problem, unrecorded
from contract_pairs import method_for, prior_for

import jpmap_fast as jf

# What makes a copy of an object, as a worker process or a user would.
COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}
EVERY = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
# Two of them can race; more than the sizes of batch among the requests say no more.
THREADS = 4
LIGHT = jf.JPMAP(starts=1, n2=1, max_iterations=1, z_solver=jf.GaussNewton(max_steps=1))

# Weights and masks of the smallest problems, with room for what surrounds them.
KEPT_OUT = 4096


def skip_physics(operator: jf.Operator) -> None:
    """Skips where a physics of deepinv is inside."""
    if type(operator).__name__ == "PhysicsOperator":
        pytest.skip("deepinv's physics hold lambdas, which nothing can pickle")


@EVERY
@pytest.mark.parametrize("name", [found.name for found in builders.methods()])
def test_methods(name, copied):
    method = builders.named(builders.methods(), name)()
    found = Situation(name).problem().restore(method=copied(method))
    assert not differences(found, unrecorded(Situation(name).expected()))
    # Networks and functions equal themselves alone; every other setting is a value.
    if not any(callable(value) for value in vars(method).values()):
        assert copied(method) == method and hash(copied(method)) == hash(method)


@EVERY
@pytest.mark.parametrize("name", [found.name for found in builders.operators()])
def test_operators_before_and_after_use(name, copied):
    p = problem(name)
    skip_physics(p.operator)
    fresh = copied(p.operator)
    size = len(pickle.dumps(p.operator))
    expected = p.restore(method=QUICK)
    used = copied(p.operator)
    for operator in (fresh, used):
        found = jf.restore(p.y, operator, p.prior, p.sigma, method=QUICK)
        assert not differences(found, expected)
    assert len(pickle.dumps(p.operator)) <= size + KEPT_OUT
    assert torch.equal(used.A(found.x), p.operator.A(found.x))


@EVERY
@pytest.mark.parametrize("name", [found.name for found in builders.priors()])
def test_priors_before_and_after_use(name, copied):
    p = problem(prior=name)
    fresh = copied(p.prior)
    size = len(pickle.dumps(p.prior))
    expected = p.restore()
    for prior in (fresh, copied(p.prior)):
        found = jf.restore(
            p.y, p.operator, prior, p.sigma, generator=torch.Generator().manual_seed(9)
        )
        assert not differences(found, expected)
    assert len(pickle.dumps(p.prior)) <= size + KEPT_OUT


@EVERY
@pytest.mark.parametrize("name", [found.name for found in builders.methods()])
def test_results(name, copied):
    expected = Situation(name).expected()
    assert not differences(copied(expected), expected)


@pytest.mark.parametrize("name", [found.name for found in builders.operators()])
def test_restorers(name):
    p = problem(name)
    skip_physics(p.operator)
    restorer = jf.Restorer(
        p.operator,
        p.prior,
        p.sigma,
        batch_size=len(p.y),
        method=replace(LIGHT, starts=3),
        generator=torch.Generator().manual_seed(2),
    )
    expected = restorer(p.y)
    state = torch.get_rng_state()
    again = pickle.loads(pickle.dumps(restorer))
    assert torch.equal(torch.get_rng_state(), state)
    assert not differences(again(p.y), expected)
    assert again.path == restorer.path


def together(calls: list[Callable[[], Any]], expected: list[Any], turns: int = 2) -> list[str]:
    """What differed where ``THREADS`` threads made the calls, each from another one on."""
    wrong: list[str] = []
    gate = threading.Barrier(THREADS)

    def work(mine: int) -> None:
        try:
            gate.wait()
            for turn in range(turns * len(calls)):
                which = (mine + turn) % len(calls)
                wrong.extend(differences(calls[which](), expected[which]))
        except Exception as error:  # of any kind: it is the finding
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def requests(prior: jf.Prior, method: Any) -> list[Callable[[], jf.Result]]:
    """Restorations with masks of as many pixels and other places, in several sizes of batch."""
    found = []
    p = problem()
    for i in range(THREADS):
        generator = torch.Generator().manual_seed(i)
        mask = torch.zeros(64, dtype=torch.float64)
        mask[torch.randperm(64, generator=generator)[:30]] = 1
        operator = jf.Inpainting(mask.reshape(8, 8))
        count = 1 + i % len(p.y)
        y = operator.A(p.y[:count])

        def call(y=y, operator=operator, count=count) -> jf.Result:
            draws = torch.Generator().manual_seed(5)
            return jf.restore(y, operator, prior, p.sigma[:count], method=method, generator=draws)

        found.append(call)
    return found


@pytest.mark.parametrize("name", [found.name for found in builders.priors()])
def test_threads_share_a_prior(name):
    made = builders.named(builders.priors(), name)
    method = QUICK if method_for(name) is type(QUICK) else method_for(name)()
    calls = requests(made(), method)
    expected = [call() for call in calls]
    fresh = requests(made(), method)
    assert not together(fresh, expected, turns=1)


@pytest.mark.parametrize("name", [kind.__name__ for kind in classes.method_classes()])
def test_threads_share_a_method(name):
    if name not in {found.name for found in builders.methods()}:
        pytest.skip("cannot be made here")
    method = builders.named(builders.methods(), name)()
    prior = builders.named(builders.priors(), prior_for(type(method)))()
    calls = requests(prior, method)[:2]
    assert not together(calls, [call() for call in calls], turns=1)


@pytest.mark.parametrize("name", [found.name for found in builders.operators()])
def test_threads_share_an_operator_that_nobody_has_used(name):
    p, fresh = problem(name), problem(name)
    expected = p.restore(method=LIGHT)
    wrong = together([lambda: fresh.restore(method=LIGHT)], [expected], turns=1)
    assert not wrong


def test_threads_share_a_restorer():
    p = problem()
    restorer = jf.Restorer(p.operator, p.prior, p.sigma, batch_size=len(p.y))
    ys = [p.y, p.y.flip(0).contiguous(), p.y / 2]
    calls = [lambda y=y: restorer(y) for y in ys]
    assert not together(calls, [call() for call in calls], turns=5)
