"""What a worker does: it reads pictures, restores them, and gives back what answers them.

It writes nothing. A worker that ends in the middle has left nothing behind, and what it was at may
be done again by another one.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from jpmap_fast._messages import one_line
from jpmap_fast._versions import versions
from jpmap_fast.jobs._folder import folder_at
from jpmap_fast.jobs._job import Failures
from jpmap_fast.jobs._opened import Opened, batch_size
from jpmap_fast.jobs._outputs import Targets
from jpmap_fast.jobs._places import is_elsewhere, place, stamp
from jpmap_fast.jobs._restore_job import Answer, RestoreJob, draws_of
from jpmap_fast.jobs._settings import settings
from jpmap_fast.jobs._sources import Item, Source, picture_source
from jpmap_fast.jobs.pictures import Restoring
from jpmap_fast.jobs.request import RestoreRequest


@dataclass(frozen=True)
class Errand:
    """What all workers of a run are told.

    Attributes:
        request: of the run, its paths absolute.
        kept: all that results depend on, as the run has it for that request.
        versions: of the programs.
        folders: of this machine that pictures are in.
        count: pictures of the run.
        threads: of a worker.
    """

    request: RestoreRequest
    kept: dict[str, Any]
    versions: dict[str, str]
    folders: tuple[str, ...]
    count: int
    threads: int


@dataclass(frozen=True)
class Picture:
    """A picture that is to be restored: its name in the run, its place, and its stamp."""

    name: str
    path: str
    stamp: list[Any]


@dataclass
class Found:
    """What became of some pictures.

    Attributes:
        answers: by the names of pictures, of those that could be read.
        failures: of the others.
        error: that is no picture's own, and ends the run; None where there is none.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    failures: Failures = field(default_factory=dict)
    error: Exception | None = None


class Worker:
    """A process that restores.

    Args:
        errand: of the run. What stands in its way is told by every call: a worker that raised here
            would be started again and again.
    """

    def __init__(self, errand: Errand) -> None:
        torch.set_num_threads(errand.threads)
        self._error: Exception | None = None
        try:
            self._job = _job(errand)
        except Exception as error:
            self._error = _plain("a worker cannot restore: ", error)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        """What became of the pictures of a row; both are pickled, as columns hold no objects."""
        pictures: list[Picture] = pickle.loads(row["pictures"])
        found = Found(error=self._error)
        if self._error is None:
            try:
                found = self._restored(pictures)
            except Exception as error:  # raised by the run, as it is where there are no workers
                found = Found(error=_plain("", error))
        return {"found": pickle.dumps(found)}

    def _restored(self, pictures: Sequence[Picture]) -> Found:
        found, job = Found(), self._job
        sources = [self._source(picture) for picture in pictures]
        for waiting in job.batches(sources, found.failures):
            batch = job.worked([item for _, items in waiting for item in items])
            answers = job.answers(waiting, batch)
            for (source, _), answer in zip(waiting, answers, strict=True):
                found.answers[source.name] = answer
        return found

    def _source(self, picture: Picture) -> Source:
        file, ready = place(picture.path), self._job.ready
        source = picture_source(
            file, ready.shape, ready.request.background, name=picture.name, stamp=picture.stamp
        )

        def read() -> list[Item]:
            # Another machine may have another file by this name. A store elsewhere is one for all.
            if not is_elsewhere(file) and stamp(file) != picture.stamp:
                raise ValueError(
                    f"{file.name}: expected the file that the run has found, got another one; it "
                    "has changed since, or is not shared with the machine of the worker"
                )
            return source.read()

        return Source(source.name, source.file, source.stamp, read)


def _plain(before: str, error: Exception) -> Exception:
    """An error that travels, whatever it holds: one that a user can mend, or another."""
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)):
        return ValueError(f"{before}{one_line(error)}")
    return RuntimeError(f"{before}{type(error).__name__}: {one_line(error)}")


def _job(errand: Errand) -> RestoreJob:
    """The job that answers, on whose folder nobody writes.

    Raises:
        ValueError, TypeError, OSError: this is not the place to do it.
    """
    _check_versions(errand.versions)
    for folder in errand.folders:
        if not Path(folder).is_dir():
            raise ValueError(
                f"inputs: expected {folder} on the machine of every worker, got none; pictures "
                "come from a folder that all machines share, or from a URL"
            )
    ready = Restoring(errand.request)
    own = settings(ready.request, {})
    for name, value in errand.kept.items():
        if own.get(name) != value:  # such as a mask that is another file on this machine
            raise ValueError(f"{name}: expected {value}, got {own.get(name)}")
    draws = draws_of(errand.request)
    inputs = Opened(
        ready=ready,
        found=[],
        count=errand.count,
        rows=False,
        common=ready.fixed,
        size=batch_size(ready, draws),
        draws=draws or 1,
    )
    request = errand.request
    targets = Targets((), request.format, request.bits)
    return RestoreJob(inputs, errand.kept, targets, folder_at(Path(request.output)), None)


def _check_versions(expected: Mapping[str, str]) -> None:
    """Raise ValueError where other programs may give other bits."""
    own = versions()
    for name, version in expected.items():
        if name != "python" and own[name] != version:
            raise ValueError(f"{name}: expected version {version}, got {own[name]}")
