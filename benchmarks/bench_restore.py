"""Whole restorations with compiled solves against the same calls with plain torch, in one run.

    python benchmarks/bench_restore.py --device cuda [--output FILE]

Inputs are the bundled digits with noise of their own for every image. A result counts if J1 is
within 0.1% of that of a float64 run from the same starts, or below; the share that does is given,
beside that of a float64 run whose starts and codes of the encoder are moved by 1e-3.
``solve`` times the compiled z-step alone (every image from z = 0), with the arithmetic it executed:
a trial decodes once, an accepted one also goes the way back and carries its k tangents along.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timer import RESULTS, median_seconds, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._problems import SIGMA, Degradation, Problem, compressed_sensing, denoising
from jpmap_fast._timing import timed
from jpmap_fast._versions import device_name
from jpmap_fast.objective import Projection
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.solvers import GaussNewton

METHODS = {
    "JPMAP()": jf.JPMAP(),
    "JPMAP(starts=1, n2=1)": jf.JPMAP(starts=1, n2=1),
}
CHECKED = 1024
MOVED = 1e-3  # a code's numbers, times draws from N(0, 1)


def degradations() -> dict[str, Degradation]:
    """The paper's three, with one mask for all images."""
    g = torch.Generator().manual_seed(0)
    mask = (torch.rand(28, 28, generator=g) < 0.2).float()
    made = (
        denoising(),
        Degradation("inpainting", "inpainting, 80% missing", jf.Inpainting(mask), SIGMA),
        compressed_sensing((1, 28, 28), g),
    )
    # Names as in the results.
    return {degradation.name.replace("-", " "): degradation for degradation in made}


DEGRADATIONS = degradations()


