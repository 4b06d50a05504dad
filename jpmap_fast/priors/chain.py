"""Decoders that are chains of known modules: all k tangents in one pass, in low precision.

``torch.func`` differentiates any decoder. For a sequence of linear modules and pointwise functions
the same thing written out costs less: the value is computed once in full precision, the slopes of
the activations are kept, and the k tangents of every image go through the linear modules as one
batch of B k images, on a GPU channels last and in bfloat16. Newton's method forgives an inexact
direction; the objective and its gradient never come from tangents of low precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jpmap_fast.kernels.activations import ACTIVATIONS
from jpmap_fast.priors.sweep import Places, Sweep, Tangents, Tape


class Link(ABC):
    """One module of the chain."""

    @abstractmethod
    def value(self, h: Tensor, tape: Tape | None) -> Tensor:
        """The module on h [B, ...]; activations note on the tape what ``tangents`` needs."""

    @abstractmethod
    def tangents(self, t: Tangents, sweep: Sweep) -> Tangents:
        """Tangents through the module."""


class Linear(Link):
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
        self._outputs = weight.shape[0]
        if isinstance(module, nn.Conv2d) and module.groups == 1 and dtype == torch.bfloat16:
            # Matrix units take channels by eight: a library would move them on every call.
            weight = F.pad(weight, (0, 0) * 3 + (0, -self._outputs % 8))
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
            out = out[:, : self._outputs]
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


class Scale(Link):
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


class Pointwise(Link):
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


class Reshape(Link):
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


class ResidualSum(Link):
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

    def columns(self, t: Tangents, sweep: Sweep, places: Places | None) -> Tensor:
        """The tangents of all outputs or of some [B or 1, k, n].

        What comes last is done to those alone, if it is pointwise.
        """
        if places is None:
            return self.tangents(t, sweep).settle().flatten(2)
        last = len(self.links)
        while last and isinstance(self.links[last - 1], Pointwise):
            last -= 1
        t = Tangents(places.of(Chain(self.links[:last]).tangents(t, sweep)))
        for link in self.links[last:]:
            assert isinstance(link, Pointwise)
            t = sweep.through(link.name, t, places.rows)
        return t.settle()
