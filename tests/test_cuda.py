"""Whole restorations and training on a GPU."""

from __future__ import annotations

import pytest
import torch
from problems import CASE_NAMES, IMAGE_SHAPE, case, small_mlp

import jpmap_fast as jf
from jpmap_fast.training import train

pytestmark = pytest.mark.cuda


def on_gpu(operator):
    if isinstance(operator, jf.LinearOperator):
        forward, adjoint = operator.A, operator.A_adjoint
        return jf.LinearOperator(
            lambda x: forward(x.cpu()).cuda(), lambda y: adjoint(y.cpu()).cuda()
        )
    return operator.to(device="cuda")


@pytest.mark.parametrize("name", CASE_NAMES)
@pytest.mark.parametrize("method", ["jpmap", "map-z", "csgm", "alternate-convex-search"])
def test_gpu_and_cpu_end_at_the_same_point(name, method):
    """float64: the same minimum, up to where the solvers stop (1e-4 in z, squared in J1)."""
    c = case(name)
    cpu = jf.restore(c.y, c.operator, small_mlp(), c.sigma, method=method)
    gpu = jf.restore(
        c.y.cuda(), on_gpu(c.operator), small_mlp().cuda(), c.sigma.cuda(), method=method
    )
    assert gpu.x.is_cuda
    assert gpu.status == cpu.status
    torch.testing.assert_close(gpu.objective.cpu(), cpu.objective, rtol=1e-6, atol=0)
    torch.testing.assert_close(gpu.x.cpu(), cpu.x, rtol=0, atol=1e-3)


def problems(digits):
    g = torch.Generator().manual_seed(0)
    for operator, sigma in (
        (jf.Denoising(), 110 / 255),
        (jf.Inpainting((torch.rand(28, 28, generator=g) < 0.2).float()), 10 / 255),
        (jf.CompressedSensing.gaussian(140, (1, 28, 28), g), 10 / 255),
    ):
        operator = operator.to(dtype=digits.dtype)
        yield operator.to(device="cuda"), operator.measure(digits, sigma, g).cuda(), sigma


def test_digits_restore_on_the_gpu_as_well_as_on_the_cpu():
    """float32 rounds differently there; nearly every digit must reach the same J1 to 0.1%."""
    prior = jf.load_prior("mnist")
    gpu_prior = jf.load_prior("mnist", device="cuda")
    digits = jf.mnist_test_digits(40)[0]
    for operator, y, sigma in problems(digits):
        gpu = jf.restore(y, operator, gpu_prior, sigma)
        cpu = jf.restore(y.cpu(), operator.to(device="cpu"), prior, sigma)
        assert gpu.converged.all()
        same = gpu.objective.cpu() <= 1.001 * cpu.objective
        assert same.float().mean() >= 0.95


def test_an_image_alone_and_in_a_batch_agree():
    """float64, tight solver: to 1e-5, although the library's kernels differ by batch."""
    prior = jf.load_prior("mnist", device="cuda", dtype=torch.float64)
    digits = jf.mnist_test_digits(9)[0].double()
    method = jf.JPMAP(z_solver=jf.GaussNewton(tolerance=1e-8))
    for operator, y, sigma in problems(digits):
        whole = jf.restore(y, operator, prior, sigma, method=method)
        for i in (0, 5):
            alone = jf.restore(y[i], operator, prior, sigma, method=method)
            torch.testing.assert_close(alone.x, whole.x[i], rtol=0, atol=1e-5)


def test_a_bad_image_touches_no_other():
    prior = jf.load_prior("mnist", device="cuda")
    digits = jf.mnist_test_digits(9)[0]
    for operator, y, sigma in problems(digits):
        clean = jf.restore(y, operator, prior, sigma)
        y[4].view(-1)[0] = torch.nan
        dirty = jf.restore(y, operator, prior, sigma)
        assert dirty.status[4].startswith("failed")
        others = [i for i in range(9) if i != 4]
        ratio = dirty.objective[others] / clean.objective[others]
        assert (ratio - 1).abs().median() < 1e-5


def test_tensors_on_two_devices_are_refused():
    y = torch.zeros(2, *IMAGE_SHAPE, dtype=torch.float64)
    with pytest.raises(ValueError, match="on one device, got cuda:0 and cpu"):
        jf.restore(y.cuda(), jf.Denoising(), small_mlp(), 0.1)


def test_numpy_measurements_go_to_the_priors_device():
    result = jf.restore(
        torch.zeros(2, *IMAGE_SHAPE).numpy(), jf.Denoising(), small_mlp().cuda(), 0.1
    )
    assert result.x.is_cuda


def test_training_by_graph_is_training_by_hand():
    """The captured step runs the same kernels: the weights agree to float32 rounding."""
    images = jf.mnist_test_digits(100)[0]
    options = {"hidden": (32, 32), "epochs": 12, "batch_size": 16, "progress": False}
    graph = train(images, device="cuda", **options)
    eager = train(images, device="cuda", cuda_graph=False, **options)
    for a, b in zip(graph.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert graph.gamma == pytest.approx(float(graph.log_gamma.exp()), rel=1e-6)
