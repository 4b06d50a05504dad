"""The quadratic models of a damped step: what they solve, and what they promise."""

from __future__ import annotations

import pytest
import torch
from problems import IMAGE_SHAPE, PIXELS, LinearPrior, case, small_mlp
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.objective import LatentObjective, Projection
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.solvers.quadratic_model import DirectModel, ImplicitModel

BETA = torch.tensor([1.0, 20.0, 83.0, 500.0], dtype=torch.float64)
K = 6
# A diagonal, a dense and a matrix-free A.
NAMES = ["inpainting-per-image", "compressed-sensing", "linear-operator"]
# Solves with W of the matrix-free case are good to about 1e-9.
CLOSE = {"rtol": 1e-7, "atol": 1e-9}
DAMPINGS = [0.0, 0.3, 20.0]


def problem(name: str, spread: float = 1.0) -> tuple[LatentObjective, Tensor]:
    c = case(name)
    bound = c.operator.bind(IMAGE_SHAPE, 4)
    f = Projection(bound, make_decoder(small_mlp(K)))(c.y, BETA, c.sigma)
    g = torch.Generator().manual_seed(0)
    return f, spread * torch.randn(4, K, generator=g, dtype=torch.float64)


def dense(f: LatentObjective, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f, its gradient and its Gauss-Newton matrix."""
    return f.normal_equations(z)


def solved(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.linalg.solve(matrix, vector[:, :, None])[:, :, 0]


def model_decrease(gradient: Tensor, matrix: Tensor, d: Tensor) -> Tensor:
    """By how much the undamped quadratic model falls along d."""
    return -(gradient * d).sum(1) - 0.5 * torch.einsum("bi,bij,bj->b", d, matrix, d)


def damping(mu: float) -> Tensor:
    """One an image, no two alike."""
    return mu * torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("mu", DAMPINGS)
@pytest.mark.parametrize("name", NAMES)
def test_a_direct_step_is_that_of_the_dense_system(name, mu):
    f, z = problem(name)
    value, model = DirectModel.at(f, z, second_order=False)
    exact, gradient, matrix = dense(f, z)
    torch.testing.assert_close(value, exact, **CLOSE)
    step = model.step(damping(mu))
    assert step.d.dtype == torch.float64
    shift = damping(mu)[:, None, None] * torch.eye(K, dtype=torch.float64)
    torch.testing.assert_close(step.d, -solved(matrix + shift, gradient), **CLOSE)
    newton = solved(matrix, gradient)
    torch.testing.assert_close(step.size, newton.square().mean(1).sqrt(), **CLOSE)
    torch.testing.assert_close(step.decrement, (gradient * newton).sum(1), **CLOSE)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(model.largest, diagonal.amax(1), **CLOSE)
    expected = model_decrease(gradient, matrix, step.d)
    torch.testing.assert_close(step.promised, expected, **CLOSE)
    assert (step.promised > 0).all()


def test_a_second_order_step_has_as_much_of_the_hessian_as_leaves_a_third_of_the_matrix():
    f, begin = problem("denoising", 1.5)
    shares, kinds = [], []
    for steps in (3, 5):  # far from the minimum, and beside it for some
        z = jf.GaussNewton(max_steps=steps).minimise(f, begin).z
        _, gradient, matrix, hessian = f.newton_system(z)
        share, chosen = torch.zeros(4, dtype=torch.float64), matrix
        for part in (0.25, 0.5, 1.0):
            mixed = matrix + part * (hessian - matrix)
            firm = torch.linalg.eigvalsh(mixed - matrix / 3)[:, 0] > 0
            share = torch.where(firm, part, share)
            chosen = torch.where(firm[:, None, None], mixed, chosen)
        positive = torch.linalg.eigvalsh(hessian)[:, 0] > 0
        short = positive & (solved(hessian, gradient).square().mean(1) <= 0.01)
        chosen = torch.where(short[:, None, None], hessian, chosen)
        step = DirectModel.at(f, z, second_order=True)[1].step(torch.zeros(4, dtype=torch.float64))
        torch.testing.assert_close(step.d, -solved(chosen, gradient), **CLOSE)
        assert step.exact is not None and torch.equal(step.exact, (share == 1) | short)
        shares += share.tolist()
        kinds += short.tolist()
    assert set(shares) == {0.25, 0.5, 1} and set(kinds) == {True, False}, "the case is another"
    prior, c = small_mlp(K), case("denoising")
    for i in range(4):  # the Hessian is that of f
        variance = c.sigma[i] ** 2 + 1 / BETA[i]

        def written_out(code: Tensor, y: Tensor = c.y[i], variance: Tensor = variance) -> Tensor:
            residual = y - prior.decode(code[None])[0]
            return residual.square().sum() / (2 * variance) + code.square().sum() / 2

        exact = torch.autograd.functional.hessian(written_out, z[i])
        torch.testing.assert_close(hessian[i], exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mu", DAMPINGS)
@pytest.mark.parametrize("name", NAMES)
def test_an_implicit_step_solves_to_its_forcing_and_promises_what_the_model_gives(name, mu):
    f, z = problem(name)
    exact, gradient, matrix = dense(f, z)
    shift = damping(mu)[:, None, None] * torch.eye(K, dtype=torch.float64)
    for forcing in (0.5, 0.02, 1e-10):
        value, model = ImplicitModel.at(f, z, forcing)
        torch.testing.assert_close(value, exact, **CLOSE)
        step = model.step(damping(mu))
        left = gradient + torch.einsum("bij,bj->bi", matrix + shift, step.d)
        assert (left.norm(dim=1) <= forcing * gradient.norm(dim=1) * (1 + 1e-5) + 1e-7).all()
        torch.testing.assert_close(
            step.promised, model_decrease(gradient, matrix, step.d), rtol=1e-6, atol=1e-8
        )
        assert (step.promised > 0).all()
    torch.testing.assert_close(step.d, -solved(matrix + shift, gradient), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_entry_is_estimated_within_the_spectrum(name):
    f, z = problem(name)
    _, _, matrix = dense(f, z)
    found = ImplicitModel.at(f, z, 0.02)[1].largest
    assert (found >= 1).all()
    assert (found <= torch.linalg.eigvalsh(matrix)[:, -1] * (1 + 1e-9)).all()


def check_bounds(f: LatentObjective, z: Tensor, forcing: float) -> None:
    """What the model says of the undamped step is no less than the truth."""
    _, gradient, matrix = dense(f, z)
    newton = solved(matrix, gradient)
    size, decrement = newton.square().mean(1).sqrt(), (gradient * newton).sum(1)
    model = ImplicitModel.at(f, z, forcing)[1]
    for mu in (0.0, 0.1, 1.0, 30.0, 1e4):
        step = model.step(torch.full((4,), mu, dtype=torch.float64))
        assert (step.size >= size * (1 - 1e-7)).all()
        assert (step.decrement >= decrement * (1 - 1e-7)).all()
        # And within the factor 1 + mu of it, up to what the solve left.
        left = forcing * gradient.norm(dim=1)
        assert (step.size <= (1 + mu) * size + left * (1 + 1e-6)).all()
        assert (step.decrement <= (1 + mu) * decrement * (1 + 1e-7) + left**2).all()


@pytest.mark.parametrize("forcing", [1e-9, 0.02])
@pytest.mark.parametrize("name", NAMES)
def test_bounds_on_the_undamped_step_hold(name, forcing):
    check_bounds(*problem(name), forcing)


def lopsided() -> tuple[LatentObjective, Tensor]:
    """A linear decoder that sees one direction of z a million times better than the others.

    At z the gradient lies along that direction but for a hundredth, which is all that is left to
    do: a solve to 2% overlooks it.
    """
    prior = LinearPrior(latent_dim=K)
    with torch.no_grad():
        weight = torch.zeros(PIXELS, K, dtype=torch.float64)
        weight[0, 0] = 1e3
        prior.decoder_layers[0].weight.copy_(weight)
        prior.decoder_layers[0].bias.zero_()
    y = torch.zeros(4, *IMAGE_SHAPE, dtype=torch.float64)
    ones = torch.ones(4, dtype=torch.float64)
    f = Projection(jf.Denoising().bind(prior.image_shape), make_decoder(prior))(
        y, 2 * ones, ones / 2
    )
    z = torch.zeros(4, K, dtype=torch.float64)
    z[:, 1] = torch.tensor([1.0, 0.1, 10.0, 3.0])
    z[:, 0] = 100 * z[:, 1] / f.normal_equations(z)[2][:, 0, 0]
    return f, z


def test_bounds_hold_for_gradients_that_hide_a_long_step():
    check_bounds(*lopsided(), 0.02)


def test_a_solve_that_overlooks_a_direction_is_not_taken_for_convergence():
    f, z = lopsided()
    # Little damping, so that nothing but the bound keeps the first step from passing for the last.
    solver = jf.GaussNewton(linear_solver="conjugate-gradient", initial_damping=1e-9)
    found = solver.minimise(f, z)
    assert found.converged.all()
    assert found.z.square().mean(1).sqrt().max() <= 1e-4  # the minimum is at 0


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_selected_and_renewed_models_are_those_made_afresh(name, implicit):
    f, z = problem(name)
    forcing = 1e-9

    def at(objective: LatentObjective, codes: Tensor):
        if implicit:
            return ImplicitModel.at(objective, codes, forcing)[1]
        return DirectModel.at(objective, codes, True)[1]

    def same(one, other, index: Tensor, mine: Tensor) -> None:
        mu = damping(1.0)
        a, b = one.step(mu[mine]), other.step(mu[index])
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(one.largest, other.largest, rtol=1e-6, atol=0)

    everything = torch.arange(4)
    model = at(f, z)
    index = torch.tensor([3, 1])
    same(model.select(index), at(f.select(index), z[index]), index, index)
    # Images 0 and 2 move: theirs are expanded again, the others' stay.
    moved = z.clone()
    moved[[0, 2]] += 0.1
    same(model.renewed(torch.tensor([0, 2]), moved, f), at(f, moved), everything, everything)
    same(model.renewed(everything, moved + 0.1, f), at(f, moved + 0.1), everything, everything)


def test_renewing_some_images_expands_those_alone():
    f, z = problem("denoising")
    seen = []
    expand = f.decoder.expand
    f.decoder.expand = lambda z, *rest: seen.append(len(z)) or expand(z, *rest)
    model = DirectModel.at(f, z, True)[1]
    model.renewed(torch.tensor([1, 3]), z + 0.1, f)
    assert seen == [4, 2]


@pytest.mark.parametrize("implicit", [False, True])
def test_a_step_at_the_minimum_is_nothing(implicit):
    f, z = problem("denoising")
    end = jf.GaussNewton(tolerance=1e-12, fused=False).minimise(f, z).z
    model = (ImplicitModel.at(f, end, 0.02) if implicit else DirectModel.at(f, end, True))[1]
    step = model.step(torch.ones(4, dtype=torch.float64))
    # The solver went on until f could resolve no more of it, 8 eps of f.
    assert step.decrement.max() < 1e-13
    assert step.d.abs().max() < 1e-6 and step.size.max() < 1e-6


@pytest.mark.parametrize("implicit", [False, True])
def test_a_code_that_is_not_finite_makes_no_step_and_touches_no_other(implicit):
    f, z = problem("denoising")
    broken = z.clone()
    broken[2, 0] = torch.nan

    def step(codes: Tensor):
        made = ImplicitModel.at(f, codes, 1e-9) if implicit else DirectModel.at(f, codes, True)
        return made[1].step(torch.ones(4, dtype=torch.float64))

    clean, dirty = step(z), step(broken)
    assert not bool(torch.isfinite(dirty.size[2]))
    others = torch.tensor([0, 1, 3])
    for mine, theirs in zip(vars(dirty).values(), vars(clean).values(), strict=True):
        if mine is None and implicit:  # what only a matrix knows
            continue
        torch.testing.assert_close(mine[others], theirs[others], rtol=1e-9, atol=1e-12)
