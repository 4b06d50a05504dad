"""Numbers that tell the contents of tensors from others, and what is kept by them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from problems import small_mlp
from small_photos import small_hierarchical_prior, small_patch_prior, small_photo_prior

import jpmap_fast as jf
from jpmap_fast._made_of_weights import MadeOfWeights, looked_at_once
from jpmap_fast.kernels.fingerprint import fingerprints
from jpmap_fast.residuals import ResidualCovariance

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


def test_a_value_is_kept_while_its_weights_stay():
    weights = [torch.zeros(3), torch.ones(2)]
    made: MadeOfWeights[object] = MadeOfWeights()
    first = made.get(weights, object)
    assert made.get(weights, object) is first
    weights[1].numpy()[0] = 2
    second = made.get(weights, object)
    assert second is not first and made.get(weights, object) is second
    assert made.get(weights, object, key="other") is not second
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert copied._kept is None


def test_within_a_call_weights_are_looked_at_once():
    weights, foreign = [torch.zeros(3), torch.ones(2)], torch.zeros(4)
    made: MadeOfWeights[object] = MadeOfWeights()
    asked = []

    def all_of_them() -> list[torch.Tensor]:
        asked.append(1)
        return weights

    with looked_at_once(all_of_them):
        first = made.get(weights[:1], object)
        weights[0].add_(1)
        assert made.get(weights[:1], object) is first
        assert made.get([weights[0], foreign], object) is not first
    assert asked == [1]
    assert made.get(weights[:1], object) is not first


def through_data(tensor: torch.Tensor) -> None:
    tensor.data.mul_(0.5).add_(0.01)


def through_numpy(tensor: torch.Tensor) -> None:
    array = tensor.detach().numpy()
    array *= 0.5
    array += 0.01


def of_codes(prior: jf.Prior) -> torch.Tensor:
    operator = jf.Inpainting(torch.arange(30).reshape(6, 5) % 2)
    y = torch.linspace(0, 1, 60, dtype=torch.float64).reshape(2, 1, 6, 5) * operator.mask
    return jf.restore(y, operator, prior, 0.1).x


def of_draws(prior: jf.Prior) -> torch.Tensor:
    y = torch.linspace(0, 1, 60, dtype=torch.float64).reshape(2, 1, 6, 5)
    generator = torch.Generator().manual_seed(0)
    return jf.sample(y, jf.Denoising(), prior, 0.1, draws=8, generator=generator).x


def of_pictures(prior: jf.Prior) -> torch.Tensor:
    y = torch.rand(1, 1, 24, 20, generator=torch.Generator().manual_seed(0))
    return jf.restore(y, jf.Denoising(), prior, 0.1).x


RESTORED = {
    "perceptrons": (small_mlp, of_codes),
    "draws": (small_mlp, of_draws),
    "photographs": (small_photo_prior, of_pictures),
    "hierarchy": (small_hierarchical_prior, of_pictures),
    "patches": (small_patch_prior, of_pictures),
}


@pytest.mark.parametrize("write", [through_data, through_numpy])
@pytest.mark.parametrize("kind", RESTORED)
def test_weights_written_to_in_any_way_are_the_weights(kind, write):
    """Neither counts a version of the tensor."""
    make, restored = RESTORED[kind]
    prior = make()
    before = restored(prior)
    for parameter in prior.parameters():
        write(parameter)
        fresh = make()
        fresh.load_state_dict(copy.deepcopy(prior.state_dict()))
        assert torch.equal(restored(prior), restored(fresh))
    assert not torch.equal(restored(prior), before)


def test_a_covariance_written_to_is_the_covariance():
    residual = ResidualCovariance(torch.full((4,), 0.5), torch.ones(4, 1))
    like = torch.zeros(1)
    residual.over(2.0, (1, 2, 2), like)
    residual.diagonal.numpy()[:] = 0.25
    found = residual.over(2.0, (1, 2, 2), like)
    assert torch.equal(found.diagonal, torch.full((4,), 0.0625))
    assert residual.over(2.0, (1, 2, 2), like) is found


@pytest.mark.cuda
def test_weights_written_to_on_a_gpu_are_the_weights():
    prior = small_mlp(dtype=torch.float32).cuda()
    operator = jf.Denoising()
    y = torch.linspace(0, 1, 60).reshape(2, 1, 6, 5).cuda()
    before = jf.restore(y, operator, prior, 0.1).x
    for parameter in prior.parameters():
        through_data(parameter)
        fresh = copy.deepcopy(prior)
        assert torch.equal(
            jf.restore(y, operator, prior, 0.1).x, jf.restore(y, operator, fresh, 0.1).x
        )
    assert not torch.equal(jf.restore(y, operator, prior, 0.1).x, before)


@pytest.mark.parametrize("device", DEVICES)
def test_the_operator_is_registered_in_full(device):
    tensors = [torch.arange(5.0, device=device), torch.zeros(0, device=device)]
    torch.library.opcheck(torch.ops.jpmap.fingerprint.default, (tensors,))


def test_what_is_known_by_its_name_is_not_looked_at(monkeypatch):
    def looked(tensors: object) -> list[int]:
        raise AssertionError("nobody can have written to it")

    monkeypatch.setattr("jpmap_fast._made_of_weights.fingerprints", looked)
    y = torch.full((1, 1, 28, 28), 0.5)
    assert jf.restore(y, jf.Denoising(), "mnist", 0.1).path == "compiled"
    with pytest.raises(AssertionError, match="written to"):
        jf.restore(y, jf.Denoising(), jf.load_prior("mnist"), 0.1)
