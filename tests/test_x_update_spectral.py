"""The operator x_update_spectral."""

from __future__ import annotations

import pytest
import torch
from op_cases import DTYPES, draw, rows_error, scattered
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast.kernels import reference

# Relative: a few roundings a frequency, products of complex numbers and, in float32, f^2 aliases
# added up one by one.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-13}
# Channels, height, width, factor: both parities, a blur and every kind of folding, one pixel,
# several chunks.
SIZES = [
    (1, 6, 5, 1),
    (3, 5, 6, 1),
    (1, 28, 28, 1),
    (1, 1, 1, 1),
    (1, 4, 1, 1),
    (1, 2, 2, 2),
    (2, 6, 8, 2),
    (1, 10, 6, 2),
    (3, 6, 9, 3),
    (1, 9, 6, 3),
    (1, 8, 8, 4),
    (1, 5, 5, 5),
    (3, 64, 64, 1),
    (3, 64, 64, 2),
    (1, 300, 130, 1),
    (1, 300, 130, 10),
]
KERNELS = ["shared", "channels", "image", "image-channels"]


def arguments(batch, size, dtype, device, kernel="shared"):
    channels, height, width, factor = size
    kernels_ = {
        "shared": (1,),
        "channels": (channels,),
        "image": (batch, 1),
        "image-channels": (batch, channels),
    }[kernel]

    def spectrum(shape: tuple[int, ...], seed: int) -> Tensor:
        images = draw(shape, torch.float64, torch.device("cpu"), seed, True)
        if images.numel() == 0:
            return torch.zeros(*shape[:-1], shape[-1] // 2 + 1, 2, dtype=dtype, device=device)
        return torch.view_as_real(torch.fft.rfft2(images)).to(dtype).contiguous().to(device)

    scale = 4 / (height * width)  # a kernel whose sum is about 2
    return [
        spectrum((batch, channels, height, width), 0),
        spectrum((batch, channels, height // factor, width // factor), 1),
        scale * spectrum((*kernels_, height, width), 2),
        draw((batch, 8), dtype, device, 3, False),
        1 + 50 * draw((batch,), dtype, device, 4, True),
        0.1 + draw((batch,), dtype, device, 5, True),
        width,
        factor,
    ]


def exact(args):
    double = [a.cpu().double() if isinstance(a, Tensor) else a for a in args]
    return [value.to(args[0].device) for value in reference.x_update_spectral(*double)]


def test_twin_is_the_x_update_of_a_dense_system():
    """Against (A^T A / sigma^2 + beta I) x = A^T y / sigma^2 + beta G with A built by the FFT."""
    height, width, factor = 6, 4, 2
    args = arguments(1, (1, height, width, factor), torch.float64, torch.device("cpu"))
    decoded, y, kernel = (torch.view_as_complex(a) for a in args[:3])
    g = torch.fft.irfft2(decoded, s=(height, width)).flatten()
    v = torch.fft.irfft2(y, s=(3, 2)).flatten()
    basis = torch.eye(24, dtype=torch.float64).reshape(24, height, width)
    blurred = torch.fft.irfft2(kernel * torch.fft.rfft2(basis), s=(height, width))
    a = blurred[:, ::2, ::2].flatten(1).T
    z, beta, variance = args[3][0], args[4][0], args[5][0] ** 2
    system = a.T @ a / variance + beta * torch.eye(24, dtype=torch.float64)
    x = torch.linalg.solve(system, a.T @ v / variance + beta * g)
    step, objective, gap = reference.x_update_spectral(*args)
    added = torch.fft.irfft2(torch.view_as_complex(step), s=(height, width), norm="forward")
    torch.testing.assert_close(g + added.flatten(), x)
    j1 = (a @ x - v).square().sum() / (2 * variance) + beta / 2 * (x - g).square().sum()
    torch.testing.assert_close(objective[0], j1 + z.square().sum() / 2)
    torch.testing.assert_close(gap[0], (x - g).square().sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", SIZES)
def test_is_accurate(size, kernel, dtype, device):
    for batch in (0, 3):
        args = arguments(batch, size, dtype, device, kernel)
        for found, expected in zip(kernels.x_update_spectral(*args), exact(args), strict=True):
            assert found.shape == expected.shape and found.dtype == dtype
            assert rows_error(found, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [1, 2])
def test_infinite_beta_gives_no_step_and_the_latent_objective(factor, dtype, device):
    args = arguments(4, (1, 28, 28, factor), dtype, device)
    args[4][1] = torch.inf
    found = kernels.x_update_spectral(*args)
    for value, expected in zip(found, exact(args), strict=True):
        assert rows_error(value, expected) <= TOLERANCE[dtype]
    assert (found[0][1] == 0).all() and found[2][1] == 0


@pytest.mark.parametrize("factor", [1, 2])
def test_memory_layout_does_not_matter(factor, device):
    args = arguments(3, (3, 8, 6, factor), torch.float32, device)
    found = kernels.x_update_spectral(*(scattered(a) if isinstance(a, Tensor) else a for a in args))
    for a, b in zip(found, kernels.x_update_spectral(*args), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("size", [(1, 28, 28, 1), (3, 64, 64, 2), (1, 300, 130, 1)])
def test_an_image_keeps_its_bits_in_any_batch(size, device):
    args = arguments(17, size, torch.float32, device, "image")
    whole = kernels.x_update_spectral(*args)
    for rows in (slice(5, 6), slice(10, 17)):
        part = [a[rows].clone() if isinstance(a, Tensor) else a for a in args]
        for a, b in zip(kernels.x_update_spectral(*part), whole, strict=True):
            assert torch.equal(a, b[rows])


def test_nan_stays_in_its_image(device):
    args = arguments(5, (1, 28, 28, 2), torch.float32, device)
    clean = kernels.x_update_spectral(*args)
    args[1][4, 0, 3, 3, 0] = torch.nan
    dirty = kernels.x_update_spectral(*args)
    assert torch.isnan(dirty[1][4])
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a[:4], b[:4])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("factor", [1, 2])
def test_opcheck(kernel, factor, device):
    torch.library.opcheck(
        torch.ops.jpmap.x_update_spectral.default,
        tuple(arguments(2, (3, 6, 4, factor), torch.float64, device, kernel)),
    )


@pytest.mark.parametrize(
    "place, value, error, message",
    [
        (0, torch.zeros(2, 4), ValueError, r"decoded of shape \[B, C, H, W // 2 \+ 1, 2\]"),
        (0, torch.zeros(2, 3, 6, 3, 2).half(), TypeError, "decoded in float32 or float64"),
        (0, torch.zeros(2, 3, 6, 4, 2), ValueError, r"decoded of shape \[2, 3, 6, 3, 2\]"),
        (1, torch.zeros(2, 3, 6, 3, 2), ValueError, r"y of shape \[2, 3, 3, 2, 2\]"),
        (2, torch.zeros(2, 6, 3, 2), ValueError, r"kernel of shape \[3, 6, 3, 2\]"),
        (3, torch.zeros(3, 8), ValueError, r"z of shape \[2, 8\], got \[3, 8\]"),
        (4, torch.zeros(3), ValueError, r"beta of shape \[2\], got \[3\]"),
        (5, torch.zeros(2).double(), TypeError, "sigma in torch.float32"),
        (7, 4, ValueError, "expected a factor >= 1 that divides 6 x 4, got 4"),
    ],
)
def test_misfits_are_refused(place, value, error, message):
    args = arguments(2, (3, 6, 4, 2), torch.float32, torch.device("cpu"))
    args[place] = value
    with pytest.raises(error, match=message):
        kernels.x_update_spectral(*args)


def test_the_operator_itself_refuses_misfits():
    """The backstop behind the Python checks, for who calls torch.ops directly."""
    args = arguments(2, (3, 6, 4, 2), torch.float32, torch.device("cpu"))
    args[1] = torch.zeros(2, 3, 6, 3, 2)
    with pytest.raises(RuntimeError, match="expected y of size 3 in dimension 2, got 6"):
        torch.ops.jpmap.x_update_spectral(*args)


@pytest.mark.cuda
@pytest.mark.parametrize("size", [(3, 64, 64, 1), (3, 64, 64, 2)])
def test_cpu_and_cuda_agree(size):
    args = arguments(16, size, torch.float64, torch.device("cpu"))
    on_gpu = kernels.x_update_spectral(*(a.cuda() if isinstance(a, Tensor) else a for a in args))
    for a, b in zip(kernels.x_update_spectral(*args), on_gpu, strict=True):
        assert rows_error(b.cpu(), a) <= TOLERANCE[torch.float64]


@pytest.mark.cuda
def test_runs_in_a_cuda_graph():
    args = arguments(30, (1, 28, 28, 2), torch.float32, torch.device("cuda"))
    kernels.x_update_spectral(*args)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kernels.x_update_spectral(*args)
    args[1].copy_(torch.rand_like(args[1]))
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(captured, kernels.x_update_spectral(*args), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_spectra_that_begin_between_two_numbers(dtype, which, device):
    """Right on the CPU; a GPU reads pairs and says so."""
    given = arguments(2, (1, 6, 8, 2), dtype, device)
    expected = kernels.x_update_spectral(*given)
    room = given[which].new_empty(given[which].numel() + 1)
    given[which] = room[1:].view(given[which].shape).copy_(given[which])
    if device.type == "cuda":
        with pytest.raises(RuntimeError, match="aligned to"):
            kernels.x_update_spectral(*given)
    else:
        for a, b in zip(kernels.x_update_spectral(*given), expected, strict=True):
            assert torch.equal(a, b)
