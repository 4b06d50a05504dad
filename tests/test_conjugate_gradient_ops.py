"""The operators conjugate_gradient_step and conjugate_gradient_direction."""

from __future__ import annotations

import pytest
import torch
from op_cases import DTYPES, SIZES, TOLERANCE, draw, scattered

from jpmap_fast import kernels
from jpmap_fast.kernels import reference


def step_arguments(batch, size, dtype, device):
    p = draw((batch, size), dtype, device, 2, False)
    # q = S p with S diagonal and positive, so that <p, q> is well away from zero.
    q = p * (0.5 + draw((batch, size), dtype, device, 3, True))
    x = draw((batch, size), dtype, device, 0, False)
    r = draw((batch, size), dtype, device, 1, False)
    rho = 0.1 * size * (0.5 + draw((batch,), dtype, device, 4, True))
    active = draw((batch,), dtype, device, 5, True) > 0.3
    return [x, r, p, q, rho, active]


def clones(args):
    return [a.clone() for a in args]


def doubled(args):
    return [a.clone() if a.dtype == torch.bool else a.double().clone() for a in args]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, size", SIZES)
def test_step_agrees_with_its_float64_twin(batch, size, dtype, device):
    args = step_arguments(batch, size, dtype, device)
    precise = doubled(args)
    start, before = precise[0].square().sum(dim=1), precise[1].square().sum(dim=1)
    rho = kernels.conjugate_gradient_step(*args)
    expected = reference.conjugate_gradient_step(*precise)
    if batch == 0:
        return
    # x + alpha p and r - alpha q may cancel, so errors are measured against their terms.
    curvature = (precise[2] * precise[3]).sum(dim=1)
    alpha = precise[4] / curvature
    terms = start + alpha.square() * precise[2].square().sum(dim=1)
    assert ((args[0].double() - precise[0]).norm(dim=1) / terms.sqrt()).max() <= TOLERANCE[dtype]
    terms = before + alpha.square() * precise[3].square().sum(dim=1)
    assert ((args[1].double() - precise[1]).norm(dim=1) / terms.sqrt()).max() <= TOLERANCE[dtype]
    kept = torch.where(args[5], terms, expected)
    assert ((rho.double() - expected).abs() / kept).max() <= 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, size", SIZES)
def test_direction_agrees_with_its_float64_twin(batch, size, dtype, device):
    x, r, p, _, rho, active = step_arguments(batch, size, dtype, device)
    rho_new = rho * draw((batch,), dtype, device, 6, True)
    args = [p, r, rho_new, rho, active]
    precise = doubled(args)
    kernels.conjugate_gradient_direction(*args)
    reference.conjugate_gradient_direction(*precise)
    scale = precise[0].abs().amax(dim=1) + 1 if batch else 1
    if batch:
        assert ((p.double() - precise[0]).abs().amax(dim=1) / scale).max() < TOLERANCE[dtype]


def test_frozen_rows_keep_every_bit_even_nan(device):
    args = step_arguments(6, 100, torch.float32, device)
    args[5] = torch.tensor([True, False, True, False, True, True], device=device)
    for tensor in args[:4]:
        tensor[1] = torch.nan
    before = clones(args)
    rho = kernels.conjugate_gradient_step(*args)
    for row in (1, 3):
        assert torch.equal(rho[row], before[4][row])
        for a, b in zip(args[:2], before[:2], strict=True):
            assert torch.equal(a[row].view(torch.int32), b[row].view(torch.int32))
    assert torch.isfinite(args[0][[0, 2, 3, 4, 5]]).all()
    p = before[2].clone()
    kernels.conjugate_gradient_direction(p, args[1], rho, before[4], args[5])
    for row in (1, 3):
        assert torch.equal(p[row].view(torch.int32), before[2][row].view(torch.int32))


def test_no_curvature_and_no_residual_mean_no_step(device):
    args = step_arguments(3, 50, torch.float64, device)
    args[5] = torch.ones(3, dtype=torch.bool, device=device)
    args[3][0] = -args[2][0]  # <p, q> < 0
    args[4][1] = 0
    before = clones(args)
    rho = kernels.conjugate_gradient_step(*args)
    assert torch.equal(args[0][:2], before[0][:2]) and torch.equal(args[1][:2], before[1][:2])
    assert torch.isfinite(rho).all() and not torch.equal(args[0][2], before[0][2])
    p = before[2].clone()
    kernels.conjugate_gradient_direction(p, before[1], rho, before[4], args[5])
    assert torch.equal(p[1], before[1][1])


@pytest.mark.parametrize("size", [33, 784, 12_288])
def test_a_row_keeps_its_bits_in_any_batch(size, device):
    args = step_arguments(37, size, torch.float32, device)
    whole = clones(args)
    rho = kernels.conjugate_gradient_step(*whole)
    for rows in (slice(5, 6), slice(30, 37)):
        part = [a[rows].clone() for a in args]
        assert torch.equal(kernels.conjugate_gradient_step(*part), rho[rows])
        assert torch.equal(part[0], whole[0][rows]) and torch.equal(part[1], whole[1][rows])


def test_inputs_may_be_scattered_but_outputs_may_not(device):
    args = step_arguments(4, 60, torch.float32, device)
    other = clones(args)
    for place in (2, 3, 4, 5):
        other[place] = scattered(other[place])
    rho = kernels.conjugate_gradient_step(*args)
    assert torch.equal(rho, kernels.conjugate_gradient_step(*other))
    assert torch.equal(args[0], other[0])
    other[0] = scattered(other[0])
    with pytest.raises(ValueError, match="expected x contiguous"):
        kernels.conjugate_gradient_step(*other)
    with pytest.raises(ValueError, match="expected p contiguous"):
        kernels.conjugate_gradient_direction(scattered(args[2]), args[1], args[4], args[4], args[5])


def test_opcheck(device):
    args = step_arguments(3, 20, torch.float64, device)
    torch.library.opcheck(torch.ops.jpmap.conjugate_gradient_step.default, tuple(args))
    x, r, p, _, rho, active = args
    torch.library.opcheck(
        torch.ops.jpmap.conjugate_gradient_direction.default, (p, r, rho * 0.5, rho, active)
    )


@pytest.mark.parametrize(
    "place, value, error, message",
    [
        (1, torch.zeros(2, 5), ValueError, r"r of shape \[2, 4\], got \[2, 5\]"),
        (4, torch.zeros(3), ValueError, r"rho of shape \[2\], got \[3\]"),
        (5, torch.zeros(2), TypeError, "active in torch.bool"),
        (5, torch.zeros(3, dtype=torch.bool), ValueError, r"active of shape \[2\]"),
    ],
)
def test_misfits_are_refused(place, value, error, message):
    args = step_arguments(2, 4, torch.float32, torch.device("cpu"))
    args[place] = value
    with pytest.raises(error, match=message):
        kernels.conjugate_gradient_step(*args)


@pytest.mark.cuda
@pytest.mark.parametrize(
    "where",
    [
        "cpu",
        pytest.param(
            "cuda:1",
            marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU"),
        ),
    ],
)
def test_flags_on_another_device_are_refused(where):
    *given, active = step_arguments(3, 33, torch.float32, torch.device("cuda"))
    with pytest.raises(RuntimeError, match=f"expected active on the device.*got {where}"):
        torch.ops.jpmap.conjugate_gradient_step(*given, active.to(where))
