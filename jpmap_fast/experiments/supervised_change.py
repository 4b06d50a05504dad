"""What a network trained end to end does when the degradation is not the one it was trained for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jpmap_fast._figures import Row
from jpmap_fast._problems import Problem, make_problem
from jpmap_fast.algorithms import CSGM, JPMAP, Algorithm
from jpmap_fast.experiments.baselines import Supervised, load_network
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.methods import CSGM_10, JPMAP_X, SUPERVISED, Measure, colour
from jpmap_fast.experiments.pictures import measured_row, save_rows
from jpmap_fast.experiments.section import FigureFile, Section, Table
from jpmap_fast.experiments.statistics import bootstrap_interval, win_rate
from jpmap_fast.experiments.style import MARKERS, QUIET, axes_grid
from jpmap_fast.priors import load_prior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = (SUPERVISED, JPMAP_X, CSGM_10)
MISSING = (0.5, 0.7, 0.8, 0.9, 0.95)
LEVELS = (10, 20, 30, 40, 50)  # of 255
TRAINED = (0.8, 10)
SHOWN = 3  # the digit in the pictures: a three


@dataclass(frozen=True)
class Case:
    """One degradation.

    Attributes:
        label: short, for a picture.
        problem: name of the degradation.
        missing: share of pixels missing, None for other degradations than inpainting.
        level: 255 sigma.
    """

    label: str
    problem: str
    missing: float | None
    level: int

    @property
    def trained(self) -> bool:
        """Whether it is what the network was trained for."""
        return (self.missing, self.level) == TRAINED

    @property
    def words(self) -> str:
        """The same in a sentence."""
        return self.problem.replace("-", " ") if self.missing is None else self.label

    def make(self, context: Context, clean: Tensor) -> Problem:
        """The problem; all draw from one seed: what one mask misses, those with more miss too."""
        return make_problem(
            self.problem,
            clean,
            context.generator(),
            context.device,
            sigma=self.level / 255,
            missing=0.0 if self.missing is None else self.missing,
        )


CASES = (
    *(Case(f"{missing:.0%} missing", "inpainting", missing, 10) for missing in MISSING),
    *(Case(f"noise {level}/255", "inpainting", 0.8, level) for level in LEVELS[1:]),
    Case("denoising", "denoising", None, 110),
    Case("compressed s.", "compressed-sensing", None, 10),
)


def run(context: Context, name: str) -> Section:
    """The network, joint MAP and latent MAP on the same measurements of every degradation."""
    clean = digits(context.settings.pick(50, 500))
    prior = load_prior("mnist", device=context.device)
    methods: dict[str, Algorithm] = {
        SUPERVISED: Supervised(load_network("mnist", context.device)),
        JPMAP_X: JPMAP(),
        CSGM_10: CSGM(starts=10),
    }
    measure = Measure(prior, context.generator)
    problems = {case: case.make(context, clean) for case in CASES}
    runs = {
        case: {
            method: context.step(
                f"{case.label} {method}",
                partial(_measured, measure, problems[case], methods[method]),
            )
            for method in METHODS
        }
        for case in CASES
    }
    scores = {case: {m: run["psnr"] for m, run in runs[case].items()} for case in CASES}
    section = Section(name, "A supervised network when the degradation changes: MNIST")
    section.text += [_setting(len(clean)), finding(scores)]
    section.tables.append(_table(problems, scores))
    section.figures += [
        _curve(context, scores, "missing"),
        _curve(context, scores, "noise"),
        _pictures(context, problems, runs),
    ]
    section.data = {
        "images": len(clean),
        "psnr": {problems[case].title: by_method for case, by_method in scores.items()},
    }
    return section


def _measured(measure: Measure, problem: Problem, method: Algorithm) -> dict[str, Any]:
    """PSNRs of all images, and the picture of one."""
    found = measure(problem, method)
    return {"psnr": found["psnr"], "shown": found["x"][SHOWN : SHOWN + 1]}


def _setting(number: int) -> str:
    return (
        f"{number} test digits of the package. The network is a U-Net of deepinv that takes A^T y, "
        "trained end to end for inpainting with 80% of the pixels missing at random and sigma = "
        "10/255; it is told neither A nor sigma. JPMAP and CSGM have the same measurements, A, "
        "sigma and the prior mnist, which was trained for no degradation."
    )


def finding(scores: dict[Case, dict[str, Tensor]]) -> str:
    """What came out, in words: at the degradation trained for, and where the order turns.

    Args:
        scores: PSNR of each image by case and method.
    """
    lead = {
        case: float(by[JPMAP_X].double().mean() - by[SUPERVISED].double().mean())
        for case, by in scores.items()
    }
    trained = next(case for case in lead if case.trained)
    network = float(scores[trained][SUPERVISED].mean())
    order = "behind" if lead[trained] < 0 else "ahead"
    text = (
        f"At what it was trained for the network has {network:.2f} dB, with JPMAP "
        f"{abs(lead[trained]):.2f} dB {order}. "
    )
    elsewhere = [case for case in lead if not case.trained]
    ahead = [case for case in elsewhere if lead[case] > 0]
    if not ahead:
        return text + f"The network stays ahead in all {len(elsewhere)} other degradations."
    names = ", ".join(f"{case.words} ({lead[case]:+.2f} dB)" for case in ahead)
    text += f"JPMAP, as it is, is ahead in {len(ahead)} of {len(elsewhere)} others: {names}."
    behind = [case for case in elsewhere if lead[case] <= 0]
    if behind:
        names = ", ".join(f"{case.words} ({lead[case]:+.2f} dB)" for case in behind)
        text += f" It is behind in: {names}."
    return text


def _table(problems: dict[Case, Problem], scores: dict[Case, dict[str, Tensor]]) -> Table:
    rows: list[list[Any]] = []
    for case, by_method in scores.items():
        title = problems[case].title + (" (trained for)" if case.trained else "")
        row: list[Any] = [title]
        for method in METHODS:
            low, high = bootstrap_interval(by_method[method])
            row.append(f"{float(by_method[method].mean()):.2f} [{low:.2f}, {high:.2f}]")
        row.append(f"{win_rate(by_method[JPMAP_X], by_method[SUPERVISED]):.1%}")
        rows.append(row)
    return Table(
        "PSNR by degradation",
        ["degradation", *(f"{m}, PSNR in dB: mean [95%]" for m in METHODS), "JPMAP wins"],
        rows,
        "Intervals: percentile bootstrap of the mean over images. Wins: share of the images that "
        "JPMAP restores with a higher PSNR than the network. Values are not clipped.",
    )


def _curve(context: Context, scores: dict[Case, dict[str, Tensor]], against: str) -> FigureFile:
    """PSNR against the share of missing pixels, or against the noise."""
    figure, grid = axes_grid(1, 1, width=4.6, height=3.2)
    axes: Axes = grid[0][0]
    inpainting = [case for case in scores if case.missing is not None]
    if against == "missing":
        cases = [case for case in inpainting if case.level == TRAINED[1]]
        places = [100 * float(case.missing or 0) for case in cases]
        label, trained = "pixels missing, %", 100 * TRAINED[0]
        what, short = f"sigma = {TRAINED[1]}/255", "the share of missing pixels"
    else:
        cases = [case for case in inpainting if case.missing == TRAINED[0]]
        places = [float(case.level) for case in cases]
        label, trained = "standard deviation of the noise, grey levels of 255", float(TRAINED[1])
        what, short = f"{TRAINED[0]:.0%} missing", "the noise"
    for method, marker in zip(METHODS, MARKERS, strict=False):
        values = [scores[case][method] for case in cases]
        means = [float(value.mean()) for value in values]
        bounds = [bootstrap_interval(value) for value in values]
        lows, highs = zip(*bounds, strict=True)
        axes.fill_between(places, lows, highs, color=colour(method), alpha=0.15, linewidth=0)
        axes.plot(places, means, marker=marker, color=colour(method), label=method)
    axes.axvline(trained, color=QUIET, linewidth=1, linestyle=":", zorder=0)
    axes.annotate(
        "trained for",
        (trained, 1),
        (3, -2),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        va="top",
        size=7.5,
        color=QUIET,
    )
    axes.set_xticks(places)
    axes.set_xlabel(label)
    axes.set_ylabel("PSNR, dB")
    axes.set_title(f"Inpainting, {what}", loc="left", fontsize=10)
    axes.legend(loc="lower left", frameon=False, fontsize=8)
    caption = (
        f"PSNR of inpainted digits against {short}, {what}: mean over images and its 95% interval. "
        "The dotted line is what the network was trained for."
    )
    return context.save(against, figure, caption)


def _pictures(
    context: Context,
    problems: dict[Case, Problem],
    runs: dict[Case, dict[str, dict[str, Any]]],
) -> FigureFile:
    """One digit, a column for each degradation."""
    index = torch.tensor([SHOWN], device=context.device)
    ones = {case: problem.select(index) for case, problem in problems.items()}
    original = torch.cat([one.clean.cpu() for one in ones.values()])
    rows = [
        Row("original", original, captions=[case.label for case in CASES]),
        Row(
            "measured",
            torch.cat([measured_row(one, 1).images.expand(-1, 3, -1, -1) for one in ones.values()]),
            r"$A^T y$, blue = missing",
        ),
    ]
    for method in METHODS:
        pictures = torch.cat([runs[case][method]["shown"] for case in CASES])
        values = [float(runs[case][method]["psnr"][SHOWN]) for case in CASES]
        rows.append(Row(method, pictures, captions=[f"{value:.1f} dB" for value in values]))
    caption = (
        "One digit under every degradation. The first five: sigma = 10/255; noise: 80% missing; "
        "denoising: sigma = 110/255; compressed sensing: m = 140 of 784, sigma = 10/255. The "
        "network was trained for 80% missing."
    )
    return save_rows(context, "pictures", "The degradation changes", rows, caption)
