"""A graph in which AOTInductor can write down every argument, and read it again.

It takes no number in the place of a tensor, as in t * 0.5; what it writes as infinity it cannot
read; it reads an empty list as None; and of some operators it writes more than there is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Interpreter
from torch.fx.node import Argument, Target

from jpmap_fast._capture import constant

_aten = torch.ops.aten
_SUMS = (_aten.add.Tensor, _aten.sub.Tensor, _aten.sub.Scalar, _aten.rsub.Scalar)
_FULL = (_aten.full, _aten.full_like, _aten.new_full)


class PlainArguments(nn.Module):
    """What a graph computes, to the bit, by operators with such arguments.

    Args:
        graph: of aten's operators and ours.
    """

    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        self.graph_module = graph

    def forward(self, y: Tensor) -> Any:
        """See the class."""
        return _Interpreter(self.graph_module).run(y)


class _Interpreter(Interpreter):
    def call_function(
        self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See ``torch.fx.Interpreter``."""
        if isinstance(target, OpOverload):
            return plain_call(target, list(args), kwargs)
        return super().call_function(target, args, kwargs)


def plain_call(target: OpOverload, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """What an operator returns, with arguments that can be written down.

    Raises:
        ValueError: they cannot be.
    """
    packet = target.overloadpacket
    if target is _aten.isfinite.default:  # which is taken apart, with infinity in it
        return _finite(args[0])
    if target is _aten.upsample_bilinear2d.vec and args[3] is None:  # taken apart as well
        return _aten.upsample_bilinear2d.default(*args[:3])
    if packet is _aten.where and len(args) == 3:
        return _where(*args)
    if target in _SUMS and len(args) == 2 and not kwargs:
        return _sum(target, *args)
    if any(isinstance(value, float) and not math.isfinite(value) for value in args):
        return _with_constant(target, args, kwargs)
    kinds = [str(argument.type) for argument in target._schema.arguments]
    if any(kind == "Tensor" and _is_number(v) for kind, v in zip(kinds, args, strict=False)):
        return plain_call(packet.Scalar, args, kwargs)
    return target(*_without_empty_lists(target, args), **kwargs)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _is_real(tensor: Tensor) -> bool:
    """Whether a tensor and a whole number give what it and the same real number do."""
    return tensor.is_floating_point() or tensor.is_complex()


def _finite(tensor: Tensor) -> Tensor:
    return tensor.abs() < constant(torch.inf, tensor)


def _sum(target: OpOverload, first: Tensor, second: Any) -> Any:
    """A sum, or a difference as one: what it writes of a difference has a factor too many."""
    if target is _aten.rsub.Scalar:
        return _sum(_aten.add.Tensor, -first, second)
    sign = 1 if target is _aten.add.Tensor else -1
    if not isinstance(second, Tensor):
        if _is_real(first):
            return _aten.add.Scalar(first, sign * float(second))
        second = constant(second, first)
    kind = torch.result_type(first, second)
    if kind.is_floating_point or kind.is_complex:
        return _aten.add.Tensor(first, second, alpha=sign)
    # Of whole numbers it writes that factor as a real one, which they do not take.
    second = second.to(kind) if sign > 0 else -second.to(kind)
    return torch.stack(torch.broadcast_tensors(first.to(kind), second)).sum(dim=0, dtype=kind)


def _where(condition: Tensor, first: Any, second: Any) -> Tensor:
    """A choice between tensors, numbers among them as tensors."""
    like = next((value for value in (first, second) if isinstance(value, Tensor)), None)
    if like is None:
        real = isinstance(first, float) or isinstance(second, float)
        like = torch.empty(0, dtype=torch.float32 if real else torch.int64, device=condition.device)
    one, other = (
        value if isinstance(value, Tensor) else constant(value, like) for value in (first, second)
    )
    return torch.where(condition, one, other)


def _with_constant(target: OpOverload, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """A call with a tensor in the place of its number."""
    packet = target.overloadpacket
    if packet in _FULL:
        *before, value = args
        like = target(*before, 0.0, **kwargs)
        return constant(value, like).expand_as(like).clone(memory_format=torch.contiguous_format)
    if target is _aten.nan_to_num.default and args[1:] == [torch.inf] * 3:
        return torch.where(_finite(args[0]), args[0], constant(torch.inf, args[0]))
    if len(args) == 2 and "Tensor" in packet.overloads() and not kwargs:
        found: Tensor = packet.Tensor(args[0], constant(args[1], args[0]))
        return found
    raise ValueError(f"{target} of {args[1:]}, which no package holds")


def _without_empty_lists(target: OpOverload, args: list[Any]) -> list[Any]:
    names = [argument.name for argument in target._schema.arguments]
    found = []
    for name, value in zip(names, args, strict=False):
        if target.namespace == "jpmap" and name == "tangents" and value == []:
            value = args[names.index("adjoints")]  # which count for none on a CPU
        if isinstance(value, list) and not value:
            raise ValueError(f"{target} of an empty list of {name}, which no package holds")
        found.append(value)
    return found
