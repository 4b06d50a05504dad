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

ASKS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}


class Counted(TorchDispatchMode):
    """Inside, operators that are more than views are counted, and those that wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.waits = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operators += not func.is_view
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
    assert counted.operators <= 30


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


@pytest.mark.parametrize("like", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [0.1, np.float32(0.1), np.float64(0.1), np.array(0.1), [0.1]])
def test_a_number_is_one_for_each_image_whatever_it_is_of(number, like):
    prior, y = small_mlp(dtype=like), torch.full((2, *SHAPE), 0.5, dtype=like)
    found = jf.restore(y, jf.Denoising(), prior, number)
    each = torch.as_tensor(np.asarray(number).reshape(-1)).to(like).expand(2)
    assert torch.equal(found.sigma, each)
    assert torch.equal(found.x, jf.restore(y, jf.Denoising(), prior, each).x)


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
