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
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jpmap_fast.kernels import tangents as tangent_kernels
from jpmap_fast.kernels.activations import ACTIVATIONS
from jpmap_fast.kernels.products import weighted_product
from jpmap_fast.priors.conv_vae import Residual
from jpmap_fast.priors.plain import is_plain

# What an activation saw and gave, [B, ...] each.
Tape = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Tangents:
    """Tangents on their way, with moves that the next activation does in passing.

    Attributes:
        t: [B or 1, k, n] or [B or 1, k, C, H, W]; a leading 1 stands for tangents that are the same
            for every image.
        shuffled: a pixel shuffle by two is still to be done; channels are in the order (i, j, c).
        plus: a second summand.
    """

    t: Tensor
    shuffled: bool = False
    plus: Tangents | None = None

    def settle(self) -> Tensor:
        """The tangents with everything done."""
        t = self.t
        if self.shuffled:
            batch, k, channels, height, width = t.shape
            t = t.reshape(batch, k, 2, 2, channels // 4, height, width)
            t = t.permute(0, 1, 4, 5, 2, 6, 3)
            t = t.reshape(batch, k, channels // 4, 2 * height, 2 * width)
        return t if self.plus is None else t + self.plus.settle()

    def rows(self) -> Tensor:
        """T [B or 1, k, n] with channels innermost."""
        t = self.t
        if t.dim() == 5:
            t = t.permute(0, 1, 3, 4, 2).reshape(*t.shape[:2], -1)
        return t.contiguous()


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
        self._slots: Tensor | None = None  # [B, slots, k, k], of the compiled pass
        self._sum: Tensor | None = None  # [B, k, k], of the rest

    @property
    def curvature(self) -> Tensor | None:
        """The second derivative of the chain against the cotangents [B, k, k]."""
        parts = [] if self._sum is None else [self._sum]
        if self._slots is not None:
            parts.append(self._slots.sum(dim=1))
        return sum(parts[1:], parts[0]) if parts else None

    def through(self, name: str, tangents: Tangents) -> Tangents:
        """Tangents through the next activation."""
        before, after = self._tape[self._next]
        cotangent = None if self._cotangents is None else self._cotangents[self._next]
        self._next += 1
        if tangent_kernels.supported(tangents.t, before):
            return self._compiled(name, tangents, before, after, cotangent)
        t = tangents.settle()
        activation = ACTIVATIONS[name]
        if cotangent is not None:
            weight = cotangent * activation.second(before, after)
            part = weighted_product(t.flatten(2), weight.flatten(1))
            self._sum = part if self._sum is None else self._sum + part
        return Tangents(t * activation.derivative(before, after).to(self._dtype)[:, None])

    def _compiled(
        self,
        name: str,
        tangents: Tangents,
        before: Tensor,
        after: Tensor,
        cotangent: Tensor | None,
    ) -> Tangents:
        def planes(value: Tensor) -> Tensor:
            return value.reshape(value.shape[0], value.shape[1], -1).contiguous()

        plus = tangents.plus
        if plus is not None and plus.plus is not None:
            plus = Tangents(plus.settle())
        if cotangent is not None and self._slots is None:
            widest = max(tensor[0].numel() for tensor, _ in self._tape)
            k = tangents.t.shape[1]
            slots = -(-widest // tangent_kernels.SPLIT)
            self._slots = before.new_zeros(before.shape[0], slots, k, k)
        out = tangent_kernels.tangent_activation(
            tangents.rows(),
            None if plus is None else plus.rows(),
            planes(before),
            planes(after),
            None if cotangent is None else planes(cotangent),
            None if cotangent is None else self._slots,
            name,
            before.shape[-1] if before.dim() == 4 else 1,
            tangents.shuffled,
            plus is not None and plus.shuffled,
        )
        if before.dim() == 4:
            channels, height, width = before.shape[1:]
            out = out.unflatten(2, (height, width, channels)).permute(0, 1, 4, 2, 3)
        return Tangents(out)


class Link(ABC):
    """One module of the chain."""

    @abstractmethod
    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        """The module on h [B, ...]; activations note on the tape what ``tangents`` needs."""

    @abstractmethod
    def tangents(self, t: Tangents, sweep: Sweep) -> Tangents:
        """Tangents through the module."""


class _Linear(Link):
    """A linear module with what follows it: a batch normalisation, or a pixel shuffle by two.

    Both are folded into the weights of its tangents, the latter as an order of the outputs in which
    the shuffle moves whole runs of channels.
    """

    def __init__(
        self,
        module: nn.Module,
        norm: nn.BatchNorm2d | None,
        shuffle: nn.PixelShuffle | None,
        dtype: torch.dtype,
    ) -> None:
        self.module = module
        self.norm = norm
        self.shuffle = shuffle
        weight = module.weight.detach()  # type: ignore[union-attr, operator]
        if norm is not None:
            assert norm.running_var is not None
            scale = (norm.running_var + norm.eps).rsqrt()
            scale = scale if norm.weight is None else scale * norm.weight.detach()
            outputs = 1 if isinstance(module, nn.ConvTranspose2d) else 0
            weight = weight * scale.reshape(*[1] * outputs, -1, *[1] * (3 - outputs))
        if shuffle is not None:
            weight = weight.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)
        weight = weight.to(dtype)
        if weight.dim() == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self.weight = weight

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        out: Tensor = self.module(h)
        for after in (self.norm, self.shuffle):
            out = out if after is None else after(out)
        return out

    def tangents(self, t: Tangents, sweep: Sweep) -> Tangents:
        given = t.settle()
        flat = given.flatten(0, 1)
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
        moved = Tangents(out.unflatten(0, given.shape[:2]), self.shuffle is not None)
        if moved.shuffled and not moved.t.is_cuda:
            return Tangents(moved.settle())
        return moved


class _Scale(Link):
    """A batch normalisation that follows no linear module."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        assert norm.running_var is not None
        self.norm = norm
        scale = (norm.running_var + norm.eps).rsqrt()
        self.scale = scale if norm.weight is None else scale * norm.weight.detach()

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        return self.norm(h)

    def tangents(self, t: Tangents, sweep: Sweep) -> Tangents:
        given = t.settle()
        return Tangents(given * self.scale.to(given.dtype)[:, None, None])


class _Pointwise(Link):
    """An activation, by name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        out = ACTIVATIONS[self.name].value(h)
        if tape is not None:
            tape.append((h, out))
        return out

    def tangents(self, t: Tangents, sweep: Sweep) -> Tangents:
        return sweep.through(self.name, t)


class _Reshape(Link):
    """A module that only moves numbers: flatten, unflatten, upsampling, pixel shuffle."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        out: Tensor = self.module(h)
        return out

    def tangents(self, t: Tangents, sweep: Sweep) -> Tangents:
        given = t.settle()
        out = self.module(given.flatten(0, 1))
        if out.dim() == 4:
            out = out.contiguous(memory_format=torch.channels_last)
        return Tangents(out.unflatten(0, given.shape[:2]))


class _Residual(Link):
    """h + body(h)."""

    def __init__(self, body: Chain) -> None:
        self.body = body

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        return h + self.body.value(h, tape)

    def tangents(self, t: Tangents, sweep: Sweep) -> Tangents:
        if t.plus is not None:
            t = Tangents(t.settle())
        around = self.body.tangents(t, sweep)
        if around.plus is not None:
            around = Tangents(around.settle())
        return Tangents(around.t, around.shuffled, t)


class Chain(Link):
    """Links one after the other."""

    def __init__(self, links: list[Link]) -> None:
        self.links = links

    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        for link in self.links:
            h = link.value(h, tape)
        return h

    def tangents(self, t: Tangents, sweep: Sweep) -> Tangents:
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
        if not is_plain(part):
            return None
        if type(part) is Residual:
            body = read_chain(part.body, dtype)
            if body is None:
                return None
            links.append(_Residual(body))
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
            links.append(_Linear(part, norm, shuffle, dtype))  # type: ignore[arg-type]
        elif _is_fixed_norm(part):
            links.append(_Scale(part))  # type: ignore[arg-type]
        elif type(part) in _POINTWISE and _POINTWISE[type(part)][1](part):
            links.append(_Pointwise(_POINTWISE[type(part)][0]))
        elif type(part) in _RESHAPE:
            links.append(_Reshape(part))
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
