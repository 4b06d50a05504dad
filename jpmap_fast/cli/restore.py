"""``jpmap-fast restore``: a request of its flags, and a report on the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from jpmap_fast._prepared import AUTO
from jpmap_fast.algorithms import Progress
from jpmap_fast.cli import _restore_flags as flags
from jpmap_fast.cli._common import FAILED_INPUTS, told_in_one_line
from jpmap_fast.jobs import RestoreReport, RestoreRequest, run, with_prior
from jpmap_fast.operators.registry import all_options, owners


@flags.WithOperators
def restore(
    inputs: flags.Inputs,
    operator: flags.OperatorName,
    sigma: flags.Sigma,
    output: flags.Output = Path("restored"),
    simulate: flags.Simulate = False,
    seed: flags.Seed = 0,
    prior: flags.Prior = None,
    method: flags.Method = None,
    residual: flags.ResidualName = "white",
    starts: flags.Starts = None,
    alpha: flags.Alpha = None,
    key: flags.Key = None,
    background: flags.Background = 1.0,
    resume: flags.Resume = False,
    device: flags.Device = "auto",
    progress: flags.Progress = None,
    **options: Any,
) -> None:
    """Restore images from measurements.

    Writes restored.npz (x, z, decoded, objective, converged, names), summary.json and, for picture
    files, a file of the same name and depth for each: TIFF for TIFF, PNG for the others; pages and
    frames stay together. With --simulate also measured.npz. With a prior for pictures of any size
    each file may have its own: restored.npz then has no x, z and decoded, and measured/NAME.npz
    stands for each file in place of measured.npz. Files are read, restored and written in turn, and
    a run that was stopped goes on with --resume. Exit status: 0 all restored, 1 some inputs failed
    (named, the others are done), 2 bad usage.
    """
    with told_in_one_line():
        request = RestoreRequest(
            inputs=tuple(map(str, inputs)),
            operator=operator,
            sigma=_of_255ths(sigma),
            options=_options(operator, options),
            output=str(output),
            simulate=simulate,
            seed=seed,
            prior=RestoreRequest.prior if prior is None else prior,
            method=method,
            residual=residual,
            settings=_settings(method, starts, alpha),
            key=key,
            background=background,
            resume=resume,
            device=device,
        )
        if prior is None:
            request = with_prior(request)
        with _bars(sys.stderr.isatty() if progress is None else progress) as (files, passes):
            report = run(request, progress=files, passes=passes)
    chosen = request.prior if request.prior not in (prior, RestoreRequest.prior) else None
    _tell(report, chosen)
    if report.failures:
        raise typer.Exit(FAILED_INPUTS)


def _of_255ths(text: str) -> float | str:
    """The noise level in the units of the library."""
    if text == AUTO:
        return text
    try:
        sigma = float(text)
    except ValueError:
        sigma = math.nan
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"--sigma: expected a number > 0, in 255ths, or auto, got {text}")
    return sigma / 255


def _options(operator: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, a default of another operator's being none."""
    defaults = {option.name: option.default for option in all_options()}
    return {
        name: value
        for name, value in given.items()
        if value is not None and (value != defaults[name] or operator in owners(name))
    }


def _settings(method: str | None, starts: int | None, alpha: float | None) -> dict[str, Any]:
    """The settings of a method, by its own names for them."""
    settings: dict[str, Any] = {}
    if starts is not None:
        if starts < 1:
            raise ValueError(f"--starts: expected at least 1, got {starts}")
        settings["starts"] = starts
    if alpha is not None:
        if method != "map-z":
            raise ValueError(f"--alpha: only for --method map-z, got {method or 'none'}")
        settings["alpha"] = alpha
    return settings


@contextmanager
def _bars(shown: bool) -> Iterator[tuple[Progress, Progress]]:
    """What moves a progress bar over files, and one over the work on those at hand."""
    from tqdm.auto import tqdm

    def moving(bar: Any) -> Progress:
        def tell(done: int, total: int) -> None:
            if done < bar.n:  # other files
                bar.reset()
            bar.total = total
            bar.update(done - bar.n)

        return tell

    with (
        tqdm(desc="restore", unit="file", disable=not shown) as files,
        tqdm(desc="at hand", unit="pass", disable=not shown, leave=False) as passes,
    ):
        yield moving(files), moving(passes)


def _tell(report: RestoreReport, chosen: str | None = None) -> None:
    """Say what was done, with which prior if it was ``chosen`` here, what is to be known of the
    images, and what failed.
    """
    if report.output is not None:
        told = f"{len(report.restored)} restored"
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
