"""Jobs of one shape and kind restored together, each as if it were alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jpmap_fast as jf
from jpmap_fast._messages import one_line
from jpmap_fast.data.picture import at_most
from jpmap_fast.jobs._kept_restoring import MOST_NUMBERS, KeptRestoring
from jpmap_fast.jobs._sources import Item
from jpmap_fast.jobs._strangers import check_stranger, within
from jpmap_fast.jobs.device import pick_device
from jpmap_fast.serve.files import read_files, read_picture, written
from jpmap_fast.serve.settings import ServiceSettings
from jpmap_fast.serve.wire import REFUSED, Answer, Job, broken

# Requests, with their operators and what is prepared for them, that are kept.
KEPT = 16
_MENDABLE = (ValueError, TypeError, OSError)


@dataclass(frozen=True)
class Opened:
    """A job whose picture was read.

    Attributes:
        ready: for its request.
        item: the picture.
        group: what jobs that can be restored together have in common.
    """

    ready: KeptRestoring
    item: Item
    group: tuple[Any, ...]


class Batches:
    """What a replica does. One thread at a time may use it.

    Args:
        settings: of the service.

    Raises:
        ValueError: no such device.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._device = str(pick_device(settings.device))
        self._priors: dict[str, Any] = {}
        self._ready: OrderedDict[str, KeptRestoring] = OrderedDict()

    def opened(self, job: Job) -> Opened | Answer:
        """A job that can be worked on, or the answer that says why not."""
        try:
            with at_most(self._settings.numbers):
                ready = self._ready_for(job)
                item = read_picture(job.picture, ready.shape, ready.request.background)
                ready.at(item.values.shape).check_count(1)
                [item] = ready.check_range([item])
        except _MENDABLE as error:
            return Answer(REFUSED, error=one_line(error))
        except Exception:
            return broken()
        return Opened(ready, item, (job.alike, *item.values.shape))

    def most(self, opened: Opened) -> int:
        """How many jobs like this one are restored together."""
        return max(1, min(self._settings.batch, MOST_NUMBERS // max(1, opened.item.values.size)))

    def restored(self, jobs: Sequence[Opened]) -> list[Answer]:
        """The answers to jobs of one group; what goes wrong with one of them is its own."""
        try:
            with at_most(self._settings.numbers):
                patience = within(self._settings.seconds)  # nobody waits for it any longer
                batch = jobs[0].ready.batch([job.item for job in jobs], patience)
                return [
                    self._answer(job, x, asdict(report), len(jobs))
                    for job, x, report in zip(jobs, batch.result.x, batch.reports, strict=True)
                ]
        except TimeoutError as error:
            return [Answer(504, error=one_line(error)) for _ in jobs]
        except Exception as error:
            if len(jobs) > 1:
                return [answer for job in jobs for answer in self.restored([job])]
            if isinstance(error, _MENDABLE):
                return [Answer(REFUSED, error=one_line(error))]
            return [broken()]

    def _answer(self, job: Opened, x: Any, report: dict[str, Any], together: int) -> Answer:
        if report["failure"] is not None:
            return Answer(REFUSED, report=report, error=report["failure"], together=together)
        body, media_type = written(x, job.item)
        return Answer(200, body, media_type, report, together=together)

    def _ready_for(self, job: Job) -> KeptRestoring:
        """What is kept for the request of a job, made where it comes for the first time."""
        found = self._ready.pop(job.alike, None)
        if found is None:
            request = job.read_request()
            check_stranger(request, self._settings.names)
            if request.simulate:
                raise ValueError("simulate: expected false, a service restores measurements")
            found = KeptRestoring(
                request,
                most=self._settings.batch,
                prior=self._prior(request.prior),
                arrays=read_files(request.operator, job.files),
                device=self._device,
            )
        self._ready[job.alike] = found  # the last one used is the last one
        if len(self._ready) > KEPT:
            self._ready.popitem(last=False)
        return found

    def _prior(self, name: str) -> Any:
        if name not in self._priors:
            self._priors[name] = jf.load_prior(name, device=self._device)
        return self._priors[name]
