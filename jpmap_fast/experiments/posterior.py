"""Whether posterior draws are calibrated: on truths of the prior, and on digits."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._metrics import psnr
from jpmap_fast._problems import PAPER, Problem, make_problem
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.posterior_ranks import DRAWS, all_ranks
from jpmap_fast.experiments.posterior_report import (
    coverage_table,
    digit_table,
    histograms,
    pictures,
    rank_table,
    text,
)
from jpmap_fast.experiments.section import Section
from jpmap_fast.priors import load_prior
from jpmap_fast.priors.base import Prior
from jpmap_fast.sampling import Posterior, calibrate, sample

# Of intervals, and how many of the ranks 0..99 they hold.
LEVEL, RANKS = 0.9, (5, 95)
# The prior's gamma times this has to be found out.
WRONG = 1.2
# Offsets of generators.
TRUTHS, DIGITS = 20, 40
SHOWN = 8
INK = 0.05


@dataclass(frozen=True)
class Sizes:
    """Truths of the prior, digits that calibrate and digits that are covered, of each problem.

    A wrong gamma is found out on a sixth of the truths.
    """

    truths: int
    calibration: int
    digits: int
    problems: tuple[str, ...] = PAPER


def run(context: Context, name: str, sizes: Sizes | None = None) -> Section:
    """The experiment.

    Source: S. Talts et al., "Validating Bayesian inference algorithms with simulation-based
    calibration", arXiv 1804.06788.
    """
    pick = context.settings.pick
    sizes = sizes or Sizes(pick(180, 2000), pick(30, 300), pick(20, 200))
    prior = load_prior("mnist", device=context.device)
    found: dict[str, dict[str, Any]] = {}
    for which in sizes.problems:
        own = found[which] = {}
        own["truths"] = context.step(
            f"{which} truths", partial(_truths, context, which, prior, sizes.truths, 1.0)
        )
        own["wrong"] = context.step(
            f"{which} gamma x {WRONG:g}",
            partial(_truths, context, which, prior, max(sizes.truths // 6, 20), WRONG),
        )
        own["digits"] = context.step(
            f"{which} digits", partial(_digits, context, which, prior, sizes)
        )
        own["title"] = make_problem(
            which, digits(1), context.generator(), torch.device("cpu")
        ).title
    section = Section(name, "How sure: are posterior draws calibrated?")
    section.figures = [histograms(context, found)]
    section.figures += [pictures(context, which, found[which]) for which in found]
    section.tables = [rank_table(found), coverage_table(found), digit_table(found)]
    section.text = text(found, sizes.truths, sizes.calibration, sizes.digits)
    section.data = {which: _numbers(own) for which, own in found.items()}
    section.seconds = context.seconds
    return section


@torch.no_grad()
def _truths(
    context: Context, which: str, prior: Prior, number: int, factor: float
) -> dict[str, Any]:
    """Ranks of truths of the prior, sampled by one whose gamma is ``factor`` times theirs."""
    g = context.generator(TRUTHS + PAPER.index(which))
    z = torch.randn(number, prior.latent_dim, generator=g)
    noise = torch.randn(number, *prior.image_shape, generator=g)  # type: ignore[misc]
    z = z.to(context.device)
    x = prior.decode(z) + prior.gamma * noise.to(context.device)
    problem = make_problem(which, x.cpu(), g, context.device)
    told = copy.deepcopy(prior)
    told.log_gamma += math.log(factor)  # type: ignore[attr-defined]
    kept: dict[str, list[Tensor]] = {}
    for rows in torch.arange(number, device=context.device).split(50):
        part = problem.select(rows)
        posterior = _sampled(part, told, g)
        given = (part.y, part.operator, told, part.sigma)
        own = all_ranks(posterior, z[rows], x[rows], given, g)
        inside = _inside(posterior, x[rows])
        own["pixels"] = inside.double().flatten(1).mean(dim=1)
        own["ess"], own["pareto_k"] = posterior.ess, posterior.pareto_k
        for key, value in own.items():
            kept.setdefault(key, []).append(value)
    return {key: torch.cat(values) for key, values in kept.items()}


@torch.no_grad()
def _digits(context: Context, which: str, prior: Prior, sizes: Sizes) -> dict[str, Any]:
    """Coverage of digits by plain and by calibrated intervals, image by image."""
    g = context.generator(DIGITS + PAPER.index(which))
    clean = digits(sizes.calibration + sizes.digits)
    whole = make_problem(which, clean, g, context.device)
    order = torch.arange(len(clean), device=context.device)
    first, second = order[: sizes.calibration], order[sizes.calibration :]
    kept, part = whole.select(first), whole.select(second)
    made = calibrate(prior, kept.operator, kept.sigma, kept.clean, level=LEVEL, generator=g)
    posterior = _sampled(part, prior, g)
    lower, upper = posterior.interval(LEVEL, calibration=made)
    bounds = {
        "plain": _inside(posterior, part.clean),
        "calibrated": (part.clean >= lower) & (part.clean <= upper),
    }
    ink = part.clean > INK
    distance = (part.clean - posterior.mean).flatten(1).norm(dim=1)
    assert posterior.x is not None
    apart = (posterior.x - posterior.mean[:, None]).flatten(2).norm(dim=-1)
    found: dict[str, Any] = {
        "radius plain": ((apart < distance[:, None]).sum(dim=1) < LEVEL * (DRAWS + 1)).double(),
        "radius calibrated": (distance <= made.radius(posterior)).double(),
        "misfit_p_value": posterior.misfit_p_value,
        "psnr": psnr(posterior.mean, part.clean),
        "factors": list(made.factors),
        "edges": list(made.edges),
        "radius_factor": made.radius_factor,
    }
    for name, inside in bounds.items():
        found[f"pixels {name}"] = inside.double().flatten(1).mean(dim=1)
        found[f"ink {name}"] = (inside & ink).double().sum(dim=(1, 2, 3)) / ink.sum(dim=(1, 2, 3))
    shown = part.first(SHOWN)
    found["shown"] = {
        "original": shown.clean,
        "measured": shown.display,
        "E[x | y]": posterior.mean[:SHOWN],
        "deviation x 3": 3 * posterior.std[:SHOWN],
        **{f"G(z), draw {i + 1}": prior.decode(posterior.z[:SHOWN, i]) for i in range(3)},
    }
    return found


def _sampled(problem: Problem, prior: Prior, generator: torch.Generator) -> Posterior:
    given = problem.y, problem.operator, prior, problem.sigma
    return sample(*given, draws=DRAWS, generator=generator)


def _inside(posterior: Posterior, truth: Tensor) -> Tensor:
    """Which pixels of the truth have a rank within the interval."""
    assert posterior.x is not None
    below = (posterior.x < truth[:, None]).sum(dim=1)
    return (below >= RANKS[0]) & (below < RANKS[1])


def _numbers(own: dict[str, Any]) -> dict[str, Any]:
    """What goes into the JSON file: one number an image."""
    shown = {key: value for key, value in own["digits"].items() if key != "shown"}
    return {"truths": own["truths"], "wrong": own["wrong"], "digits": shown}
