"""What it is worth to begin a descent in the latent space at the encoder's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast.experiments.context import Context, Settings
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.encoder_initialisation_figures import (
    Paths,
    objective_figure,
    path_figure,
    starts_figure,
)
from jpmap_fast.experiments.encoder_initialisation_outcomes import Outcomes, summarise
from jpmap_fast.experiments.encoder_initialisation_report import paragraphs, tables
from jpmap_fast.experiments.latent_plane import LatentPosterior
from jpmap_fast.experiments.section import Section
from jpmap_fast.objective import LatentObjective
from jpmap_fast.priors import load_prior
from jpmap_fast.solvers import Adam

NOISE, STARTS = 1, 2  # offsets of the generators

LEARNING_RATE = 0.01  # of the original code, which leaves the rest of Adam as torch has it
SAME_END = 0.05  # distance of two ends, in latent units; others are apart by far more

OBJECTIVE_CAPTION = (
    "J1(x0, z) above the least value known against the steps of Adam (learning rate 0.01), from "
    "the encoder's code (thick) and from {starts} draws of N(0, I) (thin; blue those that come "
    "within 0.5 nats of the best in {steps} steps). Linear below 1 nat, logarithmic above."
)
PATH_CAPTION = (
    "The same descents in the plane of the first two principal directions of all their points, "
    "with the share of the variance along each. Circles: random starts; crosses: ends that are "
    "more than 0.5 nats above the best J1 known after {steps} steps. Paths in blue arrive at the "
    "best, paths in grey do not."
)
STARTS_CAPTION = (
    "Share of the digits whose best known J1 is reached (within 0.5 nats) by the best of K starts, "
    "averaged over which K of the starts are taken: random ones alone (solid), and the encoder's "
    "code with K - 1 random ones (dashed). Damped Gauss-Newton left, Adam right."
)


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        shown: digits with trajectories.
        recorded: steps of those.
        drawn_starts: random starts of those, the first of ``starts``.
        digits: test digits in the tables.
        starts: random starts an image, by Gauss-Newton.
        extra: more of them, which only help to know the best J1.
        adam_starts: random starts by Adam, the first of ``starts``.
        adam_steps: at most, of the descents in the tables.
        levels: standard deviations of the noise of x0, times 255, by Gauss-Newton.
        adam_levels: those of them by Adam.
        drawn: those of them with trajectories.
    """

    shown: int
    recorded: int
    drawn_starts: int
    digits: int
    starts: int
    extra: int
    adam_starts: int
    adam_steps: int
    levels: tuple[int, ...] = (0, 25, 50, 110)
    adam_levels: tuple[int, ...] = (0, 110)
    drawn: tuple[int, ...] = (0, 110)

    @classmethod
    def of(cls, settings: Settings) -> Sizes:
        """The two sizes of the report."""
        if settings.quick:
            return cls(2, 1200, 20, 30, 50, 5, 2, 1000, levels=(0, 50, 110))
        return cls(6, 2000, 50, 200, 50, 150, 50, 3000, adam_levels=(0, 25, 50, 110))


def run(context: Context, name: str) -> Section:
    """The experiment at the sizes of the settings."""
    return experiment(context, name, Sizes.of(context.settings))


def experiment(context: Context, name: str, sizes: Sizes) -> Section:
    """Descents from many starts, their trajectories and how many of them arrive."""
    prior = load_prior("mnist", device=context.device)
    clean = digits(sizes.digits)
    # One pattern of noise and one set of starts for all levels: they differ in nothing else.
    noise = torch.randn(clean.shape, generator=context.generator(NOISE))
    shape = (sizes.starts + sizes.extra, sizes.digits, prior.latent_dim)
    draws = torch.randn(shape, generator=context.generator(STARTS)).to(context.device)

    def posterior(level: int, count: int) -> LatentPosterior:
        x0 = clean[:count] + level / 255 * noise[:count]
        return LatentPosterior(prior, x0.to(context.device))

    outcomes: dict[int, Outcomes] = {}
    for level in sizes.levels:

        def work(level: int = level) -> dict[str, Any]:
            target = posterior(level, sizes.digits)
            return gauss_newton(target, draws, sizes.starts)

        found = context.step(f"gauss-newton-{level}", work)
        if level in sizes.adam_levels:

            def adam(level: int = level) -> dict[str, Any]:
                target = posterior(level, sizes.digits)
                return published_adam(target, draws[: sizes.adam_starts], sizes.adam_steps)

            found = found | context.step(f"adam-{level}", adam)
        outcomes[level] = Outcomes.of(found)

    paths: Paths = {}
    for level in sizes.drawn:

        def trajectories(level: int = level) -> dict[str, Any]:
            target = posterior(level, sizes.shown)
            return dict(record(target, draws[: sizes.drawn_starts, : sizes.shown], sizes.recorded))

        paths[level] = context.step(f"trajectories-{level}", trajectories)
        # A recorded descent may be the one to find the least.
        best = torch.minimum(
            outcomes[level].best[: sizes.shown], paths[level]["energy"].amin((0, 1))
        )
        paths[level] = paths[level] | {"best": best}

    summary = {level: summarise(one) for level, one in outcomes.items()}
    section = Section(name, "What the encoder's code is worth as a start of a descent")
    section.text = paragraphs(
        summary, sizes.digits, sizes.starts, sizes.adam_steps, prior.latent_dim
    )
    section.tables = tables(summary, sizes.digits, sizes.starts, sizes.adam_steps)
    for stem, figure, caption in (
        ("objective", objective_figure(paths), OBJECTIVE_CAPTION),
        ("paths", path_figure(paths), PATH_CAPTION),
        ("starts", starts_figure(summary), STARTS_CAPTION),
    ):
        words = caption.format(starts=sizes.drawn_starts, steps=sizes.recorded)
        section.figures.append(context.save(f"{name}-{stem}", figure, words))
    section.data = {str(level): one.as_data() for level, one in outcomes.items()}
    section.seconds = context.seconds
    return section


