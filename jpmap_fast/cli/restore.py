"""``jpmap-fast restore``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from jpmap_fast.cli._common import FAILED_INPUTS, told_in_one_line
from jpmap_fast.cli._restore_options import OperatorName, RestoreOptions


def restore(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            exists=True,
            help="Picture files and folders, or one .npz, .npy or IDX file. For compressed-sensing "
            "an .npz or .npy file with y [N, m], unless --simulate.",
        ),
    ],
    operator: Annotated[OperatorName, typer.Option(help="How the measurements were made.")],
    sigma: Annotated[
        float, typer.Option(help="Standard deviation of the noise, in 255ths: 10 is 10/255.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for what is written.")
    ] = Path("restored"),
    mask: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="For inpainting: a picture (white = observed), or .npy or .npz (1 = observed).",
        ),
    ] = None,
    matrix: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="For compressed-sensing: A [m, n], .npy or .npz."
        ),
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="KERNEL",
            help="For blur and super-resolution: gaussian:SIGMA, box:SIZE, motion:LENGTH:ANGLE, "
            "a picture (over its sum), or .npy or .npz. For super-resolution also box, the mean of "
            "each block, or bicubic, as picture programs reduce.",
        ),
    ] = None,
    boundary: Annotated[
        str,
        typer.Option(
            help="For blur: what the picture is beyond its border: circular, zero, reflect, "
            "replicate, or valid, if only what needs nothing from beyond was measured. A "
            "photograph's blur is none of these exactly; replicate comes close."
        ),
    ] = "circular",
    factor: Annotated[
        int | None,
        typer.Option(
            help="For super-resolution: one pixel of FACTOR x FACTOR is kept; without --kernel, "
            "their mean."
        ),
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate", help="INPUT are clean images: degrade them first, and report the PSNR."
        ),
    ] = False,
    missing: Annotated[
        float | None,
        typer.Option(help="With --simulate: fraction of pixels to hide, instead of --mask."),
    ] = None,
    measurements: Annotated[
        int | None,
        typer.Option(help="With --simulate: rows of a random matrix, instead of --matrix."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of simulated degradations and random starts.")] = 0,
    prior: Annotated[str, typer.Option(help="Name of a bundled prior, or a path.")] = "mnist",
    method: Annotated[str, typer.Option(help="See `jpmap-fast info`.")] = "jpmap",
    starts: Annotated[
        int | None, typer.Option(help="Starting points; the best end of each image is kept.")
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="For map-z: allowed distance of x to G(z), in grey levels."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Name of the array in an .npz INPUT.")] = None,
    background: Annotated[
        float, typer.Option(help="Grey level behind transparent pixels, 0 black to 1 white.")
    ] = 1.0,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --output that was interrupted."),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Progress bar; by default on a terminal."),
    ] = None,
) -> None:
    """Restore images from measurements.

    Writes restored.npz (x, z, decoded, objective, converged, names), summary.json and, for picture
    files, a file of the same name and depth for each: TIFF for TIFF, PNG for the others; pages and
    frames stay together. With --simulate also measured.npz. Files are read, restored and written in
    turn, and a run that was stopped goes on with --resume. Exit status: 0 all restored, 1 some
    inputs failed (named, the others are done), 2 bad usage.
    """
    with told_in_one_line():
        options = RestoreOptions(
            inputs=tuple(inputs),
            operator=operator,
            sigma=sigma,
            output=output,
            mask=mask,
            matrix=matrix,
            kernel=kernel,
            boundary=boundary,
            factor=factor,
            simulate=simulate,
            missing=missing,
            measurements=measurements,
            seed=seed,
            prior=prior,
            method=method,
            starts=starts,
            alpha=alpha,
            key=key,
            background=background,
            resume=resume,
            device=device,
        )
        from jpmap_fast.cli._restore_job import run

        failures = run(options, sys.stderr.isatty() if progress is None else progress)
    for name, reason in failures:
        typer.echo(f"Error: {name}: {reason}", err=True)
    if failures:
        raise typer.Exit(FAILED_INPUTS)
