"""How runs begin and end, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jpmap_fast.algorithms.monitor import History
from jpmap_fast.algorithms.problem import Problem, State

# Codes in Outcome.status, and what a user reads for them.
CONVERGED, ITERATION_LIMIT, TOLERANCE_LIMIT, ENCODER_LIMIT, BETA_LIMIT = range(5)
FAILED, NOT_FINITE, COVERED, COMPLETED, DOUBTED = 5, 6, 7, 8, 9
RUNNING = -1  # of an image that is still at work
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
    NOT_FINITE: "failed: the measurement contains NaN or infinity; replace such values "
    "(with 0 where nothing was observed)",
    COMPLETED: "went through all its noise levels",
    DOUBTED: "the draws behind the mean are few or not to be trusted, sample(...).status says why; "
    "raise rounds of AMIS",
    COVERED: "stopped because another start descends from the same code",
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
        images = like.reshape(0, *problem.image_shape)
        codes = like.reshape(0, problem.decoder.latent_dim)
        counts = like.long()
        state = State(images, codes, images, like, like)
        return cls(state, like, counts, counts, counts.reshape(0, 3))

    def split(self, batch: int) -> list[Outcome]:
        """These images in parts of ``batch``, without what was recorded."""
        parts = [value.split(batch) for value in (*vars(self.state).values(), *self._own())]
        found = []
        for part in zip(*parts, strict=True):
            beta, status, iterations, candidates = part[5:]
            found.append(Outcome(State(*part[:5]), beta, status, iterations, candidates))
        return found

    def where(self, condition: Tensor, other: Outcome) -> Outcome:
        """This one where ``condition`` [B] holds, ``other`` elsewhere."""
        own = [
            torch.where(condition.reshape(-1, *[1] * (mine.dim() - 1)), mine, theirs)
            for mine, theirs in zip(self._own(), other._own(), strict=True)
        ]
        beta, status, iterations, candidates = own
        state = self.state.where(condition, other.state)
        return Outcome(state, beta, status, iterations, candidates)

    def _own(self) -> tuple[Tensor, ...]:
        return self.beta, self.status, self.iterations, self.candidates


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        z: [B, k].
        encoder: [B] bool: begin at x = A^T y and let the encoder propose; otherwise descend from z.
            None for nowhere.
        covered: whether another start of the same image descends from every z at which the
            encoder's start has x = A^T y, so that this one need not.
        images: the problems of the encoder's starts, which are the first rows; None without any.
        decoded: G(z) of these.
        batch: how many images there are, each with as many starts; None for one start each.
    """

    z: Tensor
    encoder: Tensor | None = None
    covered: bool = False
    images: Problem | None = None
    decoded: Tensor | None = None
    batch: int | None = None
