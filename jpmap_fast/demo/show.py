"""The demo's table and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from jpmap_fast import _figures as figures
from jpmap_fast._problems import Problem
from jpmap_fast.demo.method_run import Run
from jpmap_fast.operators import Inpainting

COLUMNS = 10  # images in a figure


def format_table(results: dict[str, Any]) -> str:
    """The means of ``run_demo`` as a table in plain text."""
    header = ("problem", "method", "PSNR x", "PSNR G(z)", "SSIM", "J1", "converged", "ms/image")
    lines = [header]
    count = results["settings"]["images"]
    for name, problem in results["problems"].items():
        for method in results["settings"]["methods"]:
            row = problem[method]
            lines.append(
                (
                    name,
                    method,
                    *(_number(row[key], 2) for key in ("psnr", "psnr_decoded")),
                    _number(row["ssim"], 3),
                    _number(row["j1"], 1),
                    f"{row['converged']}/{count}",
                    _number(1000 * row["seconds"], 2),
                )
            )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rows = []
    for line in lines:
        words = [line[i].ljust(widths[i]) for i in (0, 1)]
        words += [line[i].rjust(widths[i]) for i in range(2, len(header))]
        rows.append("  ".join(words))
    rows.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(rows)


def draw(path: Path, problem: Problem, csgm: Run, jpmap: Run) -> None:
    """A figure of the first images: clean, measured, and restored in three ways."""
    few = problem.first(COLUMNS)
    count = len(few.y)

    def row(label: str, images: Tensor, values: Tensor) -> figures.Row:
        detail = f"mean of {len(values)}: {float(values.double().mean()):.2f} dB"
        captions = [f"{value:.1f} dB" for value in values[:count].tolist()]
        return figures.Row(label, images[:count], detail, captions)

    figures.save_grid(
        path,
        problem.title,
        [
            figures.Row("original", few.clean, "MNIST test digits"),
            _measured(few),
            row("CSGM", csgm.result.x, csgm.psnr),
            row("JPMAP x", jpmap.result.x, jpmap.psnr),
            row("JPMAP G(z)", jpmap.result.decoded, jpmap.psnr_decoded),
        ],
    )


def _measured(problem: Problem) -> figures.Row:
    """The measurements as images."""
    if isinstance(problem.operator, Inpainting):
        marked = figures.mark_missing(problem.y, problem.operator.mask)
        return figures.Row("measured", marked, "blue = missing")
    if problem.y.dim() == 2:
        return figures.Row(
            r"measured, as $A^T y$", problem.display, f"{problem.y.shape[1]} numbers"
        )
    return figures.Row("measured", problem.display)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
