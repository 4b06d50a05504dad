"""What a physics holds: copied into another precision, and compared with what it held before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from deepinv.physics import Physics
from torch import Tensor, nn

# Tensors made from others, or that say nothing about A.
_DERIVED = {"_device_holder", "initial_random_state", "_A_dagger", "Fh", "Fhc", "Fh2"}
# Settings of deepinv's own solvers, and what A writes down as it runs.
_IRRELEVANT = {"training", "max_iter", "tol", "solver", "imsize_dynamic", "rng"}


def parts(physics: nn.Module) -> Iterator[nn.Module]:
    """The physics and all modules inside, each once, noise models left out.

    Members of stacked physics are in a plain list, where ``nn.Module`` does not look.
    """
    waiting, seen = [physics], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += [child for name, child in part.named_children() if name != "noise_model"]
        for held in vars(part).values():
            if isinstance(held, (list, tuple)):
                waiting += [item for item in held if isinstance(item, nn.Module)]


def tensors(physics: Physics) -> Iterator[Tensor]:
    """What A is made of."""
    for _, value in _state(physics):
        if isinstance(value, Tensor):
            yield value


def snapshot(physics: Physics) -> Physics:
    """A copy that later changes of the physics do not reach."""
    try:
        return copy.deepcopy(physics)
    except (TypeError, RuntimeError):
        # Generators could not be copied in older releases of torch; physics.clone knows how.
        return physics.clone()


def converted(physics: Physics, device: Any = None, dtype: torch.dtype | None = None) -> Physics:
    """A copy without gradients, its tensors on ``device`` and in the precision ``dtype`` if given.

    ``physics.to(dtype)`` makes complex tensors real and does not reach stacked physics.
    """

    def cast(value: Any) -> Any:
        if type(value) is dict:
            return {key: cast(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(cast(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        kind = None
        if dtype is not None and value.is_complex():
            kind = dtype.to_complex()
        elif dtype is not None and value.is_floating_point():
            kind = dtype
        return value.detach().to(device=device, dtype=kind)

    new = snapshot(physics)
    for part in parts(new):
        attributes = vars(part)
        part._buffers.update(cast(part._buffers))
        for name in [name for name in attributes if not name.startswith("_")]:
            attributes[name] = cast(attributes[name])
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = nn.Parameter(cast(parameter), requires_grad=False)
        kind = attributes.get("dtype")
        if dtype is not None and isinstance(kind, torch.dtype):
            attributes["dtype"] = dtype.to_complex() if kind.is_complex else dtype
        # Tomography keeps a transpose that was traced on the original.
        if "_auto_grad_adjoint_fn" in attributes:
            attributes["_auto_grad_adjoint_fn"] = None
    return new


class Signature:
    """What a physics held, to tell later whether its A is still the same.

    Tensors and arrays are compared by value, functions and other objects by identity: what a
    function reads from elsewhere is not noticed.
    """

    def __init__(self, physics: Physics) -> None:
        self._held = [(name, _kept(value)) for name, value in _state(physics)]

    def matches(self, physics: Physics) -> bool:
        """Whether the physics holds the same now."""
        state = list(_state(physics))
        return len(state) == len(self._held) and all(
            then[0] == now[0] and _same(then[1], now[1])
            for then, now in zip(self._held, state, strict=True)
        )


def _state(physics: Physics) -> Iterator[tuple[str, Any]]:
    for number, part in enumerate(parts(physics)):
        yield f"{number}", type(part)
        for table in (part._buffers, part._parameters):
            for name, value in table.items():
                if name not in _DERIVED:
                    yield f"{number}.{name}", value
        for name, value in vars(part).items():
            if not name.startswith("_") and name not in _IRRELEVANT:
                yield from _leaves(f"{number}.{name}", value)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{name}[{key!r}]", item)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _leaves(f"{name}[{i}]", item)
    elif not isinstance(value, nn.Module):
        yield name, value


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def _same(then: Any, now: Any) -> bool:
    if isinstance(then, Tensor) or isinstance(now, Tensor):
        return (
            isinstance(then, Tensor)
            and isinstance(now, Tensor)
            and then.shape == now.shape
            and then.dtype == now.dtype
            and then.device == now.device
            and torch.equal(then, now)
        )
    if isinstance(then, np.ndarray):
        return isinstance(now, np.ndarray) and np.array_equal(then, now)
    if isinstance(then, (bool, int, float, str, torch.dtype, type(None))):
        return type(then) is type(now) and then == now
    return then is now
