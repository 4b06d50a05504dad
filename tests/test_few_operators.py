"""What surrounds the one compiled call of a restoration: few operators, and nothing stale.

Each operator is a launch on a GPU, and each question to the device a wait: for one image they would
take longer than the restoration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from problems import IMAGE_SHAPE as SHAPE
from problems import small_mlp
from torch.utils._python_dispatch import TorchDispatchMode

import jpmap_fast as jf
from jpmap_fast._capture import Recorded
from jpmap_fast._per_image import filled, is_shared, own

ASKS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}

# Which are no launches: of memory alone, or of what has been copied from a GPU.
ON_HOST = {f"aten::{name}" for name in ("empty", "new_empty", "max", "aminmax", "stack", "equal")}
ON_HOST |= ASKS


class Counted(TorchDispatchMode):
    """Inside, operators that are more than views are counted, and those that wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.waits = 0

    @property
    def operators(self) -> int:
        """How many."""
        return len(self.names)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not func.is_view:
            self.names.append(func._schema.name)
        self.waits += func._schema.name in ASKS
        return func(*args, **(kwargs or {}))


def mask(seed: int) -> torch.Tensor:
    return (torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(seed)) < 0.5).float()


OPERATORS: dict[str, Callable[[], jf.Operator]] = {
    "denoising": jf.Denoising,
    "inpainting": lambda: jf.Inpainting(mask(0)),
    "compressed sensing": lambda: jf.CompressedSensing.gaussian(
        7, SHAPE, torch.Generator().manual_seed(1)
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_one_image_takes_few_operators_and_asks_the_device_hardly_ever(name):
    operator, prior = OPERATORS[name](), small_mlp(dtype=torch.float32)
    y = 0.5 * operator.A(torch.ones(1, *SHAPE))
    first = jf.restore(y, operator, prior, 0.1)
    with Counted() as counted:
        again = jf.restore(y, operator, prior, 0.1)
    assert first.path == again.path == "compiled"
    assert torch.equal(first.x, again.x)
    # The ends of y; and whether a mask is the one that all was made of.
    assert counted.waits <= 1 + (name == "inpainting")
    # A hundred once: y, sigma and beta looked at on the device, and everything about a mask anew.
    assert counted.operators <= 16
    made = [name for name in counted.names if name not in ON_HOST]
    # What is missing adds a constant; and measurements by a matrix have coordinates.
    of_y = {"inpainting": 5, "compressed sensing": 2}.get(name, 0)
    assert made.index("jpmap::mlp_jpmap") == of_y
    # Nothing waits for the restoration: a result has noise levels and weights of its own.
    assert len(made) - of_y == 4


@pytest.mark.parametrize("shared", ["tensor", "NumPy", "channels", "transposed"])
def test_a_mask_that_is_written_into_is_another(shared):
    """By whoever shares its memory: of NumPy's writing torch does not know."""
    prior = small_mlp(dtype=torch.float32)
    y = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(2))
    given, other = mask(3), mask(4)
    if shared == "transposed":
        given, other = given.T.contiguous(), other.T.contiguous()
    written = given.numpy() if shared == "NumPy" else given
    shown = {"channels": given[None], "transposed": given.T}.get(shared, written)
    operator = jf.Inpainting(shown)
    before = jf.restore(y, operator, prior, 0.05)
    written[:] = other.numpy() if shared == "NumPy" else other
    expected = jf.Inpainting(mask(4))
    found = jf.restore(y, operator, prior, 0.05)
    assert not torch.equal(found.x, before.x)
    assert torch.equal(found.x, jf.restore(y, expected, prior, 0.05).x)


def test_weights_that_are_written_into_are_others():
    prior, y = small_mlp(dtype=torch.float32), torch.full((1, *SHAPE), 0.5)
    before = jf.restore(y, jf.Denoising(), prior, 0.1)
    with torch.no_grad():
        prior.decoder_layers[-1].bias += 0.5
    found = jf.restore(y, jf.Denoising(), prior, 0.1)
    assert not torch.equal(found.x, before.x)
    fresh = small_mlp(dtype=torch.float32)
    fresh.load_state_dict(prior.state_dict())
    assert torch.equal(found.x, jf.restore(y, jf.Denoising(), fresh, 0.1).x)


def test_parameters_in_other_memory_are_others():
    """Gamma too, which is read once: torch gives all of them views of a vector, uncounted."""
    prior, y = small_mlp(dtype=torch.float32), torch.full((1, *SHAPE), 0.5)
    jf.restore(y, jf.Denoising(), prior, 0.1)
    vector = torch.nn.utils.parameters_to_vector(prior.parameters()).detach()
    torch.nn.utils.vector_to_parameters(vector + 0.1, prior.parameters())
    fresh = small_mlp(dtype=torch.float32)
    fresh.load_state_dict(prior.state_dict())
    assert prior.gamma == fresh.gamma
    found = jf.restore(y, jf.Denoising(), prior, 0.1)
    assert torch.equal(found.x, jf.restore(y, jf.Denoising(), fresh, 0.1).x)


@pytest.mark.parametrize("like", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [0.1, np.float32(0.1), np.float64(0.1), np.array(0.1), [0.1]])
def test_a_number_is_one_for_each_image_whatever_it_is_of(number, like):
    prior, y = small_mlp(dtype=like), torch.full((2, *SHAPE), 0.5, dtype=like)
    found = jf.restore(y, jf.Denoising(), prior, number)
    each = torch.as_tensor(np.asarray(number).reshape(-1)).to(like).expand(2)
    assert torch.equal(found.sigma, each)
    assert torch.equal(found.x, jf.restore(y, jf.Denoising(), prior, each).x)


@pytest.mark.parametrize("write", [lambda t: t.fill_(7), lambda t: t.numpy().fill(7)])
def test_what_a_result_holds_is_its_own(write):
    """Noise levels and weights are shared by calls, and nobody is given those."""
    prior, y = small_mlp(dtype=torch.float32), torch.full((1, *SHAPE), 0.5)
    for method in ("jpmap", "csgm", "map-z", jf.JPMAP(beta=30.0), jf.JPMAP(max_iterations=1)):
        first = jf.restore(y, jf.Denoising(), prior, 0.1, method=method)
        kept = first.clone()
        for name in ("sigma", "beta", "z", "x", "decoded", "objective", "gap"):
            write(getattr(first, name))
        again = jf.restore(y, jf.Denoising(), prior, 0.1, method=method)
        for name in ("sigma", "beta", "z", "x", "decoded", "objective", "gap"):
            assert torch.equal(getattr(again, name), getattr(kept, name))


def test_other_noise_and_other_weights_are_others():
    """What is made of shared numbers is that of the last ones."""
    operator, prior = OPERATORS["inpainting"](), small_mlp(dtype=torch.float32)
    y = 0.5 * operator.A(torch.ones(1, *SHAPE))
    for sigma, beta in ((0.1, 30.0), (0.2, 30.0), (0.1, 40.0), (0.1, 30.0)):
        method = jf.JPMAP(beta=beta)
        found = jf.restore(y, operator, prior, sigma, method=method)
        expected = jf.restore(
            y, OPERATORS["inpainting"](), prior, torch.tensor([sigma]), method=method
        )
        assert torch.equal(found.x, expected.x)
        assert torch.equal(found.objective, expected.objective)


def test_a_shared_number_that_is_written_to_is_filled_anew():
    like = torch.zeros((), dtype=torch.float64)
    first = filled((3,), 0.75, like)
    assert is_shared(first) and filled((3,), 0.75, like) is first
    assert own(first) is not first and not is_shared(own(first))
    first += 1
    assert filled((3,), 0.75, like).tolist() == [0.75] * 3
    large = filled((1000,), 0.75, like)
    assert not is_shared(large) and own(large) is large


@pytest.mark.cuda
def test_streams_share_no_numbers():
    """One would read what the other has not filled yet."""
    like, stream = torch.zeros((), device="cuda"), torch.cuda.Stream()
    here = filled((2,), 0.5, like)
    with torch.cuda.stream(stream):
        there = filled((2,), 0.5, like)
        assert there is not here and there is filled((2,), 0.5, like)
    assert filled((2,), 0.5, like) is here


@pytest.mark.cuda
@pytest.mark.parametrize("way", ["in place", "graph"])
def test_a_mask_on_a_gpu_that_is_written_into_is_another(way):
    """By a CUDA graph too, which counts no versions."""
    prior = small_mlp(dtype=torch.float32).cuda()
    y = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(2)).cuda()
    given, other = mask(3).cuda(), mask(4).cuda()
    first, operator = given.clone(), jf.Inpainting(given)
    replay = Recorded(given.device, lambda: given.copy_(other))
    given.copy_(first)
    before = jf.restore(y, operator, prior, 0.05)
    if way == "graph":
        replay()
    else:
        given.copy_(other)
    found = jf.restore(y, operator, prior, 0.05)
    assert not torch.equal(found.x, before.x)
    assert torch.equal(found.x, jf.restore(y, jf.Inpainting(other), prior, 0.05).x)


