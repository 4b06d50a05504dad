"""The posterior of a whole batch, of the chunks that were worked on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._capture import constant
from jpmap_fast.algorithms import Problem
from jpmap_fast.sampling.method import SamplingMethod
from jpmap_fast.sampling.model import Model
from jpmap_fast.sampling.modes import IMPROBABLE, Modes
from jpmap_fast.sampling.moments import Moments
from jpmap_fast.sampling.pareto import largest_shape
from jpmap_fast.sampling.posterior import (
    CONVERGED,
    FAILED,
    FEW,
    MISFIT,
    NOT_FINITE,
    UNMIXED,
    UNTRUSTED,
    Posterior,
)
from jpmap_fast.sampling.weighted import Weighted

# What is one number an image, and what may be longer in one chunk than in another.
_RAGGED = {"codes": 0.0, "weights": 0.0, "modes": math.nan, "mode_weights": math.nan}


@dataclass(frozen=True)
class Part:
    """Fields of ``Posterior`` of some images, by name; x is left out with draws=0."""

    values: dict[str, Tensor]


def part_of(
    model: Model,
    modes: Modes,
    draws: Weighted,
    z: Tensor,
    x: Tensor | None,
    images: Moments,
    method: SamplingMethod,
) -> Part:
    """What is told of the images of a chunk."""
    dtype = model.problem.y.dtype
    mixture = modes.mixture(method.degrees_for(modes.z.shape[2]), 0.0)
    shares = mixture.masses(draws.z, draws.weights)
    values = {
        "z": z.to(dtype),
        "mean": images.mean,
        "std": images.variance.sqrt().to(dtype),
        "decoded": images.decoded,
        "codes": draws.z.to(dtype),
        "weights": draws.weights,
        "ess": draws.ess,
        "pareto_k": draws.pareto_k,
        "r_hat": draws.r_hat,
        "log_evidence": draws.log_evidence + model.log_constant(),
        "modes": torch.where(modes.there[..., None], modes.z, torch.nan).to(dtype),
        "mode_weights": torch.where(modes.there, shares, torch.nan),
        "misfit": modes.misfit,
        "misfit_p_value": modes.probable,
        "evaluations": modes.evaluations + draws.evaluations,
        "sampler": draws.sampler,
        "status_code": _status(modes, draws, images, method),
    }
    if x is not None:
        values["x"] = x
    return Part(values)


def _status(modes: Modes, draws: Weighted, images: Moments, method: SamplingMethod) -> Tensor:
    """The first complaint of each image [B]."""
    limits = method.complaints()
    code = torch.full_like(draws.size, CONVERGED)
    code = torch.where(modes.probable < IMPROBABLE, MISFIT, code)
    code = torch.where(draws.ess < limits.get("ess", 0), FEW, code)
    code = torch.where(draws.r_hat > limits.get("r_hat", math.inf), UNMIXED, code)
    if "pareto_k" in limits:
        largest = largest_shape(draws.size, limits["pareto_k"])
        code = torch.where(draws.pareto_k > largest, UNTRUSTED, code)
    wrong = ~torch.isfinite(images.mean).flatten(1).all(dim=1) | torch.isinf(modes.misfit)
    return torch.where(wrong | torch.isnan(draws.weights).any(dim=1), FAILED, code)


def assembled(problem: Problem, good: Tensor, parts: Sequence[Part], draws: int) -> Posterior:
    """The posterior of a batch of which the images ``good`` were worked on; the others failed."""
    batch = problem.batch
    if not parts:
        parts = [_of_nothing(problem, draws)]
    found: dict[str, Any] = {}
    for name in parts[0].values:
        rows = [part.values[name] for part in parts]
        if name in _RAGGED:
            most = max(value.shape[1] for value in rows)
            rows = [_longer(value, most, _RAGGED[name]) for value in rows]
        value = torch.cat(rows)
        whole = value.new_full((batch, *value.shape[1:]), _of_failed(name, value))
        whole[good] = value
        found[name] = whole
    return _posterior(problem, found)


def posterior_of_all(problem: Problem, part: Part, good: Tensor) -> Posterior:
    """The posterior of a batch that was worked on as a whole, of which the images ``good`` count.

    Args:
        problem: of the batch.
        part: of all its images.
        good: whose measurements are finite, bool [B].
    """
    found = {}
    for name, value in part.values.items():
        counts = good.reshape(-1, *[1] * (value.dim() - 1))
        found[name] = torch.where(counts, value, constant(_of_failed(name, value), value))
    return _posterior(problem, found)


def _of_failed(name: str, value: Tensor) -> float:
    """What the field of a name holds for an image that failed."""
    if name == "status_code":
        return NOT_FINITE
    return math.nan if value.is_floating_point() else 0


def _posterior(problem: Problem, found: dict[str, Any]) -> Posterior:
    shape = problem.code_shape
    if len(shape) > 1:
        for name in ("z", "codes", "modes"):
            found[name] = found[name].unflatten(-1, shape)
    return Posterior(x=found.pop("x", None), sigma=problem.sigma, **found)


def _longer(value: Tensor, size: int, fill: float) -> Tensor:
    batch, old = value.shape[:2]
    return torch.cat((value, value.new_full((batch, size - old, *value.shape[2:]), fill)), dim=1)


def _of_nothing(problem: Problem, draws: int) -> Part:
    """The fields of no images."""
    k, like = problem.decoder.latent_dim, problem.y.new_empty(0)
    images = like.reshape(0, *problem.image_shape)
    numbers, counts = like.double(), like.long()
    values = {
        "z": like.reshape(0, draws, k),
        **dict.fromkeys(("mean", "std", "decoded"), images),
        "codes": like.reshape(0, 1, k),
        "weights": numbers.reshape(0, 1),
        **dict.fromkeys(("ess", "pareto_k", "r_hat", "log_evidence"), numbers),
        "modes": like.reshape(0, 1, k),
        "mode_weights": numbers.reshape(0, 1),
        **dict.fromkeys(("misfit", "misfit_p_value"), numbers),
        **dict.fromkeys(("evaluations", "sampler", "status_code"), counts),
    }
    if draws:
        values["x"] = images[:, None].expand(0, draws, *problem.image_shape)
    return Part(values)
