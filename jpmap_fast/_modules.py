"""What a module is made of, found without names, which take torch ten times as long."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def modules_of(module: nn.Module) -> list[nn.Module]:
    """Itself and all below it, in the order of ``named_modules``; twice what stands twice."""
    found = [module]
    for child in module._modules.values():
        if child is not None:
            found += modules_of(child)
    return found


def first_parameter(thing: Any) -> Tensor | None:
    """The first of ``parameters()``; None of what has none."""
    if isinstance(thing, nn.Module):
        for module in modules_of(thing):
            for parameter in module._parameters.values():
                if parameter is not None:
                    return parameter
        return None
    return next(iter(thing.parameters()), None) if hasattr(thing, "parameters") else None


def weights_of(thing: Any) -> list[Tensor]:
    """Parameters and buffers of a module; none of anything else."""
    if not isinstance(thing, nn.Module):
        return []
    found: list[Tensor | None] = []
    for module in modules_of(thing):
        found += (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in found if tensor is not None]
