"""Several starts an image, and the best of their ends."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from jpmap_fast._capture import constant
from jpmap_fast.algorithms.base import Algorithm
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import COVERED, Outcome, Start
from jpmap_fast.algorithms.problem import Problem
from jpmap_fast.algorithms.rounds import Fixed


class Starts:
    """The runs of an algorithm from every start of every image, all in one batch.

    Args:
        algorithm: bound to the problem.
        problem: of a batch.
        codes: ``Algorithm.starting_codes`` [K, k], which all images share, so that no image's
            result depends on its batch: the encoder's guess (for algorithms that have an encoder),
            z = 0, then draws from N(0, I).
    """

    def __init__(self, algorithm: Algorithm, problem: Problem, codes: Tensor) -> None:
        self._batch, self._number = problem.batch, algorithm.number_of_starts
        self._of_images, self._images, self._codes = algorithm, problem, codes
        self._decoded: Tensor | None = None

    def solve(self, y: Tensor, monitor: Monitor, fixed: Fixed | None = None) -> Outcome:
        """Restore measurements y [B, ...] from every start; per image the least objective wins."""
        monitor.start(self._batch * self._number, self._of_images.passes)
        algorithm, images = self._of_images, self._images.at(y)
        whole = algorithm.run_whole(images, self._codes, algorithm.uses_encoder, fixed, monitor)
        if whole is not None:
            return whole
        algorithm, problem, start = self._repeated
        repeated = y if self._number == 1 else y.repeat(self._number, *[1] * (y.dim() - 1))
        problem = problem.at(repeated)
        if fixed is not None:
            return _best(algorithm.run_fixed(problem, self._begun(y), fixed, monitor))
        ends = algorithm.run(problem, start, monitor).split(self._batch)
        best, history = _best(ends), monitor.history()
        if history is not None:
            chosen = _chosen(ends, best)
            history = history.select(chosen * self._batch + self._rows)
        return replace(best, history=history)

    @cached_property
    def _rows(self) -> Tensor:
        return torch.arange(self._batch, device=self._images.y.device)

    @cached_property
    def _repeated(self) -> tuple[Algorithm, Problem, Start]:
        """Every start of every image as an image of its own.

        Start-major: row s * batch + b is start s of image b.
        """
        algorithm, problem, batch = self._of_images, self._images, self._batch
        image = self._rows.repeat(self._number)
        one = self._number == 1
        encoder = None
        if algorithm.uses_encoder:
            encoder = torch.arange(len(image), device=image.device) < batch
        z = self._codes.repeat_interleave(batch, dim=0)
        # The second start is z = 0, where the encoder's has x = A^T y.
        start = Start(z, encoder, covered=encoder is not None and not one, batch=batch)
        if one:
            return algorithm, problem, start
        return algorithm.select(image), problem.select(image), start

    def _begun(self, y: Tensor) -> Start:
        """The starts with what a fixed amount of work wants to know of the encoder's."""
        start = self._repeated[2]
        if start.encoder is None:
            return start
        if self._decoded is None:  # of the same codes at every call
            self._decoded = self._images.decode(start.z[: self._batch])
        return replace(start, images=self._images.at(y), decoded=self._decoded)


def _best(ends: list[Outcome]) -> Outcome:
    """The end of each image with the least objective.

    Of equal objectives the better status wins; an end that failed never does.
    """
    best = ends[0]
    for end in ends[1:]:
        best = end.where(_better(end, best), best)
    return best


def _better(one: Outcome, other: Outcome) -> Tensor:
    a, b = _comparable(one), _comparable(other)
    return (a < b) | ((a == b) & (one.status < other.status))


def _chosen(ends: list[Outcome], best: Outcome) -> Tensor:
    """Which start the best end of each image is of [B], the first of those like it."""
    unlike = torch.stack([_better(best, end) for end in ends])
    return unlike.long().argmin(dim=0)


def _comparable(end: Outcome) -> Tensor:
    """The objectives, infinite where they are no numbers or another start has gone on instead."""
    value = end.state.objective.nan_to_num(torch.inf, torch.inf, torch.inf)
    return torch.where(end.status == COVERED, constant(torch.inf, value), value)


def solve_from(
    algorithm: Algorithm, problem: Problem, z0: Tensor, monitor: Monitor, fixed: Fixed | None
) -> Outcome:
    """Restore from codes z0 [B, k] in place of all starts."""
    monitor.start(problem.batch, algorithm.passes)
    whole = algorithm.run_whole(problem, z0[:, None], False, fixed, monitor)
    if whole is not None:
        return whole
    if fixed is not None:
        return algorithm.run_fixed(problem, Start(z0), fixed, monitor)[0]
    outcome = algorithm.run(problem, Start(z0), monitor)
    return replace(outcome, history=monitor.history())
