"""Joint MAP with a hierarchical prior: pictures and all latents of all levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._validate import positive
from jpmap_fast.algorithms.base import Algorithm
from jpmap_fast.algorithms.encoder_continuation import EncoderContinuation
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import CONVERGED, FAILED, ITERATION_LIMIT, Outcome, Start
from jpmap_fast.algorithms.problem import Problem, State
from jpmap_fast.algorithms.settings import at_least, setting
from jpmap_fast.priors.hierarchical_prior import HierarchicalPhotoPrior, checked_temperatures

_BETAS, _EPSILON = (0.9, 0.99), 1e-8  # of Adam


@dataclass(frozen=True)
class _Trace:
    """A picture's end, and J and the coupling gap at every iterate from the start on."""

    state: State
    status: int
    objectives: list[float]
    gaps: list[float]
    taken: list[bool]


@dataclass(frozen=True, eq=False)
class HierarchicalJPMAP(Algorithm):
    r"""Joint MAP over x and the latents z_l of all levels of a hierarchical prior. Experimental.

        J(x, z) = ||A x - y||^2 / (2 sigma^2) + ||x - G(z)||^2 / (2 gamma^2)
                  - sum_l t_l log p(z_l | z_>l),

    log(2 pi) / 2 a latent left out, with a temperature t_l for every level. From what the encoder
    says (``EncoderContinuation`` with its own settings), an iteration makes ``steps`` steps of Adam
    in z, in units of its prior, each after the exact x-update; what they end at is taken where J
    has fallen, else the learning rate is halved for this picture. So J never rises, and the answer
    is no worse in J than the encoder's. A picture has converged once an iteration that is taken
    lowers J by less than ``tolerance`` a value of it.

    ``objective`` is J, ``beta`` is 1 / gamma^2, ``gap`` is ||x - G(z)||^2, and
    ``candidates`` counts the iterations that were taken, as z3. Pictures are worked on one by one;
    a descent keeps the features of the whole picture.

    Args:
        temperature: t_l >= 0, one number or one a level, the finest first.
        max_iterations: >= 1.
        steps: of Adam an iteration, >= 1.
        learning_rate: of Adam, > 0; latents have a prior deviation of 1.
        tolerance: > 0.

    Raises:
        ValueError: a setting is out of range, or another prior than a ``HierarchicalPhotoPrior``.
        TypeError: of the wrong kind.

    Source: arXiv 2103.01648, J1 and the acceptance of Algorithm 2.3; A. Vahdat, J. Kautz, "NVAE",
    NeurIPS 2020, for the prior.
    """

    temperature: Any = setting(1.0, checked_temperatures)
    max_iterations: int = setting(10, at_least(1))
    steps: int = setting(10, at_least(1))
    learning_rate: float = setting(0.02, positive)
    tolerance: float = setting(1e-4, positive)

    @property
    def uses_encoder(self) -> bool:
        return False  # as a start to descend from by a solver

    @property
    def uses_codes(self) -> bool:
        return False  # of a fixed number

    def bind(self, problem: Problem) -> Algorithm:
        if not isinstance(problem.prior, HierarchicalPhotoPrior):
            raise ValueError(
                "method: expected one for this prior, such as 'encoder' or 'jpmap', got "
                "'hierarchical-jpmap', which needs a HierarchicalPhotoPrior; this is a "
                f"{type(problem.prior).__name__}"
            )
        problem.prior.temperatures(self.temperature)
        return super().bind(problem)

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        rows = torch.arange(problem.batch, device=problem.y.device)
        traces = []
        for row in rows.split(1):
            traces.append(self._restored(problem.select(row), start.z[row]))
            monitor.finished(1)
        if monitor.record:
            self._record(traces, start.z, monitor, problem)
        parts = zip(*(vars(trace.state).values() for trace in traces), strict=True)
        state = State(*map(torch.cat, parts))
        status = torch.tensor([trace.status for trace in traces], device=rows.device)
        iterations = torch.tensor([len(trace.taken) for trace in traces], device=rows.device)
        taken = torch.tensor([sum(trace.taken) for trace in traces], device=rows.device)
        none = torch.zeros_like(taken)
        beta = torch.full_like(problem.sigma, problem.prior.gamma**-2)
        return Outcome(state, beta, status, iterations, torch.stack((none, none, taken), dim=1))

    def _restored(self, problem: Problem, z: Tensor) -> _Trace:
        """One picture."""
        joint = _Joint(problem, self.temperature)
        first = EncoderContinuation().bind(problem)
        assert isinstance(first, EncoderContinuation)
        x, level, _ = first.asked(problem, Monitor())
        codes = joint.codes(x, level)
        x, decoded, objective, gap = joint.completed(codes)
        objectives, gaps = [float(objective)], [float(gap)]
        taken: list[bool] = []
        rate, status = self.learning_rate, ITERATION_LIMIT
        enough = self.tolerance * x.numel()
        while len(taken) < self.max_iterations and status == ITERATION_LIMIT:
            candidate = joint.descended(codes, self.steps, rate)
            found = joint.completed(candidate)
            value = float(found[2])
            taken.append(value < objectives[-1])
            if taken[-1]:
                codes, (x, decoded, objective, gap) = candidate, found
                status = CONVERGED if objectives[-1] - value < enough else status
            else:
                rate /= 2
            objectives.append(float(objective))
            gaps.append(float(gap))
        if not math.isfinite(objectives[-1]):
            status = FAILED
        state = State(x, z, decoded, objective.to(x.dtype), gap.to(x.dtype))
        return _Trace(state, status, objectives, gaps, taken)

    @staticmethod
    def _record(traces: Sequence[_Trace], z: Tensor, monitor: Monitor, problem: Problem) -> None:
        """Every iterate of all pictures, side by side."""
        beta = problem.prior.gamma**-2
        for step in range(max((len(trace.objectives) for trace in traces), default=0)):
            going = [i for i, trace in enumerate(traces) if step < len(trace.objectives)]
            index = torch.tensor(going, device=z.device)
            values = [
                problem.sigma.new_tensor([column[step] for column in columns])
                for columns in (
                    [traces[i].objectives for i in going],
                    [traces[i].gaps for i in going],
                )
            ]
            candidate = [3 if step and traces[i].taken[step - 1] else 0 for i in going]
            monitor.step(
                index,
                z[index],
                values[0],
                torch.full_like(values[0], beta),
                values[1],
                torch.tensor(candidate, device=z.device),
            )


