"""Medians of many short calls, and how results are written; ``jpmap_fast._timing`` has the rest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jpmap_fast._files import write_json
from jpmap_fast._versions import device_name

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


def write(path: Path, document: dict[str, Any], device: torch.device) -> None:
    """Write a result with the versions and the device it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"torch": torch.__version__, "device": device_name(device)}
    write_json(path, {**head, **document}, indent=1)
    print(f"written: {path}")
