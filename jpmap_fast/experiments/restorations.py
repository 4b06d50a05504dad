"""MNIST digits restored by every method: denoising, compressed sensing, inpainting."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._problems import PAPER, Problem, make_problem
from jpmap_fast.algorithms import CSGM, JPMAP
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.method_tables import best_known, objective_table, quality_table
from jpmap_fast.experiments.methods import JPMAP_10, ORIGINAL, Measure, as_published, latent_methods
from jpmap_fast.experiments.pictures import restored_rows, save_rows
from jpmap_fast.experiments.pixel_methods import pixel_methods
from jpmap_fast.experiments.section import Section
from jpmap_fast.priors import load_prior

# Starts of the search for the best objective known.
STARTS = 32
COLUMNS = 10


def run(context: Context, name: str) -> Section:
    """Every method on the same measurements: pictures, quality, objectives reached."""
    number = context.settings.number(100, 500)
    slow = context.settings.pick(20, 500)
    prior = load_prior("mnist", device=context.device)
    offset = PAPER.index(name)
    problem = make_problem(name, digits(number), context.generator(offset), context.device)
    measure = Measure(prior, context.generator)

    runs: dict[str, dict[str, Any]] = {}
    for title, method in latent_methods().items():
        runs[title] = context.step(title, partial(measure, problem, method))
    runs[ORIGINAL] = context.step(ORIGINAL, partial(measure, problem.first(slow), as_published()))
    for title, method in pixel_methods("mnist", name, context.device).items():
        runs[title] = context.step(title, partial(measure, problem, method))
    searches = [
        context.step(f"search {label}", partial(measure, problem, method))
        for label, method in (
            ("J1", JPMAP(starts=STARTS)),
            ("latent", CSGM(starts=STARTS)),
        )
    ]
    best = best_known([*runs.values(), *searches])

    section = Section(name, f"MNIST: {problem.title}")
    section.text.append(
        f"{number} test digits of the package, the same measurements for every method, prior "
        f"mnist (k = {prior.latent_dim}, gamma = {prior.gamma:.4f}). "
        f"'{ORIGINAL}' is Algorithm 2.3 with Adam and the authors' settings, on the first "
        f"{min(slow, number)} of them. What plug-and-play, total variation and EPLL need to be "
        "told was chosen on training digits."
    )
    section.tables += [
        quality_table(runs, "x", "Restored images x"),
        quality_table(runs, "decoded", "Decoded codes G(z)"),
        objective_table(runs, best),
    ]
    section.figures.append(_paper_rows(context, problem, runs))
    section.figures.append(_all_rows(context, problem, runs))
    section.data = {"images": number, "methods": {k: _numbers(v) for k, v in runs.items()}}
    section.data["best_j1"] = best["j1"]
    section.data["best_latent"] = best["latent"]
    return section


def _paper_rows(context: Context, problem: Problem, runs: dict[str, dict[str, Any]]) -> Any:
    """The rows of the paper's figure: measured, CSGM, joint MAP, latent MAP by continuation."""
    names = [title for title in runs if title.startswith(("CSGM, 1 ", "JPMAP", "MAP-z"))]
    names = [title for title in names if title not in (ORIGINAL, JPMAP_10)]
    rows = restored_rows(problem, {n: runs[n] for n in names}, COLUMNS, decoded=("JPMAP",))
    caption = (
        "Original, measured, latent MAP by descent (CSGM), joint MAP at beta = 1/gamma^2 and "
        "latent MAP by continuation with allowed gaps of 10, 5 and 1 grey levels."
    )
    return save_rows(context, "rows", problem.title, rows, caption)


def _all_rows(context: Context, problem: Problem, runs: dict[str, dict[str, Any]]) -> Any:
    """Joint MAP beside every other kind of method."""
    others = [t for t in runs if not t.startswith(("MAP-z", "CSGM, 1 ", ORIGINAL, JPMAP_10))]
    rows = restored_rows(problem, {n: runs[n] for n in others}, COLUMNS)
    caption = "The same digits by methods with other priors."
    return save_rows(context, "baselines", problem.title, rows, caption)


def _numbers(run: dict[str, Any]) -> dict[str, Tensor]:
    """What goes into the JSON file of a run: one number an image."""
    return {key: value for key, value in run.items() if torch.is_tensor(value) and value.dim() == 1}
