"""CUDA graphs of work on one device, whatever device is current."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from typing import Any, Generic, TypeVar

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
        with _capture(graph, stream):
            result = work()
    return graph, result


def _capture(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, pool: Any = None) -> Any:
    """Inside, what is done on a stream is captured; other threads may allocate meanwhile."""
    return torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local")


State = tuple[Tensor, ...]


def repeated(step: Callable[[State], State], state: State, most: int, blind: int) -> State:
    """``state`` after steps until nothing is left to do, ``most`` at most.

    In a ``Recorded`` with ``loops`` the step is recorded once, and calls ask the device. Elsewhere
    nobody asks, and ``blind`` steps follow each other.

    Args:
        step: the state after another step, in which what has ended stays as it is.
        state: tensors, the last of them bool [B]: what is still at work.
        most, blind: numbers of steps >= 1.
    """
    recording = _recording.get()
    if recording is not None:
        return recording.loop(step, state, most)
    for _ in range(blind):
        state = step(state)
    return state


class _Loop:
    """A recorded step, done until its flag on the device says that nothing is left to do.

    What the flag was before a step is asked while that step is under way: so the device never waits
    for the host, and does one step at most for nothing.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph, flag: Tensor, most: int) -> None:
        self._graph, self._flag, self._most = graph, flag, most
        self._said = [torch.empty(1, dtype=torch.bool, pin_memory=True) for _ in range(2)]
        self._asked = [torch.cuda.Event() for _ in range(2)]

    def replay(self) -> None:
        """All steps."""
        stream = torch.cuda.current_stream(self._flag.device)
        for number in range(self._most):
            said, asked = self._said[number % 2], self._asked[number % 2]
            said.copy_(self._flag, non_blocking=True)
            asked.record(stream)
            self._graph.replay()
            asked.synchronize()
            if not said.item():
                return


class _Recording:
    """Graphs of parts of a computation, one after the other, with loops between them.

    They share a pool of memory: what one leaves is there for the next.
    """

    def __init__(self, device: torch.device) -> None:
        self.parts: list[torch.cuda.CUDAGraph | _Loop] = []
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], _Result]) -> _Result:
        """What ``work`` returns, recorded."""
        token = _recording.set(self)
        self._begin()
        try:
            result = work()
        except BaseException:
            self._capture.__exit__(*sys.exc_info())
            raise
        finally:
            _recording.reset(token)
        self.parts.append(self._end())
        return result

    def loop(self, step: Callable[[State], State], state: State, most: int) -> State:
        """See ``repeated``."""
        held = tuple(tensor.clone() for tensor in state)
        flag = held[-1].any().reshape(1)
        self.parts.append(self._end())
        self._begin()
        for kept, new in zip(held, step(held), strict=True):
            kept.copy_(new)
        flag.copy_(held[-1].any())
        self.parts.append(_Loop(self._end(), flag, most))
        self._begin()
        return held

    def _begin(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._capture = _capture(self._graph, self._stream, self._pool)
        self._capture.__enter__()

    def _end(self) -> torch.cuda.CUDAGraph:
        self._capture.__exit__(None, None, None)
        return self._graph


_recording: ContextVar[_Recording | None] = ContextVar("_recording", default=None)


class Recorded(Generic[_Result]):
    """A recorded computation and its result, which every call writes again.

    Args:
        device: a GPU.
        work: done once before it is recorded: whatever it writes then has to be made good.
        loops: whether ``repeated`` steps end where nothing is left to do, which a call then waits
            for the device to say. Without, all of it is one graph.
    """

    def __init__(
        self, device: torch.device, work: Callable[[], _Result], *, loops: bool = False
    ) -> None:
        on_side_stream(device, work)
        self._parts: list[torch.cuda.CUDAGraph | _Loop]
        if loops:
            with torch.cuda.device(device):
                recording = _Recording(device)
                self._result = recording.record(work)
            self._parts = recording.parts
        else:
            graph, self._result = captured(device, work)
            self._parts = [graph]

    def __call__(self) -> _Result:
        """The result, written anew."""
        for part in self._parts:
            part.replay()
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
