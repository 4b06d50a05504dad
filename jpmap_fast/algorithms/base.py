"""What an algorithm is: settings, and a run on a batch of problems."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._per_image import filled
from jpmap_fast._validate import per_image
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import Outcome, Start
from jpmap_fast.algorithms.problem import Coupling, Problem
from jpmap_fast.algorithms.rounds import Fixed
from jpmap_fast.algorithms.settings import as_solver, check_settings, declared
from jpmap_fast.priors.protocol import restoration_of
from jpmap_fast.solvers import GaussNewton, LatentSolver
from jpmap_fast.solvers.plan import Plan, uncompiled


class Algorithm(ABC):
    """A loop over candidates, betas and stopping tests; a frozen dataclass of its settings.

    What a field declares by ``settings.setting`` is checked, bound and selected here. One with the
    name ``starts`` is the number of starts, one with the name ``z_solver`` makes the descents, of
    J(z) unless one with the name ``coupling`` says otherwise.
    """

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def number_of_starts(self) -> int:
        """K: its ``starts``; 1 for an algorithm without."""
        found = self.value_of("starts")
        return 1 if found is None else found

    def value_of(self, name: str) -> Any:
        """A setting; where it is None, what it is with a prior that does not choose it.

        None for a setting that the algorithm does not have.
        """
        value = getattr(self, name, None)
        return self.prior_settings.get(name) if value is None else value

    @property
    def passes(self) -> int:
        """How often it tells the monitor of each image, once bound: pieces of about equal work."""
        return 1

    @property
    def solver(self) -> LatentSolver | None:
        """What makes its descents, its ``z_solver``; None for an algorithm without any."""
        solver = getattr(self, "z_solver", None)
        return None if solver is None else as_solver(f"{type(self).__name__}: z_solver", solver)

    @property
    def uses_encoder(self) -> bool:
        """Whether the first start is the encoder's guess rather than z = 0."""
        return True

    @property
    def uses_codes(self) -> bool:
        """Whether it descends from codes, so that ``z0`` has a meaning."""
        return True

    @property
    def image_settings(self) -> tuple[str, ...]:
        """Names of the settings that may be given one an image."""
        return tuple(name for name, found in declared(type(self)).items() if found.per_image)

    @property
    def prior_settings(self) -> dict[str, int]:
        """Settings that a prior may choose where they are None, and what they are otherwise."""
        found = declared(type(self)).items()
        return {name: of.of_prior for name, of in found if of.of_prior is not None}

    def bind(self, problem: Problem) -> Algorithm:
        """These settings for a problem: for its prior, and for each of its images.

        Raises:
            ValueError: one of them has another number of images, or is not positive.
        """
        chosen = restoration_of(problem.prior)
        settings: dict[str, Any] = {
            name: chosen.get(name, otherwise)
            for name, otherwise in self.prior_settings.items()
            if getattr(self, name) is None
        }
        for name in self.image_settings:
            value = getattr(self, name)
            if value is None:
                value = self.image_default(name, problem)
            if value is not None:
                settings[name] = per_image(
                    name, value, problem.batch, problem.sigma, share=problem.shares
                )
        return self._replaced(settings)

    def image_default(self, name: str, problem: Problem) -> float | Tensor | None:
        """What one of ``image_settings`` is where it is None; None for a method that says later."""
        found = declared(type(self)).get(name)
        return None if found is None or found.of_problem is None else found.of_problem(problem)

    def select(self, index: Tensor) -> Algorithm:
        """The bound settings of the images ``index``; an index may repeat."""
        given = {name: getattr(self, name) for name in self.image_settings}
        return self._replaced({name: v[index] for name, v in given.items() if v is not None})

    def _replaced(self, settings: dict[str, Any]) -> Algorithm:
        """A copy with other settings, past the constructor: they have been checked."""
        if not settings:
            return self
        new = object.__new__(type(self))
        vars(new).update(vars(self), **settings)
        return new

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._key() == other._key()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        """The settings with tensors and lists as tuples, which compare and hash."""
        return (type(self), *(_plain(getattr(self, f.name)) for f in fields(self)))  # type: ignore[arg-type]

    @abstractmethod
    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        """Restore every image of the problem from one start each.

        Args:
            problem: of a batch.
            start: where each image begins.
            monitor: told of every step.
        """

    def plan(self, problem: Problem) -> Plan:
        """How its descents run; with an empty path for a method without any."""
        solver = self.solver
        if solver is None:
            return Plan("", "it makes no descents")
        if not isinstance(solver, GaussNewton):
            return uncompiled(solver)
        coupling: Coupling = self.value_of("coupling") or "projected"
        x = problem.y.new_zeros(problem.batch, *problem.image_shape)
        f, _ = problem.latent_objective(coupling, x, torch.ones_like(problem.sigma))
        return solver.plan(f, problem.y.new_empty(0, problem.decoder.latent_dim))

    @property
    def runs_fixed(self) -> bool:
        """Whether there is a ``run_fixed``."""
        return False

    def run_fixed(
        self, problem: Problem, start: Start, fixed: Fixed, monitor: Monitor
    ) -> list[Outcome]:
        """The same by an amount of work that is known before, as a CUDA graph holds it.

        The ends of the starts of each image, one outcome a start.
        """
        raise NotImplementedError(f"{type(self).__name__}: asked though runs_fixed is False")

    def run_whole(
        self, problem: Problem, starts: Tensor, encoder: bool, fixed: Fixed | None, monitor: Monitor
    ) -> Outcome | None:
        """The best end of every image by one compiled call, or None where there is no such.

        Args:
            problem: of a batch, each image once.
            starts: codes [K, k], shared, or [B, K, k].
            encoder: whether the first is the encoder's.
            fixed: as in ``run_fixed``; None for ``run``.
            monitor: told of the images done.
        """
        return None

    def starting_codes(
        self, problem: Problem, generator: torch.Generator | None, drawn: bool = True
    ) -> Tensor:
        """The codes of the starts [K, k]: see ``Starts``. The encoder's start has z = 0.

        Random ones are ``drawn``, or else left at 0 and no generator is touched.
        """
        like, number = problem.y, self.number_of_starts
        fixed = 2 if self.uses_encoder else 1
        shape = (number, problem.decoder.latent_dim)
        random = number > fixed and drawn
        if problem.shares and not random:
            return filled(shape, 0.0, like)
        codes = like.new_zeros(shape)
        if random:
            # Drawn on the generator's device (the CPU by default), so that seeds carry over.
            source = torch.device("cpu") if generator is None else generator.device
            shape = (number - fixed, codes.shape[1])
            draws = torch.randn(shape, generator=generator, device=source, dtype=torch.float32)
            codes[fixed:] = draws.to(like.device, like.dtype)
        return codes


def _plain(value: Any) -> Any:
    if isinstance(value, (Tensor, np.ndarray)):
        return tuple(value.reshape(-1).tolist()) if value.ndim else value.item()
    return tuple(value) if isinstance(value, list) else value
