"""Joint MAP by the encoder alone, with growing coupling weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from jpmap_fast._validate import positive
from jpmap_fast.algorithms.base import Algorithm
from jpmap_fast.algorithms.encoder_schedule import Levels, levels_of
from jpmap_fast.algorithms.first_guess import first_guess
from jpmap_fast.algorithms.monitor import Monitor
from jpmap_fast.algorithms.outcome import COMPLETED, FAILED, Outcome, Start
from jpmap_fast.algorithms.problem import Problem, State
from jpmap_fast.algorithms.rounds import Fixed
from jpmap_fast.algorithms.settings import at_least, positive_numbers, setting
from jpmap_fast.operators import Blur
from jpmap_fast.operators.base import Operator
from jpmap_fast.priors.protocol import has_codes


@dataclass(frozen=True, eq=False)
class EncoderContinuation(Algorithm):
    r"""The encoder's branch of joint MAP, its noise level and the coupling weight tied:

        G_k = G(mu_phi(x_k; s_k))
        x_{k+1} = argmin_x ||A x - y||^2 / (2 sigma^2) + beta_{k+1}/2 ||x - G_k||^2
        beta_k = weight / s_k^2,    s_k from ``first`` to ``last`` sigma in geometric progression,

    from an image filled in from around (``first_guess``), ending with x = G_K, the constraint that
    growing beta leads to. A prior whose encoder is told the noise level, such as
    ``load_prior("photos")``, gives G(mu_phi(x; s)) by ``autoencode(x, s)``. The x-update is exact
    for every operator, over the whole picture.

    Nothing is minimised: the encoder's code is taken whatever it does to J1, whose term
    1/2 ||z||^2 such a prior has not. What is promised is this: for ``Denoising`` the answer is the
    network's estimate of the posterior mean; for other operators x_k agrees with y as far as its
    noise allows, at every step, and the work is the same for every image. ``objective`` is NaN,
    ``gap`` the distance ||x_K - G_K||^2 before the last step.

    Args:
        steps: K >= 1, how often the encoder is asked.
        first: s_1 > 0, in [0, 1] units; never below ``last`` sigma.
        last: s_K over sigma, > 0.
        weight: lambda > 0, a number or one an image. For a ``Blur``, by default, what lets through
            noise of a third of the power that the encoder is told, within 0.01 and 0.19, see
            ``noise_weight``.

    What is None is chosen by the operator, from a table measured on training pictures.

    Raises:
        ValueError: a setting is out of range, or a prior without ``autoencode``.
        TypeError: of the wrong kind.

    Source: arXiv 2103.01648, the step z^1 of Algorithm 2.3 in the continuation of Algorithm 2.4;
    with a denoiser in place of the autoencoder it is the half-quadratic splitting of K. Zhang, Y.
    Li, W. Zuo, L. Zhang, L. Van Gool, R. Timofte, "Plug-and-play image restoration with deep
    denoiser prior", 2021, from where the relation of beta and s is taken.
    """

    # Its own name, and that of a prior for it, in errors.
    _name: ClassVar[str] = "encoder"
    _prior: ClassVar[str] = "photos"

    steps: int | None = setting(None, at_least(1))
    first: float | None = setting(None, positive)
    last: float | None = setting(None, positive)
    weight: Any = setting(None, positive_numbers, per_image=True)

    @property
    def uses_encoder(self) -> bool:
        return False  # as a start to descend from

    @property
    def uses_codes(self) -> bool:
        return False

    @property
    def runs_fixed(self) -> bool:
        return True

    @property
    def passes(self) -> int:
        return self.steps or 1

    def bind(self, problem: Problem) -> Algorithm:
        if has_codes(problem.prior):
            raise ValueError(
                "method: expected one for a prior with latent codes, such as 'jpmap', got "
                f"{self._name!r}, which needs a prior that is told the noise level "
                f"(autoencode(x, s)), such as {self._prior!r}; this is a "
                f"{type(problem.prior).__name__}"
            )
        chosen = self._levels(problem.operator.operator)
        mine = {name: getattr(self, name) for name in ("steps", "first", "last")}
        given = {n: getattr(chosen, n) if v is None else v for n, v in mine.items()}
        return super(EncoderContinuation, replace(self, **given)).bind(problem)

    def image_default(self, name: str, problem: Problem) -> float | Tensor | None:
        operator = problem.operator.operator
        chosen = self._levels(operator)
        if chosen.noise is None:
            return chosen.weight
        assert isinstance(operator, Blur) and self.last is not None
        return operator.weight_for_noise(chosen.noise, self.last)

    def run(self, problem: Problem, start: Start, monitor: Monitor) -> Outcome:
        x, _, decoded = self.asked(problem, monitor)
        return self._outcome(x, decoded, start)

    def asked(self, problem: Problem, monitor: Monitor) -> tuple[Tensor, Tensor, Tensor]:
        """x_K [B, C, H, W], the level s_K [B] that the encoder is told, and what it says, G_K."""
        assert self.steps is not None and self.first is not None
        assert self.last is not None
        autoencode = problem.prior.autoencode  # type: ignore[attr-defined]
        end = self.last * problem.sigma
        begin = end if self.steps == 1 else self._begin(end, problem.sigma)
        x = decoded = first_guess(problem.operator, problem.y)
        for step in range(self.steps):
            t = step / max(1, self.steps - 1)
            level = begin ** (1 - t) * end**t
            x = problem.nearest(decoded, self.weight / level.square())
            decoded = autoencode(x, level).contiguous()
            monitor.finished(problem.batch)
        return x, level, decoded

    def _levels(self, operator: Operator) -> Levels:
        """What is chosen by the operator."""
        return levels_of(operator)

    def _begin(self, end: Tensor, sigma: Tensor) -> Tensor:
        """s_1 of several steps [B]."""
        assert self.first is not None
        return torch.clamp(end, min=self.first)

    def run_fixed(
        self, problem: Problem, start: Start, fixed: Fixed, monitor: Monitor
    ) -> list[Outcome]:
        return [self.run(problem, start, monitor)]

    def _outcome(self, x: Tensor, decoded: Tensor, start: Start) -> Outcome:
        gap = (x - decoded).flatten(1).double().square().sum(dim=1).to(x.dtype)
        none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        steps = none + (self.steps or 0)
        return Outcome(
            State(decoded, start.z, decoded, torch.full_like(gap, torch.nan), gap),
            torch.full_like(gap, torch.inf),
            torch.where(gap < torch.inf, COMPLETED, FAILED),
            steps,
            torch.stack((steps, none, none), dim=1),
        )
