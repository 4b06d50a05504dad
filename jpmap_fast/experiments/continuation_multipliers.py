"""ADMM beside Algorithm 2.4: the constraint x = G(z) by multipliers, on the same measurements."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from jpmap_fast._metrics import psnr
from jpmap_fast._problems import Problem
from jpmap_fast._timing import timed
from jpmap_fast.algorithms import ADMM, Algorithm, LinearisedADMM, MAPz
from jpmap_fast.experiments.histories import cell, held, percent, stages
from jpmap_fast.experiments.statistics import share_within
from jpmap_fast.priors import Prior

# One start, as for the continuations they are compared with.
METHODS: dict[str, Algorithm] = {
    "ADMM": ADMM(starts=1),
    "linearised ADMM": LinearisedADMM(starts=1),
}
CONTINUATION = MAPz(alpha=1, starts=1)
KEPT = ("iterations", "converged", "beta_end", "gap_end", "latent", "relative_seconds")


def measured(solve: Callable[..., Any], problem: Problem, device: torch.device) -> dict[str, Any]:
    """What each method reaches on a problem, and its time over that of continuation.

    Args:
        solve: restores the problem by a method; ``record=True`` keeps its history.
        problem: for its clean images.
        device: where it is solved.
    """
    _, unit, _ = timed(partial(solve, CONTINUATION), device, repeats=3)
    found: dict[str, Any] = {}
    for name, method in METHODS.items():
        _, seconds, _ = timed(partial(solve, method), device, repeats=3)
        result = solve(method, record=True)
        penalty = result.history.beta
        found[name] = {
            "iterations": result.iterations,
            "converged": result.converged,
            "stages": stages(penalty),
            "beta_end": held(penalty)[-1],
            "gap_end": result.gap,
            "latent": result.objective,
            "psnr": psnr(result.x, problem.clean),
            "psnr_decoded": psnr(result.decoded, problem.clean),
            "relative_seconds": seconds / unit,
        }
    return found


def rows(
    title: str, found: dict[str, Any], prior: Prior, spread: Callable[..., str]
) -> list[list[Any]]:
    """Rows of the table of continuations, ``spread`` writing a median with its range."""
    return [
        [
            title,
            name,
            spread(of["stages"]),
            spread(of["iterations"]),
            percent(of["converged"]),
            cell(of["beta_end"].median() * prior.gamma**2),
            cell(of["gap_end"].sqrt().median()),
            None,
            cell(of["psnr"].mean()),
            cell(of["psnr_decoded"].mean()),
            cell(of["latent"].mean()),
            round(of["relative_seconds"], 1),
        ]
        for name, of in found.items()
    ]


def paragraph(title: str, found: dict[str, Any], continuation: dict[str, Any]) -> str:
    """How ADMM compares with ``continuation``, the run at alpha = 1, from the same start."""
    theirs = continuation["latent"]
    said = []
    for name, of in found.items():
        lower = 1 - share_within(theirs, of["latent"])
        higher = 1 - share_within(of["latent"], theirs)
        said.append(
            f"{name} ends lower in the latent objective than continuation at alpha = 1 by more "
            f"than 0.1% on {lower:.0%} of the images and higher on {higher:.0%} (mean "
            f"{of['latent'].mean():.1f} against {theirs.mean():.1f}), with a median "
            f"||x - G(z)|| of {of['gap_end'].sqrt().median():.2g} against "
            f"{continuation['gap_end'].sqrt().median():.2g}, in "
            f"{of['relative_seconds']:.1f} times the time"
        )
    return f"{title}. From one start {'; '.join(said)}."
