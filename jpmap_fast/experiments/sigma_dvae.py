"""What the denoising criterion is worth: eight priors that differ in sigma_DVAE alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpmap_fast._metrics import psnr
from jpmap_fast._problems import PAPER, Problem, make_problem
from jpmap_fast._restore import restore
from jpmap_fast.algorithms import CSGM, JPMAP, Algorithm, AlternateConvexSearch
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.methods import CSGM_1, CSGM_10, JPMAP_X
from jpmap_fast.experiments.section import Cell, FigureFile, Section, Table
from jpmap_fast.experiments.statistics import bootstrap_interval
from jpmap_fast.experiments.style import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    axes_grid,
)
from jpmap_fast.operators import Denoising
from jpmap_fast.priors import Prior, load_prior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BUNDLED = Path(__file__).parent / "bundled"

# sigma_DVAE of the priors, in 255ths.
LEVELS = (0, 5, 10, 15, 20, 30, 40, 50)

ENCODER, ONE_START, EIGHT = "encoder alone", "JPMAP, encoder's start", "JPMAP, 8 starts"
COLOURS = {
    CSGM_1: AMBER,
    CSGM_10: ORANGE,
    ENCODER: GREY,
    ONE_START: PURPLE,
    JPMAP_X: BLUE,
    EIGHT: GREEN,
}

WHAT = {
    "generative-quality": "Started at the ground truth: the quality of the generator",
    "sigma-dvae": "Started as usual: what the encoder adds",
}


def file_name(level: int) -> str:
    """The weights of a level, in 255ths."""
    return f"mnist-sigma-dvae-{level:02d}.safetensors"


def methods(name: str) -> dict[str, Algorithm]:
    """The methods of an experiment."""
    if name == "generative-quality":
        return {CSGM_1: CSGM(), JPMAP_X: JPMAP()}
    # The published search from the encoder's start, its descents by Gauss-Newton.
    published = JPMAP(coupling="alternating", starts=1, n1=25, n2=50)
    return {
        CSGM_1: CSGM(),
        CSGM_10: CSGM(starts=10),
        ENCODER: AlternateConvexSearch(),
        ONE_START: published,
        JPMAP_X: JPMAP(),
        EIGHT: JPMAP(starts=8),
    }


def run(context: Context, name: str) -> Section:
    """PSNR against sigma_DVAE on three problems."""
    number = context.settings.number(50, 200)
    clean = digits(number)
    problems = [
        make_problem(
            problem, clean, context.generator(offset), context.device, sigma=sigma, measurements=80
        )
        for offset, (problem, sigma) in enumerate(zip(PAPER, (150 / 255, None, None), strict=True))
    ]
    chosen = methods(name)
    found: dict[int, dict[str, Any]] = {}
    reconstruction: dict[int, float] = {}
    gammas: dict[int, float] = {}
    for level in LEVELS:
        prior = load_prior(BUNDLED / file_name(level), device=context.device)
        gammas[level] = float(prior.gamma)
        work = partial(_level, context, prior, problems, chosen, name == "generative-quality")
        step = context.step(f"sigma_DVAE {level}", work)
        reconstruction[level] = step["reconstruction"]
        found[level] = step["problems"]

    section = Section(name, f"{WHAT[name]}, sigma_DVAE from 0 to 50/255")
    section.text.append(
        f"Eight fully connected VAEs of MNIST (784-256-256-8), alike in everything but the noise "
        f"that the encoder sees in training; {number} test digits. Denoising with sigma = 150/255, "
        "80 random measurements and 80% of the pixels missing, both with sigma = 10/255."
    )
    section.text.append(_finding(name, found, problems))
    section.figures.append(_figure(context, name, found, problems, chosen))
    section.tables.append(_table(found, problems, chosen, reconstruction))
    section.data = {
        "levels": list(LEVELS),
        "gamma": gammas,
        "reconstruction_psnr": reconstruction,
        "psnr": found,
    }
    return section


def _level(
    context: Context,
    prior: Prior,
    problems: list[Problem],
    chosen: dict[str, Algorithm],
    at_truth: bool,
) -> dict[str, Any]:
    """Every method on every problem with one prior: PSNR of x and of G(z), objectives [B]."""
    clean = problems[0].clean
    start = None
    # The code of the ground truth: the least J1(x, .), best of the encoder's and of seven starts.
    truth = restore(
        clean,
        Denoising(),
        prior,
        float(prior.gamma),
        method=JPMAP(beta=1e6, starts=8, n2=1),
        generator=context.generator(),
    )
    if at_truth:
        start = truth.z
    found: dict[str, Any] = {}
    for problem in problems:
        row: dict[str, Any] = {}
        for title, method in chosen.items():
            result = restore(
                problem.y,
                problem.operator,
                prior,
                problem.sigma,
                method=method,
                z0=start,
                generator=context.generator(),
            )
            row[title] = {
                "x": psnr(result.x, clean),
                "decoded": psnr(result.decoded, clean),
                "objective": result.objective,
            }
        found[problem.name] = row
    return {"problems": found, "reconstruction": float(psnr(truth.decoded, clean).mean())}


def _mean(found: dict[int, dict[str, Any]], level: int, problem: str, method: str) -> float:
    return float(found[level][problem][method]["x"].mean())


def _finding(name: str, found: dict[int, dict[str, Any]], problems: list[Problem]) -> str:
    """What the numbers say, in words."""
    parts = []
    for problem in problems:
        jpmap = {level: _mean(found, level, problem.name, JPMAP_X) for level in LEVELS}
        csgm = {level: _mean(found, level, problem.name, CSGM_1) for level in LEVELS}
        best = max(jpmap, key=lambda level: jpmap[level])
        if name == "generative-quality":
            parts.append(
                f"{problem.name}: JPMAP {jpmap[0]:.2f} dB at sigma_DVAE = 0, {jpmap[50]:.2f} at "
                f"50/255; CSGM {csgm[0]:.2f} and {csgm[50]:.2f}"
            )
        else:
            one = {level: _mean(found, level, problem.name, ONE_START) for level in LEVELS}
            parts.append(
                f"{problem.name}: the encoder's start {one[0]:.2f} dB at sigma_DVAE = 0 and "
                f"{one[15]:.2f} at 15/255, JPMAP() {jpmap[0]:.2f} and {jpmap[15]:.2f} (best at "
                f"{best}/255), CSGM from one start {csgm[0]:.2f} and {csgm[15]:.2f}"
            )
    return "Mean PSNR of x. " + "; ".join(parts) + "."


def _figure(
    context: Context,
    name: str,
    found: dict[int, dict[str, Any]],
    problems: list[Problem],
    chosen: dict[str, Algorithm],
) -> FigureFile:
    figure, axes = axes_grid(1, len(problems), width=3.5, height=3.2)
    for column, problem in enumerate(problems):
        plot = axes[0][column]
        for marker, title in zip(MARKERS, chosen, strict=False):
            _curve(plot, found, problem.name, title, marker)
        plot.set_title(problem.title.replace(", sigma", "\nsigma"))
        plot.set_xlabel(r"$\sigma_{DVAE}$, grey levels of 255")
        plot.set_xticks(LEVELS)
        if column == 0:
            plot.set_ylabel("PSNR of x, dB (mean, 95%)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(chosen))
    return context.save("psnr", figure, f"{WHAT[name]}. Bands: 95% bootstrap intervals.")


def _curve(
    plot: Axes, found: dict[int, dict[str, Any]], problem: str, title: str, marker: str
) -> None:
    values = [found[level][problem][title]["x"] for level in LEVELS]
    bounds = [bootstrap_interval(value) for value in values]
    means = [float(value.mean()) for value in values]
    low, high = zip(*bounds, strict=True)
    tone = COLOURS[title]
    plot.fill_between(LEVELS, low, high, color=tone, alpha=0.12, linewidth=0)
    plot.plot(LEVELS, means, marker=marker, color=tone, label=title)


def _table(
    found: dict[int, dict[str, Any]],
    problems: list[Problem],
    chosen: dict[str, Algorithm],
    reconstruction: dict[int, float],
) -> Table:
    rows: list[list[Cell]] = []
    for problem in problems:
        for title in chosen:
            for what in ("x", "decoded") if title.startswith("JPMAP") else ("x",):
                row: list[Cell] = [problem.name, title, "x" if what == "x" else "G(z)"]
                for level in LEVELS:
                    row.append(f"{float(found[level][problem.name][title][what].mean()):.2f}")
                rows.append(row)
    best = ["reconstruction", "best code of the clean image", "G(z)"]
    rows.append([*best, *(f"{reconstruction[level]:.2f}" for level in LEVELS)])
    columns = ["problem", "method", "of", *(f"{level}/255" for level in LEVELS)]
    return Table("Mean PSNR in dB by sigma_DVAE", columns, rows)
