"""Priors that hold an encoder and a decoder as modules, and what these were called before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

# ``prior.encoder`` and ``prior.decoder`` are methods of the protocol; the modules had these names.
_NOW = {"encoder": "encoder_network", "decoder": "decoder_network"}

T = TypeVar("T")


def renamed(state: Mapping[str, T], prefix: str = "") -> dict[str, T]:
    """A state dict under today's names; ``prefix`` is where the prior stands in it."""
    found = {}
    for name, value in state.items():
        for old, new in _NOW.items():
            if name.startswith(f"{prefix}{old}."):
                name = f"{prefix}{new}.{name.removeprefix(f'{prefix}{old}.')}"
                break
        found[name] = value
    return found


class Networks(nn.Module):
    """What has ``encoder_network`` and ``decoder_network``; old weights and pickles still load."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _NOW:
            raise AttributeError(
                f"{name}: expected nothing to be assigned, {type(self).__name__}.{name}(like) is a "
                f"method; to replace the network assign {_NOW[name]}"
            )
        super().__setattr__(name, value)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **named: Any
    ) -> None:
        current = renamed(state_dict, prefix)
        state_dict.clear()  # torch's own copy, which it reads on from
        state_dict.update(current)
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {_NOW.get(name, name): value for name, value in state.items()}
        modules = state.get("_modules", {})
        state["_modules"] = {_NOW.get(name, name): module for name, module in modules.items()}
        super().__setstate__(state)
