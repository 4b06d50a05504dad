"""Durations by the host's clock, with nothing left at work on the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clocked(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Result of one call, and its seconds until the result is there."""
    synchronise(device)
    begin = time.perf_counter()
    result = call()
    synchronise(device)
    return result, time.perf_counter() - begin


def timed(
    call: Callable[[], T], device: torch.device, repeats: int = 5, limit: float = 1.0
) -> tuple[T, float, int]:
    """Result of a call, its median seconds, and how many calls that is of.

    The first call warms up, and is not timed unless it alone takes longer than ``limit`` seconds;
    further ones, ``repeats`` at most, follow until they have taken that long together.
    """
    result, seconds = clocked(call, device)
    times = [seconds] if seconds > limit else []
    while not times or (len(times) < repeats and sum(times) < limit):
        result, seconds = clocked(call, device)
        times.append(seconds)
    return result, statistics.median(times), len(times)
