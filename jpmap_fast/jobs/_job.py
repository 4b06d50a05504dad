"""The loop of every job: sources are read, worked on a batch at a time, and noted as done."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jpmap_fast._messages import one_line
from jpmap_fast._versions import versions
from jpmap_fast.algorithms import Progress
from jpmap_fast.jobs._folder import Folder
from jpmap_fast.jobs._journal import Entry, Journal
from jpmap_fast.jobs._opened import Opened
from jpmap_fast.jobs._outputs import Targets
from jpmap_fast.jobs._sources import Item, Source
from jpmap_fast.jobs._summary import finished_run
from jpmap_fast.jobs.pictures import Restoring
from jpmap_fast.jobs.report import PictureReport, RestoreReport
from jpmap_fast.priors.protocol import has_codes

# Of sources by their names: what people call them, and why they could not be had.
Failures = dict[str, tuple[str, str]]


@dataclass
class Job(ABC):
    """A run over all sources.

    Attributes:
        inputs: what there is to work on.
        kept: all that results depend on.
        targets: the pictures that are written; None for rows of an array.
        folder: where everything is written.
    """

    inputs: Opened
    kept: dict[str, Any]
    targets: Targets | None
    folder: Folder
    # What to do where a prior with codes is not for pictures of a size.
    of_any_size: ClassVar[str] = ""

    @property
    def ready(self) -> Restoring:
        """Prior and operator."""
        return self.inputs.ready

    @property
    def output(self) -> Path:
        """Folder of this machine that is written to."""
        return self.folder.path

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
        try:
            return self._run(progress or (lambda done, total: None))
        finally:
            self.folder.close()

    def _run(self, progress: Progress) -> RestoreReport:
        begin, found = time.perf_counter(), self.inputs.found
        failures: Failures = {}
        # Made with the first results: what is wrong with the request leaves nothing behind.
        journal = self.journal(found) if self.ready.request.resume else None
        left = [
            source
            for source in found
            if journal is None or not journal.check_unchanged(source.name, source.stamp)
        ]
        done = len(found) - len(left)
        journal = self.work(left, failures, journal, lambda n: progress(done + n, len(found)))
        progress(len(found), len(found))
        if journal is not None:
            journal.sort([source.name for source in found])
        told = [failures[source.name] for source in found if source.name in failures]
        if journal is None and not told:
            told = [(next(iter(self.ready.request.inputs), "images"), "no images found")]
        return self._finish(journal, told, time.perf_counter() - begin)

    def work(
        self,
        left: Sequence[Source],
        failures: Failures,
        journal: Journal | None,
        progress: Callable[[int], None],
    ) -> Journal | None:
        """Work on the sources that are left, and note those that are done.

        Args:
            left: sources, in their order.
            failures: of those that cannot be read; more are added.
            journal: of what is done; None before the first results.
            progress: called with the number of sources that were read.

        Returns:
            The journal; None where there are no results.
        """
        for waiting in self.batches(left, failures, progress):
            journal = self._finish_some(waiting, journal)
        return journal

    def batches(
        self,
        left: Sequence[Source],
        failures: Failures,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Iterator[list[tuple[Source, list[Item]]]]:
        """Sources with images of one shape, read as they are asked for."""
        waiting: list[tuple[Source, list[Item]]] = []
        size, draws = self.inputs.size, self.inputs.draws
        for number, source in enumerate(left):
            progress(number)
            items = self._read(source, failures)
            if not items:
                continue
            if waiting and waiting[0][1][0].values.shape != items[0].values.shape:
                yield waiting
                waiting = []
            waiting.append((source, items))
            count = sum(len(items) for _, items in waiting)
            if count >= size or count * draws * items[0].values.size >= self.inputs.most_numbers:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    def journal(self, found: Sequence[Source]) -> Journal:
        """The journal of the run, with what is done already where it goes on."""
        resume = self.ready.request.resume
        self.folder.begin(resume)
        finished = finished_run(self.output, self.kept) if resume else None
        journal = Journal(self.output, self.folder.place, self.kept, resume, finished)
        journal.check_inputs({source.name for source in found})
        return journal

    def _read(self, source: Source, failures: Failures) -> list[Item]:
        """The images of a source; those of a file that cannot be had are noted and left out."""
        try:
            items = source.read()
            count = len(items) if source.count is None else source.count
            if items:
                degradation = self.ready.at(items[0].values.shape)
                degradation.check_sources(self.inputs.count, self.inputs.rows)
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
            failures[source.name] = (source.file.name, reason)
            return []

    def _finish_some(
        self, waiting: list[tuple[Source, list[Item]]], journal: Journal | None
    ) -> Journal:
        """Work on some sources and write them whole."""
        batch = self.worked([item for _, part in waiting for item in part])
        journal = journal or self.journal([])
        self.note(journal, self.stored(waiting, batch, journal))
        return journal

    def note(self, journal: Journal, entries: Sequence[Entry]) -> None:
        """These are done: everything that answers them is written."""
        journal.add(entries)
        self.folder.keep()

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
            output=None if journal is None else self.ready.request.output,
            seconds=seconds,
            algorithm=self.algorithm,
            versions=versions(),
        )
        if journal is not None:
            self.close(journal, report)
            journal.finish()
            self.folder.finish()
        return report
