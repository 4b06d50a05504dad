"""How many descents in the latent space arrive at the best code, by where they begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast.experiments.statistics import share_within

# The posterior density at an end so far above the best is exp(-0.5) of that at the best: a
# distance of one standard deviation. Unlike a share of J1 it does not change with the noise of x0.
NATS = 0.5
NEWTON, ADAM = "Gauss-Newton", "Adam"

# The first starts of every image: the encoder's code, z = 0 (that of CSGM); then random ones.
ENCODER, ZERO, RANDOM = 0, 1, slice(2, None)


@dataclass(frozen=True)
class Outcomes:
    """Ends of all descents at one level of noise, the starts in the order of ``ENCODER`` ...

    Attributes:
        best: the least J1 known [B].
        energy: J1 at the ends [2 + S, B], by method.
        steps: taken [2 + S, B], by method.
        different: different ends an image [B], by Gauss-Newton.
        norm: ||z|| of the best end by Gauss-Newton [B].
    """

    best: Tensor
    energy: dict[str, Tensor]
    steps: dict[str, Tensor]
    different: Tensor
    norm: Tensor

    @classmethod
    def of(cls, found: dict[str, Tensor]) -> Outcomes:
        """From what ``gauss_newton`` and ``published_adam`` return."""
        energy, steps = {NEWTON: found["energy"]}, {NEWTON: found["steps"]}
        best = found["best"]
        if "adam_energy" in found:
            energy[ADAM], steps[ADAM] = found["adam_energy"], found["adam_steps"]
            # A start that leads nowhere may leave NaN, which is no best value.
            best = torch.fmin(best, energy[ADAM].nan_to_num(torch.inf).amin(dim=0))
        return cls(best, energy, steps, found["different"], found["norm"])

    def reached(self, method: str) -> Tensor:
        """Which ends are within ``NATS`` of the best, [2 + S, B]."""
        return self.energy[method] <= self.best + NATS

    def as_data(self) -> dict[str, Any]:
        """The numbers of every image."""
        return {
            "best": self.best,
            "different": self.different,
            "norm": self.norm,
            **{
                method: {"excess": (e - self.best).float(), "steps": self.steps[method]}
                for method, e in self.energy.items()
            },
        }


@dataclass(frozen=True)
class Arrivals:
    """How one method fares at one level of noise; shares in [0, 1].

    Attributes:
        encoder, zero, random: share of the starts that reach the best, within ``NATS``.
        encoder_relative, random_relative: the same within 0.1% of J1.
        encoder_steps, zero_steps, random_steps: median number of steps of those that reach it.
        lost: median of J1 above the best where a random start does not reach it.
        curve: share of the images of which the best of K random starts reaches it, by K - 1.
        joined: the same of the encoder's code and K - 1 random ones.
    """

    encoder: float
    zero: float
    random: float
    encoder_relative: float
    random_relative: float
    encoder_steps: float
    zero_steps: float
    random_steps: float
    lost: float
    curve: list[float]
    joined: list[float]

    def needed(self, share: float) -> int | None:
        """The least K whose best of K random starts reaches the best J1 so often; None if none."""
        found = [k for k, value in enumerate(self.curve, 1) if value >= share - 1e-9]
        return found[0] if found else None


@dataclass(frozen=True)
class Summary:
    """One level of noise.

    Attributes:
        arrivals: by method.
        different: mean number of different ends of an image by Gauss-Newton.
        most: their largest number.
        norm: root mean square of ||z|| at the best ends.
    """

    arrivals: dict[str, Arrivals]
    different: float
    most: int
    norm: float


def share_reached(reached: Tensor) -> Tensor:
    r"""Probability that the best of K starts is a success, for K = 1, ..., S.

    Of S starts of an image with s successes, K different ones taken at random hold one with
    probability 1 - C(S - s, K) / C(S, K).

    Args:
        reached: [S, B] bool.

    Returns:
        [B, S] float64, by image and by K.
    """
    number = len(reached)
    failures = number - reached.sum(dim=0).double()
    taken = torch.arange(number, dtype=torch.float64, device=reached.device)
    factors = (failures[:, None] - taken).clamp_min(0) / (number - taken)
    return 1 - factors.cumprod(dim=1)


def summarise(outcomes: Outcomes) -> Summary:
    """The shares of the tables."""
    arrivals = {}
    for method, energy in outcomes.energy.items():
        reached, steps = outcomes.reached(method), outcomes.steps[method].double()
        by_count = share_reached(reached[RANDOM])
        alone = torch.cat((torch.zeros_like(by_count[:, :1]), by_count[:, :-1]), dim=1)
        best = outcomes.best.expand_as(energy)
        joined = torch.where(reached[ENCODER][:, None], 1.0, alone)
        lost = (energy - best)[RANDOM][~reached[RANDOM]]
        arrivals[method] = Arrivals(
            encoder=float(reached[ENCODER].double().mean()),
            zero=float(reached[ZERO].double().mean()),
            random=float(reached[RANDOM].double().mean()),
            encoder_relative=share_within(energy[ENCODER], outcomes.best),
            random_relative=share_within(energy[RANDOM], best[RANDOM]),
            encoder_steps=float(steps[ENCODER][reached[ENCODER]].median()),
            zero_steps=float(steps[ZERO][reached[ZERO]].median()),
            random_steps=float(steps[RANDOM][reached[RANDOM]].median()),
            lost=float(lost.median()),
            curve=by_count.mean(dim=0).tolist(),
            joined=joined.mean(dim=0).tolist(),
        )
    return Summary(
        arrivals,
        float(outcomes.different.double().mean()),
        int(outcomes.different.max()),
        float(outcomes.norm.double().square().mean().sqrt()),
    )
