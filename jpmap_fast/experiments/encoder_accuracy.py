"""How good an approximation of the posterior p(z | x0) the encoder's Gaussian is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._metrics import psnr
from jpmap_fast.experiments.context import Context, Settings
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.encoder_accuracy_figures import (
    CONTOURS,
    DIFFERENCE,
    contour_figure,
    decoded_figure,
    distribution_figure,
    encoder_on,
    noise_words,
)
from jpmap_fast.experiments.encoder_accuracy_report import paragraphs, summarise, tables
from jpmap_fast.experiments.latent_plane import (
    LatentPosterior,
    plane_through,
    random_plane,
    restrict,
)
from jpmap_fast.experiments.section import Section
from jpmap_fast.priors import load_prior

NOISE, STARTS, PLANES = 1, 2, 3  # offsets of the generators

PLANES_DRAWN = (
    (
        "random",
        "a random plane through the exact optimum, on which the encoder's mean is projected",
    ),
    ("both", "a plane through the exact optimum and the encoder's mean, otherwise random"),
)
CONTOUR_CAPTION = (
    "-log p(z | x0) (blue, filled) and -log q(z | x0) of the encoder (orange) on {what}. Contours "
    f"at {', '.join(map(str, CONTOURS))} above the minimum of each on the plane (1 to 4 standard "
    "deviations of a Gaussian); thick dashes: the +-2 sigma ellipse of the encoder's Gaussian "
    "restricted to the plane. Rows: noise of x0, random directions the same in all of them."
)
DECODED_CAPTION = (
    "x0 ({noise}), its exact and its approximate code decoded, and the difference of the two "
    f"decodings, exact minus encoder: orange is +{DIFFERENCE}, blue -{DIFFERENCE}, white 0. nats: "
    "J1(x0, z) above its least value."
)
DISTRIBUTION_CAPTION = (
    "Left: share of the digits whose encoder's code has J1 at most so far above its least; dashed: "
    "the same of draws from a Gaussian posterior (half a chi-squared of k degrees of freedom). "
    "Right: share of the coordinates, over all digits, at which the encoder's standard deviation "
    "is at most so many times that of Laplace's approximation with the other coordinates fixed; "
    "1, dashed, is right."
)
PSNRS = ("exact_psnr", "approximate_psnr")

Numbers = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        digits: test digits in the table.
        starts: of the search for the exact optimum: the encoder's code, 0 and draws from N(0, I).
        shown: digits with contours.
        pictures: digits with pictures.
        grid: points a side of a plane.
        levels: standard deviations of the noise of x0, times 255, in the table.
        drawn: those of them with contours and pictures.
    """

    digits: int
    starts: int
    shown: int
    pictures: int
    grid: int
    levels: tuple[int, ...] = (0, 15, 25, 50, 110)
    drawn: tuple[int, ...] = (0, 25, 110)

    @classmethod
    def of(cls, settings: Settings) -> Sizes:
        """The two sizes of the report."""
        pick = settings.pick
        return cls(pick(100, 500), pick(6, 40), pick(3, 6), pick(8, 10), pick(61, 121))


def run(context: Context, name: str) -> Section:
    """The experiment at the sizes of the settings."""
    return experiment(context, name, Sizes.of(context.settings))


def experiment(context: Context, name: str, sizes: Sizes) -> Section:
    """Numbers, planes and pictures; see the module."""
    prior = load_prior("mnist", device=context.device)
    clean = digits(sizes.digits)
    # One pattern of noise for all levels: they differ in its size alone.
    noise = torch.randn(clean.shape, generator=context.generator(NOISE))
    images = {level: (clean + level / 255 * noise).to(context.device) for level in sizes.levels}
    numbers: dict[int, Numbers] = {}
    for level in sizes.levels:

        def work(level: int = level) -> dict[str, Any]:
            posterior = LatentPosterior(prior, images[level])
            generator = context.generator(STARTS)
            return dict(measure(posterior, clean.to(context.device), sizes.starts, generator))

        numbers[level] = context.step(f"optima-{level}", work)
    section = Section(name, "How well the encoder approximates the posterior of the code")
    summary = {level: summarise(found) for level, found in numbers.items()}
    section.text = paragraphs(summary, sizes.digits, prior.gamma, prior.latent_dim)
    section.tables = tables(summary, sizes.digits, sizes.starts, prior.latent_dim)
    for kind, what in PLANES_DRAWN:

        def planes(kind: str = kind) -> dict[str, Any]:
            return {
                str(level): on_planes(
                    LatentPosterior(prior, images[level][: sizes.shown]),
                    numbers[level],
                    kind,
                    sizes.grid,
                    context.generator(PLANES),
                )
                for level in sizes.drawn
            }

        figure = contour_figure(context.step(f"planes-{kind}", planes), sizes.drawn, kind)
        caption = CONTOUR_CAPTION.format(what=what)
        section.figures.append(context.save(f"{name}-contours-{kind}", figure, caption))
    for level in sizes.drawn:
        figure = decoded_figure(images[level], numbers[level], level, sizes.pictures)
        caption = DECODED_CAPTION.format(noise=noise_words(level))
        stem = f"{name}-decoded-{level}"
        section.figures.append(context.save(stem, figure, caption, pictures=True))
    figure = distribution_figure(numbers)
    section.figures.append(context.save(f"{name}-distribution", figure, DISTRIBUTION_CAPTION))
    kept = ("least", "excess", "whitened", "std", "conditional", "marginal")
    section.data = {
        str(level): {key: found[key] for key in (*kept, "agreement", *PSNRS)}
        for level, found in numbers.items()
    }
    section.seconds = context.seconds
    return section


