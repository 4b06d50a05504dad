"""Every method, operator and prior that the package has, found rather than listed."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache

import jpmap_fast
from jpmap_fast.algorithms import ALGORITHMS, Algorithm
from jpmap_fast.algorithms.settings import SOLVERS
from jpmap_fast.operators import Operator
from jpmap_fast.priors import ModulePrior
from jpmap_fast.priors.vae import VAE
from jpmap_fast.priors.weights import NETWORKS

# Commands, and scripts that a machine without their extras cannot import.
LEFT_OUT = ("jpmap_fast.cli", "jpmap_fast.experiments")
EXTRAS = ("deepinv", "jinja2", "matplotlib", "napari", "torchmetrics", "ray", "fastapi")


@cache
def import_everything() -> None:
    """Import every module of the package, but for those whose extra is not installed.

    Classes defined in a module that nobody imports are nobody's subclasses.
    """
    pending = list(pkgutil.iter_modules(jpmap_fast.__path__, "jpmap_fast."))
    # An editable install has two folders, of which one holds the sources.
    baselines = [f"{folder}/experiments/baselines" for folder in jpmap_fast.__path__]
    pending += pkgutil.iter_modules(baselines, "jpmap_fast.experiments.baselines.")
    while pending:
        found = pending.pop()
        if found.name in LEFT_OUT or found.name.rpartition(".")[2].startswith("__"):
            continue
        try:
            module = importlib.import_module(found.name)
        except ImportError as error:
            if (error.name or "").partition(".")[0] not in EXTRAS:
                raise
            continue
        if found.ispkg:
            pending += pkgutil.iter_modules(module.__path__, f"{found.name}.")


def _below(base: type) -> Iterator[type]:
    for child in base.__subclasses__():
        yield child
        yield from _below(child)


def subclasses(base: type) -> list[type]:
    """Concrete subclasses of ``base`` that the package defines and a user may meet, by name."""
    import_everything()
    found = {
        child
        for child in _below(base)
        if child.__module__.partition(".")[0] == "jpmap_fast"
        and not child.__name__.startswith("_")
        and not inspect.isabstract(child)
    }
    return sorted(found, key=lambda child: child.__name__)


def method_classes() -> list[type[Algorithm]]:
    """Every algorithm: those with a name, and all others that derive from ``Algorithm``."""
    return sorted({*ALGORITHMS.values(), *subclasses(Algorithm)}, key=lambda c: c.__name__)


def operator_classes() -> list[type[Operator]]:
    """Every operator that is not the common half of others."""
    found = subclasses(Operator)
    shared = {parent for child in found for parent in child.__mro__[1:]}
    return [child for child in found if child not in shared]


def prior_classes() -> list[type]:
    """Every network that weights files may name, other descendants of ``VAE``, and the wrapper."""
    return sorted({*NETWORKS.values(), *subclasses(VAE), ModulePrior}, key=lambda c: c.__name__)


def solver_classes() -> list[type]:
    """Every solver that has a name."""
    return sorted(set(SOLVERS.values()), key=lambda c: c.__name__)
