"""Numbers that tell the contents of tensors from others."""

from __future__ import annotations

import pytest
import torch

from jpmap_fast.kernels.fingerprint import fingerprints

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
# In numbers: none, within a word, within a stride of chains, about a piece of either device.
SIZES = [0, 1, 2, 3, 31, 32, 33, 4095, 4096, 4097, 16_384, 16_387, 70_001]


def one(tensor: torch.Tensor) -> int:
    (found,) = fingerprints([tensor])
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SIZES)
def test_every_number_counts(size, device):
    generator = torch.Generator().manual_seed(size)
    tensor = torch.randn(size, generator=generator).to(device)
    whole = one(tensor)
    assert one(tensor.clone()) == whole
    seen = {whole}
    places = {0, 1, size // 2, size - 2, size - 1} & set(range(size))
    for place in places:
        for bit in (0, 1, 22, 30, 31):
            other = tensor.clone()
            other.view(torch.int32)[place] ^= torch.tensor(-(1 << 31) if bit == 31 else 1 << bit)
            seen.add(one(other))
    assert len(seen) == 1 + 5 * len(places)


@pytest.mark.parametrize("device", DEVICES)
def test_changes_of_all_numbers_and_of_their_order(device):
    tensor = torch.randn(257, 64, generator=torch.Generator().manual_seed(0)).to(device)
    others = [
        -tensor,
        tensor.flip(0),
        tensor.flip(1),
        tensor[:, [1, 0, *range(2, 64)]],
        tensor.roll(128, 0),
        tensor + 1e-6,
        2 * tensor,
        torch.zeros_like(tensor),
        -torch.zeros_like(tensor),
    ]
    assert len({one(t) for t in [tensor, *others]}) == 1 + len(others)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.int64]
)
def test_any_type_any_layout_and_any_place_in_memory(dtype, device):
    wide = torch.arange(1001 * 3).reshape(1001, 3).remainder(7).to(device, dtype)
    whole = one(wide.clone())
    assert one(wide.T.contiguous().T) == whole
    memory = torch.zeros(wide.numel() + 3, dtype=dtype, device=device)
    for shift in range(4):  # where a word may begin between two
        view = memory[shift : shift + wide.numel()].view_as(wide)
        view.copy_(wide)
        assert one(view) == whole
        view[1000, 2] = 1 - view[1000, 2].to(torch.int64) % 2
        assert one(view) != whole


@pytest.mark.parametrize("device", DEVICES)
def test_many_tensors_at_once_are_each_alone(device):
    generator = torch.Generator().manual_seed(0)
    many = [torch.randn(37 * i, generator=generator).to(device) for i in range(150)]
    assert fingerprints(many) == [one(t) for t in many]
    assert fingerprints([]) == []


def test_threads_change_nothing():
    tensor = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(one(tensor))
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


@pytest.mark.cuda
def test_tensors_of_several_devices():
    on_host = torch.arange(5.0)
    assert fingerprints([on_host, on_host.cuda()]) == [one(on_host), one(on_host.cuda())]


@pytest.mark.parametrize("device", DEVICES)
def test_the_operator_is_registered_in_full(device):
    tensors = [torch.arange(5.0, device=device), torch.zeros(0, device=device)]
    torch.library.opcheck(torch.ops.jpmap.fingerprint.default, (tensors,))
