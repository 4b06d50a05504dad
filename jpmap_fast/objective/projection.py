"""Data terms composed with decoders: J(z) = min_x J1(x, z) of measurements."""

from __future__ import annotations

from torch import Tensor

from jpmap_fast.objective.dependent import DependentLeastSquares
from jpmap_fast.objective.least_squares import LatentObjective, WeightedLeastSquares
from jpmap_fast.objective.matrix_free import MatrixFreeLeastSquares
from jpmap_fast.operators.bound import BoundOperator
from jpmap_fast.operators.data_term import Action, Dependent, LinearSystem, Whitening
from jpmap_fast.priors.decoder_base import Decoder


class Projection:
    """J(z) of a bound operator and a decoder, for any y, beta and sigma.

    What depends on none of them is made at construction: the data term, and the decoder restricted
    to the pixels that it sees.

    Args:
        operator: bound to the image shape of the decoder.
        decoder: G.
    """

    def __init__(self, operator: BoundOperator, decoder: Decoder) -> None:
        self._term = operator.data_term()
        rows = None if isinstance(self._term, Action) else self._term.rows
        self._decoder = decoder if rows is None else decoder.restrict(rows)
        self._kept: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(
        self, y: Tensor, beta: Tensor, sigma: Tensor, keep: bool = False
    ) -> LatentObjective:
        """J(z) at measurements y [B, ...], beta [B] and sigma [B].

        An infinite beta gives the latent objective F(G(z)) + 1/2 ||z||^2. With ``keep`` the weights
        are made once for these two tensors and kept as long as this: a CUDA graph reads them where
        they are.
        """
        term = self._term
        if isinstance(term, Action):
            system = term.system(tuple(y.shape[1:]), beta, sigma)
            return MatrixFreeLeastSquares(self._decoder, system, y.flatten(1))
        if isinstance(term, Dependent):
            return DependentLeastSquares.of(self._decoder, term, y, beta, sigma)
        return WeightedLeastSquares(
            self._decoder,
            term.coordinates(y),
            self._weight(term, beta, sigma, keep),
            scale=term.scale,
            matrix=term.map,
            constant=term.constant(y, sigma),
        )

    def _weight(self, term: Whitening, beta: Tensor, sigma: Tensor, keep: bool) -> Tensor:
        if not keep:
            return term.weight(beta, sigma)
        key = (id(beta), id(sigma))  # of tensors that are kept as well
        if key not in self._kept:
            self._kept[key] = (beta, sigma, term.weight(beta, sigma))
        return self._kept[key][2]


def coupled(decoder: Decoder, x: Tensor, weight: Tensor | LinearSystem) -> LatentObjective:
    """J1(x, .) at fixed images x [B, n], without what does not depend on z.

    Args:
        decoder: G.
        x: the images.
        weight: ``BoundOperator.coupling_term``.
    """
    if isinstance(weight, Tensor):
        return WeightedLeastSquares(decoder, x, weight)
    return MatrixFreeLeastSquares(decoder, weight, x)
