"""CUDA graphs of work on one device, whatever device is current."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def repeated(step: Callable[[State], State], state: State, blind: int, enough: int = 0) -> State:
    """``state`` after steps until no more than ``enough`` are at work.

    In a ``Recorded`` with ``loops`` the step is recorded once, and calls ask the device. Elsewhere
    nobody asks, and ``blind`` steps follow each other.

    Args:
        step: the state after another step, in which what has ended stays as it is.
        state: tensors, the last of them bool [B]: what is still at work; all ends at some time.
        blind: a number of steps >= 1.
        enough: >= 0.
    """
    loops = _loops.get()
    if loops is not None:
        return loops.loop(step, state, enough)
    for _ in range(blind):
        state = step(state)
    return state


def asks() -> bool:
    """Whether ``repeated`` steps end where nothing is left to do."""
    return _loops.get() is not None


class _Loop:
    """A recorded step, done for as long as its flag on the device says that there is work.

    The device waits for its host between two steps, and makes none for nothing.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph, flag: Tensor) -> None:
        self._graph, self._flag = graph, flag
        self._said = torch.empty(1, dtype=torch.bool, pin_memory=True)
        self._asked = torch.cuda.Event()

    def replay(self) -> None:
        """All steps."""
        stream = torch.cuda.current_stream(self._flag.device)
        while True:
            self._said.copy_(self._flag, non_blocking=True)
            self._asked.record(stream)
            self._asked.synchronize()
            if not self._said.item():
                return
            self._graph.replay()


class _Rehearsal:
    """Every step once, before it is recorded: libraries make their plans for its sizes."""

    def loop(self, step: Callable[[State], State], state: State, enough: int) -> State:
        """See ``repeated``."""
        return step(state)


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
        self._begin()
        try:
            with _looping(self):
                result = work()
        except BaseException:
            self._capture.__exit__(*sys.exc_info())
            raise
        self.parts.append(self._end())
        return result

    def loop(self, step: Callable[[State], State], state: State, enough: int) -> State:
        """See ``repeated``."""
        held = tuple(tensor.clone() for tensor in state)
        flag = (held[-1].sum() > enough).reshape(1)
        self.parts.append(self._end())
        self._begin()
        for kept, new in zip(held, step(held), strict=True):
            kept.copy_(new)
        flag.copy_((held[-1].sum() > enough).reshape(1))
        self.parts.append(_Loop(self._end(), flag))
        self._begin()
        return held

    def _begin(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._capture = _capture(self._graph, self._stream, self._pool)
        self._capture.__enter__()

    def _end(self) -> torch.cuda.CUDAGraph:
        self._capture.__exit__(None, None, None)
        return self._graph


_loops: ContextVar[_Recording | _Rehearsal | None] = ContextVar("_loops", default=None)


@contextmanager
def _looping(loops: _Recording | _Rehearsal | None) -> Iterator[None]:
    """Inside, ``repeated`` leaves its steps to ``loops``."""
    token = _loops.set(loops)
    try:
        yield
    finally:
        _loops.reset(token)


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
        with _looping(_Rehearsal() if loops else None):
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