class _Joint:
    """J of one picture as a function of its latents, the best x put in.

    Args:
        problem: of a batch of one.
        temperature: see ``HierarchicalJPMAP``.
    """

    def __init__(self, problem: Problem, temperature: Any) -> None:
        prior = problem.prior
        assert isinstance(prior, HierarchicalPhotoPrior)
        self._problem, self._prior = problem, prior
        self._size = problem.image_shape[1:]
        self._beta = torch.full_like(problem.sigma, prior.gamma**-2)
        self._temperature = problem.sigma.new_tensor(prior.temperatures(temperature))

    def codes(self, x: Tensor, level: Tensor) -> list[Tensor]:
        """Where the encoder puts a picture of a noise level."""
        return self._prior.codes(x, level)

    def completed(self, codes: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best x, G(z), and J and the gap in float64, [1] each."""
        problem = self._problem
        decoded, energies = self._prior.generate(codes, self._size)
        decoded = decoded.contiguous()
        x = problem.nearest(decoded, self._beta)
        misfit = (problem.operator.A(x) - problem.y).flatten(1).double().square().sum(dim=1)
        gap = (x - decoded).flatten(1).double().square().sum(dim=1)
        prior = (energies * self._temperature).double().sum(dim=1)
        sigma, beta = problem.sigma.double(), self._beta.double()
        return x, decoded, misfit / (2 * sigma.square()) + beta / 2 * gap + prior, gap

    def descended(self, codes: Sequence[Tensor], steps: int, rate: float) -> list[Tensor]:
        """Codes after steps of Adam, x the best one at each.

        With x at its best the gradient of J in z is that at a fixed x.
        """
        leaves = [code.detach().clone().requires_grad_(True) for code in codes]
        optimiser = torch.optim.Adam(leaves, lr=rate, betas=_BETAS, eps=_EPSILON)
        for _ in range(steps):
            with torch.enable_grad():
                decoded, energies = self._prior.generate(leaves, self._size)
                x = self._problem.nearest(decoded.detach().contiguous(), self._beta)
                gap = (x - decoded).square().sum()
                value = self._beta[0] / 2 * gap + (energies * self._temperature).sum()
                gradients = torch.autograd.grad(value, leaves, materialize_grads=True)
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient
            optimiser.step()
        return [leaf.detach() for leaf in leaves]
