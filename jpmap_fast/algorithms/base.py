"""What an algorithm is, and how several starts become one answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._validate import choice, count, per_image
from jpmap_fast.algorithms.monitor import History, Monitor
from jpmap_fast.algorithms.problem import Problem, State
from jpmap_fast.solvers import Adam, GaussNewton, LatentSolver

SOLVERS: dict[str, type[GaussNewton] | type[Adam]] = {"gauss-newton": GaussNewton, "adam": Adam}

# Codes in Outcome.status, and what a user reads for them.
CONVERGED, ITERATION_LIMIT, TOLERANCE_LIMIT, ENCODER_LIMIT, BETA_LIMIT, FAILED = range(6)
STATUS_TEXT = {
    CONVERGED: "converged",
    ITERATION_LIMIT: "stopped at the iteration limit before converging; raise max_iterations "
    "(or max_steps of the z_solver)",
    TOLERANCE_LIMIT: "stopped before converging, at a move below tolerance that still lowers the "
    "objective; lower tolerance (or raise max_steps of the z_solver)",
    ENCODER_LIMIT: "stopped because the encoder no longer lowers J1; JPMAP goes on from here",
    BETA_LIMIT: "stopped because beta reached its limit with the coupling gap still above epsilon; "
    "raise alpha",
    FAILED: "failed: the measurement or its objective is NaN or infinite",
}


@dataclass(frozen=True)
class Outcome:
    """The end of a run, per image.

    Attributes:
        state: last iterate; its objective is what the algorithm minimises.
        beta: coupling weight at the end [B].
        status: one of the codes above [B].
        iterations: outer iterations [B].
        candidates: times each candidate was taken [B, 3].
        history: with ``record``.
    """

    state: State
    beta: Tensor
    status: Tensor
    iterations: Tensor
    candidates: Tensor
    history: History | None = None

    @classmethod
    def of_nothing(cls, problem: Problem) -> Outcome:
        """The end of a run on no images of a problem."""
        like = problem.y.new_empty(0)
        images = like.reshape(0, *problem.prior.image_shape)
        codes = like.reshape(0, problem.decoder.latent_dim)
        counts = like.long()
        state = State(images, codes, images, like, like)
        return cls(state, like, counts, counts, counts.reshape(0, 3))

    def select(self, index: Tensor) -> Outcome:
        """The images ``index`` alone."""
        return Outcome(
            self.state.select(index),
            self.beta[index],
            self.status[index],
            self.iterations[index],
            self.candidates[index],
            None if self.history is None else self.history.select(index),
        )


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        z: [B, k].
        encoder: [B] bool: begin at x = A^T y and let the encoder propose; otherwise descend from z.
    """

    z: Tensor
    encoder: Tensor


