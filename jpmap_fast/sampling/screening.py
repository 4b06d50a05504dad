"""Starts out of many draws of the prior, which are decoded once for all images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from jpmap_fast.algorithms import Problem
from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.objective import WeightedLeastSquares
from jpmap_fast.operators.data_term import Whitening
from jpmap_fast.sampling.model import Model

# Numbers that the decoded draws of a prior may be: 32 MiB in float32.
_ROOM = 1 << 23
# Draws at most where each image has an A of its own, which are decoded for every image.
_APART = 128
# Starts are at least so far from one another.
_DISTANCE = 1.5


@dataclass(frozen=True)
class _Pool:
    """Draws z [P, k] of the prior and G(z) [P, n]."""

    z: Tensor
    decoded: Tensor


_pools: WeakKeyDictionary[Any, dict[Any, tuple[Any, _Pool]]] = WeakKeyDictionary()


def screened(model: Model, count: int, draws: int) -> Tensor:
    """The ``count`` most probable of ``draws`` prior draws, apart from one another, [B, count, k].

    Fewer draws where their images would take more than 32 MiB; at most 128 for an A of each image
    that is no diagonal.
    """
    pool = _pool_of(model.problem, draws)
    shared = _log_likelihood(model, pool)
    if shared is None:
        z = pool.z[:_APART]
        number = model.problem.batch
        shared = model.log_likelihood(z.expand(number, -1, -1).contiguous())
        pool = _Pool(z, pool.decoded[:_APART])
    value = shared - 0.5 * pool.z.double().square().sum(dim=1)
    found = []
    for _ in range(count):
        best = pool.z[value.argmax(dim=1)]
        found.append(best)
        near = (pool.z - best[:, None]).square().sum(dim=-1) < _DISTANCE**2
        value = value.masked_fill(near, -torch.inf)
    return torch.stack(found, dim=1)


def _log_likelihood(model: Model, pool: _Pool) -> Tensor | None:
    """Log p(y | z) [B, P] up to an image's constant, by two products; None if H is not shared."""
    term, f = model.term, model.log_likelihood.objective
    if not (isinstance(term, Whitening) and isinstance(f, WeightedLeastSquares)):
        return None
    seen = pool.decoded if term.rows is None else pool.decoded[:, term.rows]
    if f.matrix is not None:
        if f.matrix.select(torch.zeros(1, dtype=torch.int64, device=seen.device)) is not f.matrix:
            return None
        seen = f.matrix(seen)
    weight = f.weight.expand(f.target.shape)
    first = weight * f.target
    if f.scale is not None:
        first, weight = first * f.scale, weight * f.scale.square()
    return RowProduct(seen)(first).double() - 0.5 * RowProduct(seen.square())(weight).double()


def _pool_of(problem: Problem, draws: int) -> _Pool:
    """The pool of a prior, kept as long as the prior lives and its tensors stay as they are."""
    k, n = problem.decoder.latent_dim, problem.decoder.size
    draws = min(draws, max(_APART, _ROOM // n))
    prior, y = problem.prior, problem.y
    state = None
    if hasattr(prior, "parameters") and hasattr(prior, "buffers"):
        tensors = [*prior.parameters(), *prior.buffers()]
        state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
    key = (draws, y.dtype, y.device)
    kept = _pools.get(prior, {}).get(key) if state else None
    if kept is not None and kept[0] == state:
        return kept[1]
    # The same for every call and seed: which starts an image has depends on nothing else.
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(draws, k, generator=generator).to(y.device, y.dtype)
    decoded = torch.cat([problem.decoder.value(part) for part in z.split(256)])
    pool = _Pool(z, decoded)
    if state:
        _pools.setdefault(prior, {})[key] = (state, pool)
    return pool
