"""What a module is made of, found without names, which for one image take too long."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def modules_of(module: nn.Module) -> list[nn.Module]:
    """Itself and all below it, once each, in the order of ``named_modules``."""
    found: dict[nn.Module, None] = {}

    def add(part: nn.Module) -> None:
        if part not in found:
            found[part] = None
            for child in part._modules.values():
                if child is not None:
                    add(child)

    add(module)
    return list(found)


def weights_of(thing: Any) -> list[Tensor]:
    """Parameters and buffers, as it says itself where it does; none of what has none."""
    kind = type(thing)
    if isinstance(thing, nn.Module) and (
        kind.parameters is nn.Module.parameters and kind.buffers is nn.Module.buffers
    ):
        found: list[Tensor | None] = []
        for module in modules_of(thing):
            found += (*module._parameters.values(), *module._buffers.values())
        return [tensor for tensor in found if tensor is not None]
    if hasattr(thing, "parameters") and hasattr(thing, "buffers"):
        return [*thing.parameters(), *thing.buffers()]
    return []
