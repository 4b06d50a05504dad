"""Colour faces, 64 x 64, 80% of the pixels missing, noise 10/255: speed, and J1 against Adam.

    python benchmarks/bench_faces.py --device cuda --data FOLDER [--faces-prior PATH]
    python benchmarks/bench_faces.py --data FOLDER --batch 4 --latency-images 3 --baseline-images 2

Three parts, on the same mask and noise:

- restorations a second by ``restore`` and by ``Restorer`` at one large batch;
- milliseconds of one image by ``restore`` and by ``Restorer``, the clock stopped when the result is
  there; images differ from call to call;
- J1 and PSNR against Algorithm 2.3 with the published settings, all images in one batch:
  ``JPMAP(coupling="alternating", z_solver=Adam(), starts=1, n1=25, n2=50, tolerance=1/255)``. Its
  caps are 3,000 steps a descent and 500 iterations, and here ``--baseline-seconds`` of descent as
  well: descents end when that time is up, and images still at work then keep what they have.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from restoration_problems import Trial, add_options, image_sets, make_problem
from timer import RESULTS, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._metrics import psnr
from jpmap_fast._timing import timed
from jpmap_fast._versions import device_name
from jpmap_fast.experiments.methods import as_published
from jpmap_fast.objective import LatentObjective
from jpmap_fast.solvers import LatentSolution

# The bundled prior for faces asks for starts=1, n2=1 where a method does not say.
METHODS = {
    "JPMAP()": jf.JPMAP(),
    "JPMAP(starts=2, n2=3)": jf.JPMAP(starts=2, n2=3),
    "JPMAP(starts=1, n2=0)": jf.JPMAP(starts=1, n2=0),
}


class TimedAdam:
    """Adam as published, its descents ending when a time is up.

    Attributes:
        steps: of Adam so far, each for the whole batch of its call.
        cut: images whose descent the time ended, at the first call that it did.
    """

    def __init__(self, seconds: float) -> None:
        self._adam = jf.Adam()
        self._end = time.perf_counter() + seconds
        self._spent = 0.0
        self.steps = 0
        self.cut = 0

    def minimise(
        self, objective: LatentObjective, z: Tensor, scale: Tensor | None = None
    ) -> LatentSolution:
        """Descend from z [B, k] for as long as time is left."""
        begin = time.perf_counter()
        first = self.steps == 0
        allowed = self._adam.max_steps
        if first:
            allowed = 20  # enough to learn what a step takes
        else:
            allowed = min(allowed, int((self._end - begin) / (self._spent / self.steps)))
        if allowed < 1 or begin > self._end:
            self.cut = self.cut or len(z)
            none = torch.zeros(len(z), dtype=torch.int64, device=z.device)
            return LatentSolution(z, objective.value(z), none, none > 0)
        found = replace(self._adam, max_steps=allowed).minimise(objective, z, scale)
        self.steps += max(int(found.steps.max()), 1)
        self._spent += time.perf_counter() - begin
        if first:
            return self.minimise(objective, z, scale)
        if allowed < self._adam.max_steps:
            self.cut = self.cut or int((~found.converged).sum())
        return found


def call_of(problem: Trial, method: jf.algorithms.Algorithm, y: Tensor) -> Callable[..., Any]:
    """``restore`` of measurements, with the same random starts at every call."""

    def call() -> jf.Result:
        g = torch.Generator().manual_seed(0)
        arguments = (y, problem.operator, problem.prior, problem.sigma)
        return jf.restore(*arguments, method=method, generator=g)

    return call


def restorer_of(problem: Trial, method: jf.algorithms.Algorithm, batch: int) -> jf.Restorer:
    """A ``Restorer`` with the random starts of ``call_of``."""
    arguments = (problem.operator, problem.prior, problem.sigma)
    g = torch.Generator().manual_seed(0)
    return jf.Restorer(*arguments, batch_size=batch, method=method, generator=g)


def throughput(problem: Trial, repeats: int, limit: float) -> list[dict[str, Any]]:
    """Restorations a second of the whole batch, by ``restore`` and by ``Restorer``."""
    rows = []
    for name, method in METHODS.items():
        call = call_of(problem, method, problem.y)
        result, seconds, runs = timed(call, problem.y.device, repeats, limit)
        expected = result.objective.clone()
        restorer = restorer_of(problem, method, len(problem.y))
        prepared, quick, _ = timed(
            lambda r=restorer: r(problem.y), problem.y.device, repeats, limit
        )
        row = {
            "method": name,
            "batch": len(problem.y),
            "seconds": seconds,
            "runs": runs,
            "per_second": len(problem.y) / seconds,
            "mean_J1": float(result.objective.mean()),
            "converged": float(result.converged.double().mean()),
            "psnr": float(psnr(result.x, problem.clean).mean()),
            "path": result.path,
            "Restorer": {
                "seconds": quick,
                "per_second": len(problem.y) / quick,
                "captured": restorer.captured,
                "as_low_as_restore": share(prepared.objective <= 1.001 * expected),
            },
        }
        rows.append(row)
        print(f"  {row}", flush=True)
    return rows


def durations(
    call: Callable[[Tensor], Any], ys: list[Tensor], limit: float
) -> tuple[dict[str, float], Tensor]:
    """Milliseconds of calls on the images in turn, as many as fit in the limit, and their J1."""
    times, values = [], []
    for y in [ys[0], *ys]:  # the first call warms up
        begin = time.perf_counter()
        result = call(y)
        values.append(result.objective.cpu().clone())
        times.append(time.perf_counter() - begin)
        if sum(times[1:]) > limit:
            break
    times = sorted(times[1:])
    found = {
        "images": len(times),
        "median_ms": 1e3 * times[len(times) // 2],
        "p99_ms": 1e3 * times[int(0.99 * len(times))],
    }
    return found, torch.cat(values[1:])


def latency(problem: Trial, images: int, limit: float) -> list[dict[str, Any]]:
    """One image at a time, by ``restore`` and by ``Restorer``."""
    rows = []
    ys = list(problem.y[:images].split(1))
    for name, method in METHODS.items():
        restored, expected = durations(
            lambda y, method=method: call_of(problem, method, y)(), ys, limit
        )
        restorer = restorer_of(problem, method, 1)
        prepared, values = durations(restorer, ys, limit)
        both = min(len(values), len(expected))
        row = {
            "method": name,
            "restore": restored,
            "Restorer": prepared,
            "path": restorer.path,
            "captured": restorer.captured,
            "as_low_as_restore": share(values[:both] <= 1.001 * expected[:both]),
        }
        rows.append(row)
        print(f"  {row}", flush=True)
    return rows


def against_adam(problem: Trial, seconds: float, repeats: int, limit: float) -> dict[str, Any]:
    """Ours and Algorithm 2.3 with Adam on the same batch."""
    solver, published = TimedAdam(seconds), as_published()
    begin = time.perf_counter()
    theirs = call_of(problem, replace(published, z_solver=solver), problem.y)()
    value = theirs.objective.double().cpu()
    baseline = {
        "method": "Algorithm 2.3, Adam",
        "seconds": time.perf_counter() - begin,
        "mean_J1": float(value.mean()),
        "psnr": float(psnr(theirs.x, problem.clean).mean()),
        "adam_steps": solver.steps,
        "caps": {
            "steps_a_descent": jf.Adam().max_steps,
            "iterations": published.max_iterations,
            "seconds": seconds,
        },
        "images_cut_by_the_time": solver.cut,
        "iterations": theirs.iterations.tolist(),
        "J1": value.tolist(),
    }
    print(
        f"  { ({k: v for k, v in baseline.items() if k not in ('J1', 'iterations')}) }", flush=True
    )
    rows = []
    for name, method in METHODS.items():
        call = call_of(problem, method, problem.y)
        mine, taken, runs = timed(call, problem.y.device, repeats, limit)
        own = mine.objective.double().cpu()
        row = {
            "method": name,
            "seconds": taken,
            "runs": runs,
            "mean_J1": float(own.mean()),
            "psnr": float(psnr(mine.x, problem.clean).mean()),
            "at_most_theirs": share(own <= value * (1 + 1e-6)),
            "within_0.1%_of_theirs": share(own <= value * 1.001),
            "J1": own.tolist(),
        }
        rows.append(row)
        print(f"  { ({k: v for k, v in row.items() if k != 'J1'}) }", flush=True)
    return {"images": len(problem.y), "baseline": baseline, "ours": rows}


def share(condition: Tensor) -> float:
    """The part of the images for which something holds."""
    return float(condition.double().mean())


def tables(
    speed: list[dict[str, Any]],
    single: list[dict[str, Any]],
    against: dict[str, Any] | None,
    device: torch.device,
) -> dict[str, Any]:
    """Speed, and the comparison with Adam where it was made."""
    where = f"On {device_name(device)}, torch {torch.__version__}."
    lines = []
    for row, one in zip(speed, single, strict=True):
        times = [
            f"{one[kind][key]:.1f}"
            for kind in ("restore", "Restorer")
            for key in ("median_ms", "p99_ms")
        ]
        speeds = [f"{found['per_second']:.1f}" for found in (row, row["Restorer"])]
        lines.append([row["method"], *speeds, *times, f"{row['psnr']:.2f}"])
    found: dict[str, Any] = {
        "table": {
            "columns": [
                "method",
                f"`restore`, a second, batch of {speed[0]['batch']}",
                "`Restorer`, a second",
                "`restore`, one image: p50, ms",
                "p99",
                "`Restorer`: p50, ms",
                "p99",
                "PSNR of x, dB",
            ],
            "rows": lines,
            "note": f"{single[0]['restore']['images']} images one by one. {where}",
        }
    }
    if against is None:
        return found
    baseline = against["baseline"]
    cut = baseline["images_cut_by_the_time"]
    lines = [
        [
            row["method"],
            f"{row['seconds']:.2f}",
            f"{row['mean_J1']:.1f}",
            f"{row['psnr']:.2f}",
            f"{100 * row['at_most_theirs']:.1f}%" if "at_most_theirs" in row else None,
        ]
        for row in [baseline, *against["ours"]]
    ]
    found["tables"] = {
        "adam": {
            "columns": [
                "method",
                f"seconds for {against['images']} images",
                "mean J1",
                "PSNR of x, dB",
                "J1 at most that of Adam",
            ],
            "rows": lines,
            "note": f"Adam with the published caps of 3,000 steps a descent and 500 iterations and "
            f"one of {baseline['caps']['seconds']:.0f} s, which ended the descents of {cut} images."
            f" {where}",
        }
    }
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, faces=None)
    parser.add_argument("--batch", type=int, default=256, help="images of the throughput")
    parser.add_argument("--latency-images", type=int, default=50)
    parser.add_argument("--baseline-images", type=int, default=64, help="0 for no baseline")
    parser.add_argument("--baseline-seconds", type=float, default=60)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of a method, at most")
    parser.add_argument("--limit", type=float, default=3, help="seconds of them, about, at most")
    parser.add_argument("--latency-limit", type=float, default=8, help="the same, one by one")
    options = parser.parse_args()
    options.digits, options.faces = 0, options.batch
    device = torch.device(options.device)
    sets = image_sets(options)
    if not sets:
        return
    prior, clean = sets["faces"]
    problem = make_problem("faces", "inpainting 80%", prior, clean[: options.batch])
    part = make_problem("faces", "inpainting 80%", prior, clean[: options.baseline_images])
    call_of(problem, METHODS["JPMAP(starts=1, n2=0)"], problem.y[:1])()  # libraries set up
    print(f"batch of {len(problem.y)}", flush=True)
    speed = throughput(problem, options.repeats, options.limit)
    print("one image", flush=True)
    single = latency(problem, options.latency_images, options.latency_limit)
    output = options.output or RESULTS / f"faces_{device.type}.json"
    document = {
        "what": "inpainting of colour faces: speed, and J1 against Algorithm 2.3 with Adam",
        "prior": {"latent_dim": prior.latent_dim, "gamma": prior.gamma},
        "throughput": speed,
        "latency": single,
    }
    # The baseline takes longest: a run that is cut short leaves the rest.
    write(output, document | tables(speed, single, None, device), device)
    if options.baseline_images:
        print(f"against Adam, {len(part.y)} images", flush=True)
        seconds = options.baseline_seconds
        against = against_adam(part, seconds, options.repeats, options.limit)
        document["against_adam"] = against
        write(output, document | tables(speed, single, against, device), device)


if __name__ == "__main__":
    main()
