"""The compiled pass of tangents through an activation against its float64 twin. CUDA only."""

from __future__ import annotations

import pytest
import torch

from jpmap_fast.kernels import reference
from jpmap_fast.kernels import tangents as tangent_kernels
from jpmap_fast.kernels.activations import ACTIVATION_CODES

# bfloat16 has 8 bits: a product of two such numbers, rounded once more, is right to 1.5 / 256.
ROUNDING = 2**-7


def arguments(k, channels, height, width, *, batch=3, add=True, shared=False, shuffled=False):
    g = torch.Generator(device="cuda").manual_seed(k + channels)
    n = channels * height * width

    def draw(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=g, device="cuda").to(dtype)

    before = draw(batch, channels, height * width)
    rows = (1 if shared else batch, k, n)
    return {
        "t": draw(*rows, dtype=torch.bfloat16),
        "add": draw(*rows, dtype=torch.bfloat16) if add else None,
        "before": before,
        "cotangent": draw(*before.shape),
        "width": width,
        "t_shuffled": shuffled,
        "add_shuffled": shuffled and add,
    }


@pytest.mark.cuda
@pytest.mark.parametrize("activation", sorted(ACTIVATION_CODES))
def test_every_activation_agrees_with_float64(activation):
    _agrees(activation, arguments(64, 16, 8, 8))


@pytest.mark.cuda
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("k", [1, 5, 64, 65, 128])
def test_every_layout_agrees_with_float64(k, shuffled, shared, add):
    given = arguments(k, 8, 12, 20, add=add, shared=shared, shuffled=shuffled)
    _agrees("elu", given)


@pytest.mark.cuda
@pytest.mark.parametrize("channels, height, width", [(256, 4, 4), (32, 32, 32), (1024, 1, 1)])
def test_sizes_of_real_networks(channels, height, width):
    _agrees("elu", arguments(64, channels, height, width))


def _agrees(activation, given):
    before = given["before"]
    act = reference.ACTIVATIONS[activation]
    after = act.value(before)
    batch, k = before.shape[0], given["t"].shape[1]
    slots = -(-given["t"].shape[2] // tangent_kernels.SPLIT) + 1
    curvature = torch.randn(batch, slots, k, k, device="cuda")
    exact = curvature.double().sum(1, keepdim=True)
    wide = {n: v.double() if torch.is_tensor(v) else v for n, v in given.items()}
    expected = reference.tangent_activation(
        **wide, after=act.value(wide["before"]), curvature=exact, activation=activation
    )
    out = tangent_kernels.tangent_activation(
        **given, after=after, curvature=curvature, activation=activation
    )
    assert out.shape == expected.shape and out.dtype == torch.bfloat16
    # Roundings of t + add, of the slope and of the product, each relative to what it rounds.
    size = given["t"].double().abs().mean() * (2 if given["add"] is not None else 1)
    assert ((out.double() - expected).abs() <= 2 * ROUNDING * (expected.abs() + size)).all()
    assert (out.double() - expected).norm() <= ROUNDING * expected.norm()
    error = (curvature.double().sum(1) - exact[:, 0]).norm()
    assert error <= ROUNDING * exact.norm()


@pytest.mark.cuda
def test_bits_do_not_depend_on_the_batch():
    given = arguments(64, 32, 16, 16, batch=5, shuffled=True)
    whole = _run(given)
    for b in (0, 3):
        part = {n: v[b : b + 1] if torch.is_tensor(v) else v for n, v in given.items()}
        for mine, all_ in zip(_run(part), whole, strict=True):
            assert torch.equal(mine[0], all_[b])


@pytest.mark.cuda
def test_operator_passes_opcheck():
    given = arguments(8, 8, 4, 4)
    after = torch.nn.functional.elu(given["before"])
    curvature = torch.zeros(3, 1, 8, 8, device="cuda")
    arguments_ = (given["t"], given["add"], given["before"], after, given["cotangent"], curvature)
    torch.library.opcheck(torch.ops.jpmap.tangent_activation, (*arguments_, 0, 4, False, False))


def _run(given):
    after = torch.nn.functional.elu(given["before"])
    slots = -(-given["t"].shape[2] // tangent_kernels.SPLIT)
    batch, k = after.shape[0], given["t"].shape[1]
    curvature = torch.zeros(batch, slots, k, k, device="cuda")
    out = tangent_kernels.tangent_activation(
        **given, after=after, curvature=curvature, activation="elu"
    )
    return out, curvature


@pytest.mark.parametrize(
    "t, before",
    [
        ((2, 4, 8, 8), (2, 8, 8)),  # neither rows nor images
        ((2, 4, 64), (2, 8, 8)),
        ((2, 4, 60), (2, 60)),  # not in pieces of 64
        ((2, 200, 64), (2, 64)),  # too many tangents
    ],
)
def test_other_layouts_are_left_to_torch(t, before, device):
    rows = torch.zeros(t, dtype=torch.bfloat16, device=device)
    assert not tangent_kernels.supported(rows, torch.zeros(before, device=device))


def test_other_types_are_left_to_torch(device):
    rows, numbers = torch.zeros(2, 4, 64, device=device), torch.zeros(2, 64, device=device)
    assert not tangent_kernels.supported(rows, numbers)
    assert not tangent_kernels.supported(rows.bfloat16(), numbers.bfloat16())
    assert tangent_kernels.supported(rows.bfloat16(), numbers) == (device.type == "cuda")
