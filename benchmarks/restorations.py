"""Deblurring, super-resolution and structured sensing: what each method restores, and how fast.

    python benchmarks/restorations.py --device cuda --data FOLDER [--faces-prior PATH]
    python benchmarks/restorations.py --digits 50 --faces 0                # a small run

Noise is 10/255. Tikhonov is the minimum of ||A x - y||^2 / (2 sigma^2) + lambda/2 ||x||^2, exact by
the operators' x-update; lambda is the one of a grid with the highest mean PSNR on up to 50 other
images, those that follow the tested ones. PSNR and SSIM are means over images, values not clipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from restoration_problems import Trial, add_options, image_sets, make_problem, ssim
from timer import RESULTS, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._metrics import psnr
from jpmap_fast._timing import timed
from jpmap_fast._versions import device_name

NAMES = ("deblurring", "super-resolution x2", "super-resolution x4", "DCT sensing 10%")
METHODS: dict[str, jf.algorithms.Algorithm] = {
    "JPMAP()": jf.JPMAP(),
    "MAPz()": jf.MAPz(),
    "CSGM(starts=2)": jf.CSGM(starts=2),
}
TUNING = 50  # images that choose lambda
LAMBDAS = [10 ** (i / 4) for i in range(-8, 17)]  # 0.01 to 10,000


def tikhonov(problem: Trial, weight: float) -> Tensor:
    """Argmin over x of ||A x - y||^2 / (2 sigma^2) + weight/2 ||x||^2."""
    y, shape = problem.y, tuple(problem.prior.image_shape)
    operator = problem.operator.bind(shape, len(y))
    zero = y.new_zeros(len(y), *shape)
    beta, sigma = y.new_full((len(y),), weight), y.new_full((len(y),), problem.sigma)
    return operator.x_update(zero, y, y.new_zeros(len(y), 1), beta, sigma)[0]


def best_weight(problem: Trial) -> float:
    """The weight of the grid with the highest mean PSNR."""
    scores = [float(psnr(tikhonov(problem, w), problem.clean).mean()) for w in LAMBDAS]
    return LAMBDAS[scores.index(max(scores))]


def measure(problem: Trial, weight: float, repeats: int, limit: float) -> list[dict[str, Any]]:
    """Every method on one problem."""
    device = problem.y.device

    def restore(method: jf.algorithms.Algorithm) -> Callable[[], jf.Result]:
        def call() -> jf.Result:
            g = torch.Generator().manual_seed(0)
            arguments = (problem.y, problem.operator, problem.prior, problem.sigma)
            return jf.restore(*arguments, method=method, generator=g)

        return call

    rows = []
    restore(jf.JPMAP(starts=1, n2=0))()  # libraries set themselves up
    for name, method in METHODS.items():
        result, seconds, runs = timed(restore(method), device, repeats, limit)
        row = {"method": name, "seconds": seconds, "runs": runs, "path": result.path}
        row["converged"] = float(result.converged.double().mean())
        row |= scores(result.x, problem.clean)
        if name == "JPMAP()":
            row["decoded"] = scores(result.decoded, problem.clean)
        rows.append(row)
    x, seconds, runs = timed(lambda: tikhonov(problem, weight), device, repeats, limit)
    row = {"method": "Tikhonov", "seconds": seconds, "runs": runs, "lambda": weight}
    rows.append(row | scores(x, problem.clean))
    for row in rows:
        row |= {"problem": problem.title, "images": len(problem.y)}
        print(
            f"  {row['method']:18s} {row['psnr']:6.2f} dB  SSIM {row['ssim']:.3f}  "
            f"{row['seconds']:.4f} s",
            flush=True,
        )
    return rows


def scores(x: Tensor, clean: Tensor) -> dict[str, float]:
    """Mean PSNR and SSIM."""
    return {"psnr": float(psnr(x, clean).mean()), "ssim": float(ssim(x, clean).mean())}


def table(rows: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """A line a problem, a column a method."""
    names = [*METHODS, "Tikhonov"]
    by_problem: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["problem"], {})[row["method"]] = row

    def cell(row: dict[str, Any]) -> str:
        return f"{row['psnr']:.2f} / {row['ssim']:.3f} / {row['seconds']:.2g}"

    lines = []
    for problem, found in by_problem.items():
        decoded = found["JPMAP()"]["decoded"]
        cells = [cell(found[name]) for name in names]
        cells.insert(1, f"{decoded['psnr']:.2f} / {decoded['ssim']:.3f}")
        lines.append([problem, found["JPMAP()"]["images"], *cells])
    return {
        "columns": ["problem", "images", "JPMAP(): x", "G(z)", *names[1:]],
        "rows": lines,
        "note": "PSNR in dB / SSIM / seconds for all images in one call; noise 10/255, lambda of "
        f"Tikhonov chosen on other images. On {device_name(device)}, torch {torch.__version__}.",
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, digits=100, faces=100)
    parser.add_argument("--problems", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of a method, at most")
    parser.add_argument("--limit", type=float, default=0.5, help="seconds of them, about, at most")
    options = parser.parse_args()
    device = torch.device(options.device)
    output = options.output or RESULTS / f"restorations_{device.type}.json"
    rows: list[dict[str, Any]] = []
    for images, (prior, clean) in image_sets(options).items():
        number = min(options.digits if images == "mnist" else options.faces, len(clean) * 2 // 3)
        for name in options.problems:
            others = make_problem(images, name, prior, clean[number : number + TUNING])
            weight = best_weight(others)
            problem = make_problem(images, name, prior, clean[:number])
            print(f"{problem.title}, {number} images, lambda {weight:.3g}", flush=True)
            rows += measure(problem, weight, options.repeats, options.limit)
            document = {
                "what": "PSNR, SSIM and seconds of jpmap, map-z, csgm and Tikhonov; noise 10/255",
                "rows": rows,
                "table": table(rows, device),
            }
            # After every problem: a run that is cut short leaves what it has.
            write(output, document, device)


if __name__ == "__main__":
    main()