def gauss_newton(posterior: LatentPosterior, draws: Tensor, starts: int) -> dict[str, Any]:
    """Damped Gauss-Newton from the encoder's code, 0 and ``draws`` [S + extra, B, k].

    Returns:
        ``best`` and ``norm`` [B], the least J1 of all ends and ||z|| there; ``energy`` and
        ``steps`` [2 + S, B] without those of the extra draws; ``different`` [B], how many
        different ends these 2 + S descents have.
    """
    ends = posterior.descend(_starts(posterior, draws))
    count = len(ends.z) - len(draws) + starts
    return {
        "best": ends.energy.amin(dim=0),
        "norm": torch.linalg.vector_norm(ends.best()[0], dim=1),
        "energy": ends.energy[:count],
        "steps": ends.steps[:count],
        "different": different(ends.z[:count]),
    }


def _starts(posterior: LatentPosterior, draws: Tensor) -> Tensor:
    """The encoder's code, 0 and the draws [S, B, k], as [2 + S, B, k]."""
    mean, _ = posterior.encoder()
    return torch.cat((torch.stack((mean, torch.zeros_like(mean))), draws))


def different(codes: Tensor) -> Tensor:
    """How many of the codes [S, B, k] have none before them within ``SAME_END``, [B]."""
    rows = codes.transpose(0, 1).double()
    near = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") < SAME_END
    return (near.tril(-1).sum(dim=2) == 0).sum(dim=1)


def published_adam(posterior: LatentPosterior, draws: Tensor, steps: int) -> dict[str, Any]:
    """The z-step of the original code from the encoder's code, 0 and ``draws`` [A, B, k].

    Returns:
        ``adam_energy`` and ``adam_steps`` [2 + A, B].
    """
    starts = _starts(posterior, draws)
    number, batch, k = starts.shape
    scale = starts.new_full((number * batch,), 1 / posterior.beta)
    solver = Adam(learning_rate=LEARNING_RATE, max_steps=steps)
    objective = posterior.repeated(number).objective
    found = solver.minimise(objective, starts.reshape(-1, k), scale)
    return {
        "adam_energy": found.objective.reshape(number, batch),
        "adam_steps": found.steps.reshape(number, batch),
    }


def record(posterior: LatentPosterior, draws: Tensor, steps: int) -> dict[str, Tensor]:
    """Adam's whole trajectories from the encoder's code and from ``draws`` [S, B, k].

    Returns:
        ``at`` [T], the steps kept; ``z`` [T, 1 + S, B, k] and ``energy`` [T, 1 + S, B], J1 there.
    """
    mean, _ = posterior.encoder()
    starts = torch.cat((mean[None], draws))
    number, batch, k = starts.shape
    objective = posterior.repeated(number).objective
    at, z, energy = adam_path(objective, starts.reshape(-1, k), steps, 1 / posterior.beta)
    return {
        "at": at,
        "z": z.reshape(-1, number, batch, k),
        "energy": energy.reshape(-1, number, batch),
    }


@torch.no_grad()
def adam_path(
    objective: LatentObjective, z: Tensor, steps: int, scale: float, every: int = 5
) -> tuple[Tensor, Tensor, Tensor]:
    """Plain Adam on ``scale`` times the objective from z [R, k], without a stopping test.

    Returns:
        The steps 0, every, 2 every, ... and ``steps`` [T]; z [T, R, k] and f(z) [T, R] there.
    """
    kept: list[int] = []
    codes, values = [], []
    # torch's: the solver ``Adam`` keeps no record, and stops.
    code = torch.nn.Parameter(z.clone())
    optimiser = torch.optim.Adam([code], lr=LEARNING_RATE)
    for step in range(steps + 1):
        f, gradient = objective.gradient(code.detach())
        if step % every == 0 or step == steps:
            kept.append(step)
            codes.append(code.detach().clone())
            values.append(f)
        code.grad = scale * gradient
        optimiser.step()
    return torch.tensor(kept), torch.stack(codes), torch.stack(values)
