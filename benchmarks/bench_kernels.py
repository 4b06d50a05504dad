"""Every kernel against its plain-torch twin and against a measured copy, in one run.

    python benchmarks/bench_kernels.py --device cuda [--output FILE]

Bytes are what a kernel must move: each input read once, each output written once. The limit is a
device-to-device copy of the same number of bytes, measured in the same process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timer import RESULTS, median_seconds, write
from torch import Tensor

from jpmap_fast import kernels
from jpmap_fast._versions import device_name
from jpmap_fast.kernels import reference


def cases(batch: int, pixels: int, device: torch.device) -> dict[str, tuple[int, list[Any]]]:
    """Bytes moved and arguments, by operator."""

    def rows(width: int = pixels) -> Tensor:
        return torch.rand(batch, width, device=device)

    scalars = [1 + 100 * torch.rand(batch, device=device), 0.1 + torch.rand(batch, device=device)]
    active = torch.ones(batch, dtype=torch.bool, device=device)
    n = 4 * batch * pixels
    mask = (torch.rand(pixels, device=device) < 0.2).float()
    rho = torch.full((batch,), float(pixels), device=device)
    return {
        "x_update_diagonal": (3 * n, [rows(), rows(), mask, rows(8), *scalars]),
        "objective": (3 * n, [rows(), rows(), rows(), rows(8), *scalars]),
        "conjugate_gradient_step": (6 * n, [rows(), rows(), rows(), rows(), rho, active]),
        "conjugate_gradient_direction": (3 * n, [rows(), rows(), rho / 2, rho, active]),
    }


def measure(batch: int, pixels: int, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """One row an operator."""
    found = []
    for name, (size, arguments) in cases(batch, pixels, device).items():
        source = torch.empty(size // 8, device=device).uniform_()
        target = torch.empty_like(source)
        calls: dict[str, Callable[[], Any]] = {
            "kernel": lambda n=name, a=arguments: getattr(kernels, n)(*a),
            "torch": lambda n=name, a=arguments: getattr(reference, n)(*a),
            "copy": lambda t=target, s=source: t.copy_(s),
        }
        seconds = {key: median_seconds(call, device, repeats) for key, call in calls.items()}
        found.append(
            {
                "operator": name,
                "batch": batch,
                "pixels": pixels,
                "bytes": size,
                "seconds": seconds,
                "of_copy_bandwidth": seconds["copy"] / seconds["kernel"],
                "times_faster_than_torch": seconds["torch"] / seconds["kernel"],
            }
        )
        row = found[-1]
        print(
            f"{name:30s} {batch:6d} x {pixels:6d}  {row['of_copy_bandwidth']:6.1%} of copy  "
            f"{row['times_faster_than_torch']:6.2f} x torch",
            flush=True,
        )
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    # About 1 GB of traffic on a GPU; on a CPU well beyond its caches.
    sizes = (
        [(106_496, 784), (6_800, 12_288)]
        if device.type == "cuda"
        else [(8_192, 784), (512, 12_288)]
    )
    rows = [row for size in sizes for row in measure(*size, device, options.repeats)]
    lines = [
        [
            row["operator"],
            f"{row['batch']} x {row['pixels']}",
            f"{row['of_copy_bandwidth']:.0%}",
            f"{row['times_faster_than_torch']:.1f}",
        ]
        for row in rows
    ]
    columns = ["operator (float32)", "images x pixels", "of copy bandwidth", "times plain torch"]
    document = {
        "what": "kernels against their plain-torch twins and a copy of as many bytes",
        "rows": rows,
        "table": {
            "columns": columns,
            "rows": lines,
            "note": f"Measured on {device_name(device)}, torch {torch.__version__}.",
        },
    }
    default = RESULTS / f"kernels_{device.type}.json"
    write(options.output or default, document, device)


if __name__ == "__main__":
    main()
