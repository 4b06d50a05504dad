"""E[x | y] as a restoration, in place of the most probable x."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._prepared import Task, prepare
from jpmap_fast._result import Result
from jpmap_fast._surroundings import full_precision
from jpmap_fast._validate import count
from jpmap_fast.algorithms import Algorithm, Progress
from jpmap_fast.algorithms.outcome import CONVERGED, DOUBTED, FAILED, NOT_FINITE
from jpmap_fast.algorithms.settings import precision
from jpmap_fast.operators import Operator
from jpmap_fast.priors.base import Prior
from jpmap_fast.residuals import Residual
from jpmap_fast.sampling import posterior as told
from jpmap_fast.sampling._sample import as_method, posterior_of, with_codes
from jpmap_fast.sampling.method import SamplingMethod
from jpmap_fast.sampling.posterior import Posterior


def posterior_mean(
    y: Any,
    operator: Operator | Any,
    prior: Prior,
    sigma: Any,
    *,
    method: str | Algorithm | SamplingMethod | None,
    residual: str | Residual | None,
    z0: Any,
    generator: torch.Generator | None,
    record: bool,
    progress: bool | Progress,
    chunk_size: int | None,
) -> Result:
    """Arguments and result of ``restore(..., estimate="mean")``.

    Raises:
        ValueError, TypeError: as ``restore`` and ``sample``; a record or progress of iterations,
            which there are none of.
    """
    way = as_method(method)
    with_codes(prior)
    for name, value in (("record", record), ("progress", progress)):
        if value is not False:
            raise ValueError(
                f"{name}: expected False for estimate='mean', whose draws are no iterations, got "
                f"{value!r}"
            )
    size = None if chunk_size is None else count("chunk_size", chunk_size, 1)
    with full_precision():
        task = prepare(y, operator, prior, sigma, residual=residual)
        posterior = posterior_of(task, way, 0, z0, generator, size)
        result = _result(task, posterior)
    return result if task.batched else result.unbatched()


def _result(task: Task, posterior: Posterior) -> Result:
    """The mean and the highest mode, as a restoration tells them."""
    problem, x = task.problem, posterior.mean
    good = (posterior.status_code < told.FAILED).nonzero()[:, 0]
    codes = posterior.modes[:, 0]
    objective = torch.full_like(posterior.sigma, math.nan)
    beta = torch.full_like(objective, precision(problem))
    if good.numel():
        part = problem.select(good)
        state = part.minimise_x(codes[good].flatten(1), beta[good])
        objective[good] = state.objective
    zeros = torch.zeros_like(posterior.status_code)
    code = _status(posterior)
    return Result(
        x=x,
        z=codes,
        decoded=posterior.decoded,
        objective=objective,
        converged=code == CONVERGED,
        status_code=code,
        iterations=zeros,
        candidates=zeros[:, None].expand(-1, 3),
        beta=beta,
        gap=(x - posterior.decoded).flatten(1).square().sum(dim=1),
        path="samples",
        reason="the mean is one of draws",
        sigma=posterior.sigma,
    )


def _status(posterior: Posterior) -> Tensor:
    """How far the draws can be trusted [B], in the codes of a ``Result``."""
    known = posterior.status_code
    code = torch.where(posterior.converged, CONVERGED, DOUBTED)
    code = torch.where(known == told.FAILED, FAILED, code)
    return torch.where(known == told.NOT_FINITE, NOT_FINITE, code)
