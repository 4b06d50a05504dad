"""Which method is tested with which prior: the rule, read from what the package says of both.

A prior is restored with by the method that it has where nobody names one. A method is tested with
the small ``MLPVAE``, but for one that is the default of priors without codes, which it is made for,
and those of ``MADE_FOR``.
"""

from __future__ import annotations

from functools import cache

from contract_builders import Named, named, priors

from jpmap_fast.algorithms import ALGORITHMS, Algorithm
from jpmap_fast.priors.protocol import default_method, has_codes

USUAL_PRIOR = "MLPVAE"
# Methods that know one kind of prior, of which they are not the default.
MADE_FOR = {"HierarchicalJPMAP": "HierarchicalPhotoPrior"}


def priors_with_codes() -> list[Named]:
    """Every prior whose codes a method may descend in."""
    return [found for found in priors() if has_codes(found())]


@cache
def method_for(prior: str) -> type[Algorithm]:
    """The method that a prior of that name is tested with."""
    made = named(priors(), prior)()
    return ALGORITHMS[default_method(made)]


@cache
def prior_for(method: type[Algorithm]) -> str:
    """The name of the prior that a method is tested with."""
    if method.__name__ in MADE_FOR:
        return MADE_FOR[method.__name__]
    without = [found.name for found in priors() if not has_codes(found())]
    return next((name for name in without if method_for(name) is method), USUAL_PRIOR)
