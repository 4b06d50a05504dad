"""``jpmap-fast sample``: a request of its flags, and a report on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from jpmap_fast.cli import _restore_flags as flags
from jpmap_fast.cli._common import FAILED_INPUTS, told_in_one_line
from jpmap_fast.cli._requests import bars, request_of
from jpmap_fast.cli.restore import tell
from jpmap_fast.jobs import RestoreRequest, SampleRequest, run_sampling
from jpmap_fast.priors import pinned_name

Draws = Annotated[int, typer.Option(help="Draws of each image.")]
Sampler = Annotated[str, typer.Option("--method", help="amis, mala or smc.")]
Level = Annotated[float, typer.Option(help="Of the intervals, between 0 and 1.")]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="File of Calibration.save: its intervals are written."
    ),
]
ModeStarts = Annotated[
    int | None, typer.Option(help="Descents of each image that look for modes of its posterior.")
]
WriteDraws = Annotated[bool, typer.Option("--write-draws", help="Every draw as a picture.")]


@flags.WithOperators
def sample(
    inputs: flags.Inputs,
    operator: flags.OperatorName,
    sigma: flags.Sigma,
    output: flags.Output = "sampled",
    simulate: flags.Simulate = False,
    draws: Draws = SampleRequest.draws,
    level: Level = SampleRequest.level,
    calibration: CalibrationFile = None,
    write_draws: WriteDraws = False,
    seed: flags.Seed = 0,
    prior: flags.CodedPrior = RestoreRequest.prior,
    method: Sampler = SampleRequest.sampler,
    residual: flags.ResidualName = "white",
    starts: ModeStarts = None,
    key: flags.Key = None,
    background: flags.Background = 1.0,
    resume: flags.Resume = False,
    device: flags.Device = "auto",
    progress: flags.Progress = None,
    **options: Any,
) -> None:
    """Draw what measurements may have been, with intervals.

    Writes posterior.npz (draws x and z, mean, std, decoded, lower, upper, how far they can be
    trusted, names), summary.json and, for picture files, folders with a file for each: mean, lower,
    upper, std (TIFF of floats) and std-picture (each as bright as it can be); with --write-draws
    also draws/NAME. The prior needs latent codes: photos and photos-grey have none. A run that was
    stopped goes on with --resume. Exit status: 0 all sampled, 1 some inputs failed (named, the
    others are done), 2 bad usage.
    """
    with told_in_one_line():
        restore = request_of(
            inputs,
            operator,
            sigma,
            output,
            pinned_name(prior),
            options,
            simulate=simulate,
            seed=seed,
            residual=residual,
            key=key,
            background=background,
            resume=resume,
            device=device,
        )
        request = SampleRequest(
            restore=restore,
            draws=draws,
            sampler=method,
            settings=flags.starts_settings(starts),
            level=level,
            calibration=None if calibration is None else str(calibration),
            write_draws=write_draws,
        )
        shown = sys.stderr.isatty() if progress is None else progress
        with bars("sample", shown) as (files, _):
            report = run_sampling(request, progress=files)
    tell(report, None if restore.prior == prior else restore.prior, "sampled")
    if report.failures:
        raise typer.Exit(FAILED_INPUTS)
