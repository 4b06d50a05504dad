"""An algorithm on a prepared problem, kept for any number of measurements."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from jpmap_fast._memory import memory_at_hand
from jpmap_fast._per_image import own
from jpmap_fast._result import Result, joined, result_of
from jpmap_fast._validate import generator_or_none
from jpmap_fast.algorithms import Algorithm, Monitor, Outcome, Problem
from jpmap_fast.algorithms.rounds import Fixed
from jpmap_fast.algorithms.starts import Starts, solve_from

# Arrays the size of an image that a start of it takes at the peak, where its descents keep nothing
# in torch: states and candidates, and what is summed in float64.
ARRAYS = 16


class Run:
    """Everything that restorations of one problem share: settings, starts and what is kept.

    Args:
        problem: of a batch; its measurements do not matter.
        algorithm: not yet bound to it.
        generator: source of random starts.
        drawn: whether starts are wanted at all.
        codes: of the starts [K, k], if they are drawn already.
        told: noise levels [B] that results name, which whoever has these may write to; those of the
            problem by default.
    """

    def __init__(
        self,
        problem: Problem,
        algorithm: Algorithm,
        generator: torch.Generator | None,
        *,
        drawn: bool = True,
        codes: Tensor | None = None,
        told: Tensor | None = None,
    ) -> None:
        self.problem = problem
        self._told = problem.sigma if told is None else told
        self.algorithm = algorithm.bind(problem)
        # Drawn once: every chunk has the same random starts, or a result would depend on its chunk.
        if codes is None:
            source = generator_or_none(generator)
            codes = self.algorithm.starting_codes(problem, source, drawn)
        self.codes = codes.to(problem.y)
        self._starts: Starts | None = None

    @property
    def starts(self) -> Starts:
        """The starts of the whole batch."""
        if self._starts is None:
            self._starts = Starts(self.algorithm, self.problem, self.codes)
        return self._starts

    def __call__(
        self,
        y: Tensor,
        z0: Tensor | None,
        monitor: Monitor,
        fixed: Fixed | None = None,
        size: int | None = None,
        finite: bool = False,
    ) -> Result:
        """Restore y [B, ...], those images whose measurements are finite, in chunks that fit.

        Args:
            y: measurements of the whole batch.
            z0: codes to descend from in place of all starts [B, k].
            monitor: told of every step.
            fixed: do a fixed amount of work; None to go on until done.
            size: images at a time at most.
            finite: whether all measurements are known to be; False to look.
        """
        problem = self.problem.at(y)
        good = None if finite else _finite(y)
        number = problem.batch if good is None else good.numel()
        size = size or self._fitting()
        if not number:  # not every A takes no images at all
            outcome = Outcome.of_nothing(problem)
            if good is not None:
                outcome = joined(problem, good, [outcome])
        elif good is None and number <= size:
            if z0 is not None:
                outcome = solve_from(self.algorithm, problem, z0, monitor, fixed)
            else:
                outcome = self.starts.solve(y, monitor, fixed)
        else:
            if good is None:
                good = torch.arange(number, device=y.device)
            outcomes = []
            for rows in good.split(size):
                part, settings = problem.select(rows), self.algorithm.select(rows)
                if z0 is not None:
                    outcomes.append(solve_from(settings, part, z0[rows], monitor, fixed))
                else:
                    starts = Starts(settings, part, self.codes)
                    outcomes.append(starts.solve(part.y, monitor, fixed))
            outcome = joined(problem, good, outcomes)
        outcome = replace(outcome, beta=own(outcome.beta))
        return result_of(outcome, None, monitor, problem.code_shape, own(self._told))

    def on_device(self, y: Tensor, z0: Tensor | None, fixed: Fixed | None) -> Result:
        """The same in one piece and without waiting for the device."""
        with Monitor() as monitor:
            if z0 is None:
                outcome = self.starts.solve(y, monitor, fixed)
            else:
                outcome = solve_from(self.algorithm, self.problem.at(y), z0, monitor, fixed)
        finite = y.flatten(1).abs().amax(dim=1) < torch.inf  # in fewer launches than isfinite
        return result_of(outcome, finite, monitor, self.problem.code_shape, self._told)

    @cached_property
    def _compiled(self) -> bool:
        """Whether descents are compiled: then they have no Jacobians in torch."""
        first = self.problem.select(torch.zeros(1, dtype=torch.int64, device=self.problem.y.device))
        return self.algorithm.plan(first).path == "compiled"

    def _fitting(self) -> int:
        """Images whose Jacobians and iterates fit into the memory at hand."""
        problem = self.problem
        pixels = max(math.prod(problem.image_shape), problem.decoder.widest)
        # Four arrays the size of the Jacobian are alive at the peak of a Gauss-Newton step.
        arrays = 4 * (problem.decoder.latent_dim + 8)
        array = pixels * problem.y.element_size() * self.algorithm.number_of_starts
        memory = memory_at_hand(problem.y.device, problem.batch * arrays * array)
        # Where all fit in any case nobody needs to know how they run.
        if problem.batch * arrays * array > memory and self._compiled:
            arrays = ARRAYS
        return max(1, memory // (arrays * array))


def _finite(y: Tensor) -> Tensor | None:
    """Which measurements y [B, ...] are finite, int64; None for all of them."""
    if not len(y):
        return None
    good = torch.isfinite(y.flatten(1)).all(dim=1).nonzero()[:, 0]
    return None if good.numel() == len(y) else good
