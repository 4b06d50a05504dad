"""What the encoder is worth: which start finds the least J1, and what each more start costs.

    python benchmarks/encoder.py --device cuda --data FOLDER [--faces-prior PATH]
    python benchmarks/encoder.py --digits 100 --faces 0                    # a small run

Every image of every problem is restored by ``JPMAP`` with one to eight starts and n2 = 0 to 3
proposals of the encoder, all on the same measurements. The best J1 known of an image is the least
that any of these runs, of eight starts with n2 = 3, or of Algorithm 2.2 found. The tables:

- ``winners``: the first of these that comes within 0.1% of the best known: the descent from the
  encoder's code of A^T y (z2 of the first iteration), from its codes of later iterates, from
  z = 0 (z3), from a random code; and z2 against z3 of the first iteration, one to one;
- ``table``: per method the share of images within 0.1% of the best known, how far above it J1 is in
  the mean, the median time of a call on all images, and that of a call on one;
- ``summary``: the same over all problems.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import Any

import torch
from restoration_problems import Trial, add_options, image_sets, make_problem
from timer import RESULTS, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._timing import timed
from jpmap_fast._versions import device_name

NAMES = {
    "mnist": (
        "denoising 110/255",
        "inpainting 80%",
        "CS, m = 140",
        "deblurring",
        "super-resolution x4",
        "DCT sensing 10%",
    ),
    "faces": ("inpainting 80%", "deblurring", "super-resolution x4", "DCT sensing 10%"),
}
WITHIN = 1e-3  # relative excess over the best J1 known that counts as reaching it
# (starts, n2): the settings whose cost and gain are compared.
SETTINGS = ((1, 0), (1, 1), (1, 3), (2, 0), (2, 1), (2, 3), (3, 1), (4, 1), (8, 1))
UNIT = (1, 1)  # whose time is 1
MOST = (8, 3)  # for the best J1 known alone


def label(setting: tuple[int, int]) -> str:
    """How the tables name JPMAP(starts=..., n2=...)."""
    return f"starts {setting[0]}, n2 {setting[1]}"


def one_pass(problem: Trial) -> Tensor:
    """J1 [B] at z = mu(A^T y) and its exact x, without any descent."""
    prior, y = problem.prior, problem.y
    with torch.no_grad():
        operator = problem.operator.bind(tuple(prior.image_shape), len(y))
        z, _ = prior.encode(operator.A_adjoint(y))
        beta = torch.full((len(y),), prior.gamma**-2, device=y.device)
        sigma = torch.full_like(beta, problem.sigma)
        _, objective, _ = operator.x_update(prior.decode(z), y, z, beta, sigma)
    return objective


def restored(
    problem: Trial, method: jf.JPMAP, record: bool = False, images: slice = slice(None)
) -> jf.Result:
    """The same random starts at every call."""
    g = torch.Generator().manual_seed(0)
    return jf.restore(
        problem.y[images],
        problem.operator,
        problem.prior,
        problem.sigma,
        method=method,
        generator=g,
        record=record,
    )


def single_seconds(problem: Trial, method: jf.JPMAP, images: int, limit: float) -> float:
    """Median time of a call on one image, over the first so many or as fit in the limit."""
    times: list[float] = []
    while not times or (len(times) < min(images, len(problem.y)) and sum(times) < limit):
        which = slice(len(times), len(times) + 1)
        begin = time.perf_counter()
        restored(problem, method, images=which).objective.cpu()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def share(condition: Tensor) -> float:
    """The part of the images for which something holds."""
    return float(condition.double().mean())


def measure(problem: Trial, repeats: int, limit: float, singles: int) -> dict[str, Any]:
    """Every method on one problem."""
    device = problem.y.device
    restored(problem, jf.JPMAP(starts=1, n2=0))  # libraries set themselves up
    objective: dict[str, Tensor] = {}
    cost: dict[str, dict[str, float]] = {}
    name = "one pass, no descent"
    value, seconds, runs = timed(lambda: one_pass(problem), device, repeats, limit)
    objective[name] = value.double()
    cost[name] = {"seconds": seconds, "runs": runs}
    results = {}
    for setting in SETTINGS:
        method = jf.JPMAP(starts=setting[0], n2=setting[1])
        result, seconds, runs = timed(
            lambda method=method: restored(problem, method), device, repeats, limit
        )
        name = label(setting)
        results[setting], objective[name] = result, result.objective.double()
        alone = single_seconds(problem, method, singles, limit)
        cost[name] = {"seconds": seconds, "runs": runs, "single_seconds": alone}
        print(f"  {name}: {seconds:.3f} s, mean J1 {float(objective[name].mean()):.2f}", flush=True)
    most = restored(problem, jf.JPMAP(starts=MOST[0], n2=MOST[1]))
    exhaustive = restored(
        problem, jf.JPMAP(starts=1, selection="exhaustive", n1=3, n2=3), record=True
    )
    assert exhaustive.history is not None
    everything = [*objective.values(), most.objective.double(), exhaustive.objective.double()]
    best = torch.stack(everything).nan_to_num(math.inf).amin(dim=0)

    def reached(value: Tensor) -> Tensor:
        return value <= (1 + WITHIN) * best

    first, later = (reached(objective[label((1, n2))]) for n2 in (1, 3))
    zero = reached(objective[label((1, 0))])
    z2, z3 = objective[label((1, 1))], objective[label((1, 0))]
    chosen = exhaustive.history.candidate
    row = {
        "problem": problem.title,
        "images": len(problem.y),
        "winners": {
            "first encoder pass": share(first),
            "later encoder passes": share(~first & later),
            "z = 0": share(~first & ~later & zero),
            "random codes": share(~first & ~later & ~zero),
        },
        "z2_against_z3": {
            "z2": share(z2 * (1 + WITHIN) < z3),
            "same": share((z2 <= (1 + WITHIN) * z3) & (z3 <= (1 + WITHIN) * z2)),
            "z3": share(z3 * (1 + WITHIN) < z2),
        },
        "candidates_taken": {
            "starts 1, n2 3": results[(1, 3)].candidates.double().mean(dim=0).tolist(),
            "exhaustive": exhaustive.candidates.double().mean(dim=0).tolist(),
            "exhaustive, first iteration": [share(chosen[1] == c) for c in (1, 2, 3)],
        },
        "methods": {
            name: {
                "within": share(reached(value)),
                "mean_excess": float((value / best - 1).mean()),
                "mean_J1": float(value.mean()),
                **cost[name],
            }
            for name, value in objective.items()
        },
        "best_known": {
            "mean_J1": float(best.mean()),
            label(MOST): share(reached(most.objective.double())),
            "exhaustive": share(reached(exhaustive.objective.double())),
        },
    }
    print(f"  {row['winners']}", flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """By images and method, over problems: mean and least share, time relative to one descent."""
    sets: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        sets.setdefault(row["problem"].partition(":")[0], []).append(row)
    return {images: averages(part) for images, part in sets.items()}


def averages(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same for one set of images."""
    unit = label(UNIT)

    def relative_time(name: str, key: str) -> float | None:
        methods = [row["methods"] for row in rows]
        ratios = [one[name][key] / one[unit][key] for one in methods if key in one[name]]
        return statistics.geometric_mean(ratios) if ratios else None

    found = {}
    for name in rows[0]["methods"]:
        cells = [row["methods"][name] for row in rows]
        found[name] = {
            "mean_within": statistics.fmean(cell["within"] for cell in cells),
            "least_within": min(cell["within"] for cell in cells),
            "mean_excess": statistics.fmean(cell["mean_excess"] for cell in cells),
            "relative_time": relative_time(name, "seconds"),
            "relative_time_single": relative_time(name, "single_seconds"),
        }
    return found


