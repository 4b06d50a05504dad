"""Colour faces with 80% of the pixels missing, by every method."""

from __future__ import annotations

from functools import partial
from typing import Any

from jpmap_fast._problems import make_problem
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.face_images import faces
from jpmap_fast.experiments.method_tables import best_known, objective_table, quality_table
from jpmap_fast.experiments.methods import CSGM_1, JPMAP_X, Measure, latent_methods
from jpmap_fast.experiments.pictures import restored_rows, save_rows
from jpmap_fast.experiments.pixel_methods import pixel_methods
from jpmap_fast.experiments.section import Section
from jpmap_fast.experiments.statistics import win_rate
from jpmap_fast.priors import load_prior

COLUMNS = 8


def run(context: Context, name: str) -> Section:
    """Joint and latent MAP with the prior ``faces``, and methods without it."""
    copies = 8
    clean, what = faces(context, context.settings.number(8, 200), copies)
    prior = load_prior("faces", device=context.device)
    problem = make_problem("inpainting", clean, context.generator(), context.device)
    measure = Measure(prior, context.generator)
    # On a CPU continuation takes minutes for a few faces, and ten starts find what one finds.
    wanted = {
        title: method
        for title, method in latent_methods().items()
        if not context.quick or title in (CSGM_1, JPMAP_X)
    }
    wanted |= pixel_methods("faces", "inpainting", context.device)
    runs: dict[str, dict[str, Any]] = {}
    for title, method in wanted.items():
        runs[title] = context.step(title, partial(measure, problem, method))

    section = Section(name, f"Faces: {problem.title}")
    section.text += [what, _finding(runs)]
    rows = restored_rows(problem, runs, min(COLUMNS, len(clean)), decoded=(JPMAP_X,))
    caption = "Original, measured, and restored by each method; the prior is `faces` (k = 64)."
    section.figures.append(save_rows(context, "rows", problem.title, rows, caption))
    section.tables += [
        quality_table(runs, "x", "Restored images x"),
        quality_table(runs, "decoded", "Decoded codes G(z)"),
        objective_table(runs, best_known(list(runs.values()))),
    ]
    section.data = {
        "images": len(clean),
        "methods": {
            title: {key: run[key] for key in ("psnr", "ssim", "objective")}
            for title, run in runs.items()
        },
    }
    return section


def _finding(runs: dict[str, dict[str, Any]]) -> str:
    jpmap, csgm = runs[JPMAP_X]["psnr"], runs[CSGM_1]["psnr"]
    ranked = sorted(runs, key=lambda title: -float(runs[title]["psnr"].mean()))
    best = float(runs[ranked[0]]["psnr"].mean())
    return (
        f"JPMAP has {float(jpmap.mean()):.2f} dB, CSGM {float(csgm.mean()):.2f} dB; JPMAP is "
        f"better on {win_rate(jpmap, csgm):.0%} of them. Best of all: {ranked[0]}, {best:.2f} dB. "
        "The authors say that on faces plain descent does nearly as well, since there the "
        "posterior has few local minima."
    )
