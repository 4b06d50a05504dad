"""``jpmap-fast demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from jpmap_fast.cli._common import told_in_one_line
from jpmap_fast.jobs.device import pick_device


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for results.json and the figures.")
    ] = Path("demo"),
    images: Annotated[
        int, typer.Option(help="Number of MNIST test digits for each problem, 1 to 500.")
    ] = 32,
    prior: Annotated[
        str, typer.Option(help="Name of a bundled prior, or a path; for images of 1 x 28 x 28.")
    ] = "mnist",
    seed: Annotated[int, typer.Option(help="Of masks, matrix, noise and random starts.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Progress bar; by default on a terminal."),
    ] = None,
) -> None:
    """Restore a photograph, then real digits.

    The photograph is inpainted, deblurred and enlarged. The digits are restored from noise, from
    20% of their pixels and from 140 measurements, by CSGM and JPMAP on the same ones. Writes
    results.json and figures, and prints the means.
    """
    with told_in_one_line():
        from jpmap_fast.demo import format_photograph, format_table, run_demo

        shown = sys.stderr.isatty() if progress is None else progress
        results = run_demo(
            output, images, prior=prior, seed=seed, device=pick_device(device), progress=shown
        )
    typer.echo(format_photograph(results["photograph"]))
    typer.echo("")
    typer.echo(format_table(results))
    typer.echo("")
    typer.echo(f"{results['seconds_total']:.1f} s in all. Written:")
    figures = [problem["figure"] for problem in results["problems"].values()]
    for name in ("results.json", results["photograph"]["figure"], *figures):
        typer.echo(f"  {output / name}")
