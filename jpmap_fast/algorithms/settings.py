"""Settings of algorithms, each declared once: what it may be, and who chooses it where it is None.

    beta: Any = setting(None, positive_numbers, per_image=True, of_problem=precision)
    n1: int = setting(0, at_least(0))
    starts: int | None = setting(None, at_least(1), of_prior=2)

is all that there is to say of it: ``Algorithm`` checks, binds and selects by what is declared here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._validate import choice, count, per_image
from jpmap_fast.algorithms.problem import Problem
from jpmap_fast.solvers import Adam, GaussNewton, LatentSolver

if TYPE_CHECKING:
    from jpmap_fast.algorithms.base import Algorithm

# Raises ValueError or TypeError, with the name that it is given, unless a value will do.
Check = Callable[[str, Any], Any]

SOLVERS: dict[str, type[GaussNewton] | type[Adam]] = {"gauss-newton": GaussNewton, "adam": Adam}


@dataclass(frozen=True)
class Setting:
    """What is declared of a setting; see ``setting``."""

    check: Check | None
    optional: bool
    per_image: bool
    of_prior: int | None
    of_problem: Callable[[Problem], float] | None


def setting(
    default: Any = MISSING,
    check: Check | None = None,
    *,
    per_image: bool = False,
    of_prior: int | None = None,
    of_problem: Callable[[Problem], float] | None = None,
) -> Any:
    """A field of an algorithm.

    Args:
        default: what it is where nothing is said; with None for it, None is always allowed.
        check: of a value that is not such a None, called with "Algorithm: field" and the value.
        per_image: whether it may be given one an image.
        of_prior: the prior chooses it where it is None, in ``prior.restoration``; this number for
            one that does not.
        of_problem: what it is where it is None, of the problem.
    """
    declared = Setting(check, default is None, per_image, of_prior, of_problem)
    return field(default=default, metadata={Setting: declared})


@cache
def declared(kind: type) -> dict[str, Setting]:
    """The settings that a class of algorithms declares, by name."""
    found = fields(kind) if is_dataclass(kind) else ()
    return {f.name: f.metadata[Setting] for f in found if Setting in f.metadata}


def check_settings(algorithm: object) -> None:
    """Raise unless every setting is what its declaration asks for.

    Raises:
        ValueError, TypeError: of the checks.
    """
    kind: Any = type(algorithm)
    for name, declaration in declared(kind).items():
        value = getattr(algorithm, name)
        if declaration.check is not None and not (value is None and declaration.optional):
            declaration.check(f"{kind.__name__}: {name}", value)


def at_least(minimum: int) -> Check:
    """An integer, no less."""
    return partial(count, minimum=minimum)


def one_of(*known: str) -> Check:
    """One of these words."""
    return partial(choice, known=known)


def positive_numbers(name: str, value: Any) -> None:
    """A finite number > 0, or a vector of them."""
    like = value if isinstance(value, Tensor) else torch.empty(0)
    number = value.numel() if isinstance(value, Tensor) else np.size(value)
    per_image(name, value, number, like.double())


def precision(problem: Problem) -> float:
    """1 / gamma^2 of the prior."""
    return problem.prior.gamma**-2


def as_solver(name: str, solver: LatentSolver | str) -> LatentSolver:
    """A solver of a solver or of its name; ``name`` is "Owner: setting".

    Raises:
        ValueError: no such name. TypeError: neither.
    """
    if isinstance(solver, str):
        choice(name, solver, tuple(SOLVERS))
        return SOLVERS[solver]()
    # A protocol looks at every method of what it is asked of.
    if not isinstance(solver, (GaussNewton, Adam)) and not isinstance(solver, LatentSolver):
        owner, _, what = name.rpartition(": ")
        raise TypeError(
            f"{owner}: expected {what} to be GaussNewton(...), Adam(...) or a name, got {solver!r}"
        )
    return solver


def with_steps(algorithm: Algorithm, steps: int | None) -> Algorithm:
    """The algorithm with at most so many steps a descent, and its solver as an object.

    Raises:
        ValueError: steps < 1, or an algorithm without descents.
    """
    solver = getattr(algorithm, "z_solver", None)
    if steps is not None:
        count("steps", steps, 1)
        if solver is None:
            raise ValueError(
                f"steps: expected None for {type(algorithm).__name__}, which makes no descents"
            )
        solver = replace(as_solver("Restorer: z_solver", solver), max_steps=steps)  # type: ignore[type-var]
        return replace(algorithm, z_solver=solver)  # type: ignore[type-var]
    return algorithm
