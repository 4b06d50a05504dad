"""The loop of every job: sources are read, worked on a batch at a time, and noted as done."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jpmap_fast._arrays import as_tensor
from jpmap_fast._messages import FieldError, one_line
from jpmap_fast._versions import versions
from jpmap_fast.algorithms import Progress
from jpmap_fast.jobs._degradation import Degradation
from jpmap_fast.jobs._journal import Entry, Journal
from jpmap_fast.jobs._outputs import Targets
from jpmap_fast.jobs._sources import BATCH, Item, Source, array_sources, check_vectors, sources
from jpmap_fast.jobs._summary import finished_run
from jpmap_fast.jobs.pictures import Restoring
from jpmap_fast.jobs.report import PictureReport, RestoreReport
from jpmap_fast.jobs.request import RestoreRequest
from jpmap_fast.operators.registry import named_operator
from jpmap_fast.priors.protocol import has_codes

# Of images that are drawn, which takes so much longer that what is lost with a run that is killed
# counts for more than what a batch as large as others gains.
DRAWN = 16
# Of these images, where they are large, or of their draws.
MOST_NUMBERS = 1 << 24


@dataclass(frozen=True)
class Opened:
    """A request made ready, and what there is to work on.

    Attributes:
        ready: prior and operator.
        found: the sources.
        rows: whether they are slices of one array.
        common: A of all images; None of picture files that may have any size.
        size: images worked on at a time, if they are not large.
        draws: of each image, which then counts as so many.
    """

    ready: Restoring
    found: list[Source]
    rows: bool
    common: Degradation | None
    size: int
    draws: int

    @property
    def files(self) -> list[Path]:
        """Picture files."""
        return [source.file for source in self.found if source.file]


def opened(
    request: RestoreRequest, images: Any, arrays: Mapping[str, Any] | None, draws: int | None = None
) -> Opened:
    """The inputs of a request, or ``images`` in their place.

    Args:
        request, images, arrays: as ``run`` takes them.
        draws: of each image; None where it is restored.

    Raises:
        ValueError, TypeError, OSError: the request cannot be run at all.
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
    size = _size(ready, draws)
    if images is None:
        found, rows = sources(
            inputs,
            ready.shape,
            key=request.key,
            background=request.background,
            batch=size,
        )
    else:
        array = as_tensor("images", images).detach().cpu().numpy()
        found, rows = array_sources(array, ready.shape, size), True
    common = ready.fixed
    if common is None and rows:
        common = ready.at(next(source.shape for source in found if source.shape))
    if common is not None:
        common.check_sources(len(found), rows)
    return Opened(ready, found, rows, common, size, draws or 1)


def _size(ready: Restoring, draws: int | None) -> int:
    """Images worked on at a time."""
    if ready.request.chunk_size is not None:
        return ready.request.chunk_size
    if draws is None:
        return BATCH
    each = draws * math.prod(ready.prior.image_shape or (1,))
    return max(1, min(DRAWN, MOST_NUMBERS // each))


@dataclass
class Job(ABC):
    """A run over all sources.

    Attributes:
        inputs: what there is to work on.
        kept: all that results depend on.
        targets: the pictures that are written; None for rows of an array.
    """

    inputs: Opened
    kept: dict[str, Any]
    targets: Targets | None
    # What to do where a prior with codes is not for pictures of a size.
    of_any_size: ClassVar[str] = ""

    @property
    def ready(self) -> Restoring:
        """Prior and operator."""
        return self.inputs.ready

    @property
    def output(self) -> Path:
        """Folder of what is written."""
        return Path(self.ready.request.output)

    @property
    def algorithm(self) -> str:
        """The method with its settings."""
        return repr(self.ready.algorithm)

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All settings, as a summary tells them."""

    @abstractmethod
    def worked(self, items: list[Item]) -> Any:
        """What becomes of items of one shape."""

    @abstractmethod
    def stored(
        self, waiting: list[tuple[Source, list[Item]]], batch: Any, journal: Journal
    ) -> list[Entry]:
        """Sources whose items were ``worked``, after all that answers them is written."""

    @abstractmethod
    def close(self, journal: Journal, report: RestoreReport) -> None:
        """Write what is made of all results."""

    def run(self, progress: Progress | None) -> RestoreReport:
        """Work on every source, a batch of images at a time."""
        begin, found = time.perf_counter(), self.inputs.found
        failures: list[tuple[str, str]] = []
        # Made with the first results: what is wrong with the request leaves nothing behind.
        journal = self._journal(found) if self.ready.request.resume else None
        waiting: list[tuple[Source, list[Item]]] = []
        size, draws = self.inputs.size, self.inputs.draws
        for number, source in enumerate(found):
            if progress is not None:
                progress(number, len(found))
            if journal is not None and journal.check_unchanged(source.name, source.stamp):
                continue
            items = self._read(source, failures)
            if not items:
                continue
            if waiting and waiting[0][1][0].values.shape != items[0].values.shape:
                journal = self._finish_some(waiting, journal)
                waiting = []
            waiting.append((source, items))
            count = sum(len(items) for _, items in waiting)
            if count >= size or count * draws * items[0].values.size >= self._most():
                journal = self._finish_some(waiting, journal)
                waiting = []
        if waiting:
            journal = self._finish_some(waiting, journal)
        if progress is not None:
            progress(len(found), len(found))
        if journal is None and not failures:
            name = next(iter(self.ready.request.inputs), "images")
            failures = [(name, "no images found")]
        return self._finish(journal, failures, time.perf_counter() - begin)

    def _most(self) -> float:
        """Numbers of the images worked on at a time, where the request does not count these."""
        return MOST_NUMBERS if self.ready.request.chunk_size is None else math.inf

    def _journal(self, found: list[Source]) -> Journal:
        self.output.mkdir(parents=True, exist_ok=True)
        resume = self.ready.request.resume
        finished = finished_run(self.output, self.kept) if resume else None
        journal = Journal(self.output, self.kept, resume, finished)
        journal.check_inputs({source.name for source in found})
        return journal

    def _read(self, source: Source, failures: list[tuple[str, str]]) -> list[Item]:
        """The images of a source; those of a file that cannot be had are noted and left out."""
        try:
            items = source.read()
            count = len(items) if source.count is None else source.count
            if items:
                degradation = self.ready.at(items[0].values.shape)
                degradation.check_sources(len(self.inputs.found), self.inputs.rows)
                degradation.check_count(count)
            if self.targets is not None:
                items = self.ready.check_range(items)
                self.targets.written([item.stored for item in items])
            return items
        except (ValueError, TypeError, OSError) as error:
            if source.file is None:
                raise
            reason = one_line(error).removeprefix(f"{source.file.name}: ")
            if reason.startswith("expected an image of shape") and has_codes(self.ready.prior):
                reason += self.of_any_size
            failures.append((source.file.name, reason))
            return []

    def _finish_some(
        self, waiting: list[tuple[Source, list[Item]]], journal: Journal | None
    ) -> Journal:
        """Work on some sources and write them whole."""
        batch = self.worked([item for _, part in waiting for item in part])
        journal = journal or self._journal([])
        journal.add(self.stored(waiting, batch, journal))
        return journal

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
            algorithm=self.algorithm,
            versions=versions(),
        )
        if journal is not None:
            self.close(journal, report)
            journal.finish()
        return report
