"""The images that a loop still works on: who is left, when to ask, results in their order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def polling_interval(device: torch.device, every: int) -> int:
    """Steps between two questions to a device: ``every`` where each waits for it, 1 on a CPU."""
    return 1 if device.type == "cpu" else every


def rung(number: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, ... that is >= number >= 1."""
    power = 1 << (number - 1).bit_length()
    return 3 * power // 4 if power > 2 and number <= 3 * power // 4 else power


def rungs_below(number: int, least: int, full: float) -> list[int]:
    """The sizes that a set of ``number`` rows shrinks to, the largest first.

    Each is a ``rung``, at least ``least`` and at most the part ``full`` of the one before.
    """
    found: list[int] = []
    for size in range(number - 1, least - 1, -1):
        if rung(size) == size and size <= full * (found[-1] if found else number):
            found.append(size)
    return found


def at_work_first(running: Tensor) -> Tensor:
    """The rows of ``running`` [W] bool: those at work in order, then the others [W]."""
    return torch.sort(running.byte(), descending=True, stable=True).indices


class WorkingSet:
    """The images of a batch that are still at work, under every loop in which each has its own end.

    The loop holds a row of each. Where ``finish`` says that rows were dropped, it goes on with
    ``select`` of everything that has rows; after the loop ``results`` has every image in its place.
    Images that are done may keep their rows for a while. The loop leaves what they ended with as it
    is, so that nothing depends on when the device is asked or rows are dropped.

    Args:
        batch: how many images there are, >= 0.
        device: where they are.
        every: steps between two questions on a GPU, see ``due``.
        full: in (0, 1]; rows are dropped once no larger part of them has to be left.
        few_sizes: leave numbers of rows that are a ``rung``, with images that are done to fill
            them: for work that is prepared once for every number of rows.

    Attributes:
        index: which images the rows are of [W].
        left: how many of them are at work, as far as was asked.
    """

    def __init__(
        self,
        batch: int,
        device: torch.device,
        *,
        every: int = 1,
        full: float = 1.0,
        few_sizes: bool = False,
    ) -> None:
        self.index = torch.arange(batch, device=device)
        self.left = batch
        self._batch, self._full, self._few_sizes = batch, full, few_sizes
        self._interval = polling_interval(device, every)
        self._kept = self.index
        self._ends: list[Tensor] | None = None

    def due(self, step: int) -> bool:
        """Whether to ask at this step, counted from any number."""
        return step % self._interval == 0

    def finish(self, running: Tensor, *ends: Tensor) -> bool:
        """Ask the device who is at work, once, and drop the rows of the others where it pays.

        Args:
            running: whether the image of each row is at work [W] bool.
            ends: what images end with [W, ...], the same tensors at every call.

        Returns:
            Whether rows were dropped; never where no image is left.
        """
        rows = self.index.numel()
        self.left = int(running.sum())
        size = rung(self.left) if self._few_sizes and self.left else self.left
        if not 0 < size < rows or size > self._full * rows:
            return False
        order = at_work_first(running)
        self._kept, done = order[:size], order[size:]
        self._put(self.index[done], [end[done] for end in ends])
        self.index = self.index[self._kept]
        return True

    def select(self, value: Any) -> Any:
        """The rows that the last ``finish`` left, of a tensor or of what has a ``select``."""
        return value[self._kept] if isinstance(value, Tensor) else value.select(self._kept)

    def results(self, *ends: Tensor) -> list[Tensor]:
        """The ends of the whole batch [B, ...], those of the last rows being ``ends``."""
        if self._ends is None:
            # Never what a caller has given: an image may end where it began.
            return [end.clone() for end in ends]
        self._put(self.index, list(ends))
        return self._ends

    def _put(self, index: Tensor, ends: list[Tensor]) -> None:
        if self._ends is None:
            self._ends = [end.new_empty((self._batch, *end.shape[1:])) for end in ends]
        for whole, end in zip(self._ends, ends, strict=True):
            whole.index_copy_(0, index, end)
