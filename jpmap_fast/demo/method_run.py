"""One method on one problem of the demo, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._metrics import psnr, ssim
from jpmap_fast._problems import Problem
from jpmap_fast._restore import restore
from jpmap_fast._result import Result
from jpmap_fast._timing import clocked
from jpmap_fast.algorithms import Algorithm
from jpmap_fast.priors import Prior


@dataclass(frozen=True)
class Run:
    """One method on one problem.

    Attributes:
        result: of ``restore``.
        psnr, psnr_decoded, ssim: of x, G(z) and x against the clean images [B].
        j1: J1 at the z found and the exact x for it [B].
        seconds: of the call on all images.
    """

    result: Result
    psnr: Tensor
    psnr_decoded: Tensor
    ssim: Tensor
    j1: Tensor
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Means, and the single values."""
        single = {key: getattr(self, key) for key in ("psnr", "psnr_decoded", "ssim", "j1")}
        return {
            **{key: float(values.double().mean()) for key, values in single.items()},
            "seconds": self.seconds / len(self.psnr),
            "seconds_all_images": self.seconds,
            "converged": int(self.result.converged.sum()),
            "per_image": {
                **{key: values.double() for key, values in single.items()},
                "iterations": self.result.iterations,
                "status": self.result.status,
            },
        }


def run_method(problem: Problem, prior: Prior, method: Algorithm, seed: int) -> Run:
    """Restore the problem after one image of it, which is not timed."""
    device = problem.y.device

    def solve(problem: Problem) -> Result:
        generator = torch.Generator().manual_seed(seed)
        arguments = (problem.y, problem.operator, prior, problem.sigma)
        return restore(*arguments, method=method, generator=generator)

    solve(problem.first(1))
    result, seconds = clocked(partial(solve, problem), device)
    beta = torch.full_like(result.objective, float(prior.gamma) ** -2)
    sigma = torch.full_like(result.objective, problem.sigma)
    y = problem.y.to(beta.dtype)
    # The exact x for the z found: what J1 means for a method that knows no x of its own.
    with torch.no_grad():
        _, j1, _ = problem.operator.x_update(result.decoded, y, result.z, beta, sigma)
    clean = problem.clean.to(result.x.dtype)
    return Run(
        result,
        psnr(result.x, clean),
        psnr(result.decoded, clean),
        ssim(result.x, problem.clean),
        j1,
        seconds,
    )
