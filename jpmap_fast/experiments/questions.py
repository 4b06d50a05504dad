"""Three questions, answered from the numbers of the experiments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jpmap_fast._problems import PAPER
from jpmap_fast.experiments.methods import (
    CSGM_1,
    CSGM_10,
    EPLL,
    JPMAP_10,
    JPMAP_X,
    PNP,
    SUPERVISED,
    TV,
)
from jpmap_fast.experiments.section import Section
from jpmap_fast.experiments.sigma_dvae import EIGHT, ENCODER, ONE_START
from jpmap_fast.experiments.statistics import bootstrap_interval

RESTORATIONS = (*PAPER, "faces-inpainting")

JOINT = "What does the joint MAP gain over the latent MAP?"
CRITERION = (
    "Does the denoising criterion still matter when Gauss-Newton with several starts replaces "
    "descent from the encoder?"
)
LOSES = "Where does the prior lose to plug-and-play and to total variation?"


def answers(sections: dict[str, Section]) -> list[dict[str, str]]:
    """The questions that the experiments at hand answer, each with its numbers."""
    found = []
    for question, answer in ((JOINT, _joint), (CRITERION, _criterion), (LOSES, _loses)):
        text = answer(sections)
        if text:
            found.append({"question": question, "text": text})
    return found


def _scores(section: Section, method: str, key: str = "psnr") -> Tensor | None:
    """One number an image of a method, None if it was not run."""
    values = section.data["methods"].get(method, {}).get(key)
    return None if values is None else torch.tensor(values, dtype=torch.float64)


def _mean_ssim(section: Section, method: str) -> str:
    values = _scores(section, method, "ssim")
    return "-" if values is None else f"{float(values.mean()):.3f}"


def _gain(mine: Tensor, theirs: Tensor) -> tuple[float, float, float]:
    """Mean difference of paired scores and its 95% interval."""
    difference = mine - theirs
    low, high = bootstrap_interval(difference)
    return float(difference.mean()), low, high


def _difference(mine: Tensor, theirs: Tensor) -> str:
    mean, low, high = _gain(mine, theirs)
    return f"{mean:+.2f} dB [{low:+.2f}, {high:+.2f}]"


def _joint(sections: dict[str, Section]) -> str:
    parts = []
    for name in PAPER:
        if name not in sections:
            continue
        section = sections[name]
        x, decoded = _scores(section, JPMAP_10), _scores(section, JPMAP_10, "psnr_decoded")
        default, one, ten = (_scores(section, name) for name in (JPMAP_X, CSGM_1, CSGM_10))
        if x is None or decoded is None or default is None or one is None or ten is None:
            continue
        parts.append(
            f"{name}: {_difference(default, one)} for JPMAP() over CSGM from one start; both from "
            f"ten starts {_difference(x, ten)}, of JPMAP's G(z) {_difference(decoded, ten)}; SSIM "
            f"{_mean_ssim(section, JPMAP_10)} against {_mean_ssim(section, CSGM_10)}"
        )
    if not parts:
        return ""
    return (
        "PSNR of x, paired means with 95% intervals. "
        + "; ".join(parts)
        + ". The gain over one start holds what better starts are worth; what is left from ten "
        "starts each is the gain of the joint objective, whose x may leave the prior's range where "
        "the data say so. There it keeps some of the noise, which SSIM counts more than PSNR."
    )


def _criterion(sections: dict[str, Section]) -> str:
    section = sections.get("sigma-dvae")
    if section is None:
        return ""
    levels: dict[str, Any] = section.data["psnr"]
    parts = []
    for problem in PAPER:
        row = []
        for method in (ENCODER, ONE_START, JPMAP_X, EIGHT):
            none, some = (
                torch.tensor(levels[level][problem][method]["x"], dtype=torch.float64)
                for level in ("0", "15")
            )
            row.append(f"{method} {_difference(some, none)}")
        parts.append(f"{problem}: " + ", ".join(row))
    return (
        "PSNR of x with sigma_DVAE = 15/255 against 0, paired means with 95% intervals. "
        + "; ".join(parts)
        + ". The more starts, the less there is to gain."
    )


def _loses(sections: dict[str, Section]) -> str:
    parts, lost = [], []
    for name in RESTORATIONS:
        if name not in sections:
            continue
        section = sections[name]
        mine = _scores(section, JPMAP_X)
        row = []
        for rival in (PNP, TV, EPLL, SUPERVISED):
            theirs = _scores(section, rival)
            if mine is None or theirs is None:
                continue
            row.append(f"{rival} {_difference(mine, theirs)}")
            if rival in (PNP, TV) and _gain(mine, theirs)[2] < 0:
                lost.append(f"to {rival} in {name}")
        if row:
            parts.append(f"{name}: against " + ", ".join(row))
    if not parts:
        return ""
    verdict = f"It loses {', '.join(lost)}. " if lost else "In none of these problems. "
    return verdict + "PSNR of JPMAP's x, paired means with 95% intervals. " + "; ".join(parts) + "."
