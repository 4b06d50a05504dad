"""Damped k x k systems: the compiled operator against its float64 twin."""

from __future__ import annotations

import pytest
import torch

from jpmap_fast import kernels
from jpmap_fast.kernels import reference
from jpmap_fast.kernels.damped_systems import with_share

DTYPES = [torch.float32, torch.float64]


def systems(k, device, dtype=torch.float64, batch=6):
    """A positive definite matrix, a Hessian that is not for images 1 and 4, g and mu."""
    g = torch.Generator().manual_seed(k)
    rows = torch.randn(batch, k, k + 3, generator=g, dtype=torch.float64)
    matrix = rows @ rows.mT / k + torch.eye(k, dtype=torch.float64)
    hessian = matrix + 0.1 * torch.eye(k, dtype=torch.float64)
    hessian[1] -= 100 * torch.eye(k, dtype=torch.float64)
    hessian[4, -1, -1] = -1e-3
    gradient = torch.randn(batch, k, generator=g, dtype=torch.float64)
    damping = torch.logspace(-3, 3, batch, dtype=torch.float64).to(device)
    return *(t.to(device, dtype) for t in (matrix, hessian, gradient)), damping


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 31, 64, 97, 128])
def test_solves_with_the_share_of_the_hessian_that_leaves_it_firm(device, k, dtype):
    matrix, hessian, gradient, damping = systems(k, device, dtype)
    for mu in (None, damping):
        found, share = kernels.damped_solve(matrix, hessian, gradient, mu)
        expected, should = reference.damped_solve(matrix, hessian, gradient, mu)
        assert torch.equal(share, should)
        # Cholesky in double of systems with a condition number below 1e4.
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
        chosen = with_share(matrix.double(), hessian.double(), share)
        if mu is not None:
            chosen = chosen + torch.diag_embed(mu[:, None].expand(-1, k))
        torch.testing.assert_close(
            (chosen @ found[:, :, None])[:, :, 0], gradient.double(), rtol=1e-8, atol=1e-8
        )
    share = kernels.damped_solve(matrix, hessian, gradient)[1]
    assert share[[0, 2, 3, 5]].tolist() == [1, 1, 1, 1] and share[1] == 0 and share[4] < 1


def test_the_share_is_the_largest_that_leaves_a_third_of_the_matrix(device):
    # 3 + s (h - 3) > 1: s < 2 / (3 - h).
    h = torch.tensor([5, 1.1, 0.9, -0.9, -1.1, -4.9, -5.1, torch.nan, -torch.inf], device=device)
    matrix, gradient = torch.full_like(h, 3.0), torch.full_like(h, 6.0)
    mu = torch.full_like(h, 7.0).double()
    for damping in (None, mu):
        solution, share = kernels.damped_solve(
            matrix[:, None, None], h[:, None, None], gradient[:, None], damping
        )
        assert share.tolist() == [1, 1, 0.5, 0.5, 0.25, 0.25, 0, 0, 0]
        left = torch.where(share > 0, 3 + share * (h - 3), 3.0).double()
        expected = 6 / (left if damping is None else left + mu)
        torch.testing.assert_close(solution[:, 0], expected, rtol=1e-6, atol=0)


def test_beside_a_minimum_it_is_the_hessian_alone(device):
    # Positive definite and far from firm: taken where its own step is no longer than 0.1.
    matrix = torch.full((4, 1, 1), 3.0, device=device)
    hessian = torch.tensor([0.5, 0.5, -0.5, 0.5], device=device)[:, None, None]
    gradient = torch.tensor([0.049, 0.051, 0.001, torch.nan], device=device)[:, None]
    solution, share = kernels.damped_solve(matrix, hessian, gradient)
    assert share.tolist() == [1, 0.5, 0.5, 0.5]
    assert float(solution[0]) == pytest.approx(0.098)


def test_one_image_does_not_spoil_another(device):
    matrix, hessian, gradient, damping = systems(8, device)
    clean, _ = kernels.damped_solve(matrix, hessian, gradient, damping)
    matrix[2], hessian[2] = torch.nan, torch.nan
    matrix[3], hessian[3] = -matrix[3], -hessian[3]
    found, share = kernels.damped_solve(matrix, hessian, gradient, damping)
    assert found[2].isnan().all() and share[2] == 0
    assert found[3].isnan().all() and share[3] == 0
    kept = torch.tensor([0, 1, 4, 5], device=device)
    assert torch.equal(found[kept], clean[kept])


def test_bits_do_not_depend_on_the_batch(device):
    given = systems(64, device, torch.float32)
    whole, _ = kernels.damped_solve(*given)
    for b in range(6):
        alone, _ = kernels.damped_solve(*(t[b : b + 1] for t in given))
        assert torch.equal(alone[0], whole[b])


def test_empty_batch(device):
    empty = [t[:0] for t in systems(4, device)]
    solution, share = kernels.damped_solve(*empty)
    assert solution.shape == (0, 4) and share.shape == (0,)


def test_operator_passes_opcheck(device):
    matrix, hessian, gradient, damping = systems(5, device, torch.float32)
    torch.library.opcheck(torch.ops.jpmap.damped_solve, (matrix, hessian, gradient, damping))
    torch.library.opcheck(torch.ops.jpmap.damped_solve, (matrix, None, gradient, None))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["matrix", "hessian", "gradient", "damping"])
def test_arguments_on_another_device_are_refused(name):
    names = ["matrix", "hessian", "gradient", "damping"]
    given = dict(zip(names, systems(4, "cuda"), strict=True))
    given[name] = given[name].cpu()
    with pytest.raises(ValueError, match="on c"):
        kernels.damped_solve(*given.values())
    with pytest.raises(RuntimeError, match="on the device of the first argument"):
        torch.ops.jpmap.damped_solve(*given.values())


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_damping_on_a_second_gpu_is_refused():
    *system, damping = systems(4, "cuda:0")
    with pytest.raises(RuntimeError, match="cuda:0, got cuda:1"):
        torch.ops.jpmap.damped_solve(*system, damping.to("cuda:1"))


def test_bad_arguments_are_named():
    matrix, hessian, gradient, damping = systems(4, "cpu")
    with pytest.raises(ValueError, match="matrix"):
        kernels.damped_solve(matrix[:, :3], hessian, gradient, damping)
    with pytest.raises(ValueError, match="damping"):
        kernels.damped_solve(matrix, hessian, gradient, damping[:2])
    with pytest.raises(TypeError, match="hessian"):
        kernels.damped_solve(matrix, hessian.float(), gradient, damping)
    with pytest.raises(ValueError, match="128"):
        big = torch.eye(129)[None]
        kernels.damped_solve(big, None, torch.ones(1, 129))
