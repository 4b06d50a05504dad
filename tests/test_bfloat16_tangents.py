"""Tangents in bfloat16 on the CPU: f and its gradient keep their bits, matrices most of theirs."""

from __future__ import annotations

from dataclasses import replace

import jpmap_fast._C as _C
import pytest
import torch
from test_mlp_kernels import BFLOAT16_TOLERANCE, fused, in_double, in_full, problem

from jpmap_fast.kernels.mlp import MLPLeastSquares, mlp_gauss_newton, mlp_restore
from jpmap_fast.kernels.mlp_network import paired
from jpmap_fast.objective import WeightedLeastSquares
from jpmap_fast.solvers import GaussNewton

SETTINGS = (1e-4, 100, 0.1, True)
on_such_a_processor = pytest.mark.skipif(
    not _C.takes_bfloat16(), reason="the processor has no products of bfloat16"
)


def narrow(form: MLPLeastSquares) -> MLPLeastSquares:
    """With tangents in bfloat16, whatever the processor has."""
    weights = [unpacked(w, len(b)) for w, b in zip(form.network.weights, widths(form), strict=True)]
    return replace(form, network=replace(form.network, tangents=[paired(w) for w in weights[1:]]))


def widths(form: MLPLeastSquares) -> list[range]:
    return [range(adjoint.shape[1]) for adjoint in form.network.adjoints]


def unpacked(packed: torch.Tensor, outputs: int) -> torch.Tensor:
    """W [out, in] of panels [panels, in, w]."""
    return packed.transpose(1, 2).flatten(0, 1)[:outputs]


@pytest.mark.parametrize("outputs, inputs", [(1, 1), (32, 2), (33, 7), (70, 64)])
def test_weights_are_rounded_to_nearest_in_pairs_of_inputs(outputs, inputs):
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=g)
    weight[0, 0] = torch.finfo(torch.float32).max  # rounds to infinity where nothing is done
    found = paired(weight)
    panels = -(-outputs // 32)
    assert found.shape == (panels, -(-inputs // 2), 64) and found.dtype == torch.bfloat16
    rows = found.reshape(panels, -1, 32, 2).transpose(1, 2).reshape(panels * 32, -1)
    assert bool(rows.isfinite().all())
    assert float(rows[0, 0]) == torch.finfo(torch.bfloat16).max
    rows[0, 0] = weight[0, 0] = 0
    assert torch.equal(rows[:outputs, :inputs], weight.bfloat16())
    assert not rows[outputs:].any() and not rows[:, inputs:].any()


def test_they_are_there_where_they_are_used():
    for dtype in (torch.float32, torch.float64):
        f, _ = problem(3, dtype=dtype)
        used = dtype == torch.float32 and _C.takes_bfloat16()
        assert len(fused(f).network.tangents) == (2 if used else 0)
        assert all(a is b for a, b in zip(*(fused(f).network.tangents for _ in "ab"), strict=True))


def test_a_package_is_right_on_any_processor():
    """Made where there are none it has other tensors in their place; made elsewhere it has them."""
    f, z = problem(20, dtype=torch.float32)
    form = in_full(fused(f))
    exact = mlp_gauss_newton(z, form)
    other = replace(form, network=replace(form.network, tangents=form.network.adjoints))
    assert all(map(torch.equal, mlp_gauss_newton(z, other), exact))
    found = mlp_gauss_newton(z, narrow(form))
    assert all(map(torch.equal, found[:3], exact[:3]))
    assert all(map(torch.equal, found[3:], exact[3:])) != _C.takes_bfloat16()


def in_units(first: int, second: int) -> tuple[WeightedLeastSquares, torch.Tensor]:
    """A problem whose second layer is 2^first times as large, its third 2^second times."""
    f, z = problem(20, hidden="relu", dtype=torch.float32)
    before, after = f.decoder.layers[1:]  # type: ignore[attr-defined]
    before.weight.mul_(2.0**first)
    before.bias.mul_(2.0**first)
    after.weight.mul_(2.0**second)
    return f, z


@on_such_a_processor
@pytest.mark.parametrize("exponent", [-100, 100])
def test_units_of_a_layer_do_not_matter(exponent):
    """bfloat16 has float32's range, so that no scale is needed."""
    f, z = in_units(exponent, -exponent)
    exact = in_double(f).newton_system(z.double())
    for a, b in zip(mlp_gauss_newton(z, fused(f))[3:], exact[2:], strict=True):
        assert b is not None and (a - b).norm() <= BFLOAT16_TOLERANCE * b.norm()


@on_such_a_processor
def test_what_is_below_the_least_normal_number_is_zero_in_tangents_alone():
    """Weights below 2^-126 leave no tangents; f and its gradient are whole, and ends are ends."""
    f, z = in_units(-127, 124)
    form = fused(f)
    exact, found = mlp_gauss_newton(z, in_full(form)), mlp_gauss_newton(z, form)
    assert all(map(torch.equal, found[:3], exact[:3]))
    identity = torch.eye(3, dtype=torch.float64).expand(20, 3, 3)
    assert torch.equal(found[3], identity)
    assert float((exact[3] - identity).amax()) > 1e-2
    end, value, _, converged = mlp_restore(z, form, *SETTINGS)
    assert bool(converged.all()) and bool((value < exact[1]).all())
    assert torch.equal(value, mlp_gauss_newton(end, form)[1])
    torch.testing.assert_close(
        value, mlp_restore(z, in_full(form), *SETTINGS)[1], rtol=1e-3, atol=0
    )


@on_such_a_processor
def test_tangents_that_overflow_fail_the_image_and_no_other():
    f, z = problem(9, hidden="relu", dtype=torch.float32)
    clean = GaussNewton().minimise(f, z)
    z[4] = 1e30
    found = GaussNewton().minimise(f, z)
    others = torch.arange(9) != 4
    assert not bool(found.converged[4]) or bool(found.objective[4].isfinite())
    assert torch.equal(found.z[others], clean.z[others])


@on_such_a_processor
@pytest.mark.parametrize("sizes", [(8, 65, 70, 100), (5, 7, 9, 11, 13, 6)])
def test_solves_end_where_those_in_full_end(sizes):
    f, z = problem(100, sizes, dtype=torch.float32)
    form = fused(f)
    end, full = (mlp_restore(z, g, *SETTINGS) for g in (form, in_full(form)))
    assert bool(end[3].all()) and bool(full[3].all())
    # Of several minima rounding picks one, rarely another.
    as_low = end[1] <= full[1] * 1.001
    assert float(as_low.double().mean()) >= 0.97
    assert float(end[2].double().mean()) <= 1.1 * float(full[2].double().mean())


def test_tangents_that_do_not_fit_are_refused():
    f, z = problem(3, dtype=torch.float32)
    form = narrow(in_full(fused(f)))
    tangents = form.network.tangents

    def given(which: list[torch.Tensor], like: MLPLeastSquares = form) -> MLPLeastSquares:
        return replace(like, network=replace(like.network, tangents=which))

    with pytest.raises(RuntimeError, match="but the first, got 1 for 3 layers"):
        mlp_gauss_newton(z, given(tangents[:1]))
    with pytest.raises(RuntimeError, match="tangents"):
        mlp_restore(z, given([tangents[0], tangents[1][:, :-1].contiguous()]), *SETTINGS)
    with pytest.raises(RuntimeError, match="tangents"):
        mlp_restore(z, given([tangents[0], tangents[1].half()]), *SETTINGS)
    double, z64 = problem(3)
    with pytest.raises(RuntimeError, match="with float32 alone"):
        mlp_gauss_newton(z64, given(tangents, fused(double)))