class Algorithm(ABC):
    """A loop over candidates, betas and stopping tests; a frozen dataclass of its settings."""

    @property
    def number_of_starts(self) -> int:
        """K."""
        return 1

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
        return ()

    @property
    def prior_settings(self) -> dict[str, int]:
        """Settings that a prior may choose where they are None, and what they are otherwise."""
        return {}

    def bind(self, problem: Problem) -> Algorithm:
        """These settings for a problem: for its prior, and for each of its images.

        Raises:
            ValueError: one of them has another number of images, or is not positive.
        """
        chosen = getattr(problem.prior, "restoration", {})
        settings: dict[str, Any] = {
            name: chosen.get(name, otherwise)
            for name, otherwise in self.prior_settings.items()
            if getattr(self, name) is None
        }
        for name in self.image_settings:
            value = getattr(self, name)
            if value is not None:
                settings[name] = per_image(name, value, problem.batch, problem.sigma)
        return self._replaced(settings)

    def select(self, index: Tensor) -> Algorithm:
        """The bound settings of the images ``index``; an index may repeat."""
        given = {name: getattr(self, name) for name in self.image_settings}
        return self._replaced({name: v[index] for name, v in given.items() if v is not None})

    def _replaced(self, settings: dict[str, Any]) -> Algorithm:
        return replace(self, **settings) if settings else self  # type: ignore[type-var]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._key() == other._key()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        """The settings with tensors and lists as tuples, which compare and hash."""
        return (type(self), *(_plain(getattr(self, f.name)) for f in fields(self)))  # type: ignore[arg-type]

    @abstractmethod
    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        """Restore every image of the problem from one start each."""

    def starting_codes(
        self, problem: Problem, generator: torch.Generator | None, drawn: bool = True
    ) -> Tensor:
        """The codes of the starts [K, k]: see ``solve``. The encoder's start has z = 0.

        Random ones are ``drawn``, or else left at 0 and no generator is touched.
        """
        like, number = problem.y, self.number_of_starts
        fixed = 2 if self.uses_encoder else 1
        codes = like.new_zeros(number, problem.decoder.latent_dim)
        if number > fixed and drawn:
            # Drawn on the generator's device (the CPU by default), so that seeds carry over.
            source = torch.device("cpu") if generator is None else generator.device
            shape = (number - fixed, codes.shape[1])
            draws = torch.randn(shape, generator=generator, device=source, dtype=torch.float32)
            codes[fixed:] = draws.to(like.device, like.dtype)
        return codes

    def solve(
        self, problem: Problem, monitor: Monitor, codes: Tensor, z0: Tensor | None = None
    ) -> Outcome:
        """Restore from every start and keep, per image, the end with the least objective.

        Args:
            problem: of a batch.
            monitor: told of every step.
            codes: ``starting_codes`` [K, k], which all images share, so that no image's result
                depends on its batch: the encoder's guess (for algorithms that have an encoder),
                z = 0, then draws from N(0, I).
            z0: [B, k], in place of all of them.
        """
        batch = problem.batch
        if z0 is not None:
            monitor.start(batch)
            given = torch.zeros(batch, dtype=torch.bool, device=z0.device)
            outcome = self.run(problem, Start(z0, given), monitor)
            return replace(outcome, history=monitor.history())
        like = problem.y
        number = self.number_of_starts
        encoder = torch.zeros(number, dtype=torch.bool, device=like.device)
        encoder[0] = self.uses_encoder
        # Start-major: row s * batch + b is start s of image b.
        image = torch.arange(batch, device=like.device).repeat(number)
        which = torch.arange(number, device=like.device).repeat_interleave(batch)
        expanded = problem if number == 1 else problem.select(image)
        monitor.start(expanded.batch)
        settings = self if number == 1 else self.select(image)
        outcome = settings.run(expanded, Start(codes[which], encoder[which]), monitor)
        outcome = replace(outcome, history=monitor.history())
        if number == 1:
            return outcome
        return outcome.select(self._best(outcome, number, batch))

    def _best(self, outcome: Outcome, number: int, batch: int) -> Tensor:
        """Row of the best start of each image [B]; an end that failed never wins."""
        value = outcome.state.objective.double()
        value = torch.where(torch.isfinite(value), value, torch.inf)
        chosen = value.reshape(number, batch).argmin(dim=0)
        return chosen * batch + torch.arange(batch, device=value.device)


# Starts and encoder proposals of a prior that says nothing of its own: benchmarks/encoder.py.
STARTS, PROPOSALS = 2, 3


def check_image_setting(name: str, value: Any) -> None:
    """Raise unless ``value`` is None, a finite number > 0 or a vector of them.

    Raises:
        ValueError, TypeError: it is none of these.
    """
    if value is None:
        return
    like = value if isinstance(value, Tensor) else torch.empty(0)
    count = value.numel() if isinstance(value, Tensor) else np.size(value)
    per_image(name, value, count, like.double())


def _plain(value: Any) -> Any:
    if isinstance(value, (Tensor, np.ndarray)):
        return tuple(value.reshape(-1).tolist()) if value.ndim else value.item()
    return tuple(value) if isinstance(value, list) else value


def check_starts(owner: str, starts: int | None, n2: int | None) -> None:
    """Raise unless ``starts`` >= 1 and ``n2`` >= 0, or None."""
    if starts is not None:
        count(f"{owner}: starts", starts, 1)
    if n2 is not None:
        count(f"{owner}: n2", n2, 0)


def as_solver(owner: str, solver: LatentSolver | str) -> LatentSolver:
    """A solver of a solver or of its name."""
    if isinstance(solver, str):
        choice(f"{owner}: z_solver", solver, tuple(SOLVERS))
        return SOLVERS[solver]()
    if not isinstance(solver, LatentSolver):
        raise TypeError(
            f"{owner}: expected z_solver to be GaussNewton(...), Adam(...) or a name, "
            f"got {solver!r}"
        )
    return solver
