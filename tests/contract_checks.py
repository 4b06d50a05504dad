"""Problems of the contract tests, and what it is for two results to be the same."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any

import torch
from contract_builders import methods, named, operators, priors
from contract_data import BATCH, IMAGE_SHAPE, Data, data
from contract_pairs import USUAL_PRIOR, method_for, prior_for
from torch import Tensor

import jpmap_fast as jf


@dataclass(frozen=True)
class Problem:
    """Measurements with all that restores them."""

    y: Tensor
    operator: jf.Operator
    prior: jf.Prior
    sigma: Tensor

    def restore(self, **options: Any) -> jf.Result:
        """All of it, with random starts from one seed unless told otherwise."""
        options.setdefault("generator", torch.Generator().manual_seed(9))
        options = {"y": self.y, "sigma": self.sigma, **options}
        return jf.restore(options.pop("y"), self.operator, self.prior, **options)

    def only(self, index: Any) -> Problem:
        """The images ``index``."""
        rows = torch.as_tensor(index, dtype=torch.int64)
        operator = self.operator
        if operator.batch is not None:
            operator = operator.select(rows)
        return Problem(self.y[rows], operator, self.prior, self.sigma[rows])


def problem(
    operator: str = "Inpainting",
    prior: str = USUAL_PRIOR,
    batch: int = BATCH,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Problem:
    """The problem of an operator and a prior by their names."""
    d = data(batch, dtype, seed)
    made = named(operators(), operator)(d)
    return Problem(measured(made, d, seed), made, named(priors(), prior)(dtype), d.sigma)


@dataclass(frozen=True)
class Situation:
    """A method with an operator and a prior, by their names; None for one that is quick.

    A prior that is not named is the one for the method, see ``contract_pairs``.
    """

    method: str | None = None
    operator: str = "Inpainting"
    prior: str = ""

    def __post_init__(self) -> None:
        if not self.prior:
            object.__setattr__(self, "prior", prior_for(type(self.algorithm)))

    def __str__(self) -> str:
        return " ".join(filter(None, (self.method, self.operator, self.prior)))

    @property
    def algorithm(self) -> jf.algorithms.Algorithm:
        """The method itself."""
        return QUICK if self.method is None else named(methods(), self.method)()

    def problem(self, **options: Any) -> Problem:
        """See ``problem``."""
        return problem(self.operator, self.prior, **options)

    @cache  # noqa: B019  (frozen, and as few as there are tests)
    def expected(self) -> jf.Result:
        """The whole batch at once, recorded, in usual surroundings."""
        return self.problem().restore(method=self.algorithm, record=True)


# Several starts, a proposal of the encoder, descents: what the long default does, in short.
QUICK = jf.JPMAP(starts=2, n2=1, max_iterations=2, z_solver=jf.GaussNewton(max_steps=3))


def situations() -> list[Situation]:
    """Every method, every operator and every prior, the other two being usual ones."""
    return [
        *(Situation(method=found.name) for found in methods()),
        *(Situation(operator=found.name) for found in operators()),
        *(Situation(method_for(found.name).__name__, prior=found.name) for found in priors()),
    ]


def unrecorded(result: jf.Result) -> jf.Result:
    """The same without its history."""
    return replace(result, history=None)


def measured(operator: jf.Operator, d: Data, seed: int = 0) -> Tensor:
    """Measurements of the images."""
    bound = operator.bind(IMAGE_SHAPE, len(d.images))
    return bound.measure(d.images, d.sigma, torch.Generator().manual_seed(seed + 100))


# What rounding in float64 may grow to in the few steps of ``QUICK``.
ROUNDING = 1e-7


def unlike(found: jf.Result, expected: jf.Result) -> list[str]:
    """``differences`` of an image in other company.

    Compiled solves have the same bits whatever the batch; a library's convolutions and Fourier
    transforms choose their order of summation by it.
    """
    return differences(found, expected, rounding=allowed(expected))


def allowed(expected: jf.Result) -> float:
    """How far an image in other company may be from ``expected``, relative to 1 + its size."""
    return ROUNDING if "torch" in expected.path else 0.0


def differences(
    found: Any, expected: Any, where: str = "result", rounding: float = 0.0
) -> list[str]:
    """Names of the fields of two results that have not the same bits; NaN is NaN."""
    if isinstance(expected, Tensor):
        if not (
            isinstance(found, Tensor)
            and found.shape == expected.shape
            and found.dtype == expected.dtype
        ):
            return [where]
        same = (found == expected) | (found.isnan() & expected.isnan())
        if rounding and expected.is_floating_point():
            same = same | ((found - expected).abs() <= rounding * (1 + expected.abs()))
        return [] if bool(same.all()) else [where]
    if is_dataclass(expected) and type(found) is type(expected):
        return [
            text
            for field in fields(expected)
            for text in differences(
                getattr(found, field.name), getattr(expected, field.name), field.name, rounding
            )
        ]
    return [] if type(found) is type(expected) and found == expected else [where]


def rows(result: jf.Result, index: Any) -> jf.Result:
    """The images ``index`` of a result without history; one as it would come unbatched."""
    taken = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, Tensor):
            value = value[index]
        elif isinstance(value, list):
            value = [value[i] for i in index] if isinstance(index, list) else value[index]
        taken[field.name] = value
    return jf.Result(**taken)
