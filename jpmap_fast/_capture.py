"""CUDA graphs of work on one device, whatever device is current."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

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