def make_problem(name: str, batch: int, device: torch.device) -> Problem:
    """Digits, repeated as often as needed, each with noise of its own."""
    digits = jf.mnist_test_digits()[0]
    clean = digits.repeat(-(-batch // len(digits)), 1, 1, 1)[:batch]
    return DEGRADATIONS[name].of(clean, torch.Generator().manual_seed(1), device)


@dataclass(frozen=True, eq=False)
class MovedStarts(jf.JPMAP):
    """JPMAP from other starts; with ``moved_prior``, from other codes of the encoder too."""

    def starting_codes(
        self, problem: Any, generator: torch.Generator | None, drawn: bool = True
    ) -> Tensor:
        """See ``JPMAP``."""
        codes = super().starting_codes(problem, generator, drawn)
        g = torch.Generator().manual_seed(3)
        return codes + MOVED * torch.randn(codes.shape, generator=g).to(codes)


def moved_prior(device: torch.device) -> jf.Prior:
    """The prior in float64 with an encoder whose codes are moved."""
    prior = jf.load_prior("mnist", device=device, dtype=torch.float64)
    bias = prior.encoder_layers[-1].bias
    noise = torch.randn(prior.latent_dim, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        bias[: prior.latent_dim] += MOVED * noise.to(bias)
    return prior


@dataclass(frozen=True)
class Case:
    """One problem by one method: inputs for the largest batch, and what float64 finds."""

    problem: str
    label: str
    y: Tensor
    exact: Tensor  # J1 of the first images by a float64 run from the same starts
    moved: Tensor  # and from starts and codes moved

    @staticmethod
    def make(problem: str, label: str, largest: int, device: torch.device) -> Case:
        """Draw the measurements and run float64 on the first of them."""
        given = make_problem(problem, largest, device)
        y = given.y
        double = jf.load_prior("mnist", device=device, dtype=torch.float64)
        first, method = y[:CHECKED].double(), METHODS[label]
        exact = jf.restore(first, given.operator, double, given.sigma, method=method)
        other = MovedStarts(starts=method.starts, n2=method.n2)
        moved = jf.restore(
            first, given.operator, moved_prior(device), given.sigma, method=other
        ).objective
        return Case(problem, label, y, exact.objective, moved)

    def share_as_good(self, found: Tensor) -> float:
        """Share of images whose J1 is within 0.1% of the float64 run's, or below."""
        number = min(len(found), len(self.exact))
        good = found[:number].double() <= 1.001 * self.exact[:number]
        return float(good.double().mean())


def wall_seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median time until the result is there, host work included."""
    return timed(call, device, repeats, math.inf)[1]


def measure(case: Case, batch: int, device: torch.device, plain_up_to: int) -> dict[str, Any]:
    """One case at one batch size."""
    name, label = case.problem, case.label
    prior, method = jf.load_prior("mnist", device=device), METHODS[label]
    operator, sigma = DEGRADATIONS[name].operator.to(device), DEGRADATIONS[name].sigma
    y = case.y[:batch]
    repeats = 9 if batch <= 1024 or device.type == "cuda" else 3
    row: dict[str, Any] = {"problem": name, "method": label, "batch": batch}

    def call() -> jf.Result:
        return jf.restore(y, operator, prior, sigma, method=method)

    result = call()
    row["path"] = result.path
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        peak = torch.cuda.max_memory_allocated() - before
        # x, z and decoded are the result; the rest is working memory.
        outputs = 4 * (2 * result.x.numel() + result.z.numel())
        row["working_bytes_an_image"] = (peak - outputs) / batch
    row["seconds"] = wall_seconds(call, device, repeats)
    row["per_second"] = batch / row["seconds"]
    row["share_as_good_as_float64"] = case.share_as_good(result.objective)
    row["share_of_moved_float64"] = case.share_as_good(case.moved[:batch])
    if batch <= plain_up_to:
        plain_method = replace(method, z_solver=GaussNewton(fused=False))
        plain = wall_seconds(
            lambda: jf.restore(y, operator, prior, sigma, method=plain_method),
            device,
            min(repeats, 3),
        )
        row["plain_seconds"] = plain
        row["times_plain"] = plain / row["seconds"]
    bound = operator.bind((1, 28, 28), batch)
    ones = torch.ones(batch, device=device)
    f = Projection(bound, make_decoder(prior))(y, ones / prior.gamma**2, sigma * ones)
    z = torch.zeros(batch, 8, device=device)
    solver = GaussNewton()
    solution = solver.minimise(f, z)
    seconds = median_seconds(lambda: solver.minimise(f, z), device, repeats, warm_up=1)
    network = f.fused()
    assert not isinstance(network, str), network
    widths = [
        (w.shape[0] * w.shape[2], w.shape[1]) if w.dim() == 3 else tuple(w.shape)
        for w in network.network.weights
    ]
    # A decode, a way back, and k tangents past the first layer, whose tangents need no product.
    decode = 2 * sum(i * o for i, o in widths)
    tangents = 2 * 8 * sum(i * o for i, o in widths[1:])
    steps = float(solution.steps.double().sum())
    row["solve"] = {
        "seconds": seconds,
        "mean_steps": steps / batch,
        "flops_if_all_accepted": (steps + batch) * (2 * decode + tangents),
    }
    row["solve"]["tflops_if_all_accepted"] = row["solve"]["flops_if_all_accepted"] / seconds / 1e12
    return row


def matrix_rate(device: torch.device) -> dict[str, float]:
    """FLOP/s of a library product at the shape of the tangents' widest layer."""
    rows = 8 * 4096 if device.type == "cuda" else 8 * 64
    x, w = torch.randn(rows, 512, device=device), torch.randn(512, 512, device=device)
    found = {}
    for mode in ("highest", "high") if device.type == "cuda" else ("highest",):
        torch.set_float32_matmul_precision(mode)
        seconds = median_seconds(lambda: x @ w, device)
        found["float32" if mode == "highest" else "tf32"] = 2 * rows * 512 * 512 / seconds
    torch.set_float32_matmul_precision("highest")
    return found


def table(rows: list[dict[str, Any]], device: str, version: str) -> dict[str, Any]:
    """For the pages, with the columns that have been measured."""
    plain = any("times_plain" in row for row in rows)
    memory = any("working_bytes_an_image" in row for row in rows)
    moved = all("share_of_moved_float64" in row for row in rows)
    lines = []
    for row in rows:
        line = [row["problem"], row["method"], row["batch"]]
        line += [f"{1e3 * row['seconds']:.2f}", f"{row['per_second']:.0f}"]
        if plain:
            line.append(f"{row['times_plain']:.1f}" if "times_plain" in row else None)
        line.append(f"{100 * row['share_as_good_as_float64']:.1f}%")
        if moved:
            line.append(f"{100 * row['share_of_moved_float64']:.1f}%")
        if memory:
            line.append(f"{row['working_bytes_an_image'] / 1e3:.1f}")
        lines.append(line)
    columns = ["problem", "method", "batch", "ms a call", "restorations a second"]
    columns += ["times plain torch"] * plain + ["J1 as low as float64"]
    columns += ["float64, starts moved"] * moved + ["kB an image"] * memory
    note = f"On {device}, torch {version}. J1 as low: within 0.1% of a float64 run of the same "
    note += "method, or below."
    if moved:
        note += " Beside it, of float64 from starts and codes of the encoder moved by 1e-3."
    if memory:
        note += " Memory is what there is beside inputs and results at its peak."
    return {"columns": columns, "rows": lines, "note": note}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--plain-up-to", type=int, default=256, help="batches up to which plain torch is timed"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    batches = (1, 64, 1024, 8192, 65536) if device.type == "cuda" else (1, 16, 256)
    rows = []
    for name in DEGRADATIONS:
        for label, sizes in zip(METHODS, (batches, batches[-1:]), strict=True):
            case = Case.make(name, label, max(sizes), device)
            for batch in sizes:
                row = measure(case, batch, device, plain_up_to=options.plain_up_to)
                rows.append(row)
                print(
                    f"{name:18s} {label:21s} {batch:6d}  {1e3 * row['seconds']:9.3f} ms  "
                    f"{row['per_second']:10.1f} a second  x{row.get('times_plain', 0):6.1f} plain  "
                    f"{100 * row['share_as_good_as_float64']:.1f}%  "
                    f"solve {1e3 * row['solve']['seconds']:.3f} ms  "
                    f"{row['solve']['mean_steps']:.1f} steps  "
                    f"{row['solve']['tflops_if_all_accepted']:.2f} TFLOP/s  "
                    f"{row.get('working_bytes_an_image', 0):.0f} B",
                    flush=True,
                )
    document = {
        "what": "restore() with compiled solves against the same with plain torch",
        "matrix_rate": matrix_rate(device),
        "rows": rows,
        "table": table(rows, device_name(device), torch.__version__),
    }
    print(document["matrix_rate"])
    write(options.output or RESULTS / f"restore_{device.type}.json", document, device)


if __name__ == "__main__":
    main()
