"""Whether a module, or a method, does what its class does, no more."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules import module as _torch_module


def is_plain(module: nn.Module) -> bool:
    """No hooks, its own or torch's for all modules, and no forward of the object's own."""
    hooks = (
        module._forward_hooks
        or module._forward_pre_hooks
        or _torch_module._global_forward_hooks
        or _torch_module._global_forward_pre_hooks
    )
    return not hooks and "forward" not in vars(module)


def does(thing: object, name: str, known: Callable[..., object]) -> bool:
    """Whether a method of an object is the function ``known``, not a subclass's or its own."""
    return getattr(type(thing), name, None) is known and name not in vars(thing)
