"""Steps that graphs hold: the same ends blind, asked, and on ever fewer images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import IMAGE_SHAPE, cases, small_mlp
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast import _capture
from jpmap_fast.objective import LatentObjective, Projection
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.solvers import GaussNewton, LatentSolution, device_steps

ROWS = 40
ENDS = ("z", "objective", "steps", "converged")


class HostLoops:
    """Loops asked by the host, as a recording has its own asked between its graphs."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def loop(
        self, step: Callable[[Any], Any], state: tuple[Tensor, ...], enough: int
    ) -> tuple[Tensor, ...]:
        while int(state[-1].sum()) > enough:
            state = step(state)
            self.sizes.append(len(state[0]))
        return state


def descents() -> tuple[LatentObjective, Tensor]:
    """An objective of many images, and codes of which some are far from its minima."""
    c = next(c for c in cases(ROWS) if c.name == "inpainting")
    prior = small_mlp()
    operator = c.operator.bind(IMAGE_SHAPE, ROWS)
    beta = torch.logspace(0, 3, ROWS, dtype=torch.float64)
    f = Projection(operator, make_decoder(prior))(c.y, beta, c.sigma)
    generator = torch.Generator().manual_seed(0)
    return f, 3 * torch.randn(ROWS, prior.latent_dim, generator=generator, dtype=torch.float64)


def ends(
    solver: GaussNewton, active: Tensor | None, loops: HostLoops | None = None
) -> LatentSolution:
    f, z = descents()
    with torch.no_grad(), _capture._looping(loops):
        return solver._fixed(f, z, active, solver.plan(f, z), None)


@pytest.mark.parametrize("most", [1, 3, 80])
def test_asked_or_blind_on_few_images_or_all_ends_are_the_same(most, monkeypatch):
    monkeypatch.setattr(device_steps, "LEAST_RECORDED", 3)
    solver = GaussNewton(fused=False, linear_solver="direct", max_steps=most)
    f, z = descents()
    expected = solver.minimise(f, z)
    loops = HostLoops()
    for found in (ends(solver, None), ends(solver, None, loops)):
        for name in ENDS:
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    assert loops.sizes == sorted(loops.sizes, reverse=True)
    assert most < 80 or len(set(loops.sizes)) > 3
    assert len(loops.sizes) == int(expected.steps.max()) + 1


@pytest.mark.parametrize("number", [0, 1, 9])
def test_who_is_not_asked_for_keeps_its_code(number, monkeypatch):
    monkeypatch.setattr(device_steps, "LEAST_RECORDED", 3)
    solver = GaussNewton(fused=False, linear_solver="direct")
    f, z = descents()
    whole, active = solver.minimise(f, z), torch.zeros(ROWS, dtype=torch.bool)
    active[torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))[:number]] = True
    loops = HostLoops()
    found = ends(solver, active, loops)
    assert torch.equal(found.z[~active], z[~active])
    assert bool(found.objective[~active].isnan().all()) and not int(found.steps[~active].sum())
    torch.testing.assert_close(found.z[active], whole.z[active])
    assert torch.equal(found.steps[active], whole.steps[active])
    # No step is made of more images than the ladder has for those at work.
    assert max(loops.sizes, default=0) <= {0: 0, 1: 3, 9: 12}[number]


def test_an_image_without_a_finite_start_ends_at_once():
    f, z = descents()
    z[5] = torch.nan
    solver = GaussNewton(fused=False, linear_solver="direct")
    with torch.no_grad(), _capture._looping(HostLoops()):
        found = solver._fixed(f, z, None, solver.plan(f, z), None)
    others = torch.arange(ROWS) != 5
    assert not bool(found.converged[5]) and int(found.steps[5]) == 0
    assert not bool(torch.isfinite(found.objective[5])) and bool(found.converged[others].all())


@pytest.mark.cuda
@pytest.mark.parametrize("method", [jf.JPMAP(), jf.JPMAP(starts=2, n2=3), jf.CSGM(starts=1)])
def test_a_recorded_batch_finds_what_restore_finds(method):
    prior = jf.load_prior("faces", device="cuda")
    generator = torch.Generator().manual_seed(0)
    operator = jf.Inpainting((torch.rand(64, 64, generator=generator) < 0.3).float())
    z = torch.randn(41, prior.latent_dim, generator=generator)
    with torch.no_grad():
        clean = jf.load_prior("faces").decode(z)
    y = operator.measure(clean, 10 / 255, generator=generator).cuda()
    operator = operator.to("cuda")
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    expected = jf.restore(y, operator, prior, 10 / 255, method=method, generator=draws[0])
    restorer = jf.Restorer(
        operator, prior, 10 / 255, batch_size=41, method=method, generator=draws[1]
    )
    assert restorer.captured and restorer.path == "torch"
    found = restorer(y).clone()
    assert bool(found.converged.all())
    assert float((found.objective <= 1.001 * expected.objective).double().mean()) >= 0.9
    again = restorer(y.flip(0)).clone()  # every image in another place, of another past
    assert float((again.objective.flip(0) <= 1.001 * found.objective).double().mean()) >= 0.9
    torch.testing.assert_close(restorer(y).objective, found.objective, rtol=1e-3, atol=0)
