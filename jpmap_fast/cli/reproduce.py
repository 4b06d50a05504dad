"""``jpmap-fast reproduce``."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from jpmap_fast.cli._common import told_in_one_line
from jpmap_fast.jobs.device import pick_device


def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(help="Experiments, or all; their names are below.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report; a run goes on in it.")
    ] = Path("reproduced"),
    quick: Annotated[
        bool | None,
        typer.Option("--quick/--full", help="Reduced size; by default on a CPU and not on a GPU."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of masks, matrices, noise and random starts.")] = 0,
    images: Annotated[
        int | None,
        typer.Option(
            min=2, max=500, help="Images restored, where an experiment is a table over methods."
        ),
    ] = None,
    faces: Annotated[
        Path | None,
        typer.Option(
            help="64 x 64 colour faces: a folder of images, an .npz or .npy file; without them "
            "the one portrait of the package, degraded several times."
        ),
    ] = None,
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Progress bar; by default on a terminal."),
    ] = None,
) -> None:
    """Make figures and tables of the paper and of its comparisons, and one HTML report.

    A run that was interrupted goes on where it stopped when the same command is given again.

    Experiments: denoising, compressed-sensing, inpainting, faces-inpainting,
    faces-reconstruction, supervised, encoder-accuracy, encoder-initialisation,
    generative-quality, sigma-dvae, continuation, convergence, candidates, pnp-convergence,
    posterior, speed.
    """
    with told_in_one_line():
        _require_experiments()
        from jpmap_fast.experiments.context import Settings
        from jpmap_fast.experiments.runner import finished
        from jpmap_fast.experiments.runner import reproduce as run

        where = pick_device(device)
        settings = Settings(
            quick=where.type == "cpu" if quick is None else quick,
            device=str(where),
            seed=seed,
            images=images,
            faces=None if faces is None else str(faces),
        )
        shown = sys.stderr.isatty() if progress is None else progress
        command = shlex.join(["jpmap-fast", *sys.argv[1:]])
        report = run(names, output, settings, command=command, progress=shown)
        for name, section in finished(output).items():
            typer.echo(f"{name:24s}{section.seconds:8.1f} s  {section.title}")
    typer.echo(f"Report: {report}")


def _require_experiments() -> None:
    """Raise where the package was installed from a wheel, which holds no experiments.

    Raises:
        ImportError: says where they are.
    """
    if importlib.util.find_spec("jpmap_fast.experiments") is None:
        raise ImportError(
            "the experiments are in the repository and not in the wheel: clone it, install with "
            "pip install -e '.[experiments]' there and run jpmap-fast reproduce again"
        )
