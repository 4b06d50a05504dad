"""The run of a request for draws: read, degrade if asked to, sample, write; file by file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._metrics import psnr
from jpmap_fast.algorithms import Progress
from jpmap_fast.data.writing import write_pictures
from jpmap_fast.jobs._folder import folder_at
from jpmap_fast.jobs._job import Job
from jpmap_fast.jobs._journal import Entry, Journal
from jpmap_fast.jobs._opened import opened
from jpmap_fast.jobs._outputs import Targets
from jpmap_fast.jobs._places import place
from jpmap_fast.jobs._settings import settings
from jpmap_fast.jobs._sources import Item, Source
from jpmap_fast.jobs._summary import told_settings, write_summary
from jpmap_fast.jobs.pictures import finite_number
from jpmap_fast.jobs.report import PictureReport, RestoreReport
from jpmap_fast.jobs.sample_request import SampleRequest
from jpmap_fast.sampling import with_codes
from jpmap_fast.sampling.posterior import draws_for

# Pictures of each image that are written as its file is; their fields in posterior.npz as well.
PICTURES = ("mean", "lower", "upper")
# Numbers in posterior.npz and summary.json.
NUMBERS = ("ess", "pareto_k", "log_evidence", "misfit", "misfit_p_value", "sigma")


def run_sampling(
    request: SampleRequest,
    *,
    images: Any = None,
    arrays: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> RestoreReport:
    """Do what a request for draws says.

    Writes posterior.npz (x, z, mean, std, decoded, lower, upper, how far they can be trusted,
    names), summary.json and, for picture files, folders with a file for each: mean, lower and upper
    in the type of the file, std as TIFF of floats in units of pixel values and std-picture with
    each brightest pixel white; with ``write_draws`` also draws/NAME/001 and so on. With a
    ``resume`` it goes on where a run was stopped.

    Args:
        request: what to sample, and how.
        images, arrays, progress: as ``run`` takes them.

    Returns:
        What became of every image; "psnr" is that of the mean. A status other than "converged" is
        among the notes of its image.

    Raises:
        ValueError, TypeError, OSError: the request cannot be run at all, such as one with a prior
            without codes; or something is wrong with an array of images, which is one input.
    """
    calibration = None if request.calibration is None else jf.Calibration.load(request.calibration)
    inputs = opened(request.restore, images, arrays, request.draws)
    with_codes(inputs.ready.prior)
    # As it was made ready: of a prior on the hub, with its commit.
    named = replace(request.restore, prior=inputs.ready.request.prior)
    request = replace(request, restore=named)
    kept = settings(request.restore, arrays or {}, own=_own(request))
    output, targets = place(request.restore.output), None
    if not inputs.rows:
        targets = _targets(request, inputs.files, PICTURES[0])
        paths, resume = [place(path) for path in request.restore.inputs], request.restore.resume
        for name in (*PICTURES, "std", "std-picture", "draws"):
            _targets(request, inputs.files, name).check_inputs(output / name, paths, resume)
    job = _SampleJob(inputs, kept, targets, folder_at(output), request, calibration)
    return job.run(progress)


def _own(request: SampleRequest) -> dict[str, Any]:
    """The settings of draws."""
    names = ("draws", "sampler", "level", "calibration", "write_draws")
    return {**{name: getattr(request, name) for name in names}, **request.settings}


def _targets(request: SampleRequest, files: list[Path], name: str) -> Targets:
    """Where the pictures of one kind go."""
    kind, bits = request.restore.format, request.restore.bits
    if name == "std":
        kind, bits = "tiff", 32
    elif name == "std-picture":
        kind, bits = None, 8
    return Targets(files, kind, bits)


@dataclass(frozen=True)
class _Batch:
    """Images sampled together; bounds [B, C, H, W], and what there is to say of each image."""

    posterior: jf.Posterior
    bounds: tuple[Tensor, Tensor]
    reports: list[PictureReport]
    details: list[dict[str, Any]]


@dataclass
class _SampleJob(Job):
    request: SampleRequest
    calibration: jf.Calibration | None

    @property
    def algorithm(self) -> str:
        return repr(self.request.method())

    @property
    def settings(self) -> dict[str, Any]:
        return told_settings(self.request.restore, self.algorithm, _own(self.request))

    def worked(self, items: list[Item]) -> _Batch:
        begin, request = time.perf_counter(), self.request.restore
        images, y, operator, _ = self.ready.measured(items)
        posterior = jf.sample(
            y.to(self.ready.device),
            operator.to(self.ready.device),
            self.ready.prior,
            self.ready.noise_levels(items),
            draws=self.request.draws,
            method=self.request.method(),
            residual=request.residual,
            generator=torch.Generator().manual_seed(request.seed),
        )
        lower, upper = posterior.interval(self.request.level, calibration=self.calibration)
        share = (time.perf_counter() - begin) / len(items)
        details = [
            {name: finite_number(getattr(posterior, name)[i]) for name in NUMBERS[:-1]}
            | {"largest_std": finite_number(posterior.std[i].max())}
            for i in range(len(items))
        ]
        quality: dict[str, Tensor] = {}
        if request.simulate:
            for name, found in (("psnr", posterior.mean), ("psnr_decoded", posterior.decoded)):
                quality[name] = psnr(found.cpu(), images.to(found.dtype))
            inside = (images >= lower.cpu()) & (images <= upper.cpu())
            for own, part in zip(details, inside.flatten(1).double().mean(dim=1), strict=True):
                own["covered"] = float(part)
        finite = torch.isfinite(posterior.mean.flatten(1)).all(dim=1).tolist()
        reports = []
        for i, (item, status) in enumerate(zip(items, posterior.status, strict=True)):
            notes = (*item.notes, *self._few_draws())
            notes = notes if status == "converged" or not finite[i] else (*notes, status)
            report = PictureReport(
                source=item.name,
                sigma=float(posterior.sigma[i]),
                status=status,
                converged=bool(posterior.converged[i]),
                objective=None,
                iterations=0,
                seconds=share,
                notes=tuple(notes),
                failure=None if finite[i] else status,
                psnr=finite_number(quality["psnr"][i]) if quality else None,
                psnr_decoded=finite_number(quality["psnr_decoded"][i]) if quality else None,
            )
            reports.append(report)
        return _Batch(posterior, (lower, upper), reports, details)

    def _few_draws(self) -> tuple[str, ...]:
        """What there is to say of intervals of fewer draws than their level takes."""
        draws, level = self.request.draws, self.request.level
        if self.calibration is not None or draws >= draws_for(level):
            return ()
        sure, wanted = (draws - 1) / (draws + 1), draws_for(level)
        told = f"intervals between the extremes of {draws} draws are sure to {sure:.2f}, not "
        return (f"{told}{level:g}: that takes {wanted} draws",)

    def stored(
        self, waiting: list[tuple[Source, list[Item]]], batch: _Batch, journal: Journal
    ) -> list[Entry]:
        found, (lower, upper) = batch.posterior, batch.bounds
        names: list[str] = []
        done = []
        for source, part in waiting:
            rows = slice(len(names), len(names) + len(part))
            names += [item.name for item in part]
            file = self._write(source, part, batch, rows)
            reports = [{**asdict(report), "output": file} for report in batch.reports[rows]]
            done.append(Entry(source.name, source.stamp, reports))
        fields = {"x": found.x, "z": found.z, "mean": found.mean, "std": found.std}
        fields |= {"decoded": found.decoded, "lower": lower, "upper": upper}
        fields |= {name: getattr(found, name) for name in (*NUMBERS, "converged")}
        plain = {name: value.cpu().numpy() for name, value in fields.items() if value is not None}
        journal.results.append({**plain, "names": np.array(names, dtype="U255")})
        told = [torch.tensor([_nan(own.get(name)) for own in batch.details]) for name in _TOLD]
        journal.measured.append(
            {name: values.numpy() for name, values in zip(_TOLD, told, strict=True)}
        )
        return done

    def _write(self, source: Source, items: list[Item], batch: _Batch, rows: slice) -> str | None:
        """The name of the files that answer a source, in all folders."""
        if self.targets is None or source.file is None:
            return None
        if all(report.failure is not None for report in batch.reports[rows]):
            return None
        stored, found = [item.stored for item in items], batch.posterior
        std = found.std[rows]
        brightest = std.flatten(1).amax(dim=1).reshape(-1, 1, 1, 1).clamp_min(1e-30)
        shown = dict(
            zip(PICTURES, (found.mean[rows], *(b[rows] for b in batch.bounds)), strict=True)
        )
        for name, values in (*shown.items(), ("std", std), ("std-picture", std / brightest)):
            targets = _targets(self.request, self.inputs.files, name)
            target = self.output / name / targets.of(source.file, stored)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_pictures(target, list(values), targets.written(stored))
        answer = Path(self.targets.of(source.file, stored))
        if self.request.write_draws and found.x is not None:
            folder = self.output / "draws" / answer
            folder.mkdir(parents=True, exist_ok=True)
            for number, x in enumerate(found.x[rows].unbind(1), 1):
                own = folder / f"{number:0{len(str(self.request.draws))}d}{answer.suffix}"
                write_pictures(own, list(x), self.targets.written(stored))
        return answer.name

    def close(self, journal: Journal, report: RestoreReport) -> None:
        journal.results.write(self.output / "posterior.npz", {})
        told = journal.measured.read()
        details = [
            {name: value for name, column in told.items() if np.isfinite(value := column[i].item())}
            for i in range(journal.measured.count)
        ]
        restore = self.request.restore
        write_summary(
            self.output,
            restore,
            report,
            self.settings,
            self.kept,
            done="sampled",
            details=details,
        )


# Numbers of each image in summary.json.
_TOLD = (*NUMBERS[:-1], "largest_std", "covered")


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
