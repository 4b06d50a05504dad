"""CUDA graphs of work on one device, whatever device is current."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Generic, TypeVar

import torch
from torch import Tensor

_Result = TypeVar("_Result")


def on_side_stream(device: torch.device, work: Callable[[], _Result]) -> _Result:
    """What ``work`` returns, done outside of a graph: libraries set themselves up, caches fill."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            result = work()
        torch.cuda.current_stream(device).wait_stream(stream)
    return result


def captured(
    device: torch.device, work: Callable[[], _Result]
) -> tuple[torch.cuda.CUDAGraph, _Result]:
    """A graph of ``work``, and what it returns, whose tensors every replay writes again.

    Without a stream of its own torch captures on one of the device that was current when a process
    first captured: on any other device the graph would stay empty.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        # Other threads may allocate meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = work()
    return graph, result


class Recorded(Generic[_Result]):
    """A recorded computation and its result, which every call writes again.

    Args:
        device: a GPU.
        work: done once before it is recorded: whatever it writes then has to be made good.
    """

    def __init__(self, device: torch.device, work: Callable[[], _Result]) -> None:
        on_side_stream(device, work)
        self._graph, self._result = captured(device, work)

    def __call__(self) -> _Result:
        """The result, written anew."""
        self._graph.replay()
        return self._result


def constant(value: float, like: Tensor) -> Tensor:
    """A number as a tensor without dimensions, of the type and on the device of ``like``.

    Made once: a number in the place of a tensor is a launch of its own in a graph.
    """
    return _constant(value, like.dtype, like.device)


@cache
def _constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.full((), value, dtype=dtype, device=device)
