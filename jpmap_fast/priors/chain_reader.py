"""Reading a module as a chain of links."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from jpmap_fast.priors.chain import (
    Chain,
    Linear,
    Link,
    Pointwise,
    Reshape,
    ResidualSum,
    Scale,
)
from jpmap_fast.priors.plain import is_plain
from jpmap_fast.priors.residual import Residual

_LINEAR = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
_RESHAPE = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.UpsamplingNearest2d, nn.Upsample)
_POINTWISE: dict[type[nn.Module], tuple[str, Callable[[nn.Module], bool]]] = {
    nn.ELU: ("elu", lambda m: getattr(m, "alpha", 1.0) == 1.0),
    nn.ReLU: ("relu", lambda m: True),
    nn.SiLU: ("silu", lambda m: True),
    nn.Softplus: ("softplus", lambda m: (m.beta, m.threshold) == (1.0, 20.0)),
    nn.Tanh: ("tanh", lambda m: True),
    nn.Sigmoid: ("sigmoid", lambda m: True),
}


def read_chain(module: nn.Module, dtype: torch.dtype) -> Chain | None:
    """The chain of an ``nn.Sequential``, nested or not; None where a module is not known.

    Args:
        module: in evaluation mode, without hooks.
        dtype: of the tangents.
    """
    links: list[Link] = []
    pending = list(_flattened(module))
    while pending:
        part = pending.pop(0)
        if not is_plain(part):
            return None
        if type(part) is Residual:
            body = read_chain(part.body, dtype)
            if body is None:
                return None
            links.append(ResidualSum(body))
        elif type(part) in _LINEAR:
            if getattr(part, "padding_mode", "zeros") != "zeros":
                return None
            norm = shuffle = None
            if pending and is_plain(pending[0]) and not isinstance(part, nn.Linear):
                # The channels of a transposed convolution in groups are two dimensions of its
                # weight, and a shuffle would mix the groups of any.
                one_group = part.groups == 1
                if _is_fixed_norm(pending[0]) and (one_group or isinstance(part, nn.Conv2d)):
                    norm = pending.pop(0)
                elif _is_double_shuffle(pending[0]) and one_group and type(part) is nn.Conv2d:
                    shuffle = pending.pop(0)
            links.append(Linear(part, norm, shuffle, dtype))  # type: ignore[arg-type]
        elif _is_fixed_norm(part):
            links.append(Scale(part))  # type: ignore[arg-type]
        elif type(part) in _POINTWISE and _POINTWISE[type(part)][1](part):
            links.append(Pointwise(_POINTWISE[type(part)][0]))
        elif type(part) in _RESHAPE:
            links.append(Reshape(part))
        elif type(part) is not nn.Identity and not _is_idle_dropout(part):
            return None
    return Chain(links)


def _flattened(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential and is_plain(module):
        return [leaf for child in module for leaf in _flattened(child)]
    return [module]


def _is_fixed_norm(module: nn.Module) -> bool:
    tracked = type(module) is nn.BatchNorm2d and module.running_var is not None
    return tracked and not module.training


def _is_idle_dropout(module: nn.Module) -> bool:
    return type(module) in (nn.Dropout, nn.Dropout2d) and not module.training


def _is_double_shuffle(module: nn.Module) -> bool:
    return type(module) is nn.PixelShuffle and module.upscale_factor == 2
