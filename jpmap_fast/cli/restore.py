"""``jpmap-fast restore``: a request of its flags, and a report on the terminal."""

from __future__ import annotations

import sys
from typing import Any

import typer

from jpmap_fast.cli import _restore_flags as flags
from jpmap_fast.cli._common import FAILED_INPUTS, flag, told_in_one_line
from jpmap_fast.cli._requests import bars, request_of
from jpmap_fast.fleet.settings import FleetSettings
from jpmap_fast.jobs import RestoreReport, RestoreRequest, run
from jpmap_fast.priors import pinned_name


@flags.WithOperators
def restore(
    inputs: flags.Inputs,
    operator: flags.OperatorName,
    sigma: flags.Sigma,
    output: flags.Output = "restored",
    simulate: flags.Simulate = False,
    seed: flags.Seed = 0,
    prior: flags.Prior = None,
    method: flags.Method = None,
    residual: flags.ResidualName = "white",
    estimate: flags.Estimate = RestoreRequest.estimate,
    starts: flags.Starts = None,
    alpha: flags.Alpha = None,
    key: flags.Key = None,
    background: flags.Background = 1.0,
    resume: flags.Resume = False,
    device: flags.Device = "auto",
    ray: flags.Ray = None,
    workers: flags.Workers = None,
    worker_cpus: flags.WorkerCpus = None,
    worker_gpus: flags.WorkerGpus = None,
    progress: flags.Progress = None,
    **options: Any,
) -> None:
    """Restore images from measurements.

    Writes restored.npz (x, z, decoded, objective, converged, names), summary.json and, for picture
    files, a file of the same name and depth for each: TIFF for TIFF, PNG for the others; pages and
    frames stay together. With --simulate also measured.npz. With a prior for pictures of any size
    each file may have its own: restored.npz then has no x, z and decoded, and measured/NAME.npz
    stands for each file in place of measured.npz. Files are read, restored and written in turn, and
    a run that was stopped goes on with --resume. With --ray all of this is the work of several
    processes, on one machine or many. Exit status: 0 all restored, 1 some inputs failed
    (named, the others are done), 2 bad usage.
    """
    with told_in_one_line():
        fleet = _fleet(ray, workers=workers, worker_cpus=worker_cpus, worker_gpus=worker_gpus)
        request = request_of(
            inputs,
            operator,
            sigma,
            output,
            None if prior is None else pinned_name(prior),
            options,
            simulate=simulate,
            seed=seed,
            method=method,
            residual=residual,
            estimate=estimate,
            settings=_settings(method, starts, alpha),
            key=key,
            background=background,
            resume=resume,
            device=device,
        )
        with bars("restore", sys.stderr.isatty() if progress is None else progress) as (
            files,
            passes,
        ):
            if fleet is None:
                report = run(request, progress=files, passes=passes)
            else:
                from jpmap_fast.fleet import run_fleet

                report = run_fleet(request, fleet, progress=files)
    chosen = request.prior if request.prior not in (prior, RestoreRequest.prior) else None
    tell(report, chosen)
    if report.failures:
        raise typer.Exit(FAILED_INPUTS)


def _fleet(ray: str | None, **given: Any) -> FleetSettings | None:
    """The workers that were asked for; None where none were."""
    named = {name: value for name, value in given.items() if value is not None}
    if ray is not None:
        return FleetSettings(ray=ray, **named)
    for name, value in named.items():
        raise ValueError(f"{flag(name)}: only with --ray, got {value}")
    return None


def _settings(method: str | None, starts: int | None, alpha: float | None) -> dict[str, Any]:
    """The settings of a method, by its own names for them."""
    settings = flags.starts_settings(starts)
    if alpha is not None:
        if method != "map-z":
            raise ValueError(f"--alpha: only for --method map-z, got {method or 'none'}")
        settings["alpha"] = alpha
    return settings


def tell(report: RestoreReport, chosen: str | None = None, done: str = "restored") -> None:
    """Say what was ``done``, with which prior if it was ``chosen`` here, what is to be known of the
    images, and what failed.
    """
    if report.output is not None:
        told = f"{len(report.restored)} {done}"
        told += ", " if chosen is None else f" with {chosen}, "
        # Of a method without an objective none is at a minimum.
        if not report.restored or any(p.objective is not None for p in report.restored):
            told += f"{report.converged} converged, "
        told += f"{len(report.failures)} failed"
        # Unknown where it is not finite, as that of an image restored exactly.
        x, decoded = (report.means.get(name) for name in ("psnr", "psnr_decoded"))
        if x is not None:
            told += f"; mean PSNR {x:.2f} dB"
        if decoded is not None:
            of_code = f" (G(z): {decoded:.2f} dB)"
            told += of_code if x is not None else f"; mean PSNR of G(z) {decoded:.2f} dB"
        typer.echo(f"{told}; {report.seconds:.2f} s. Written to {report.output}")
    for picture in report.pictures:
        for note in picture.notes:
            typer.echo(f"Note: {picture.source}: {note}", err=True)
    for name, reason in report.failures:
        typer.echo(f"Error: {name}: {reason}", err=True)