@pytest.mark.cuda
def test_a_gpu_is_looked_at_as_the_host_is():
    operator, prior = OPERATORS["inpainting"](), small_mlp(dtype=torch.float32)
    y = 0.5 * operator.A(torch.ones(1, *SHAPE))
    expected = jf.restore(y, operator, prior, 0.1)
    moved = operator.to("cuda")
    for _ in range(2):
        found = jf.restore(y.cuda(), moved, prior.cuda(), 0.1)
        assert torch.allclose(found.x.cpu(), expected.x, atol=1e-3)
        assert torch.allclose(found.objective.cpu(), expected.objective, rtol=1e-4)
    bad = y.cuda()
    bad[0, 0, 0, 0] = torch.nan
    assert jf.restore(bad, moved, prior, 0.1).status_code.tolist() != found.status_code.tolist()
    with pytest.raises(ValueError, match="pixel values in"):
        jf.restore(100 * y.cuda(), moved, prior, 0.1)


def test_noise_can_be_differentiated_by_its_level():
    """Its numbers are looked at on the host, and go on as what they are."""
    x, level = torch.full((2, *SHAPE), 0.5), torch.tensor([0.1, 0.2])

    def power(sigma):
        return jf.Denoising().measure(x, sigma, torch.Generator().manual_seed(5)).square().sum()

    by_func = torch.func.grad(power)(level)
    level.requires_grad_()
    power(level).backward()
    assert torch.equal(level.grad, by_func)
    assert bool((by_func != 0).all())
