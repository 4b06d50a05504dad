"""The settings of the baselines, chosen on training images by ``benchmarks/tune_baselines.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "tuned.json"


def tuned(method: str, images: str, problem: str) -> dict[str, Any]:
    """Settings of a method for a problem, as keyword arguments.

    Args:
        method: "tv", "epll" or "pnp-admm".
        images: "mnist" or "faces".
        problem: "denoising", "inpainting" or "compressed-sensing".

    Raises:
        ValueError: nothing was chosen for these; what was is listed.
    """
    with FILE.open(encoding="utf-8") as file:
        entries = json.load(file)["settings"]
    try:
        found: dict[str, Any] = entries[method][images][problem]["settings"]
    except KeyError as error:
        known = [f"{m} {i} {p}" for m, by in entries.items() for i, ps in by.items() for p in ps]
        raise ValueError(
            f"no settings of {method} for {images}, {problem}; known: {', '.join(known)}"
        ) from error
    return {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
