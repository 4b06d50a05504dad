"""How a fleet scales: a folder of photographs restored by one worker, by two, and so on.

Each worker has one thread, or a GPU of its own. All runs write the same folder of noisy pieces of
the bundled photograph, in turn, a few times over, on a Ray cluster that is started once. A rate is
that of the second and third quarter of the pictures, when all workers are at work: their start,
when they load torch and a prior, is told apart, and at the end some have nothing left to do. Every
file of pictures is compared to the bit. CPU seconds are of the same half, of workers and of the
process that writes: other work on a machine hardly changes these.

    python benchmarks/fleet.py                              # 1 and 2 workers on the CPU
    python benchmarks/fleet.py --device cuda                # one process for each GPU
    python benchmarks/fleet.py --device cuda --workers 1,2 --size 1024 --pictures 400
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from processes import cpu_seconds, named
from timer import RESULTS, write

from jpmap_fast.data import photograph
from jpmap_fast.fleet import FleetSettings, run_fleet
from jpmap_fast.jobs import RestoreRequest

SIGMA = 15 / 255
WORKER = b"ray::MapWorker"


@dataclass(frozen=True)
class Moment:
    """Pictures done until then, and the seconds of a clock, of workers and of this process."""

    done: int
    seconds: float
    workers: float
    own: float


@dataclass
class Clock:
    """When pictures were done.

    Attributes:
        seen: each time there were more.
    """

    begin: float = field(default_factory=time.perf_counter)
    seen: list[Moment] = field(default_factory=list)

    def __call__(self, done: int, total: int) -> None:
        """Called as ``run_fleet`` calls its progress."""
        if done > (self.seen[-1].done if self.seen else 0):
            seconds = time.perf_counter() - self.begin
            workers = sum(map(cpu_seconds, named(WORKER, os.getpid())))
            self.seen.append(Moment(done, seconds, workers, time.process_time()))

    @property
    def started(self) -> float:
        """Seconds until the first pictures were done."""
        return self.seen[0].seconds

    def a_picture(self, name: str) -> float:
        """Seconds of one kind for each picture of the second and third quarter.

        Raises:
            RuntimeError: they were done in one step.
        """
        total = self.seen[-1].done
        begin, end = (
            next(seen for seen in self.seen if 4 * seen.done >= quarters * total)
            for quarters in (1, 3)
        )
        if end is begin:
            raise RuntimeError(f"expected more steps than {len(self.seen)} for {total} pictures")
        return (getattr(end, name) - getattr(begin, name)) / (end.done - begin.done)


def make_pictures(folder: Path, count: int, size: int) -> None:
    """Noisy pieces of the photograph, which is mirrored where they are larger."""
    clean = photograph()[0].numpy()
    _, height, width = clean.shape
    clean = np.pad(
        clean,
        ((0, 0), (0, max(0, 2 * size - height)), (0, max(0, 2 * size - width))),
        mode="symmetric",
    )
    random = np.random.default_rng(0)
    for number in range(count):
        top, left = (int(random.integers(0, n - size + 1)) for n in clean.shape[1:])
        piece = clean[:, top : top + size, left : left + size]
        noisy = piece + SIGMA * random.standard_normal(piece.shape)
        array = np.rint(255 * noisy.clip(0, 1)).astype(np.uint8)
        Image.fromarray(np.moveaxis(array, 0, -1)).save(folder / f"{number:05d}.png")


def measure(folder: Path, output: Path, workers: int, options: argparse.Namespace) -> Clock:
    """One run.

    Raises:
        RuntimeError: a picture failed.
    """
    request = RestoreRequest(
        operator="denoising",
        sigma=SIGMA,
        prior="photos",
        inputs=[str(folder)],
        output=str(output),
        device=options.device,
        chunk_size=options.batch,
    )
    clock = Clock()
    report = run_fleet(request, FleetSettings(workers=workers), progress=clock)
    if report.failures:
        raise RuntimeError(str(report.failures[:3]))
    return clock


def same(first: Path, second: Path) -> bool:
    """Whether two folders hold the same pictures, to the bit."""
    names = sorted(path.name for path in first.glob("*.png"))
    return names == sorted(path.name for path in second.glob("*.png")) and all(
        (first / name).read_bytes() == (second / name).read_bytes() for name in names
    )


def summary(clocks: dict[int, list[Clock]], equal: dict[int, bool]) -> list[dict[str, Any]]:
    """Medians over rounds; a ratio is that of two runs of one round."""
    least = min(clocks)
    rows = []
    for workers, own in clocks.items():
        pairs = zip(own, clocks[least], strict=True)
        ratios = [other.a_picture("seconds") / one.a_picture("seconds") for one, other in pairs]
        rows.append(
            {
                "workers": workers,
                "per_second": statistics.median(1 / clock.a_picture("seconds") for clock in own),
                "ratio": statistics.median(ratios),
                "ratio_least": min(ratios),
                "ratio_most": max(ratios),
                "worker_ms": 1e3 * statistics.median(clock.a_picture("workers") for clock in own),
                "writer_ms": 1e3 * statistics.median(clock.a_picture("own") for clock in own),
                "started": statistics.median(clock.started for clock in own),
                "same_bits": equal[workers],
            }
        )
    return rows


def _table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {
        "workers": "workers",
        "per_second": "pictures a second",
        "ratio": "times one worker",
        "ratio_least": "least",
        "ratio_most": "most",
        "worker_ms": "CPU ms a picture, workers",
        "writer_ms": "the command",
        "started": "seconds to the first",
    }
    cells = [[*(row[key] for key in columns), "yes" if row["same_bits"] else "no"] for row in rows]
    return {"columns": [*columns.values(), "the same bits"], "rows": cells}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", help="such as 1,2; by default 1 and all GPUs, or 2")
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--size", type=int, default=128, help="of a picture, in pixels")
    parser.add_argument("--batch", type=int, default=4, help="pictures at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    most = max(2, torch.cuda.device_count()) if options.device == "cuda" else 2
    counts = [int(n) for n in options.workers.split(",")] if options.workers else [1, most]
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init("local", num_cpus=max(counts) + 1, include_dashboard=False, log_to_driver=False)
    clocks: dict[int, list[Clock]] = {workers: [] for workers in counts}
    equal = dict.fromkeys(counts, True)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "in").mkdir()
        make_pictures(base / "in", options.pictures, options.size)
        for turn in range(options.rounds):
            for workers in counts:
                output = base / f"{workers}"
                clock = measure(base / "in", output, workers, options)
                clocks[workers].append(clock)
                equal[workers] &= same(base / f"{counts[0]}", output)
                print(turn, workers, f"{1 / clock.a_picture('seconds'):.2f} a second")
    ray.shutdown()
    rows = summary(clocks, equal)
    document = {
        "pictures": options.pictures,
        "size": options.size,
        "batch": options.batch,
        "rounds": options.rounds,
        "cores": os.cpu_count(),
        "rows": rows,
        "table": _table(rows),
    }
    output = options.output or RESULTS / f"fleet_{options.device}.json"
    torch.set_num_threads(1)  # as workers have
    write(output, document, torch.device(options.device))
    if not all(equal.values()):
        raise SystemExit("workers gave other bits")


if __name__ == "__main__":
    main()