def percent(value: float) -> str:
    """A share as a cell."""
    return f"{100 * value:.1f}%"


def document(rows: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Everything measured, and all tables."""
    overall = summary(rows)
    names = [label(setting) for setting in SETTINGS]
    lines = []
    for row in rows:
        cells = [row["methods"][name] for name in names]
        pairs = (f"{percent(cell['within'])}, {1e3 * cell['seconds']:.0f} ms" for cell in cells)
        lines.append([row["problem"], row["images"], *pairs])
    where = f"On {device_name(device)}, torch {torch.__version__}."
    main_table = {
        "columns": ["problem", "images", *names],
        "rows": lines,
        "note": "Images within 0.1% of the least J1 known, and the time of one call on all of "
        f"them, by JPMAP(starts, n2). {where}",
    }
    winners = {
        "columns": [
            "problem",
            "J1 after one pass without descent",
            "first pass",
            "later passes",
            "z = 0",
            "random codes",
            "z2 better / same / z3 better",
        ],
        "rows": [
            [
                row["problem"],
                f"+{100 * row['methods']['one pass, no descent']['mean_excess']:.0f}%",
                *(percent(value) for value in row["winners"].values()),
                " / ".join(f"{100 * value:.0f}" for value in row["z2_against_z3"].values()) + "%",
            ]
            for row in rows
        ],
        "note": "Images whose least J1 known is found (to 0.1%) by the descent from the encoder's "
        "code of A^T y; else with its codes of later iterates; else from z = 0; else from random "
        f"codes only. {where}",
    }
    means = {
        "columns": [
            "images",
            "method",
            "within 0.1% of the least J1 known: mean over problems",
            "least of them",
            "J1 above it, mean",
            "relative time, all images",
            "relative time, one image",
        ],
        "rows": [
            [
                images,
                name,
                percent(value["mean_within"]),
                percent(value["least_within"]),
                f"+{100 * value['mean_excess']:.1f}%",
                *(
                    None if value[key] is None else f"{value[key]:.2f}"
                    for key in ("relative_time", "relative_time_single")
                ),
            ]
            for images, methods in overall.items()
            for name, value in methods.items()
        ],
        "note": "JPMAP(starts, n2) on the problems above; times relative to "
        f"{label(UNIT)}, geometric means over problems. {where}",
    }
    return {
        "what": "which start of JPMAP finds the least J1, and what more starts cost",
        "summary": overall,
        "rows": rows,
        "table": main_table,
        "tables": {"winners": winners, "summary": means},
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, digits=500, faces=100)
    parser.add_argument("--problems", nargs="+", help="parts of the names of those wanted")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of a method, at most")
    parser.add_argument("--limit", type=float, default=0.5, help="seconds of them, about, at most")
    parser.add_argument("--singles", type=int, default=8, help="images restored one by one")
    options = parser.parse_args()
    device = torch.device(options.device)
    output = options.output or RESULTS / f"encoder_{device.type}.json"
    rows: list[dict[str, Any]] = []
    for images, (prior, clean) in image_sets(options).items():
        for name in NAMES[images]:
            if options.problems and not any(part in name for part in options.problems):
                continue
            number = options.digits if images == "mnist" else options.faces
            problem = make_problem(images, name, prior, clean[:number])
            print(f"{problem.title}, {len(problem.y)} images", flush=True)
            rows.append(measure(problem, options.repeats, options.limit, options.singles))
            # After every problem: a run that is cut short leaves what it has.
            write(output, document(rows, device), device)
    for images, methods in summary(rows).items():
        for name, value in methods.items():
            times = [
                f"{title} x {value[key]:.2f}"
                for title, key in (("all", "relative_time"), ("one image", "relative_time_single"))
                if value[key] is not None
            ]
            print(
                f"{images} {name:22s} within 0.1%: mean {percent(value['mean_within'])}, least "
                f"{percent(value['least_within'])}; J1 +{100 * value['mean_excess']:.2f}%; "
                f"time: {', '.join(times)}"
            )


if __name__ == "__main__":
    main()
