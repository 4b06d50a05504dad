"""The supervised network, and what all methods promise that a prior is compared with."""

from __future__ import annotations

import copy
import math
import sys

import pytest
import torch
from baseline_problems import (
    digits_problem,
    patch_mixture,
    shape_only,
    smooth_images,
    untrained_network,
)
from torch import nn

import jpmap_fast as jf
from jpmap_fast._metrics import psnr

deepinv = pytest.importorskip("deepinv")


from jpmap_fast.experiments.baselines import (  # noqa: E402
    EPLL,
    Supervised,
    TotalVariation,
    load_mixture,
    load_network,
    save_network,
)


@pytest.fixture
def mixture():
    return patch_mixture()


@pytest.fixture
def small_network():
    return untrained_network()


# The supervised network


def test_supervised_applies_the_network_to_the_adjoint(small_network):
    matrix = torch.randn(20, 12 * 12, generator=torch.Generator().manual_seed(0)) / 10
    operator = jf.CompressedSensing(matrix, (1, 12, 12))
    y = torch.randn(3, 20)
    result = jf.restore(y, operator, shape_only(1, 12, 12), 0.1, method=Supervised(small_network))
    expected = small_network((y @ matrix).reshape(3, 1, 12, 12))
    torch.testing.assert_close(result.x, expected)
    assert result.iterations.tolist() == [1, 1, 1] and result.converged.all()
    assert result.objective.isnan().all() and result.z.isnan().all()


def test_a_network_comes_back_from_its_file(small_network, tmp_path):
    path = tmp_path / "n.safetensors"
    save_network(small_network, path, 1, (4, 6))
    found = load_network(path)
    assert not any(module.training for module in found.modules())
    x = torch.rand(2, 1, 12, 12)
    # Kernels are rounded to 2^-11 of themselves, four layers deep.
    torch.testing.assert_close(found(x), small_network(x), rtol=0, atol=1e-2)
    for name, value in small_network.state_dict().items():
        if value.dim() < 2:
            torch.testing.assert_close(found.state_dict()[name], value)


def test_the_bundled_network_inpaints():
    problem = digits_problem(10)
    prior = shape_only(1, 28, 28)
    method = Supervised(load_network("mnist"))
    result = jf.restore(problem.y, problem.operator, prior, problem.sigma, method=method)
    measured = psnr(problem.display, problem.clean).mean()
    assert psnr(result.x, problem.clean).mean() > measured + 6


def test_supervised_refuses_what_it_cannot_use(small_network):
    with pytest.raises(TypeError, match="Supervised: expected a network"):
        Supervised(torch.relu)
    with pytest.raises(ValueError, match="evaluation mode"):
        Supervised(copy.deepcopy(small_network).train())
    halves = nn.AvgPool2d(2).eval()
    with pytest.raises(ValueError, match="expected a network to images"):
        jf.restore(
            torch.rand(1, 1, 8, 8),
            jf.Denoising(),
            shape_only(1, 8, 8),
            0.1,
            method=Supervised(halves),
        )


# All of them


def methods(mixture, network):
    return {
        "tv": TotalVariation(2.0),
        "epll": EPLL(mixture),
        "epll-absolute": EPLL(mixture, noise_levels=(0.3, 0.1), start=0.4),
        "supervised": Supervised(network),
    }


@pytest.mark.parametrize("name", ["tv", "epll", "epll-absolute", "supervised"])
def test_an_image_does_not_depend_on_its_batch(name, mixture, small_network):
    """Another noise level and another mask for each image; alone, in chunks and together."""
    generator = torch.Generator().manual_seed(4)
    operator = jf.Inpainting((torch.rand(5, 1, 16, 16, generator=generator) < 0.5).float())
    sigma = torch.tensor([0.05, 0.1, 0.1, 0.2, 0.3])
    y = operator.measure(smooth_images(5, 1, 16, 16), sigma, generator=generator)
    method = methods(mixture, small_network)[name]
    prior = shape_only(1, 16, 16)
    whole = jf.restore(y, operator, prior, sigma, method=method)
    chunks = jf.restore(y, operator, prior, sigma, method=method, chunk_size=2)
    bound = operator.bind((1, 16, 16), 5)
    for i in range(5):
        index = torch.tensor([i])
        alone = jf.restore(y[index], bound.select(index), prior, sigma[index], method=method)
        assert alone.iterations[0] == whole.iterations[i] == chunks.iterations[i]
        # Convolutions of other shapes may sum in another order.
        exact = {} if name == "supervised" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(alone.x[0], whole.x[i], **exact)
        torch.testing.assert_close(chunks.x[i], whole.x[i], **exact)
        torch.testing.assert_close(alone.objective[0], whole.objective[i], equal_nan=True)


@pytest.mark.parametrize("name", ["tv", "epll", "epll-absolute", "supervised"])
def test_nan_in_a_measurement_leaves_the_others_alone(name, mixture, small_network):
    y = smooth_images(3, 1, 16, 16)
    broken = y.clone()
    broken[1, 0, 3, 3] = math.nan
    method = methods(mixture, small_network)[name]
    prior = shape_only(1, 16, 16)
    found = jf.restore(broken, jf.Denoising(), prior, 0.1, method=method)
    expected = jf.restore(y[[0, 2]], jf.Denoising(), prior, 0.1, method=method)
    assert found.status[1].startswith("failed") and found.x[1].isnan().all()
    torch.testing.assert_close(found.x[[0, 2]], expected.x)
    assert found.converged.tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["tv", "epll", "epll-absolute", "supervised"])
def test_an_empty_batch_is_no_error(name, mixture, small_network):
    y = torch.zeros(0, 1, 16, 16)
    method = methods(mixture, small_network)[name]
    result = jf.restore(y, jf.Denoising(), shape_only(1, 16, 16), 0.1, method=method)
    assert result.x.shape == (0, 1, 16, 16) and result.objective.shape == (0,)


@pytest.mark.parametrize("load", [load_mixture, load_network])
def test_files_that_are_none(load, tmp_path):
    kind = "mixture" if load is load_mixture else "unet"
    with pytest.raises(ValueError, match=f"unknown {kind} 'nobody'; known: faces, mnist"):
        load("nobody")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path / "none.safetensors")
    path = tmp_path / "text.safetensors"
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(ValueError, match="damaged"):
        load(path)
    foreign = tmp_path / "prior.safetensors"
    jf.save_prior(jf.load_prior("mnist"), foreign)
    with pytest.raises(ValueError, match="got a foreign safetensors file"):
        load(foreign)


def test_without_deepinv_the_extra_is_named(monkeypatch, mixture):
    for name in [name for name in sys.modules if name.split(".")[0] == "deepinv"]:
        monkeypatch.delitem(sys.modules, name)

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "deepinv":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return None

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    y, prior = torch.rand(1, 1, 4, 4), shape_only(1, 4, 4)
    for action in (
        lambda: jf.restore(y, jf.Denoising(), prior, 0.1, method=TotalVariation(1.0)),
        lambda: load_network("mnist"),
        lambda: load_mixture("mnist"),
        lambda: EPLL(mixture),
    ):
        with pytest.raises(ImportError, match=r"deepinv.*jpmap_fast\[experiments\]"):
            action()
