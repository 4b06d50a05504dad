"""The run of a fleet: workers restore, and one process writes, by the rules of any other run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jpmap_fast._messages import FieldError
from jpmap_fast._versions import versions
from jpmap_fast.algorithms import Progress
from jpmap_fast.fleet.cluster import FIRST, LAST, check_room, gpus_of, joined, restored
from jpmap_fast.fleet.settings import FleetSettings
from jpmap_fast.fleet.worker import Errand, Found, Picture
from jpmap_fast.jobs._job import Failures
from jpmap_fast.jobs._journal import Journal
from jpmap_fast.jobs._places import is_elsewhere
from jpmap_fast.jobs._restore_job import RestoreJob, prepared
from jpmap_fast.jobs._settings import settings as kept_settings
from jpmap_fast.jobs._sources import Source
from jpmap_fast.jobs._summary import told_settings
from jpmap_fast.jobs.report import RestoreReport
from jpmap_fast.jobs.request import RestoreRequest

# Batches of a worker at least, where there are pictures enough: the last ones are done together.
SHARE = 4
# Of the files of a batch: what is lost with a worker, and waits at one to be given back.
MOST_BYTES = 1 << 25


def run_fleet(
    request: RestoreRequest, fleet: FleetSettings, *, progress: Progress | None = None
) -> RestoreReport:
    """Do what a request says, by workers on a Ray cluster.

    What is written is that of ``run``, to the bit where the workers have as many threads as it has
    and processors and GPUs of one kind. Workers read pictures and give back what answers them; this
    process alone writes, notes what is done, and goes on with ``resume`` where it, or ``run``, was
    stopped. What a worker was at when it ended is done by another one; pictures over which several
    end are told as failures.

    Args:
        request: what to restore, and how; its inputs are picture files and folders, or URLs of
            them, that every worker can read by the same name, and so are a mask or a prior it
            names.
        fleet: the workers.
        progress: called with the number of pictures that are done, and that of all.

    Returns:
        What became of every image.

    Raises:
        ImportError: Ray Data is not installed.
        ValueError, TypeError, OSError: the request cannot be run at all, or not by such workers.
        RuntimeError: a worker had an error that is no picture's own.
    """
    # What is decided here is decided of any device.
    inputs, kept, targets, folder = prepared(replace(request, device="cpu"))
    if targets is None:
        raise FieldError(
            "{inputs}: expected picture files and folders with {ray}, got one array, which is "
            "restored without"
        )
    job = FleetJob(inputs, kept, targets, folder, None, request.device, fleet)
    with joined(fleet):
        return job.run(progress)


@dataclass
class FleetJob(RestoreJob):
    """A run whose sources are restored by workers."""

    device: str
    fleet: FleetSettings

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, as a summary tells them."""
        asked = replace(self.ready.request, device=self.device)
        return told_settings(asked, self.algorithm, self.fleet.told())

    def work(
        self,
        left: Sequence[Source],
        failures: Failures,
        journal: Journal | None,
        progress: Callable[[int], None],
    ) -> Journal | None:
        """As of ``Job``, in the order in which workers are done."""
        progress(0)
        gpus = gpus_of(self.fleet, self.device)
        check_room(self.fleet, gpus)
        errand = self._errand(gpus)
        waiting = {str(number): source for number, source in enumerate(left)}
        share = -(-len(left) // (SHARE * self.fleet.workers))
        for how, size in ((FIRST, max(1, min(self.inputs.size, share))), (LAST, 1)):
            batches = cut([_picture(*known) for known in waiting.items()], size)
            if not batches:
                break
            # Closed at once where something is raised: workers must not outlive their cluster.
            with closing(restored(errand, batches, self.fleet, gpus, how)) as results:
                for found in results:
                    journal = self._note(found, waiting, failures, journal)
                    progress(len(left) - len(waiting))
        for source in waiting.values():
            assert source.file is not None
            reason = f"{LAST.tries} workers ended while they restored it alone; out of memory?"
            failures[source.name] = (source.file.name, reason)
        return journal

    def _note(
        self,
        found: Found,
        waiting: dict[str, Source],
        failures: Failures,
        journal: Journal | None,
    ) -> Journal | None:
        """Write and note what was found of some pictures, which wait no more."""
        if found.error is not None:
            raise found.error
        for name, failure in found.failures.items():
            failures[waiting.pop(name).name] = failure
        sources = [waiting.pop(name) for name in found.answers]
        if sources:
            journal = journal or self.journal([])
            answers = list(found.answers.values())
            self.note(journal, self.write(sources, answers, journal))
        return journal

    def _errand(self, gpus: float) -> Errand:
        request = self.ready.request
        device = self.device if gpus or self.device != "auto" else "cpu"
        options = {name: _absolute(value) for name, value in request.options.items()}
        told = replace(
            request, device=device, options=options, prior=_absolute(request.prior), resume=False
        )
        folders = {
            os.path.dirname(os.path.abspath(file))
            for file in self.inputs.files
            if not is_elsewhere(file)
        }
        return Errand(
            request=told,
            kept=kept_settings(told, {}),
            versions=versions(),
            folders=tuple(sorted(folders)),
            count=self.inputs.count,
            threads=self.fleet.worker_cpus,
        )


def _absolute(value: Any) -> Any:
    """A text that names a file by its whole path; anything else as it is."""
    return os.path.abspath(value) if isinstance(value, str) and Path(value).is_file() else value


def _picture(name: str, source: Source) -> Picture:
    assert source.file is not None
    path = str(source.file) if is_elsewhere(source.file) else os.path.abspath(source.file)
    return Picture(name, path, source.stamp)


def cut(pictures: Iterable[Picture], size: int) -> list[list[Picture]]:
    """Batches of so many pictures at most, fewer where their files are large."""
    batches: list[list[Picture]] = []
    numbers = 0
    for picture in pictures:
        own = picture.stamp[0] or 0
        if not batches or len(batches[-1]) == size or numbers + own > MOST_BYTES:
            batches.append([])
            numbers = 0
        batches[-1].append(picture)
        numbers += own
    return batches
