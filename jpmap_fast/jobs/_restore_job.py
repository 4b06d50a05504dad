"""The run of a request: read, degrade if asked to, restore, write; file by file."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._arrays import as_tensor
from jpmap_fast._files import written_whole
from jpmap_fast._messages import FieldError, one_line
from jpmap_fast._versions import versions
from jpmap_fast.algorithms import Progress
from jpmap_fast.data.picture import with_channels
from jpmap_fast.data.writing import write_pictures
from jpmap_fast.jobs._degradation import Degradation
from jpmap_fast.jobs._journal import Entry, Journal
from jpmap_fast.jobs._outputs import Targets
from jpmap_fast.jobs._settings import settings
from jpmap_fast.jobs._sources import BATCH, Item, Source, array_sources, check_vectors, sources
from jpmap_fast.jobs._summary import write_summary
from jpmap_fast.jobs.pictures import RestoredBatch, Restoring
from jpmap_fast.jobs.report import PictureReport, RestoreReport
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.operators.registry import named_operator
from jpmap_fast.priors.protocol import has_codes

# Of the images restored at a time, where they are large.
MOST_NUMBERS = 1 << 24


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
    if (images is None) == (not request.inputs):
        raise FieldError(
            "{inputs}: expected paths, or images beside the request; got "
            + ("neither" if images is None else "both")
        )
    request.check_complete(arrays or ())
    inputs = [Path(path) for path in request.inputs]
    if inputs and named_operator(request.operator).vectors and not request.simulate:
        check_vectors(inputs, request.operator)
    ready = Restoring(request, arrays=arrays)
    if images is None:
        found, rows = sources(
            inputs,
            ready.shape,
            key=request.key,
            background=request.background,
            batch=request.chunk_size,
        )
    else:
        array = as_tensor("images", images).detach().cpu().numpy()
        found, rows = array_sources(array, ready.shape, request.chunk_size), True
    targets = None
    if not rows:
        files = [source.file for source in found if source.file]
        targets = Targets(Path(request.output), files, request.format, request.bits)
        if not request.resume:
            targets.check_inputs(inputs)
    common = ready.fixed
    if common is None and rows:
        common = ready.at(next(source.shape for source in found if source.shape))
    if common is not None:
        common.check_sources(len(found), rows)
    kept = settings(ready.request, arrays or {})
    return _Job(ready, Path(request.output), kept, targets, common, passes).run(found, progress)


@dataclass
class _Job:
    ready: Restoring
    output: Path
    settings: dict[str, Any]
    targets: Targets | None
    # A of all images; None of picture files that may have any size.
    common: Degradation | None
    passes: Progress | None
    sources: int = 0

    def run(self, found: list[Source], progress: Progress | None) -> RestoreReport:
        """Restore every source, a batch of images at a time."""
        begin, self.sources = time.perf_counter(), len(found)
        failures: list[tuple[str, str]] = []
        # Made with the first results: what is wrong with the request leaves nothing behind.
        journal = self._journal(found) if self.ready.request.resume else None
        waiting: list[tuple[Source, list[Item]]] = []
        size = self.ready.request.chunk_size or BATCH
        for number, source in enumerate(found):
            if progress is not None:
                progress(number, len(found))
            if journal is not None and journal.check_unchanged(source.name, source.stamp):
                continue
            items = self._read(source, failures)
            if not items:
                continue
            if waiting and waiting[0][1][0].values.shape != items[0].values.shape:
                journal = self._restore(waiting, journal)
                waiting = []
            waiting.append((source, items))
            count = sum(len(items) for _, items in waiting)
            if count >= size or count * items[0].values.size >= self._most():
                journal = self._restore(waiting, journal)
                waiting = []
        if waiting:
            journal = self._restore(waiting, journal)
        if progress is not None:
            progress(len(found), len(found))
        if journal is None and not failures:
            name = next(iter(self.ready.request.inputs), "images")
            failures = [(name, "no images found")]
        return self._finish(journal, failures, time.perf_counter() - begin)

    def _most(self) -> float:
        """Numbers of the images restored at a time, where the request does not count these."""
        return MOST_NUMBERS if self.ready.request.chunk_size is None else math.inf

    def _journal(self, found: list[Source]) -> Journal:
        self.output.mkdir(parents=True, exist_ok=True)
        journal = Journal(self.output, self.settings, self.ready.request.resume)
        journal.check_inputs({source.name for source in found})
        return journal

    def _read(self, source: Source, failures: list[tuple[str, str]]) -> list[Item]:
        """The images of a source; those of a file that cannot be had are noted and left out."""
        try:
            items = source.read()
            count = len(items) if source.count is None else source.count
            if items:
                degradation = self.ready.at(items[0].values.shape)
                degradation.check_sources(self.sources, self.targets is None)
                degradation.check_count(count)
            if self.targets is not None:
                self.ready.check_range(items)
                self.targets.written([item.stored for item in items])
            return items
        except (ValueError, TypeError, OSError) as error:
            if source.file is None:
                raise
            reason = one_line(error).removeprefix(f"{source.file.name}: ")
            if reason.startswith("expected an image of shape") and has_codes(self.ready.prior):
                reason += "; the priors photos and photos-grey take pictures of any size"
            failures.append((source.file.name, reason))
            return []

    def _restore(
        self, waiting: list[tuple[Source, list[Item]]], journal: Journal | None
    ) -> Journal:
        """Restore and write some sources whole."""
        items = [item for _, part in waiting for item in part]
        batch = self.ready.batch(items, self.passes)
        journal = journal or self._journal([])
        done, begin = [], 0
        for source, part in waiting:
            rows = slice(begin, begin + len(part))
            begin = rows.stop
            file = self._write(source, part, batch.result.x[rows], batch.reports[rows])
            if self.common is None and self.ready.request.simulate:
                self._write_measured(source, part, batch, rows)
            reports = [{**asdict(report), "output": file} for report in batch.reports[rows]]
            done.append(Entry(source.name, source.stamp, reports))
        names = [item.name for item in items]
        journal.results.append(_fields(batch.result, names, self.common is not None))
        if self.ready.request.simulate and self.common is not None:
            journal.measured.append({"y": batch.y.numpy(), **batch.own})
        journal.add(done)
        return journal

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
        images = [_as_stored(image, item) for image, item in zip(x, items, strict=True)]
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

    def _finish(
        self, journal: Journal | None, failures: list[tuple[str, str]], seconds: float
    ) -> RestoreReport:
        """Write everything, and say what became of it."""
        entries = [] if journal is None else list(journal.done.values())
        pictures = [PictureReport.from_dict(line) for entry in entries for line in entry.images]
        failures += [(p.source, p.failure) for p in pictures if p.failure is not None]
        report = RestoreReport(
            pictures=tuple(pictures),
            failures=tuple(failures),
            output=None if journal is None else str(self.output),
            seconds=seconds,
            algorithm=repr(self.ready.algorithm),
            versions=versions(),
        )
        if journal is not None:
            request = self.ready.request
            journal.results.write(self.output / "restored.npz", {})
            if request.simulate and self.common is not None:
                journal.measured.write(self.output / "measured.npz", self.common.arrays())
            write_summary(self.output / "summary.json", request, report)
            journal.finish()
        return report


def _as_stored(image: Tensor, item: Item) -> Tensor:
    """A grey image for a picture that was stored grey."""
    return torch.from_numpy(with_channels(image.cpu().numpy(), 1)) if item.grey else image


def _fields(result: jf.Result, names: list[str], images: bool) -> dict[str, Any]:
    fields_ = (*(("x", "z", "decoded") if images else ()), "objective", "converged")
    arrays = {name: getattr(result, name).cpu().numpy() for name in fields_}
    # Of a fixed width, as rows are: names are cut in the middle of no letter.
    return {**arrays, "names": np.array(names, dtype="U255")}
