"""Instruction sets of the CPU's kernels beside each other, and where solves by them end.

    python benchmarks/bench_isa.py [--old avx512] [--new avx512bf16] [--data FOLDER]

Calls: those of ``beside.py`` by two processes with ``JPMAP_ISA`` set to one and the other, in turn,
on one thread each, in seconds of the processor: other work on the machine adds to them by the
caches it shares alone.

Ends: descents from the same starts with tangents in bfloat16, in float32, in float64, and in
float64 from starts moved by 1e-3. An image counts if J is within 0.1% of the float64 end of its
start, or below. J has several minima: what the moved starts lose is what any rounding may. Whole
restorations, with their several starts, are counted by J1 in the same way.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from beside import Build, compare
from restoration_problems import load_digits
from timer import RESULTS, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._problems import SIGMA, Degradation, compressed_sensing, denoising
from jpmap_fast._versions import device_name
from jpmap_fast.kernels.mlp import MLPLeastSquares, mlp_restore
from jpmap_fast.objective import Projection
from jpmap_fast.priors.protocol import make_decoder

SHAPE = (1, 28, 28)
WHOLE = 512  # digits that are restored whole, in float64 too
SOLVER = jf.GaussNewton(max_steps=500)


def degradations() -> list[Degradation]:
    """The problems of ``beside.py``."""
    g = torch.Generator().manual_seed(0)
    mask = (torch.rand(28, 28, generator=g) < 0.2).float()
    return [
        denoising(),
        Degradation("inpainting", "80% missing", jf.Inpainting(mask), SIGMA),
        compressed_sensing(SHAPE, g),
        Degradation("deblurring", "3 x 3", jf.Blur(torch.ones(3, 3) / 9), SIGMA),
    ]


def solve(form: MLPLeastSquares, z: Tensor) -> tuple[Tensor, Tensor]:
    """J [B] and steps [B] of descents from z."""
    assert SOLVER.max_steps is not None
    limits = (SOLVER.tolerance, SOLVER.max_steps, SOLVER.initial_damping, SOLVER.second_order)
    _, value, steps, _ = mlp_restore(z, form, *limits)
    return value, steps


def form_of(degradation: Degradation, y: Tensor) -> MLPLeastSquares:
    """J of measurements in their type."""
    prior = jf.load_prior("mnist", dtype=y.dtype)
    ones = torch.ones(len(y), dtype=y.dtype)
    bound = degradation.operator.to(dtype=y.dtype).bind(SHAPE, len(y))
    projection = Projection(bound, make_decoder(prior))
    found = projection(y, ones / prior.gamma**2, degradation.sigma * ones).fused()  # type: ignore[attr-defined]
    assert isinstance(found, MLPLeastSquares), found
    return found


def measured(degradation: Degradation, digits: Tensor) -> Tensor:
    """Measurements of digits."""
    return degradation.of(digits, torch.Generator().manual_seed(1), torch.device("cpu")).y


def whole(degradation: Degradation, digits: Tensor) -> dict[str, Any]:
    """Restorations by the kernels in use, against float64."""
    y, operator = measured(degradation, digits), degradation.operator
    found = jf.restore(y, operator, "mnist", degradation.sigma)
    double = jf.load_prior("mnist", dtype=torch.float64)
    in_double = operator.to(dtype=torch.float64)
    exact = jf.restore(y.double(), in_double, double, degradation.sigma)
    as_low = found.objective.double() <= 1.001 * exact.objective
    row = {"problem": degradation.name, "as_low": float(as_low.double().mean()), "images": len(y)}
    print(row, flush=True)
    return row


def ends(degradation: Degradation, digits: Tensor) -> list[dict[str, Any]]:
    """A row for starts at 0, one for starts at random."""
    y = measured(degradation, digits)
    narrow, double = form_of(degradation, y), form_of(degradation, y.double())
    full = replace(narrow, network=replace(narrow.network, tangents=[]))
    g = torch.Generator().manual_seed(2)
    zero = torch.zeros(len(y), 8)
    rows = []
    for name, z in (("0", zero), ("at random", torch.randn(zero.shape, generator=g))):
        moved = z.double() + 1e-3 * torch.randn(z.shape, generator=g, dtype=torch.float64)
        exact, steps = solve(double, z.double())
        row: dict[str, Any] = {
            "problem": degradation.name,
            "starts": name,
            "images": len(y),
            "steps_float64": float(steps.double().mean()),
        }
        for kind, form, start in (
            ("bfloat16", narrow, z),
            ("float32", full, z),
            ("moved", double, moved),
        ):
            value, steps = solve(form, start)
            row[f"steps_{kind}"] = float(steps.double().mean())
            row[f"as_low_{kind}"] = float((value <= 1.001 * exact).double().mean())
        rows.append(row)
        print(row, flush=True)
    return rows


def ends_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of the page."""
    kinds = ("bfloat16", "float32", "moved")
    return {
        "columns": [
            "problem",
            "starts",
            "as low with bfloat16",
            "float32",
            "float64, starts moved",
            "steps with bfloat16",
            "float32",
            "float64",
        ],
        "rows": [
            [row["problem"], row["starts"]]
            + [f"{100 * row[f'as_low_{kind}']:.1f}%" for kind in kinds]
            + [f"{row[f'steps_{kind}']:.2f}" for kind in ("bfloat16", "float32", "float64")]
            for row in rows
        ],
        "note": f"{rows[0]['images']} test digits. As low: J within 0.1% of the float64 end from "
        "the same start, or below; the last of these columns is float64 from starts moved by 1e-3.",
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", default="avx512")
    parser.add_argument("--new", default="avx512bf16")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="calls whose name holds this")
    parser.add_argument("--digits", type=int, default=1000)
    parser.add_argument("--data", type=Path, help="folder with mnist.npz, for more than the 500")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(jf.__file__).parent.parent
    builds = {}
    for isa in (options.old, options.new):
        chosen = {"JPMAP_ISA": isa, "OMP_NUM_THREADS": "1"}
        builds[isa] = Build(folder, "cpu", chosen, "process_time")
        if builds[isa].kernels != isa:
            raise SystemExit(f"expected a processor with {isa}, got {builds[isa].kernels}")
    digits = load_digits(options.data)[: options.digits]
    document: dict[str, Any] = {"what": f"{options.new} beside {options.old}", "tables": {}}
    if jf.build_info()["cpu_kernels"] == "avx512bf16":
        rows = [row for degradation in degradations() for row in ends(degradation, digits)]
        restored = [whole(degradation, digits[:WHOLE]) for degradation in degradations()]
        document |= {"ends": rows, "whole": restored}
        document["tables"]["ends"] = ends_table(rows)
        document["tables"]["whole"] = {
            "columns": ["JPMAP() with bfloat16", "images", "J1 as low as float64"],
            "rows": [
                [row["problem"], row["images"], f"{100 * row['as_low']:.1f}%"] for row in restored
            ],
        }
    calls = compare(builds[options.old], builds[options.new], options.rounds, options.only)
    document["calls"] = calls
    document["table"] = {
        "columns": ["call", f"{options.old}, ms", f"{options.new}, ms", "ratio"],
        "rows": [
            [row["case"], 1e3 * row["old_seconds"], 1e3 * row["new_seconds"], row["ratio"]]
            for row in calls
        ],
        "note": f"On {device_name(torch.device('cpu'))}, torch {torch.__version__}: medians of "
        "seconds of the processor, the two in turn; the ratio is the median of the pairs.",
    }
    device = torch.device("cpu")
    write(options.output or RESULTS / "isa_cpu.json", document, device)


if __name__ == "__main__":
    main()
