"""Starts out of many draws of the prior, which are decoded once for all images."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from jpmap_fast._made_of_weights import can_be_looked_at, made_of_weights
from jpmap_fast._modules import weights_of
from jpmap_fast.algorithms import Problem
from jpmap_fast.kernels import linear, pack_linear
from jpmap_fast.kernels.products import RowProduct
from jpmap_fast.objective import WeightedLeastSquares
from jpmap_fast.operators.data_term import LinearMap, Whitening
from jpmap_fast.priors.base import ModulePrior
from jpmap_fast.priors.decoder_base import Decoder
from jpmap_fast.sampling.model import Model

# Numbers that the decoded draws of a prior may be: 32 MiB in float32, twice that with their
# squares.
_ROOM = 1 << 23
# Draws at most where each image has an A of its own, which are decoded for every image.
_APART = 128
# Starts are at least so far from one another.
_DISTANCE = 1.5


class _Scores:
    """(w t) . g - w . g^2 / 2 [B, P] of targets and weights [B, p], for P rows g: a product."""

    def __init__(self, rows: Tensor) -> None:
        both = torch.cat((rows, -0.5 * rows.square()), dim=1)
        self._size = len(both)
        # The layout of a CPU's product is all that is kept there.
        on_cpu = both.device.type == "cpu"
        self._packed = pack_linear(both) if on_cpu else None
        self._product = None if on_cpu else RowProduct(both)

    def __call__(self, first: Tensor, weight: Tensor) -> Tensor:
        both = torch.cat((first, weight), dim=1)
        if self._product is not None:
            return self._product(both)
        assert self._packed is not None
        return linear(both, self._packed, None, self._size)


@dataclass(frozen=True)
class _Pool:
    """Draws z [P, k] of the prior, and scores of their images and of what matrices make of them."""

    z: Tensor
    scores: _Scores
    seen: WeakKeyDictionary[LinearMap, _Scores] = field(default_factory=WeakKeyDictionary)

    def scores_of(self, matrix: LinearMap, decoder: Decoder) -> _Scores:
        """Those of H G(z), kept as long as the matrix lives."""
        found = self.seen.get(matrix)
        if found is None:
            found = _Scores(matrix(_decoded(decoder, self.z)))
            self.seen[matrix] = found
        return found


def screened(model: Model, count: int, draws: int) -> Tensor:
    """The ``count`` most probable of ``draws`` prior draws, apart from one another, [B, count, k].

    Fewer draws where their images would take more than 32 MiB; at most 128 for an A of each image
    that is no diagonal.
    """
    pool = _pool_of(model.problem, draws)
    shared = _log_likelihood(model, pool)
    if shared is None:
        z = pool.z[:_APART]
        shared = model.log_likelihood(z.expand(model.problem.batch, -1, -1).contiguous())
    else:
        z = pool.z
    value = shared - 0.5 * z.double().square().sum(dim=1)
    found = []
    for _ in range(count):
        best = z[value.argmax(dim=1)]
        found.append(best)
        near = (z - best[:, None]).square().sum(dim=-1) < _DISTANCE**2
        value = value.masked_fill(near, -torch.inf)
    return torch.stack(found, dim=1)


def _log_likelihood(model: Model, pool: _Pool) -> Tensor | None:
    """Log p(y | z) [B, P] up to an image's constant; None if H is not shared."""
    term, f = model.term, model.log_likelihood.objective
    if not (isinstance(term, Whitening) and isinstance(f, WeightedLeastSquares)):
        return None
    scores = pool.scores
    if f.matrix is not None:
        one = torch.zeros(1, dtype=torch.int64, device=pool.z.device)
        if f.matrix.select(one) is not f.matrix or term.rows is not None:
            return None
        scores = pool.scores_of(f.matrix, model.problem.decoder)
    weight = f.weight.expand(f.target.shape)
    first = weight * f.target
    if f.scale is not None:
        first, weight = first * f.scale, weight * f.scale.square()
    if term.rows is not None:  # what no image shows has no part in a score
        size = model.problem.decoder.size
        first, weight = (
            part.new_zeros(len(part), size).index_copy(1, term.rows, part)
            for part in (first, weight)
        )
    return scores(first, weight).double()


def _decoded(decoder: Decoder, z: Tensor) -> Tensor:
    """G(z) [P, n], some at a time."""
    return torch.cat([decoder.value(part) for part in z.split(256)])


def _pool_of(problem: Problem, draws: int) -> _Pool:
    """The pool of a prior, kept as long as the prior lives and its tensors stay as they are."""
    k, n = problem.decoder.latent_dim, problem.decoder.size
    draws = min(draws, max(_APART, _ROOM // n))
    prior, y = problem.prior, problem.y

    def make() -> _Pool:
        # The same for every call and seed: which starts an image has depends on nothing else.
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(draws, k, generator=generator).to(y.device, y.dtype)
        return _Pool(z, _Scores(_decoded(problem.decoder, z)))

    weights = weights_of(prior)
    # Otherwise nobody knows what the prior is made of.
    known = weights and all(map(can_be_looked_at, weights))
    if not known or (isinstance(prior, ModulePrior) and not prior.is_of_modules):
        return make()
    kept = made_of_weights(prior, ("pool", draws, y.dtype, y.device))
    pool: _Pool = kept.get(weights, make)
    return pool
