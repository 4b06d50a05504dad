"""What the compiled module says of the CUDA kernels: what runs where. No GPU needed."""

from __future__ import annotations

import random

import pytest
import torch

from jpmap_fast import _C, kernels
from jpmap_fast.kernels import mlp as mlp_kernels
from jpmap_fast.kernels.mlp_network import SPLIT_SCALE, scale_of, split

# The least that a device of compute capability 8.0 or higher offers a block.
LEAST_SHARED_MEMORY = 99 * 1024


@pytest.mark.parametrize(
    "ptx, binary, holds",
    [
        (90, 90, True),
        (100, 100, True),
        (90, 120, True),  # translated, from code that has a body
        (80, 80, False),
        (80, 90, False),  # built for 80, translated on a device of 9.0: an empty kernel
        (86, 100, False),
    ],
)
def test_clusters_run_only_in_code_built_for_them(ptx, binary, holds):
    assert _C.holds_clusters(ptx, binary) is holds


def networks(count):
    """Networks of all shapes, those whose pieces a tile's size once decided among them."""
    draw = random.Random(0)
    found = [(8, [512, 512, p]) for p in range(480, 800, 16)] + [(8, [512, 512, 784, 140])]
    for _ in range(count):
        layers = draw.randint(1, mlp_kernels.MAX_LAYERS)
        found.append((draw.randint(1, 64), [draw.randint(1, 3000) for _ in range(layers)]))
    return found


def test_pieces_of_a_sum_are_the_networks_whatever_tile_an_image_is_in():
    for latent, widths in networks(300):
        layouts = [
            _C.mlp_layout(latent, widths, images, rows)
            for images in range(1, 33)
            for rows in (16, 32, 64)
        ]
        assert len({layout["piece"] for layout in layouts}) == 1, (latent, widths)


def test_pieces_fit_into_every_tile():
    for latent, widths in networks(300):
        for images, rows in ((1, 16), (16, 64), (32, 32)):
            at = _C.mlp_layout(latent, widths, images, rows)
            assert 0 < at["piece"] <= -(-widths[-1] // 32) * 32 and at["piece"] % 32 == 0
            rows = -(-images // 16) * 16
            strides = [-(-width // 32) * 32 for width in widths[:-1]] + [at["piece"]]
            for layer, stride in enumerate(strides):
                area = at["area"][layer % 2]
                assert 2 * at["tangent_rows"] * (stride + 8) <= area, (latent, widths)
                assert 4 * rows * (stride + 4) <= area, (latent, widths)


def test_thirty_two_images_of_compressed_sensing_fit_into_a_block_of_an_h100():
    widths = [512, 512, 784, 140]
    room = 227 * 1024 - 4096
    assert _C.mlp_layout(8, widths, 32, 64)["bytes"] <= room


def test_the_least_tile_takes_the_least_memory():
    for latent, widths in networks(100):
        least = _C.mlp_shared_memory(latent, widths)
        for images, rows in ((1, 16), (2, 16), (1, 64), (32, 64)):
            assert least <= _C.mlp_layout(latent, widths, images, rows)["bytes"] + 4096
        assert least <= _C.mlp_shared_memory(latent, [width + 32 for width in widths])


def test_draws_fit_wherever_solves_do():
    for latent, widths in networks(2000):
        needed = _C.mlp_draw_memory(latent, widths, 16)
        room = max(_C.mlp_shared_memory(latent, widths), LEAST_SHARED_MEMORY)
        assert needed <= room, (latent, widths)


def test_tasks_take_more_memory_than_their_descents_and_what_passes_decides_how_much():
    for latent, widths in networks(100):
        whole = [*widths[:-1], widths[-1] + 50]
        encoder = [70, latent]
        needed = _C.mlp_task_memory(latent, widths, whole, encoder)
        assert needed > _C.mlp_shared_memory(latent, widths)
        assert needed >= _C.mlp_task_memory(latent, widths, whole, [])
        wide = _C.mlp_task_memory(latent, widths, whole, [60_000, latent])
        assert wide >= 2 * 16 * 4 * 60_000  # sixteen rows in two areas
    # The bundled prior for digits fits on the devices with 227 kB a block.
    mnist = _C.mlp_task_memory(8, [512, 512, 784], [512, 512, 784], [512, 512, 8])
    assert mnist <= 227 * 1024


def test_memory_of_networks_beyond_all_devices_is_counted_in_64_bits():
    for width in (10**7, 10**8, 10**9):
        assert _C.mlp_shared_memory(8, [width, 784]) > 64 * width


def test_networks_that_no_layout_describes_are_refused():
    for latent, widths in ((0, [4]), (65, [4]), (8, []), (8, [4] * 9)):
        with pytest.raises(ValueError, match="1 to 64 latent dimensions and 1 to 8 layers, got"):
            _C.mlp_shared_memory(latent, widths)


def test_systems_of_every_size_fit_on_every_device():
    sizes = [_C.damped_shared_memory(k) for k in range(1, kernels.MAX_DAMPED_SYSTEM + 1)]
    assert sizes == sorted(sizes) and sizes[-1] <= LEAST_SHARED_MEMORY


def parts_of(split_weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low parts of ``split``, [out, in] each in the order of the inputs."""
    tiles, width = split_weight.shape
    inputs, lanes = torch.arange(width // 16), 4 * torch.arange(8)[:, None]
    lane = lanes + inputs % 8 // 2
    places = 512 * (inputs // 32) + 8 * lane + 2 * (inputs % 32 // 8) + inputs % 2  # [8, in]
    high, low = split_weight[:, places], split_weight[:, places + 256]
    return high.reshape(8 * tiles, -1).double(), low.reshape(8 * tiles, -1).double()


@pytest.mark.parametrize("units", [1e-30, 1e-9, 1e-3, 1.0, 1e5, 1e30])
def test_weights_keep_their_digits_in_two_parts_in_any_units(units):
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 512, generator=g) * units
    scale = scale_of(weight)
    assert scale.shape == (1,) and float(torch.frexp(scale).mantissa) == 0.5  # a power of two
    found = split(weight, scale)
    assert found.dtype == torch.float16
    high, low = parts_of(found)
    by = SPLIT_SCALE * scale.double()
    error = ((high + low) / by - weight).abs()
    least = 2.0**-37 * weight.double().norm(dim=1).max()
    assert (error <= torch.maximum(2.0**-22 * weight.double().abs(), least)).all()
    assert 0.5 <= float((high / SPLIT_SCALE).norm(dim=1).max()) < 1.001


def test_scales_of_weights_that_have_none():
    for weight in (torch.zeros(8, 32), torch.full((8, 32), torch.inf)):
        scale = scale_of(weight)
        assert float(scale) == 1.0 and split(weight, scale).isinf().sum() == 0
    assert float(scale_of(torch.full((3, 4), torch.nan))) == 1.0
    scale = scale_of(torch.full((3, 4), 1e-44))
    assert 0 < float(scale) < torch.inf
