"""Latency of ``Restorer`` calls at batch 1: median, 99th percentile and worst of many.

    python benchmarks/bench_latency.py --device cuda [--calls 10000]

A call is timed by the host's clock until the result is there. ``digits`` restores a different digit
at every call: images take different numbers of steps. ``one digit`` repeats the first.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_restore import DEGRADATIONS, make_problem
from timer import RESULTS, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._timing import clocked
from jpmap_fast._versions import device_name

METHODS = {
    "JPMAP()": jf.JPMAP(),
    "JPMAP(starts=1)": jf.JPMAP(starts=1),
    "JPMAP(starts=1, n2=1)": jf.JPMAP(starts=1, n2=1),
}


def durations(restorer: jf.Restorer, ys: list[Tensor], calls: int) -> list[float]:
    """Seconds of every call, sorted."""
    times = []
    for i in range(-20, calls):
        y = ys[i % len(ys)]
        _, seconds = clocked(partial(restorer, y), y.device)
        if i >= 0:
            times.append(seconds)
    return sorted(times)


def summary(times: list[float]) -> dict[str, float]:
    """Milliseconds."""
    return {
        "p50": 1e3 * times[len(times) // 2],
        "p99": 1e3 * times[int(0.99 * len(times))],
        "max": 1e3 * times[-1],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    prior = jf.load_prior("mnist", device=device)
    rows: list[dict[str, Any]] = []
    for name in DEGRADATIONS:
        problem = make_problem(name, 1000, device)
        ys = list(problem.y.split(1))
        for label, method in METHODS.items():
            main_case = label == "JPMAP()"
            restorer = jf.Restorer(
                problem.operator, prior, problem.sigma, batch_size=1, method=method
            )
            calls = options.calls if main_case else options.calls // 10
            row: dict[str, Any] = {"problem": name, "method": label, "calls": calls}
            row["digits"] = summary(durations(restorer, ys, calls))
            row["one digit"] = summary(durations(restorer, ys[:1], calls // 2))
            rows.append(row)
            print(row, flush=True)
    lines = [
        [
            row["problem"],
            row["method"],
            *(f"{row['digits'][key]:.2f}" for key in ("p50", "p99", "max")),
            *(f"{row['one digit'][key]:.2f}" for key in ("p50", "p99")),
        ]
        for row in rows
    ]
    columns = ["problem", "method", "p50, ms", "p99", "max", "one digit: p50", "p99"]
    document = {
        "what": "latency of Restorer calls at batch 1",
        "rows": rows,
        "table": {
            "columns": columns,
            "rows": lines,
            "note": f"{options.calls} calls over 1,000 digits (a tenth for the other methods), on "
            f"{device_name(device)}, torch {torch.__version__}.",
        },
    }
    write(options.output or RESULTS / f"latency_{device.type}.json", document, device)


if __name__ == "__main__":
    main()
