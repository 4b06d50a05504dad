"""What the z-steps minimise: a data term composed with a decoder, as a function of the code."""

from jpmap_fast.objective.least_squares import LatentObjective, WeightedLeastSquares
from jpmap_fast.objective.matrix_free import MatrixFreeLeastSquares
from jpmap_fast.objective.projection import Projection, coupled

__all__ = [
    "LatentObjective",
    "MatrixFreeLeastSquares",
    "Projection",
    "WeightedLeastSquares",
    "coupled",
]
