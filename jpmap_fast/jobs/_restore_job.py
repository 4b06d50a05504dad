"""The run of a request: read, degrade if asked to, restore, write; file by file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import numpy as np
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._files import write_whole
from jpmap_fast.algorithms import Progress
from jpmap_fast.data.writing import encoded
from jpmap_fast.jobs._folder import Folder, folder_at
from jpmap_fast.jobs._job import Job
from jpmap_fast.jobs._journal import Entry, Journal
from jpmap_fast.jobs._opened import Opened, opened
from jpmap_fast.jobs._outputs import Targets, as_stored
from jpmap_fast.jobs._places import place
from jpmap_fast.jobs._settings import settings
from jpmap_fast.jobs._sources import Item, Source
from jpmap_fast.jobs._summary import told_settings, write_summary
from jpmap_fast.jobs.pictures import RestoredBatch
from jpmap_fast.jobs.report import RestoreReport
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
    return RestoreJob(*prepared(request, images, arrays), passes).run(progress)


def prepared(
    request: RestoreRequest, images: Any = None, arrays: Mapping[str, Any] | None = None
) -> tuple[Opened, dict[str, Any], Targets | None, Folder]:
    """What a ``Job`` of a request is made of.

    Args:
        request, images, arrays: as ``run`` takes them.

    Raises:
        ValueError, TypeError, OSError: the request cannot be run at all.
    """
    inputs = opened(request, images, arrays, draws_of(request))
    output, targets = place(request.output), None
    if not inputs.rows:
        targets = Targets(inputs.files, request.format, request.bits)
        targets.check_inputs(output, [place(path) for path in request.inputs], request.resume)
    kept = settings(inputs.ready.request, arrays or {})
    return inputs, kept, targets, folder_at(output)


def draws_of(request: RestoreRequest) -> int | None:
    """Of each image; None where it is restored without any."""
    return None if request.estimate == "map" else 1


@dataclass(frozen=True)
class Answer:
    """What answers one source, in memory: it travels.

    Attributes:
        reports: on each image, as a dictionary.
        stored: types of the pages of its file.
        picture: content of the file that answers it; None for rows of an array, and where nothing
            was restored.
        measured: content of the file of its measurements, where it has its own.
        results: a row of each image for restored.npz.
        degraded: the same for measured.npz.
    """

    reports: list[dict[str, Any]]
    stored: list[str]
    picture: bytes | None
    measured: bytes | None
    results: dict[str, Any]
    degraded: dict[str, Any]


@dataclass
class RestoreJob(Job):
    """Every source is restored. ``answers`` may be asked for elsewhere than they are written."""

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
        return self.write([s for s, _ in waiting], self.answers(waiting, batch), journal)

    def answers(
        self, waiting: Sequence[tuple[Source, list[Item]]], batch: RestoredBatch
    ) -> list[Answer]:
        """What answers each source whose items were ``worked``."""
        simulated, common = self.ready.request.simulate, self.inputs.common
        found: list[Answer] = []
        begin = 0
        for source, items in waiting:
            rows = slice(begin, begin + len(items))
            begin = rows.stop
            own = {name: array[rows] for name, array in batch.own.items()}
            measured = {"y": batch.y[rows].numpy(), **own} if simulated else {}
            failed = all(report.failure is not None for report in batch.reports[rows])
            apart = simulated and common is None
            found.append(
                Answer(
                    reports=[asdict(report) for report in batch.reports[rows]],
                    stored=[item.stored for item in items],
                    picture=None if failed else self._picture(source, items, batch.result.x[rows]),
                    measured=self._measured(items, measured) if apart else None,
                    results=_fields(batch.result, rows, items, common is not None),
                    degraded=measured if common is not None else {},
                )
            )
        return found

    def _picture(self, source: Source, items: list[Item], x: Tensor) -> bytes | None:
        """The content of the file that answers a source."""
        if self.targets is None or source.file is None:
            return None
        stored = [item.stored for item in items]
        images = [as_stored(image, item) for image, item in zip(x, items, strict=True)]
        suffix = self.targets.suffix(source.file, stored)
        return encoded(suffix, images, self.targets.written(stored))

    def _measured(self, items: list[Item], measured: dict[str, Any]) -> bytes:
        """What the pages of a file were restored from, as measured.npz has it of all images."""
        content = BytesIO()
        shared = self.ready.at(items[0].values.shape).arrays()
        np.savez(content, **measured, **shared)
        return content.getvalue()

    def write(
        self, sources: Sequence[Source], answers: Sequence[Answer], journal: Journal
    ) -> list[Entry]:
        """These sources, after all that answers them is written."""
        done = []
        for source, answer in zip(sources, answers, strict=True):
            file = self._write(source, answer)
            reports = [{**report, "output": file} for report in answer.reports]
            done.append(Entry(source.name, source.stamp, reports))
        journal.results.append(_together([answer.results for answer in answers]))
        if answers[0].degraded:
            journal.measured.append(_together([answer.degraded for answer in answers]))
        return done

    def _write(self, source: Source, answer: Answer) -> str | None:
        """The name of the picture file that answers a source, all of its pages or none."""
        if self.targets is None or source.file is None:
            return None
        name = self.targets.of(source.file, answer.stored)
        if answer.measured is not None:
            folder = self.output / "measured"
            folder.mkdir(exist_ok=True)
            write_whole(folder / f"{name}.npz", answer.measured)
        if answer.picture is None:
            return None
        write_whole(self.output / name, answer.picture)
        return name

    def close(self, journal: Journal, report: RestoreReport) -> None:
        request, common = self.ready.request, self.inputs.common
        journal.results.write(self.output / "restored.npz", {})
        if request.simulate and common is not None:
            journal.measured.write(self.output / "measured.npz", common.arrays())
        write_summary(self.output, request, report, self.settings, self.kept)


def _fields(result: jf.Result, rows: slice, items: list[Item], images: bool) -> dict[str, Any]:
    fields_ = (*(("x", "z", "decoded") if images else ()), "objective", "converged")
    arrays = {name: getattr(result, name)[rows].cpu().numpy() for name in fields_}
    # Of a fixed width, as rows are: names are cut in the middle of no letter.
    return {**arrays, "names": np.array([item.name for item in items], dtype="U255")}


def _together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of several sources, field by field."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
