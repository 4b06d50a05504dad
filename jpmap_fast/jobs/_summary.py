"""summary.json: what a run did, for a person or a table to read. Its sigma is in 255ths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jpmap_fast._files import write_json
from jpmap_fast._messages import in_255ths
from jpmap_fast.jobs._settings import flat
from jpmap_fast.jobs.report import PictureReport, RestoreReport
from jpmap_fast.jobs.request import RestoreRequest

NAME = "summary.json"
# What may differ between a run that has finished in a folder and one that makes it again.
_OTHERWISE = ("chunk_size", "version")


def told_settings(
    request: RestoreRequest, algorithm: str, more: Mapping[str, Any]
) -> dict[str, Any]:
    """All settings of a run, for a person to read.

    Args:
        request: of the run.
        algorithm: the method with its settings.
        more: settings beside those of the request.
    """
    sigma = request.sigma if isinstance(request.sigma, str) else in_255ths(request.sigma)
    own = {"sigma": sigma, "sigma_unit": "1/255", "algorithm": algorithm}
    return {**flat(request), **more, **own}


def finished_run(
    folder: Path, kept: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """All that the results in a folder depend on, and the same of another run.

    Args:
        folder: of results.
        kept: of the other run, as ``_settings.settings`` gives it.

    Returns:
        Both; None where no summary of a run is in the folder.
    """
    try:
        before = json.loads((folder / NAME).read_text())["depends_on"]
    except (OSError, ValueError, LookupError, TypeError):  # none, or of another program
        return None
    return (_compared(before), _compared(kept)) if isinstance(before, dict) else None


def _compared(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kept.items() if name not in _OTHERWISE}


def write_summary(
    folder: Path,
    request: RestoreRequest,
    report: RestoreReport,
    settings: Mapping[str, Any],
    kept: Mapping[str, Any],
    *,
    done: str = "restored",
    details: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write summary.json, whole or not at all.

    Args:
        folder: that it is written to.
        request, report: of the run.
        settings: as ``told_settings`` gives them.
        kept: all that the results depend on, as ``_settings.settings`` gives it.
        done: what was done with the images.
        details: of each image, beside what its report says.
    """
    estimated = isinstance(request.sigma, str)
    summary: dict[str, Any] = {
        done: len(report.restored),
        "converged": report.converged,
        "failed": len(report.failures),
        "seconds": report.seconds,
        **{f"mean_{name}": value for name, value in report.means.items()},
        "settings": settings,
        "depends_on": kept,
        "versions": report.versions,
        "images": [_line(picture, request.simulate, estimated) for picture in report.pictures],
        "failures": [{"name": name, "reason": reason} for name, reason in report.failures],
    }
    for line, own in zip(summary["images"], details, strict=False):
        line.update(own)
    write_json(folder / NAME, summary)


def _line(picture: PictureReport, simulated: bool, estimated: bool) -> dict[str, Any]:
    """What it says of one image; the time it took differs from run to run and is left out."""
    line: dict[str, Any] = {
        "name": picture.source,
        "status": picture.status,
        "converged": picture.converged,
        "objective": picture.objective,
        "iterations": picture.iterations,
    }
    if estimated:
        line["sigma"] = in_255ths(picture.sigma)
    if simulated:
        line |= {"psnr": picture.psnr, "psnr_decoded": picture.psnr_decoded}
    if picture.notes:
        line["notes"] = list(picture.notes)
    if picture.failure is not None:
        line["failure"] = picture.failure
    if picture.output is not None:
        line["file"] = picture.output
    return line
