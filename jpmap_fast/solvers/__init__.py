"""Solvers of the z-step."""

from jpmap_fast.solvers.adam import Adam
from jpmap_fast.solvers.base import LatentSolution, LatentSolver
from jpmap_fast.solvers.gauss_newton import GaussNewton

__all__ = ["Adam", "GaussNewton", "LatentSolution", "LatentSolver"]
