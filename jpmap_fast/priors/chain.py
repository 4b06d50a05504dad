"""Decoders that are chains of known modules: all k tangents in one pass, in low precision.

``torch.func`` differentiates any decoder. For a sequence of linear modules and pointwise functions
the same thing written out costs less: the value is computed once in full precision, the slopes of
the activations are kept, and the k tangents of every image go through the linear modules as one
batch of B k images, on a GPU channels last and in bfloat16. Newton's method forgives an inexact
direction; the objective and its gradient never come from tangents of low precision.

The second derivative of a chain comes along: an activation f adds A^T diag(c f'') A, with A the
tangents before it and c the cotangent behind it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jpmap_fast.activations import ACTIVATIONS, Activation
from jpmap_fast.batch_invariant import batched_product
from jpmap_fast.priors.conv_vae import Residual

# What an activation saw and gave, [B, ...] each.
Tape = list[tuple[Tensor, Tensor]]


class Sweep:
    """What activations need while tangents pass them, and what they leave behind.

    Args:
        tape: filled by ``Chain.value``.
        dtype: of the tangents.
        cotangents: of the activations' outputs, in the order of the tape; None for no curvature.
    """

    def __init__(
        self, tape: Tape, dtype: torch.dtype, cotangents: Sequence[Tensor] | None = None
    ) -> None:
        self._tape = tape
        self._dtype = dtype
        self._cotangents = cotangents
        self._next = 0
        self.curvature: Tensor | None = None  # [B, k, k] float32 or float64

    def through(self, activation: Activation, t: Tensor) -> Tensor:
        """Tangents [B or 1, k, ...] through the next activation."""
        before, after = self._tape[self._next]
        if self._cotangents is not None:
            bend = self._cotangents[self._next] * activation.second(before, after)
            self._add(t, bend.to(self._dtype))
        self._next += 1
        return t * activation.derivative(before, after).to(self._dtype)[:, None]

    def _add(self, t: Tensor, weight: Tensor) -> None:
        weighted = t * weight[:, None]
        if t.dim() == 5:  # channels are innermost in memory
            weighted, t = weighted.permute(0, 1, 3, 4, 2), t.permute(0, 1, 3, 4, 2)
        left, right = weighted.flatten(2), t.flatten(2).expand(weighted.shape[0], -1, -1).mT
        if left.dtype == torch.bfloat16:
            product = torch.bmm(left, right, out_dtype=torch.float32)
        else:
            product = batched_product(left, right)
        self.curvature = product if self.curvature is None else self.curvature + product


class Link(ABC):
    """One module of the chain."""

    @abstractmethod
    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        """The module on h [B, ...]; activations note on the tape what ``tangents`` needs."""

    @abstractmethod
    def tangents(self, t: Tensor, sweep: Sweep) -> Tensor:
        """Tangents [B or 1, k, ...] through the module.

        A leading 1 stands for tangents that are the same for every image.
        """


class _Linear(Link):
    """A linear module, with a batch normalisation after it folded into its tangents' weights."""

    def __init__(self, module: nn.Module, norm: nn.BatchNorm2d | None, dtype: torch.dtype) -> None:
        self.module = module
        self.norm = norm
        weight = module.weight.detach()  # type: ignore[union-attr, operator]
        if norm is not None:
            assert norm.running_var is not None
            scale = (norm.running_var + norm.eps).rsqrt()
            scale = scale if norm.weight is None else scale * norm.weight.detach()
            outputs = 1 if isinstance(module, nn.ConvTranspose2d) else 0
            weight = weight * scale.reshape(*[1] * outputs, -1, *[1] * (3 - outputs))
        weight = weight.to(dtype)
        if weight.dim() == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self.weight = weight

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        out: Tensor = self.module(h)
        return out if self.norm is None else self.norm(out)

    def tangents(self, t: Tensor, sweep: Sweep) -> Tensor:
        flat = t.flatten(0, 1)
        m = self.module
        if isinstance(m, nn.Linear):
            out = F.linear(flat, self.weight)
        elif isinstance(m, nn.Conv2d):
            out = F.conv2d(flat, self.weight, None, m.stride, m.padding, m.dilation, m.groups)
        else:
            assert isinstance(m, nn.ConvTranspose2d)
            out = F.conv_transpose2d(
                flat,
                self.weight,
                None,
                m.stride,  # type: ignore[arg-type]
                m.padding,  # type: ignore[arg-type]
                m.output_padding,  # type: ignore[arg-type]
                m.groups,
                m.dilation,  # type: ignore[arg-type]
            )
        return out.unflatten(0, t.shape[:2])


class _Scale(Link):
    """A batch normalisation that follows no linear module."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        assert norm.running_var is not None
        self.norm = norm
        scale = (norm.running_var + norm.eps).rsqrt()
        self.scale = scale if norm.weight is None else scale * norm.weight.detach()

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        return self.norm(h)

    def tangents(self, t: Tensor, sweep: Sweep) -> Tensor:
        return t * self.scale.to(t.dtype)[:, None, None]


class _Pointwise(Link):
    """An activation, by name."""

    def __init__(self, name: str) -> None:
        self.activation = ACTIVATIONS[name]

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        out = self.activation.value(h)
        if tape is not None:
            tape.append((h, out))
        return out

    def tangents(self, t: Tensor, sweep: Sweep) -> Tensor:
        return sweep.through(self.activation, t)


class _Reshape(Link):
    """A module that only moves numbers: flatten, unflatten, upsampling, pixel shuffle."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        out: Tensor = self.module(h)
        return out

    def tangents(self, t: Tensor, sweep: Sweep) -> Tensor:
        out = self.module(t.flatten(0, 1))
        if out.dim() == 4:
            out = out.contiguous(memory_format=torch.channels_last)
        result: Tensor = out.unflatten(0, t.shape[:2])
        return result


class _Residual(Link):
    """h + body(h)."""

    def __init__(self, body: Chain) -> None:
        self.body = body

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        return h + self.body.value(h, tape)

    def tangents(self, t: Tensor, sweep: Sweep) -> Tensor:
        return self.body.tangents(t, sweep) + t


class Chain(Link):
    """Links one after the other."""

    def __init__(self, links: list[Link]) -> None:
        self.links = links

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        for link in self.links:
            h = link.value(h, tape)
        return h

    def tangents(self, t: Tensor, sweep: Sweep) -> Tensor:
        for link in self.links:
            t = link.tangents(t, sweep)
        return t


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
        if part.training or part._forward_hooks or part._forward_pre_hooks:
            return None
        if isinstance(part, Residual):
            body = read_chain(part.body, dtype)
            if body is None:
                return None
            links.append(_Residual(body))
        elif type(part) in _LINEAR:
            if getattr(part, "padding_mode", "zeros") != "zeros":
                return None
            norm = pending[0] if pending and _is_fixed_norm(pending[0]) else None
            if norm is not None:
                pending.pop(0)
            links.append(_Linear(part, norm, dtype))  # type: ignore[arg-type]
        elif _is_fixed_norm(part):
            links.append(_Scale(part))  # type: ignore[arg-type]
        elif type(part) in _POINTWISE and _POINTWISE[type(part)][1](part):
            links.append(_Pointwise(_POINTWISE[type(part)][0]))
        elif type(part) in _RESHAPE:
            links.append(_Reshape(part))
        elif type(part) not in (nn.Identity, nn.Dropout, nn.Dropout2d):
            return None
    return Chain(links)


def _flattened(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential:
        return [leaf for child in module for leaf in _flattened(child)]
    return [module]


def _is_fixed_norm(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and module.running_var is not None
