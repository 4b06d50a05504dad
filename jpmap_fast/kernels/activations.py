"""Activations with derivatives, the same bits wherever an element stands.

On the CPU they are built from exp, expm1, log1p and tanh. Torch's own elu and sigmoid depend there
on the place in the tensor: the last elements of a thread's share go through another implementation,
and an image's result would depend on its batch. On a GPU they do not, and one kernel is faster than
five.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Activation:
    """f, and f' and f'' as functions of the pre-activation a and of h = f(a)."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor, Tensor], Tensor]
    second: Callable[[Tensor, Tensor], Tensor]


def _elu(a: Tensor) -> Tensor:
    if a.is_cuda:
        return F.elu(a)
    # Not clamp_max: autograd splits its slope at 0 in a way that leaves none.
    return torch.where(a > 0, a, torch.expm1(torch.where(a > 0, 0.0, a)))


def _sigmoid(a: Tensor) -> Tensor:
    if a.is_cuda:
        return torch.sigmoid(a)
    # Below -80 the value is 0 for every purpose; exp must not overflow, for the gradient's sake.
    return 1 / (1 + torch.exp(-a.clamp_min(-80)))


def _softplus(a: Tensor) -> Tensor:
    # Not abs, whose slope at 0 is 0 for autograd.
    positive = a > 0
    return torch.where(positive, a, 0.0) + torch.log1p(torch.exp(torch.where(positive, -a, a)))


def _silu_derivative(a: Tensor, h: Tensor) -> Tensor:
    s = _sigmoid(a)
    return s + h * (1 - s)


def _silu_second(a: Tensor, h: Tensor) -> Tensor:
    s = _sigmoid(a)
    return s * (1 - s) * (2 + a * (1 - 2 * s))


def _softplus_second(a: Tensor, h: Tensor) -> Tensor:
    s = _sigmoid(a)
    return s * (1 - s)


def _zero(a: Tensor, h: Tensor) -> Tensor:
    return torch.zeros_like(h)


ACTIVATIONS: dict[str, Activation] = {
    "elu": Activation(
        _elu,
        lambda a, h: torch.where(a > 0, torch.ones_like(h), h + 1),
        lambda a, h: torch.where(a > 0, torch.zeros_like(h), h + 1),
    ),
    "relu": Activation(torch.relu, lambda a, h: (a > 0).to(h.dtype), _zero),
    "silu": Activation(lambda a: a * _sigmoid(a), _silu_derivative, _silu_second),
    "softplus": Activation(_softplus, lambda a, h: _sigmoid(a), _softplus_second),
    "tanh": Activation(torch.tanh, lambda a, h: 1 - h * h, lambda a, h: -2 * h * (1 - h * h)),
    "sigmoid": Activation(
        _sigmoid, lambda a, h: h * (1 - h), lambda a, h: h * (1 - h) * (1 - 2 * h)
    ),
    "identity": Activation(lambda a: a, lambda a, h: torch.ones_like(h), _zero),
}
# The codes of csrc/mlp_network.h, in its order.
ACTIVATION_CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
HIDDEN_ACTIVATIONS = ("elu", "relu", "silu", "softplus", "tanh")
OUTPUT_ACTIVATIONS = ("sigmoid", "identity")
