"""z-steps: derivatives, descent, known minimisers, settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from problems import CASE_NAMES, IMAGE_SHAPE, LinearPrior, case, joint_objective, small_mlp

import jpmap_fast as jf
from jpmap_fast.objective import Projection, WeightedLeastSquares
from jpmap_fast.priors.protocol import make_decoder

BETA = torch.tensor([1.0, 20.0, 83.0, 500.0], dtype=torch.float64)


def projected(name, prior, beta=BETA):
    c = case(name)
    operator = c.operator.bind(IMAGE_SHAPE, 4)
    return c, Projection(operator, make_decoder(prior))(c.y, beta, c.sigma)


@pytest.mark.parametrize("name", CASE_NAMES)
def test_projected_objective_is_the_least_j1_over_x(name):
    prior = small_mlp()
    c, f = projected(name, prior)
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        decoded = prior.decode(z)
    x, objective, _ = c.operator.x_update(decoded, c.y, z, BETA, c.sigma)
    torch.testing.assert_close(f.value(z), objective, rtol=1e-9, atol=0)
    exact = joint_objective(c, x, decoded, z, BETA)
    torch.testing.assert_close(f.value(z), exact, rtol=1e-9, atol=0)
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        other = x + 0.01 * torch.randn(x.shape, generator=g, dtype=torch.float64)
        assert (joint_objective(c, other, decoded, z, BETA) > exact).all()


@pytest.mark.parametrize("beta", [BETA, torch.full((4,), torch.inf, dtype=torch.float64)])
@pytest.mark.parametrize("name", CASE_NAMES)
def test_gradient_matches_central_differences(name, beta):
    _, f = projected(name, small_mlp(), beta)
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, gradient = f.gradient(z)
    again, from_equations, matrix = f.normal_equations(z)
    torch.testing.assert_close(value, again)
    torch.testing.assert_close(gradient, from_equations, rtol=1e-7, atol=1e-7)
    assert (torch.linalg.eigvalsh(matrix) >= 1 - 1e-9).all()
    h = 1e-6
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = h
        difference = (f.value(z + step) - f.value(z - step)) / (2 * h)
        # f is up to 1e5 with conjugate-gradient error 1e-12 of it, over 2 h.
        torch.testing.assert_close(gradient[:, i], difference, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", CASE_NAMES)
def test_gauss_newton_matrix_is_the_hessian_of_a_linear_decoder(name):
    _, f = projected(name, LinearPrior())
    z = torch.zeros(4, 3, dtype=torch.float64)
    _, gradient, matrix = f.normal_equations(z)
    step = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, moved, _ = f.normal_equations(z + step)
    torch.testing.assert_close(
        moved - gradient, (matrix @ step[:, :, None])[:, :, 0], rtol=1e-7, atol=1e-6
    )


@pytest.mark.parametrize("name", CASE_NAMES)
def test_gauss_newton_ends_where_the_gradient_vanishes(name):
    _, f = projected(name, small_mlp())
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = jf.GaussNewton(tolerance=1e-7).minimise(f, z)
    assert found.converged.all()
    assert (found.objective <= f.value(z)).all()
    _, gradient, matrix = f.normal_equations(found.z)
    newton = torch.linalg.solve(matrix, gradient[:, :, None])[:, :, 0]
    assert newton.square().mean(1).sqrt().max() < 1e-6


def test_gauss_newton_and_adam_find_the_same_minimum():
    prior = small_mlp()
    c, f = projected("inpainting", prior)
    z = torch.full((4, 3), 0.1, dtype=torch.float64)
    newton = jf.GaussNewton(tolerance=1e-8).minimise(f, z)
    adam = jf.Adam(tolerance=1e-9, max_steps=20_000).minimise(f, newton.z + 0.01, 1 / BETA)
    assert adam.converged.all()
    torch.testing.assert_close(adam.z, newton.z, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(adam.objective, newton.objective, rtol=1e-9, atol=0)


def test_projected_and_alternating_have_the_same_stationary_points():
    """Where grad J(z) = 0, the alternating z-step at the exact x has zero gradient as well."""
    prior = small_mlp()
    for name in CASE_NAMES:
        c, f = projected(name, prior)
        z = torch.zeros(4, 3, dtype=torch.float64)
        end = jf.GaussNewton(tolerance=1e-9).minimise(f, z).z
        with torch.no_grad():
            decoded = prior.decode(end)
        x, _, _ = c.operator.x_update(decoded, c.y, end, BETA, c.sigma)
        step = WeightedLeastSquares(make_decoder(prior), x.flatten(1), BETA[:, None])
        _, projected_gradient, scale = f.normal_equations(end)
        _, alternating_gradient = step.gradient(end)
        # The two gradients are one and the same function of z (envelope theorem).
        torch.testing.assert_close(alternating_gradient, projected_gradient, rtol=1e-6, atol=1e-6)
        assert (alternating_gradient.norm(dim=1) < 1e-5 * scale.diagonal(0, 1, 2).sum(1)).all()


def test_adam_follows_torch_optim_adam_step_by_step():
    """Ours is per image, but one image alone must walk exactly as the reference optimiser."""
    prior = small_mlp()
    c, f = projected("denoising", prior)
    one = f.select(torch.tensor([2]))
    start = torch.full((1, 3), 0.3, dtype=torch.float64)
    ours = jf.Adam(max_steps=60, tolerance=1e-12).minimise(one, start, 1 / BETA[2:3])
    z = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.01)
    variance = c.sigma[2] ** 2 + 1 / BETA[2]
    for _ in range(60):
        optimiser.zero_grad()
        loss = (c.y[2] - prior.decode(z)).square().sum() / (2 * variance) + z.square().sum() / 2
        (loss / BETA[2]).backward()
        optimiser.step()
    torch.testing.assert_close(ours.z, z.detach(), rtol=1e-9, atol=1e-10)
    assert ours.steps.tolist() == [60] and not ours.converged.any()


def test_step_limits_are_kept_and_reported():
    _, f = projected("denoising", small_mlp())
    z = torch.ones(4, 3, dtype=torch.float64)
    found = jf.GaussNewton(max_steps=2).minimise(f, z)
    assert (found.steps <= 2).all() and not found.converged.all()


def test_a_nan_target_stops_its_image_and_no_other():
    c, f = projected("denoising", small_mlp())
    z = torch.ones(4, 3, dtype=torch.float64)
    for solver in (*SOLVERS.values(), jf.GaussNewton(), jf.Adam(max_steps=50)):
        clean = solver.minimise(f, z)
        f.target[1, 0] = torch.nan
        dirty = solver.minimise(f, z)
        f.target[1, 0] = c.y[1].flatten()[0]
        assert not dirty.converged[1]
        others = torch.tensor([0, 2, 3])
        assert torch.equal(clean.z[others], dirty.z[others])


SOLVERS = {
    "direct": jf.GaussNewton(fused=False),
    "gauss-newton": jf.GaussNewton(fused=False, second_order=False),
    "conjugate-gradient": jf.GaussNewton(linear_solver="conjugate-gradient"),
}


@pytest.mark.parametrize("name", CASE_NAMES[:7])
def test_conjugate_gradient_steps_end_where_direct_ones_do(name):
    """Started beside a minimum: elsewhere different steps may lead to different minima."""
    _, f = projected(name, small_mlp())
    z = jf.GaussNewton(tolerance=1e-3).minimise(f, torch.zeros(4, 3, dtype=torch.float64)).z + 0.02
    direct, implicit = (
        jf.GaussNewton(linear_solver=solver, tolerance=1e-8, fused=False).minimise(f, z)
        for solver in ("direct", "conjugate-gradient")
    )
    assert direct.converged.all() and implicit.converged.all()
    torch.testing.assert_close(implicit.objective, direct.objective, rtol=1e-9, atol=0)
    torch.testing.assert_close(implicit.z, direct.z, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASE_NAMES)
def test_conjugate_gradients_solve_a_linear_decoder(name):
    """The minimum of a quadratic is known: z = -H^{-1} g from anywhere."""
    _, f = projected(name, LinearPrior())
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, gradient, matrix = f.normal_equations(z)
    best = z - torch.linalg.solve(matrix, gradient[:, :, None])[:, :, 0]
    found = jf.GaussNewton(linear_solver="conjugate-gradient", tolerance=1e-9).minimise(f, z)
    assert found.converged.all()
    torch.testing.assert_close(found.z, best, rtol=1e-6, atol=1e-6)


def test_the_linear_solver_is_chosen_by_the_latent_dimension(monkeypatch):
    from jpmap_fast.solvers import gauss_newton, plan

    made = []
    for model in (gauss_newton.DirectModel, gauss_newton.ImplicitModel):

        def at(*arguments, made_by=model.at, name=model.__name__):
            made.append(name)
            return made_by(*arguments)

        monkeypatch.setattr(model, "at", staticmethod(at))

    def models(solver):
        made.clear()
        _, f = projected("denoising", small_mlp())
        solver.minimise(f, torch.zeros(4, 3, dtype=torch.float64))
        return set(made)

    assert models(jf.GaussNewton(fused=False)) == {"DirectModel"}
    assert models(SOLVERS["conjugate-gradient"]) == {"ImplicitModel"}
    monkeypatch.setattr(plan, "DIRECT_LATENT_DIM", {"cpu": 2})
    assert models(jf.GaussNewton(fused=False)) == {"ImplicitModel"}
    assert models(jf.GaussNewton(fused=False, linear_solver="direct")) == {"DirectModel"}
    assert models(jf.GaussNewton()) == set()  # compiled


@pytest.mark.parametrize("name", ["inpainting", "compressed-sensing", "linear-operator"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_f_never_rises_and_refused_steps_leave_z_where_it_is(name, solver):
    """Stopped after 0, 1, 2, ... steps; hardly damped at first, so that many are refused."""
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    before, z_before, refused = projected(name, small_mlp())[1].value(start), start, 0
    for steps in range(1, 12):
        settings = replace(SOLVERS[solver], initial_damping=1e-6, max_steps=steps, tolerance=1e-9)
        _, f = projected(name, small_mlp())  # a matrix-free one remembers its last solutions
        found = settings.minimise(f, start)
        # To the accuracy of the matrix-free one, whose values come from iterations.
        assert (found.objective <= before * (1 + 1e-9)).all()
        torch.testing.assert_close(found.objective, f.value(found.z), rtol=1e-9, atol=0)
        still = found.objective == before
        assert torch.equal(found.z[still], z_before[still])
        refused += int((still & (found.steps == steps)).sum())
        before, z_before = found.objective, found.z
    assert refused >= 5, "the case should have refused steps"


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_refused_step_costs_one_decode(solver):
    """Per image: as many values as steps, expansions for the start and accepted steps alone."""
    _, f = projected("compressed-sensing", small_mlp())
    counts = {"value": 0, "expand": 0, "pullback": 0}
    for name in counts:
        inner = getattr(f.decoder, name)

        def counted(z, *rest, inner=inner, name=name):
            counts[name] += len(z)
            return inner(z, *rest)

        setattr(f.decoder, name, counted)
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    refused = 0
    for image in range(4):
        one = f.select(torch.tensor([image]))
        settings = replace(SOLVERS[solver], initial_damping=1e-6)
        counts.update(value=0, expand=0, pullback=0)
        steps = int(settings.minimise(one, start[image : image + 1]).steps)
        derivatives = counts["expand"] + counts["pullback"]
        assert counts["value"] == steps
        assert 1 < derivatives <= steps + 1
        refused += steps + 1 - derivatives
    assert refused >= 5, "the case should have refused steps"


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_images_solution_does_not_depend_on_its_batch(solver):
    for name in ("inpainting-per-image", "compressed-sensing", "linear-operator"):
        _, f = projected(name, small_mlp())
        z = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        settings = replace(SOLVERS[solver], tolerance=1e-7)
        whole = settings.minimise(f, z)
        for i in range(4):
            alone = settings.minimise(f.select(torch.tensor([i])), z[i : i + 1])
            torch.testing.assert_close(alone.z[0], whole.z[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: jf.GaussNewton(tolerance=0), "tolerance: expected a finite number > 0"),
        (lambda: jf.GaussNewton(max_steps=-1), "max_steps: expected at least 1"),
        (
            lambda: jf.GaussNewton(linear_solver="lu"),
            "linear_solver: expected one of 'auto', .*'lu'",
        ),
        (
            lambda: jf.Adam(learning_rate=float("nan")),
            "learning_rate: expected a finite number > 0",
        ),
        (lambda: jf.Adam(betas=(0.9, 1.0)), r"expected betas in \[0, 1\)"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
