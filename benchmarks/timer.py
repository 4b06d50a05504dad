"""The one timer of all benchmarks: medians of many runs, both sides on the same inputs."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"


def median_seconds(
    function: Callable[[], Any], device: torch.device, repeats: int = 30, warm_up: int = 5
) -> float:
    """Median duration of a call: CUDA events on a GPU, the host's clock on a CPU."""
    for _ in range(warm_up):
        function()
    if device.type == "cuda":
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(repeats)
        ]
        torch.cuda.synchronize()
        for begin, end in events:
            begin.record()
            function()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1e3
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def timed(
    call: Callable[[], T], device: torch.device, repeats: int = 5, limit: float = 1.0
) -> tuple[T, float, int]:
    """Result of a call, its median seconds by the host's clock, and how many calls that is of.

    The first call warms up, and is not timed unless it alone takes longer than ``limit`` seconds;
    further ones, ``repeats`` at most, follow until they have taken that long together.
    """

    def once() -> tuple[T, float]:
        begin = time.perf_counter()
        result = call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return result, time.perf_counter() - begin

    result, seconds = once()
    times = [seconds] if seconds > limit else []
    while not times or (len(times) < repeats and sum(times) < limit):
        result, seconds = once()
        times.append(seconds)
    return result, statistics.median(times), len(times)


def device_name(device: torch.device) -> str:
    """What a result was measured on, without naming a machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'' if threads == 1 else 's'}"


def write(path: Path, document: dict[str, Any], device: torch.device) -> None:
    """Write a result with the versions and the device it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"torch": torch.__version__, "device": device_name(device)}
    path.write_text(json.dumps({**head, **document}, indent=1) + "\n")
    print(f"written: {path}")
