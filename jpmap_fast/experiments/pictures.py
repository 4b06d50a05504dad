"""Grids of pictures: original, measured, and one row a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from jpmap_fast._figures import Row, grid_figure, mark_missing
from jpmap_fast._problems import Problem
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.section import FigureFile
from jpmap_fast.operators import Inpainting


def restored_rows(
    problem: Problem,
    runs: dict[str, dict[str, Any]],
    columns: int,
    decoded: Sequence[str] = (),
) -> list[Row]:
    """Rows of a grid.

    Args:
        problem: what was measured.
        runs: what ``Measure`` keeps, by the name of the method.
        columns: images shown, the first ones.
        decoded: methods whose G(z) is shown beside their x.
    """
    clean = problem.clean[:columns].cpu()
    rows = [Row("original", clean), measured_row(problem, columns)]
    for name, run in runs.items():
        rows.append(_row(name, run, "x", "psnr", columns))
        if name in decoded:
            rows.append(_row(f"{name}, G(z)", run, "decoded", "psnr_decoded", columns))
    return rows


def measured_row(problem: Problem, columns: int) -> Row:
    """The measurements as pictures."""
    shown = problem.first(columns)
    images = shown.display.cpu()
    if isinstance(shown.operator, Inpainting):
        return Row("measured", mark_missing(images, shown.operator.mask.cpu()), "blue = missing")
    detail = "" if shown.y.dim() == 4 else r"as $A^T y$"
    return Row("measured", images, detail)


def save_rows(
    context: Context, stem: str, title: str, rows: Sequence[Row], caption: str
) -> FigureFile:
    """Write a grid of pictures."""
    return context.save(stem, grid_figure(title, rows), caption, pictures=True)


def _row(label: str, run: dict[str, Any], what: str, score: str, columns: int) -> Row:
    values: Tensor = run[score]
    images: Tensor = run[what][:columns]
    captions = [f"{value:.1f} dB" for value in values[:columns].tolist()]
    captions += [""] * (columns - len(captions))
    detail = f"mean of {len(values)}: {float(values.mean()):.2f} dB"
    return Row(label, images, detail, captions)
