"""One iteration of joint MAP as a function of the images' states.

Nothing is changed in place, and nothing needs to know what other images do. Each piece of work is
done on the images that it concerns alone: the device is asked which they are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import COVERED, RUNNING, Start
from jpmap_fast.algorithms.problem import Coupling, Problem, State
from jpmap_fast.solvers import GaussNewton, LatentSolver
from jpmap_fast.solvers.plan import told

Selection = Literal["adaptive", "exhaustive"]
_Work = TypeVar("_Work", bound="Work")


@dataclass(frozen=True)
class JointSettings:
    """How the loop descends; see ``JPMAP`` for what each means."""

    coupling: Coupling
    z_solver: LatentSolver
    max_iterations: int
    tolerance: float
    selection: Selection = "adaptive"
    n1: int = 0
    n2: int = 0

    @property
    def proposals(self) -> int:
        """Iterations in which the encoder is asked."""
        return max(self.n1, self.n2)

    @property
    def descents_prove(self) -> bool:
        """Whether the end of a descent, where it converges, is that of J1 as well."""
        return self.coupling == "projected" and isinstance(self.z_solver, GaussNewton)


@dataclass(frozen=True)
class Work:
    """Everything the loop knows of the images at work."""

    problem: Problem
    state: State
    beta: Tensor  # [B]
    status: Tensor  # [B] RUNNING, or why it is finished
    encoder_open: Tensor  # [B] bool: candidates 1 and 2 are still proposed
    solved: Tensor  # [B] bool: z is where a descent of the projected objective converged
    iterations: Tensor  # [B] over all betas
    inner: Tensor  # [B] at this beta
    stage: Tensor  # [B] how often beta has changed
    candidates: Tensor  # [B, 3]

    def select(self: _Work, keep: Tensor) -> _Work:
        """The images ``keep`` alone."""
        chosen: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            held = isinstance(value, (Problem, State))
            chosen[field.name] = value.select(keep) if held else value[keep]
        return replace(self, **chosen)


def begin(problem: Problem, start: Start, beta: Tensor, *, asks: bool) -> Work:
    """The images at their starts: x = A^T y for the encoder's, else the best x of z.

    With ``asks`` the encoder proposes to its own starts.
    """
    batch, device = problem.batch, beta.device
    state = problem.minimise_x(start.z, beta)
    open_ = torch.zeros(batch, dtype=torch.bool, device=device)
    if start.encoder is not None:
        rows = _rows(start.encoder)
        part = problem if rows is None else problem.select(rows)
        z, drawn = taken_rows(start.z, rows), taken_rows(state.decoded, rows)
        x = part.operator.A_adjoint(part.y)
        published = part.evaluate(x, z, taken_rows(beta, rows), drawn)
        state = state.put_where(rows, taken_rows(start.encoder, rows), published)
        open_ = start.encoder if asks else open_
    zeros = torch.zeros(batch, dtype=torch.int64, device=device)
    return Work(
        problem=problem,
        state=state,
        beta=beta,
        status=torch.full_like(zeros, RUNNING),
        encoder_open=open_,
        solved=torch.zeros_like(open_),
        iterations=zeros,
        inner=zeros,
        stage=zeros,
        candidates=torch.zeros(batch, 3, dtype=torch.int64, device=device),
    )


def step(
    work: Work,
    start: Start,
    settings: JointSettings,
    monitor: Monitor,
) -> tuple[Work, Tensor, Tensor]:
    """One iteration: candidates proposed to the images at work, and taken where J1 falls.

    Args:
        work: the images; those that are finished stay as they are.
        start: of the run.
        settings: how candidates are chosen.
        monitor: told which path ran.

    Returns:
        The images after it, the number of the candidate taken [B], 0 for none, and whether they
        stand still [B] bool.
    """
    active = work.status == RUNNING
    open_ = work.encoder_open & active
    tried = _Proposals(work, settings, monitor)
    rejected = lost = torch.zeros_like(open_)
    covered = start.covered and settings.descents_prove
    if settings.selection == "exhaustive":
        tried.encode(open_)
        tried.encoder(open_)
        tried.descent(open_, open_)
        tried.descent(active & ~work.solved)
    else:
        tried.encode(open_ & (work.inner < settings.proposals))
        if settings.n1:
            tried.encoder(open_ & (work.inner < settings.n1))
        second = open_ & (work.inner < settings.n2) & (tried.taken == 0)
        # The z2 of some images and the z3 of the others descend together.
        third = active & ~work.solved & ~second & (tried.taken == 0)
        tried.descent(second | third, second)
        rejected = second & (tried.taken == 0)
        lost = rejected & (work.inner == 0) & covered
        tried.descent(rejected & ~tried.solved & ~lost)
    taken = tried.taken
    still = distance(tried.state, work.state) < settings.tolerance
    status = work.status
    # What is left for these is the descent from their first z, which another start has made.
    status = torch.where(lost, COVERED, status)
    new = replace(
        work,
        state=tried.state,
        status=status,
        # An encoder step that no longer moves says nothing about J1: go on by descent.
        encoder_open=work.encoder_open & ~rejected & ~(still & (taken == 1)),
        solved=tried.solved,
        iterations=work.iterations + active,
        inner=work.inner + active,
        candidates=counted(work.candidates, taken),
    )
    return new, taken, still & (taken != 1)


class _Proposals:
    """Candidates of one iteration, each tried on some images and taken where J1 falls."""

    def __init__(self, work: Work, settings: JointSettings, monitor: Monitor) -> None:
        self._before, self._settings, self._monitor = work, settings, monitor
        self._encoded = work.state.z
        self.state, self.solved = work.state, work.solved
        self.taken = torch.zeros_like(work.iterations)

    def encode(self, which: Tensor) -> None:
        """Ask the encoder for mu_phi(x_n) of the images ``which``."""
        rows = _rows(which)
        if _any(rows):
            codes = self._before.problem.encode(taken_rows(self._before.state.x, rows))
            self._encoded = codes if rows is None else self._encoded.index_copy(0, rows, codes)

    def encoder(self, which: Tensor) -> None:
        """The first candidate, mu_phi(x_n)."""
        rows = _rows(which)
        if _any(rows):
            z = taken_rows(self._encoded, rows)
            never = torch.zeros(len(z), dtype=torch.bool, device=z.device)
            self._take(which, rows, z, never, torch.ones_like(never, dtype=torch.int64))

    def descent(self, which: Tensor, second: Tensor | None = None) -> None:
        """The third candidate, a descent from z_n; the second, from mu_phi(x_n), of ``second``."""
        rows = _rows(which)
        if not _any(rows):
            return
        before, settings = self._before, self._settings
        z, number = before.state.z, torch.full_like(self.taken, 3)
        known = None
        if second is not None:
            # Nobody needs the way back to where a descent has ended already.
            known = taken_rows(minima(z, before.solved), rows)
            z, number = torch.where(second[:, None], self._encoded, z), 3 - second.long()
        z, x, beta = (taken_rows(value, rows) for value in (z, before.state.x, before.beta))
        problem = before.problem if rows is None else before.problem.select(rows)
        f, scale = problem.latent_objective(settings.coupling, x, beta)
        if isinstance(settings.z_solver, GaussNewton):
            found = settings.z_solver.minimise(f, z, scale, known)
        else:
            found = settings.z_solver.minimise(f, z, scale)
        self._monitor.solved(*told(settings.z_solver, found))
        # At the end of a descent of J1(x_n, .) the next x moves the minimum; and the test of Adam,
        # on the gradient of f / beta, says nothing of f where beta is large.
        converged = found.converged
        if not settings.descents_prove:
            converged = torch.zeros_like(converged)
        self._take(which, rows, found.z, converged, taken_rows(number, rows))

    def _take(
        self,
        which: Tensor,
        rows: Tensor | None,
        z: Tensor,
        converged: Tensor,
        number: Tensor,
    ) -> None:
        """Codes z of ``rows``, with their best x, where J1 falls."""
        before = self._before
        problem = before.problem if rows is None else before.problem.select(rows)
        found = problem.minimise_x(z, taken_rows(before.beta, rows))
        asked = taken_rows(which, rows)
        better = asked & falls(found.objective, taken_rows(self.state.objective, rows))
        stood = (number == 3) & (taken_rows(self.taken, rows) == 0)
        self.state = self.state.put_where(rows, better, found)
        spoken = spoken_of(asked, better, stood)
        self.solved = put_where(self.solved, rows, spoken, converged)
        self.taken = put_where(self.taken, rows, better, number)


def minima(z: Tensor, solved: Tensor) -> Tensor:
    """The codes z [B, k] of the images ``solved`` [B] bool, NaN for the others."""
    return torch.where(solved[:, None], z, torch.nan)


def falls(found: Tensor, before: Tensor) -> Tensor:
    """Where a candidate is to be taken [B] bool, by J1 there and before: where it is lower."""
    return found < before


def spoken_of(asked: Tensor, better: Tensor, stood: Tensor | bool) -> Tensor:
    """Of which images a descent says whether z is at a minimum [B] bool.

    Of those that are ``better`` by it, where they are now; and a descent from where an image
    ``stood`` that finds nothing lower speaks of the place it began at too.

    Args:
        asked: the images that descended [B] bool.
        better: those that took its end, some of them [B] bool.
        stood: whether it began where the image is; True or False for all that were asked.
    """
    if isinstance(stood, bool):  # with no work for the device
        return asked if stood else better
    return better | (asked & stood)


def _rows(which: Tensor) -> Tensor | None:
    """The images of ``which``, None for all of them."""
    rows = which.nonzero()[:, 0]
    return None if rows.numel() == which.numel() else rows


def _any(rows: Tensor | None) -> bool:
    """Whether ``rows`` are any at all, with nothing more to ask the device."""
    return rows is None or rows.numel() > 0


def taken_rows(value: Tensor, rows: Tensor | None) -> Tensor:
    """The rows of a tensor, None for all."""
    return value if rows is None else value[rows]


def put_where(value: Tensor, rows: Tensor | None, condition: Tensor, new: Tensor) -> Tensor:
    """``value`` with ``new`` in those of ``rows`` (None for all) for which ``condition`` holds."""
    if rows is None:
        return torch.where(condition, new, value)
    return value.index_copy(0, rows, torch.where(condition, new, value[rows]))


def counted(candidates: Tensor, taken: Tensor) -> Tensor:
    """How often each candidate was taken [B, 3], with those ``taken`` now [B], 0 for none."""
    return candidates + (taken[:, None] == torch.arange(1, 4, device=taken.device))


def distance(a: State, b: State) -> Tensor:
    """||dx|| / sqrt(n) + ||dz|| / sqrt(k) [B]."""
    dx, dz = (a.x - b.x).flatten(1), a.z - b.z
    return (
        torch.linalg.vector_norm(dx, dim=1) / dx.shape[1] ** 0.5
        + torch.linalg.vector_norm(dz, dim=1) / dz.shape[1] ** 0.5
    )
