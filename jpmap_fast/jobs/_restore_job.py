"""The run of a request: read, degrade if asked to, restore, write; file by file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._files import written_whole
from jpmap_fast.algorithms import Progress
from jpmap_fast.data.writing import write_pictures
from jpmap_fast.jobs._job import Job, opened
from jpmap_fast.jobs._journal import Entry, Journal
from jpmap_fast.jobs._outputs import Targets, as_stored
from jpmap_fast.jobs._settings import settings
from jpmap_fast.jobs._sources import Item, Source
from jpmap_fast.jobs._summary import told_settings, write_summary
from jpmap_fast.jobs.pictures import RestoredBatch
from jpmap_fast.jobs.report import PictureReport, RestoreReport
from jpmap_fast.jobs.request import RestoreRequest


def run(
    request: RestoreRequest,
    *,
    images: Any = None,
    arrays: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    passes: Progress | None = None,
) -> RestoreReport:
    """Do what a request says.

    Writes restored.npz (x, z, decoded, objective, converged, names), summary.json and, for picture
    files, a file for each; with ``simulate`` also measured.npz. Where the prior takes pictures of
    any size, restored.npz of picture files has no x, z and decoded, and measured/NAME.npz stands
    for each in place of measured.npz. Files are read, restored and written in turn: a run that was
    stopped goes on with ``resume``.

    Args:
        request: what to restore, and how.
        images: measurements [N, C, H, W] or [N, m], or clean images where the request simulates,
            as a tensor or array in place of ``request.inputs``.
        arrays: options of the operator that the request leaves out, see ``Restoring``.
        progress: called with the number of sources (files, or slices of an array) that were read
            and that of all; before the first one with 0.
        passes: called as ``restore`` calls its ``progress``, for the images at hand.

    Returns:
        What became of every image. One that fails leaves the others as they are.

    Raises:
        ValueError, TypeError, OSError: the request cannot be run at all; or something is wrong with
            an array of images, which is one input.
    """
    inputs = opened(request, images, arrays, None if request.estimate == "map" else 1)
    targets = None
    if not inputs.rows:
        targets = Targets(Path(request.output), inputs.files, request.format, request.bits)
        if not request.resume:
            targets.check_inputs([Path(path) for path in request.inputs])
    kept = settings(inputs.ready.request, arrays or {})
    return _RestoreJob(inputs, kept, targets, passes).run(progress)


@dataclass
class _RestoreJob(Job):
    passes: Progress | None
    of_any_size = "; the priors photos and photos-grey take pictures of any size"

    @property
    def settings(self) -> dict[str, Any]:
        return told_settings(self.ready.request, self.algorithm, {})

    def worked(self, items: list[Item]) -> RestoredBatch:
        return self.ready.batch(items, self.passes)

    def stored(
        self, waiting: list[tuple[Source, list[Item]]], batch: RestoredBatch, journal: Journal
    ) -> list[Entry]:
        simulated, common = self.ready.request.simulate, self.inputs.common
        done: list[Entry] = []
        names: list[str] = []
        for source, part in waiting:
            rows = slice(len(names), len(names) + len(part))
            names += [item.name for item in part]
            file = self._write(source, part, batch.result.x[rows], batch.reports[rows])
            if common is None and simulated:
                self._write_measured(source, part, batch, rows)
            reports = [{**asdict(report), "output": file} for report in batch.reports[rows]]
            done.append(Entry(source.name, source.stamp, reports))
        journal.results.append(_fields(batch.result, names, common is not None))
        if simulated and common is not None:
            journal.measured.append({"y": batch.y.numpy(), **batch.own})
        return done

    def _write(
        self, source: Source, items: list[Item], x: Tensor, reports: list[PictureReport]
    ) -> str | None:
        """The name of the picture file that answers a source, all of its pages or none."""
        if self.targets is None or source.file is None:
            return None
        if all(report.failure is not None for report in reports):
            return None
        stored = [item.stored for item in items]
        target = self.targets.of(source.file, stored)
        images = [as_stored(image, item) for image, item in zip(x, items, strict=True)]
        write_pictures(target, images, self.targets.written(stored))
        return target.name

    def _write_measured(
        self, source: Source, items: list[Item], batch: RestoredBatch, rows: slice
    ) -> None:
        """What the pages of a file were restored from, as measured.npz has it of all images."""
        assert self.targets is not None and source.file is not None
        folder = self.output / "measured"
        folder.mkdir(exist_ok=True)
        name = self.targets.of(source.file, [item.stored for item in items]).name
        own = {name: array[rows] for name, array in batch.own.items()}
        shared = self.ready.at(items[0].values.shape).arrays()
        with written_whole(folder / f"{name}.npz") as part, part.open("wb") as file:
            np.savez(file, y=batch.y[rows].numpy(), **own, **shared)

    def close(self, journal: Journal, report: RestoreReport) -> None:
        request, common = self.ready.request, self.inputs.common
        journal.results.write(self.output / "restored.npz", {})
        if request.simulate and common is not None:
            journal.measured.write(self.output / "measured.npz", common.arrays())
        write_summary(self.output, request, report, self.settings, self.kept)


def _fields(result: jf.Result, names: list[str], images: bool) -> dict[str, Any]:
    fields_ = (*(("x", "z", "decoded") if images else ()), "objective", "converged")
    arrays = {name: getattr(result, name).cpu().numpy() for name in fields_}
    # Of a fixed width, as rows are: names are cut in the middle of no letter.
    return {**arrays, "names": np.array(names, dtype="U255")}
