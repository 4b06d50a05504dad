"""Jobs that arrive one by one, in line for the batches they can be restored in."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Any

from jpmap_fast.serve.batches import Batches, Opened
from jpmap_fast.serve.wire import Answer, Job

_Future = asyncio.Future[Answer]


class Batcher:
    """Batches grow while the one before them is worked on: nobody waits for company.

    Those whose oldest job has waited longest come first, so that none waits for ever. The work is
    done in a thread, and the loop stays free.

    Args:
        batches: does the work.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._arrived: list[tuple[Job, _Future]] = []
        self._groups: OrderedDict[tuple[Any, ...], deque[tuple[Opened, _Future]]] = OrderedDict()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, job: Job) -> Answer:
        """The answer to a job. Of one that is cancelled while it waits no work is done."""
        future: _Future = asyncio.get_running_loop().create_future()
        self._arrived.append((job, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())
        return await future

    async def _work(self) -> None:
        """Until nothing waits."""
        while self._arrived or self._groups:
            arrived, self._arrived = self._arrived, []
            # Only one turn at a time touches the groups and the batches.
            for future, answer in await asyncio.to_thread(self._turn, arrived):
                if not future.done():
                    future.set_result(answer)

    def _turn(self, arrived: list[tuple[Job, _Future]]) -> list[tuple[_Future, Answer]]:
        """Open what has arrived, and restore one batch."""
        done: list[tuple[_Future, Answer]] = []
        for job, future in arrived:
            if future.cancelled():
                continue
            opened = self._batches.opened(job)
            if isinstance(opened, Answer):
                done.append((future, opened))
            else:
                self._groups.setdefault(opened.group, deque()).append((opened, future))
        batch = self._next()
        if batch:
            answers = self._batches.restored([opened for opened, _ in batch])
            done += zip((future for _, future in batch), answers, strict=True)
        return done

    def _next(self) -> list[tuple[Opened, _Future]]:
        """Jobs of the group whose turn it is."""
        while self._groups:
            group, waiting = self._groups.popitem(last=False)
            most = self._batches.most(waiting[0][0])
            batch: list[tuple[Opened, _Future]] = []
            while waiting and len(batch) < most:
                opened, future = waiting.popleft()
                if not future.cancelled():
                    batch.append((opened, future))
            if waiting:  # behind the others, who came after its first
                self._groups[group] = waiting
            if batch:
                return batch
        return []
