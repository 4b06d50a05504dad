"""What happens along the way: histories and the progress bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class History:
    """J1, beta and coupling gap by iteration and image; NaN once an image is finished.

    Attributes:
        z: codes z_n [T, B, k] (of a result [T, B, *code_shape]); row 0 is the start.
        objective: J1(x_n, z_n) at the beta of iteration n, [T, B].
        beta: [T, B].
        gap: ||x_n - G(z_n)||^2 [T, B].
        candidate: which candidate was taken, 1 to 3; 0 for none; -1 once finished. [T, B].
    """

    z: Tensor
    objective: Tensor
    beta: Tensor
    gap: Tensor
    candidate: Tensor

    def select(self, index: Tensor) -> History:
        """The columns ``index``."""
        return History(*(value[:, index] for value in vars(self).values()))


# Told after every piece of work: how many are done, and how many there are.
Progress = Callable[[int, int], None]


class Monitor:
    """Collects histories when asked to and counts what is done when asked to.

    Args:
        record: collect histories.
        progress: count on a bar, or by calls of a function.
    """

    def __init__(self, record: bool = False, progress: bool | Progress = False) -> None:
        self.record = record
        self._progress = progress
        self._done = self._all = 0
        self._bar: Any = None
        self._batch = 0
        self._rows: list[tuple[Tensor, ...]] = []
        self._paths: set[str] = set()
        self._reasons: set[str] = set()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, batch: int, passes: int = 1) -> None:
        """A run on ``batch`` images (starts counted apart) begins, each done in ``passes``."""
        self._batch = batch
        self._rows = []
        if not self._progress:
            return
        self._all += batch * passes
        if not callable(self._progress) and self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=0, unit="solve" if passes == 1 else "pass", desc="restore")
        if self._bar is not None:
            self._bar.total = self._all
            self._bar.refresh()
        self.finished(0)

    def step(
        self,
        index: Tensor,
        z: Tensor,
        objective: Tensor,
        beta: Tensor,
        gap: Tensor,
        candidate: Tensor,
    ) -> None:
        """One iteration of the images ``index``."""
        if not self.record:
            return
        rows = []
        for value in (z, objective, beta, gap):
            row = value.new_full((self._batch, *value.shape[1:]), torch.nan)
            row[index] = value
            rows.append(row)
        row = torch.full((self._batch,), -1, dtype=torch.int8, device=index.device)
        row[index] = candidate.to(torch.int8)
        self._rows.append((*rows, row))

    def solved(self, path: str, reason: str) -> None:
        """A z-step ran ``path``, for ``reason``, as in ``LatentSolution``."""
        self._paths.add(path)
        if reason:
            self._reasons.add(reason)

    @property
    def watched(self) -> bool:
        """Whether anybody wants to know of images while others are still at work."""
        return bool(self._progress)

    @property
    def path(self) -> str:
        """The paths that ran."""
        return ", ".join(sorted(self._paths))

    @property
    def reason(self) -> str:
        """Why they were not the compiled one."""
        return "; ".join(sorted(self._reasons))

    def finished(self, count: int) -> None:
        """``count`` more images are done, or passes of some."""
        if not self._progress:
            return
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif callable(self._progress):
            self._progress(self._done, self._all)

    def history(self) -> History | None:
        """What was recorded since ``start``."""
        if not self.record or not self._rows:
            return None
        return History(*(torch.stack(column) for column in zip(*self._rows, strict=True)))
