"""The operator x_update_diagonal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from op_cases import DTYPES, SIZES, TOLERANCE, draw, rows_error, scattered

from jpmap_fast import kernels
from jpmap_fast.kernels import reference


def arguments(batch, pixels, dtype, device, weight="image"):
    weights = {
        "none": None,
        "shared": draw((pixels,), dtype, device, 2, True),
        "image": draw((batch, pixels), dtype, device, 2, True),
    }
    chosen = weights[weight]
    if chosen is not None:
        chosen = torch.where(chosen < 0.5, 0, chosen)  # half of it hidden, the rest weighted
    return [
        draw((batch, pixels), dtype, device, 0, True),
        draw((batch, pixels), dtype, device, 1, True),
        chosen,
        draw((batch, 8), dtype, device, 3, False),
        1 + 500 * draw((batch,), dtype, device, 4, True),
        0.02 + draw((batch,), dtype, device, 5, True),
    ]


def exact(args):
    """The formulas in extended precision: float64 would not do as a reference for float64."""
    decoded, y, weight, z, beta, sigma = (
        None if a is None else a.cpu().numpy().astype(np.longdouble) for a in args
    )
    w = np.ones_like(decoded) if weight is None else np.broadcast_to(weight, decoded.shape)
    noise, beta = (sigma**2)[:, None], beta[:, None]
    residual = y - w * decoded
    step = w * residual / (w**2 + beta * noise)
    data = (residual**2 / (noise + w**2 / beta)).sum(axis=1)
    values = decoded + step, (data + (z**2).sum(axis=1)) / 2, (step**2).sum(axis=1)
    return [torch.from_numpy(v.astype(np.float64)).to(args[0].device) for v in values]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", ["none", "shared", "image"])
@pytest.mark.parametrize("batch, pixels", SIZES)
def test_is_accurate(batch, pixels, weight, dtype, device):
    args = arguments(batch, pixels, dtype, device, weight)
    for found, expected in zip(kernels.x_update_diagonal(*args), exact(args), strict=True):
        assert found.shape == expected.shape and found.dtype == dtype
        assert rows_error(found, expected) <= TOLERANCE[dtype]


def test_cancellation_costs_no_accuracy(device):
    """y equal to w G but for its last digits: J1 and gap are still right to the same tolerance.

    float32 alone: for float64 even extended precision would not do as a reference.
    """
    dtype = torch.float32
    args = arguments(3, 784, dtype, device, "image")
    args[1] = args[2] * args[0] * (1 + 64 * torch.finfo(dtype).eps)
    args[3] = torch.zeros_like(args[3])
    for found, expected in zip(kernels.x_update_diagonal(*args), exact(args), strict=True):
        assert rows_error(found, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("weight", ["none", "shared", "image"])
def test_twin_says_the_same(weight, device):
    args = arguments(5, 784, torch.float64, device, weight)
    twin = reference.x_update_diagonal(*args)
    for found, expected in zip(kernels.x_update_diagonal(*args), twin, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_beta_gives_the_decoder_and_the_latent_objective(dtype, device):
    args = arguments(4, 784, dtype, device)
    args[4][1] = torch.inf
    found = kernels.x_update_diagonal(*args)
    for value, expected in zip(found, exact(args), strict=True):
        assert rows_error(value, expected) <= TOLERANCE[dtype]
    assert torch.equal(found[0][1], args[0][1]) and found[2][1] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layout_does_not_matter(dtype, device):
    args = arguments(5, 784, dtype, device)
    found = kernels.x_update_diagonal(*(scattered(a) for a in args))
    for a, b in zip(found, kernels.x_update_diagonal(*args), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("pixels", [33, 784, 12_288, 40_001])
def test_an_image_keeps_its_bits_in_any_batch(pixels, device):
    args = arguments(37, pixels, torch.float32, device)
    whole = kernels.x_update_diagonal(*args)
    for rows in (slice(5, 6), slice(30, 37), slice(0, 20)):
        part = kernels.x_update_diagonal(*(a[rows].clone() for a in args))
        for a, b in zip(part, whole, strict=True):
            assert torch.equal(a, b[rows])


def test_nan_stays_in_its_image(device):
    args = arguments(9, 784, torch.float32, device)
    clean = kernels.x_update_diagonal(*args)
    args[1][4, 100] = torch.nan
    dirty = kernels.x_update_diagonal(*args)
    assert torch.isnan(dirty[1][4])
    others = [i for i in range(9) if i != 4]
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a[others], b[others])


@pytest.mark.parametrize("weight", ["none", "shared", "image"])
def test_opcheck(weight, device):
    torch.library.opcheck(
        torch.ops.jpmap.x_update_diagonal.default,
        tuple(arguments(3, 33, torch.float64, device, weight)),
    )


@pytest.mark.parametrize(
    "place, value, error, message",
    [
        (0, torch.zeros(4), ValueError, r"decoded of shape \[B, n\], got \[4\]"),
        (0, torch.zeros(2, 4).half(), TypeError, "decoded in float32 or float64"),
        (1, torch.zeros(2, 5), ValueError, r"y of shape \[2, 4\], got \[2, 5\]"),
        (1, torch.zeros(2, 4).double(), TypeError, "y in torch.float32, got torch.float64"),
        (1, torch.zeros(2, 4, device="meta"), ValueError, "y on cpu, got meta"),
        (2, torch.zeros(3), ValueError, r"weight of shape \[4\], got \[3\]"),
        (2, torch.zeros(3, 4), ValueError, r"weight of shape \[2, 4\], got \[3, 4\]"),
        (3, torch.zeros(3, 8), ValueError, r"z of shape \[2, 8\], got \[3, 8\]"),
        (4, torch.zeros(3), ValueError, r"beta of shape \[2\], got \[3\]"),
        (5, torch.zeros(()), ValueError, r"sigma of shape \[2\], got \[\]"),
    ],
)
def test_misfits_are_refused(place, value, error, message):
    args = arguments(2, 4, torch.float32, torch.device("cpu"))
    args[place] = value
    with pytest.raises(error, match=message):
        kernels.x_update_diagonal(*args)


def test_the_operator_itself_refuses_misfits():
    """The backstop behind the Python checks, for who calls torch.ops directly."""
    args = arguments(2, 4, torch.float32, torch.device("cpu"))
    args[1] = torch.zeros(2, 5)
    with pytest.raises(RuntimeError, match="expected y of size 4 in dimension 1, got 5"):
        torch.ops.jpmap.x_update_diagonal(*args)


@pytest.mark.cuda
def test_runs_in_a_cuda_graph_on_the_callers_stream():
    device = torch.device("cuda")
    args = arguments(300, 784, torch.float32, device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        kernels.x_update_diagonal(*args)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kernels.x_update_diagonal(*args)
    args[1].copy_(torch.rand_like(args[1]))
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(captured, kernels.x_update_diagonal(*args), strict=True):
        assert torch.equal(a, b)


@pytest.mark.cuda
def test_cpu_and_cuda_agree():
    args = arguments(64, 784, torch.float64, torch.device("cpu"))
    on_gpu = kernels.x_update_diagonal(*(a.cuda() for a in args))
    for a, b in zip(kernels.x_update_diagonal(*args), on_gpu, strict=True):
        assert rows_error(b.cpu(), a) <= TOLERANCE[torch.float64]


@pytest.mark.cuda
def test_more_images_than_a_grid_dimension_holds():
    args = arguments(70_000, 5, torch.float32, torch.device("cuda"), "shared")
    for found, expected in zip(kernels.x_update_diagonal(*args), exact(args), strict=True):
        assert rows_error(found, expected) <= TOLERANCE[torch.float32]