def measure(
    posterior: LatentPosterior, clean: Tensor, starts: int, generator: torch.Generator
) -> Numbers:
    """Exact optimum and encoder of each image.

    Args:
        posterior: of B images x0.
        clean: the images without noise [B, C, H, W].
        starts: S >= 2, the encoder's code, 0 and draws of N(0, I) of its own for every image.
        generator: of the draws, on the CPU.

    Returns:
        ``mean``, ``std`` (encoder) and ``optimum`` [B, k]; ``least`` and ``excess`` [B], J1 at the
        optimum and what the encoder's code has more; ``whitened`` [B, k], optimum minus mean over
        std; ``conditional`` and ``marginal`` [B, k], standard deviations of Laplace's
        approximation with the other coordinates fixed, and free; ``exact`` and ``approximate``
        [B, C, H, W], the decodings; ``agreement``, ``exact_psnr``, ``approximate_psnr`` [B] in dB.
    """
    mean, std = posterior.encoder()
    draws = torch.randn((starts - 2, *mean.shape), generator=generator).to(mean)
    ends = posterior.descend(torch.cat((torch.stack((mean, torch.zeros_like(mean))), draws)))
    optimum, least = ends.best()
    hessian = posterior.hessian(optimum).double()
    covariance = torch.linalg.inv(hessian)
    with torch.no_grad():
        exact, approximate = posterior.prior.decode(optimum), posterior.prior.decode(mean)
    return {
        "mean": mean,
        "std": std,
        "optimum": optimum,
        "hessian": hessian,
        "least": least,
        "excess": posterior.energy(mean) - least,
        "whitened": (optimum - mean) / std,
        "conditional": hessian.diagonal(dim1=1, dim2=2).rsqrt(),
        "marginal": covariance.diagonal(dim1=1, dim2=2).sqrt(),
        "exact": exact,
        "approximate": approximate,
        "agreement": psnr(approximate, exact),
        "exact_psnr": psnr(exact, clean),
        "approximate_psnr": psnr(approximate, clean),
    }


def on_planes(
    posterior: LatentPosterior, numbers: Numbers, kind: str, grid: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """J1(x0, .) above its least on a square of a plane for each image of ``posterior``.

    Args:
        posterior: of the first images of ``numbers``.
        numbers: from ``measure``.
        kind: "random" or "both"; see ``random_plane`` and ``plane_through``. Both go through the
            exact optimum, at (0, 0).
        grid: points a side.
        generator: of the planes, on the CPU.

    Returns:
        ``origin`` [B, k], ``basis`` [B, 2, k], ``u`` and ``v`` [B, grid], and ``energy``
        [B, grid, grid], rows along v.
    """
    found: dict[str, list[Tensor]] = {n: [] for n in ("origin", "basis", "u", "v", "energy")}
    for image in range(len(posterior.x0)):
        one = {key: value[image].cpu() for key, value in numbers.items()}
        optimum, mean = one["optimum"].double(), one["mean"].double()
        if kind == "random":
            plane = random_plane(optimum, generator)
        else:
            plane = plane_through(optimum, mean, generator)
        encoder = encoder_on(plane, one)
        laplace = restrict(optimum, one["hessian"], plane)
        places = torch.stack((torch.zeros(2).double(), encoder.centre, plane.coordinates(mean)))
        widths = torch.tensor([laplace.widest, encoder.widest, 0.0]).double()[:, None]
        low = (places - 4.4 * widths).min(dim=0).values
        high = (places + 4.4 * widths).max(dim=0).values
        middle, half = (low + high) / 2, float((high - low).max()) / 2
        line = torch.linspace(-half, half, grid, dtype=torch.float64)
        u, v = middle[0] + line, middle[1] + line
        codes = plane.points(torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1))
        here = LatentPosterior(posterior.prior, posterior.x0[image, None]).repeated(grid * grid)
        energy = here.energy(codes.reshape(grid * grid, -1).to(posterior.x0))
        found["origin"].append(plane.origin)
        found["basis"].append(plane.basis)
        found["u"].append(u)
        found["v"].append(v)
        found["energy"].append(energy.cpu().reshape(grid, grid) - one["least"])
    stacked = {key: torch.stack(values) for key, values in found.items()}
    return stacked | {key: numbers[key][: len(posterior.x0)] for key in ("mean", "std")}
