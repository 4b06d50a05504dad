"""The experiments by name, in the order of the report."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import cast

from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.section import Section

# Name of the command to the module whose ``run(context, name)`` does it.
EXPERIMENTS: dict[str, str] = {
    "denoising": "restorations",
    "compressed-sensing": "restorations",
    "inpainting": "restorations",
    "faces-inpainting": "faces_inpainting",
    "faces-reconstruction": "faces_reconstruction",
    "supervised": "supervised_change",
    "encoder-accuracy": "encoder_accuracy",
    "encoder-initialisation": "encoder_initialisation",
    "generative-quality": "sigma_dvae",
    "sigma-dvae": "sigma_dvae",
    "continuation": "continuation",
    "convergence": "convergence",
    "candidates": "candidates",
    "pnp-convergence": "pnp_convergence",
    "posterior": "posterior",
    "speed": "speed",
}


def runner(name: str) -> Callable[[Context, str], Section]:
    """The function that does an experiment."""
    module = importlib.import_module(f"jpmap_fast.experiments.{EXPERIMENTS[name]}")
    return cast("Callable[[Context, str], Section]", module.run)


def selected(names: Sequence[str]) -> list[str]:
    """Names asked for, "all" standing for every one, in the order of the report.

    Raises:
        ValueError: an unknown name; the known ones are listed.
    """
    unknown = sorted(set(names) - {*EXPERIMENTS, "all"})
    if unknown or not names:
        raise ValueError(
            f"expected experiments out of all, {', '.join(EXPERIMENTS)}; "
            f"got {', '.join(unknown) or 'none'}"
        )
    return [name for name in EXPERIMENTS if name in names or "all" in names]
