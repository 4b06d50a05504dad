"""The methods that the tables compare, and what is kept of a run of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from jpmap_fast._metrics import psnr, ssim
from jpmap_fast._problems import Problem
from jpmap_fast._restore import restore
from jpmap_fast.algorithms import CSGM, JPMAP, Algorithm, MAPz
from jpmap_fast.experiments.style import AMBER, BLACK, BLUE, CYCLE, GREEN, GREY, ORANGE, PURPLE, SKY
from jpmap_fast.priors import Prior
from jpmap_fast.solvers import Adam

CSGM_1, CSGM_10 = "CSGM, 1 start", "CSGM, 10 starts"
JPMAP_X, JPMAP_10, ORIGINAL = "JPMAP", "JPMAP, 10 starts", "JPMAP as published"
PNP, TV, EPLL, SUPERVISED = "PnP-ADMM", "TV", "EPLL", "supervised"

# A method keeps its colour in all figures.
COLOURS = {
    JPMAP_X: BLUE,
    ORIGINAL: SKY,
    CSGM_1: AMBER,
    CSGM_10: ORANGE,
    PNP: GREEN,
    TV: GREY,
    EPLL: PURPLE,
    SUPERVISED: BLACK,
}


def as_published() -> JPMAP:
    """Algorithm 2.3 with the settings of the authors' code.

    One start, the encoder's; alternating descent by Adam, learning rate 0.01, at most 3,000 steps;
    stop at 1/255. Their code proposes all three candidates at every iteration; with n1 = 25 and
    n2 = 50 the encoder is asked as long as it was seen to help.
    """
    return JPMAP(coupling="alternating", z_solver=Adam(), starts=1, n1=25, n2=50, tolerance=1 / 255)


def latent_methods() -> dict[str, Algorithm]:
    """The methods that search in the latent space, in the order of the paper's figures."""
    return {
        CSGM_1: CSGM(),
        CSGM_10: CSGM(starts=10),
        JPMAP_X: JPMAP(),
        JPMAP_10: JPMAP(starts=10),
        **{f"MAP-z, alpha = {alpha}": MAPz(alpha=alpha) for alpha in (10, 5, 1)},
    }


def colour(name: str) -> str:
    """The colour of a method."""
    return COLOURS.get(name, CYCLE[6])


@dataclass(frozen=True)
class Measure:
    """Runs a method on a problem with a prior, the same random starts every time."""

    prior: Prior
    generator: Callable[[], torch.Generator]

    def __call__(self, problem: Problem, method: Algorithm) -> dict[str, Any]:
        """What is kept of a run, [B] or images [B, C, H, W]; NaN where a method has no code."""
        result = restore(
            problem.y,
            problem.operator,
            self.prior,
            problem.sigma,
            method=method,
            generator=self.generator(),
        )
        clean = problem.clean
        found = {
            "x": result.x,
            "z": result.z,
            "decoded": result.decoded,
            "objective": result.objective,
            "converged": result.converged,
            "psnr": psnr(result.x, clean),
            "ssim": ssim(result.x, clean),
        }
        if bool(torch.isfinite(result.z).all()):
            found |= {
                "psnr_decoded": psnr(result.decoded, clean),
                "ssim_decoded": ssim(result.decoded, clean),
                "j1": self.j1(problem, result.z, result.decoded),
                "latent": self.latent(problem, result.z, result.decoded),
            }
        return found

    def j1(self, problem: Problem, z: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """Least J1(x, z) over x at beta = 1 / gamma^2, [B]."""
        return self._objective(problem, z, decoded, float(self.prior.gamma) ** -2)

    def latent(self, problem: Problem, z: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """F(G(z)) + ||z||^2 / 2, [B]."""
        return self._objective(problem, z, decoded, float("inf"))

    def _objective(
        self, problem: Problem, z: torch.Tensor, decoded: torch.Tensor, beta: float
    ) -> torch.Tensor:
        ones = torch.ones(len(z), dtype=z.dtype, device=z.device)
        with torch.no_grad():
            return problem.operator.x_update(
                decoded, problem.y, z, beta * ones, problem.sigma * ones
            )[1]
