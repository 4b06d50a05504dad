"""JPMAP in one compiled call beside the loop around compiled descents, the same calls in turn.

    python benchmarks/bench_whole.py [--device cuda] [--rounds 15] [--batches 1024 65536]
        [--output FILE]

Both are this package: the loop runs where ``JPMAP.run_whole`` says that it knows no problem. The
two take turns call by call, so that what else the machine does falls on both; every call restores
other digits. ``same`` is the share of images whose x has the same bits, ``level`` of those whose J1
agrees to 0.1%.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
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
from jpmap_fast.algorithms import Algorithm

WHOLE, LOOP = jf.JPMAP.run_whole, Algorithm.run_whole
Call = Callable[[Tensor], jf.Result]


def by(way: Any, call: Callable[[], Any]) -> Any:
    """A call while JPMAP runs one way or the other."""
    jf.JPMAP.run_whole = way  # type: ignore[method-assign]
    try:
        return call()
    finally:
        jf.JPMAP.run_whole = WHOLE  # type: ignore[method-assign]


def calls(problem: Any, prior: Any, batch: int) -> dict[str, tuple[Call, Call]]:
    """``Restorer`` and ``restore``, each as a whole and by the loop."""

    def served() -> Call:
        return jf.Restorer(problem.operator, prior, problem.sigma, batch_size=batch)

    def restored(y: Tensor) -> jf.Result:
        return jf.restore(y, problem.operator, prior, problem.sigma)

    return {
        "Restorer": (by(WHOLE, served), by(LOOP, served)),
        "restore": (restored, restored),
    }


def compared(pair: tuple[Call, Call], ys: list[Tensor], rounds: int) -> dict[str, float]:
    """Median milliseconds of both, and how far their results are the same."""
    times: tuple[list[float], list[float]] = ([], [])
    same, level, images = 0, 0, 0
    for i in range(-1, rounds):
        y = ys[i % len(ys)]
        found = []
        for way, call, spent in zip((WHOLE, LOOP), pair, times, strict=True):
            result, seconds = by(way, lambda c=call, y=y: clocked(partial(c, y), y.device))
            found.append(result.clone())
            if i >= 0:
                spent.append(seconds)
        one, other = found
        images += len(y)
        same += int((one.x == other.x).flatten(1).all(dim=1).sum())
        apart = (one.objective - other.objective).abs()
        level += int((apart <= 1e-3 * other.objective).sum())
    at_once, loop = map(statistics.median, times)
    ratios = statistics.median(b / a for a, b in zip(*times, strict=True))
    return {
        "whole": 1e3 * at_once,
        "loop": 1e3 * loop,
        "ratio": ratios,
        "same": same / images,
        "level": level / images,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    # A GPU has a kernel for few images and one for many, which 65,536 fill.
    many = [1024, 8192, 65_536] if device.type == "cuda" else []
    batches = options.batches or [1, 16, 256, *many]
    prior = jf.load_prior("mnist", device=device)
    rows: list[dict[str, Any]] = []
    for name in DEGRADATIONS:
        for batch in batches:
            problem = make_problem(name, max(256, batch), device)
            ys = list(problem.y.split(batch))
            rounds = max(3, options.rounds * 16 // batch) if batch > 16 else options.rounds * 4
            for call, pair in calls(problem, prior, batch).items():
                row = {"problem": name, "call": call, "batch": batch, "rounds": rounds}
                rows.append(row | compared(pair, ys, rounds))
                print(rows[-1], flush=True)
    path = options.output or RESULTS / f"whole_{device.type}.json"
    write(path, {"cases": rows, "table": table(rows, device)}, device)


def table(rows: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """For the pages."""
    columns = {
        "problem": "problem",
        "call": "call",
        "batch": "batch",
        "whole": "one call, ms",
        "loop": "loop, ms",
        "ratio": "ratio",
        "same": "same bits",
        "level": "same J1",
    }
    note = (
        f"Medians on {device_name(device)}, the two in turn; the ratio is the median of the pairs. "
        "Shares of images with the same bits, and with J1 the same to 0.1%."
    )
    cells = [[row[key] for key in columns] for row in rows]
    return {"columns": list(columns.values()), "rows": cells, "note": note}


if __name__ == "__main__":
    main()
