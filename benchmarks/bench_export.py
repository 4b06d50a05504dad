"""Restorations by the program in C++ of ``benchmarks/cpp`` beside ``Restorer``, the same in turn.

    python benchmarks/bench_export.py [--device cuda] [--rounds 7] [--problems NAMES]
        [--batches NUMBERS] [--output FILE]

Exports each restoration, runs the package by the program and compares: ``same`` says whether every
bit of x and J1 is Python's, and the script fails where one is not. The two take turns, a number of
calls at a time, so that what else the machine does falls on both. Each phase is told when it
begins, since a compiler may take a minute, and where it is every minute; what has been measured is
written after each case.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench_restore import DEGRADATIONS, make_problem
from native import build, restore
from timer import RESULTS, write

import jpmap_fast as jf
from jpmap_fast._timing import clocked
from jpmap_fast._versions import device_name

_LOG = logging.getLogger("bench_export")


def compared(program: Path, name: str, batch: int, options: Any, folder: Path) -> dict[str, Any]:
    """Whether the bits are the same, and milliseconds a call of both."""
    device = torch.device(options.device)
    _LOG.info("%s, batch %d: prepares", name, batch)
    prior = jf.load_prior("mnist", device=device)
    problem = make_problem(name, batch, device)
    restorer = jf.Restorer(problem.operator, prior, problem.sigma, batch_size=batch)
    package, seconds = clocked(lambda: restorer.export(folder / "one.pt2"), device)
    expected = restorer(problem.y).clone()
    _LOG.info("%s, batch %d: runs both", name, batch)
    times: tuple[list[float], list[float]] = ([], [])
    same = True
    for _ in range(options.rounds):
        found = restore(program, package, problem.y, folder, options.calls)
        same &= torch.equal(found.x, expected.x.cpu().flatten())
        same &= torch.equal(found.objective, expected.objective.cpu().double())
        assert found.milliseconds is not None
        times[0].append(found.milliseconds)

        def calls() -> None:
            for _ in range(options.calls):
                restorer(problem.y)

        times[1].append(1e3 * clocked(calls, device)[1] / options.calls)
    native, python = map(statistics.median, times)
    return {
        "problem": name,
        "batch": batch,
        "native": native,
        "python": python,
        "ratio": statistics.median(a / b for a, b in zip(*times, strict=True)),
        "same": same,
        "export": seconds,
        "bytes": package.stat().st_size,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=30, help="calls of both a round")
    parser.add_argument("--problems", nargs="+", default=list(DEGRADATIONS), choices=DEGRADATIONS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.basicConfig(format="%(relativeCreated)8d ms %(name)s: %(message)s")
    for name in (_LOG.name, "jpmap_fast.export"):
        logging.getLogger(name).setLevel(logging.INFO)
    faulthandler.dump_traceback_later(60, repeat=True)
    device = torch.device(options.device)
    path = options.output or RESULTS / f"export_{device.type}.json"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _LOG.info("builds the program")
        program = build(folder / "cpp")
        for problem in options.problems:
            for batch in options.batches:
                rows.append(compared(program, problem, batch, options, folder))
                print(rows[-1], flush=True)
                write(path, {"cases": rows, "table": table(rows, device)}, device)
    if not all(row["same"] for row in rows):
        sys.exit("other bits than Python's")


def table(rows: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """For the pages."""
    columns = [
        "problem",
        "batch",
        "C++, ms a call",
        "Python, ms",
        "ratio",
        "same bits",
        "export, s",
    ]
    keys = ("problem", "batch", "native", "python", "ratio", "same", "export")
    note = (
        f"Medians on {device_name(device)}, torch {torch.__version__}, the two in turn; the ratio "
        "is the median of the pairs."
    )
    cells = [["yes" if row[key] is True else row[key] for key in keys] for row in rows]
    return {"columns": columns, "rows": cells, "note": note}


if __name__ == "__main__":
    main()
