"""summary.json: what a run did, for a person or a table to read. Its sigma is in 255ths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jpmap_fast._files import write_json
from jpmap_fast._messages import in_255ths
from jpmap_fast.jobs._settings import flat
from jpmap_fast.jobs.report import PictureReport, RestoreReport
from jpmap_fast.jobs.request import RestoreRequest


def write_summary(
    path: Path,
    request: RestoreRequest,
    report: RestoreReport,
    *,
    done: str = "restored",
    more: Mapping[str, Any] | None = None,
    details: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write summary.json, whole or not at all.

    Args:
        path: of the file.
        request, report: of the run.
        done: what was done with the images.
        more: settings beside those of the request.
        details: of each image, beside what its report says.
    """
    settings, estimated = flat(request), isinstance(request.sigma, str)
    summary: dict[str, Any] = {
        done: len(report.restored),
        "converged": report.converged,
        "failed": len(report.failures),
        "seconds": report.seconds,
        **{f"mean_{name}": value for name, value in report.means.items()},
        "settings": {
            **settings,
            **(more or {}),
            "sigma": request.sigma if estimated else in_255ths(float(request.sigma)),
            "sigma_unit": "1/255",
            "algorithm": report.algorithm,
        },
        "versions": report.versions,
        "images": [_line(picture, request.simulate, estimated) for picture in report.pictures],
        "failures": [{"name": name, "reason": reason} for name, reason in report.failures],
    }
    for line, own in zip(summary["images"], details, strict=False):
        line.update(own)
    write_json(path, summary)


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
