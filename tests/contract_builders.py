"""How to make one of each class: the only lists of the contract tests that are typed.

A class without a line here fails ``test_contracts.test_every_class_has_a_builder``. What varies
within a class (solvers, choices, starts, per-image settings) is read from the class where it can
be.
"""

from __future__ import annotations

import importlib.util
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any, Literal

import torch
from contract_classes import method_classes, operator_classes, prior_classes, solver_classes
from contract_data import (
    IMAGE_SHAPE,
    LATENT,
    PIXELS,
    Data,
    Encoder,
    Opaque,
    Shrink,
    curved,
    every_second_row,
    every_second_row_adjoint,
)
from torch import nn

import jpmap_fast as jf
from jpmap_fast.algorithms import Algorithm
from jpmap_fast.operators.boundary import BOUNDARIES
from jpmap_fast.priors.photo_prior import PhotoPrior

DEEPINV = importlib.util.find_spec("deepinv") is not None


def _physics_operator(d: Data) -> jf.Operator:
    import deepinv

    masked = deepinv.physics.Inpainting(IMAGE_SHAPE, mask=d.mask[None])
    blurred = deepinv.physics.Blur(d.kernel[None, None], padding="valid")
    stacked = deepinv.physics.StackedLinearPhysics([masked, blurred])
    return jf.deepinv.as_operator(stacked, IMAGE_SHAPE)


def _mixture() -> Any:
    from deepinv.optim.utils import GaussianMixtureModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixture = GaussianMixtureModel(2, 9, device="cpu")
    return mixture


def _network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Conv2d(1, 1, 3, padding=1)
    return layer.double().eval().requires_grad_(False)


# Arguments that a method cannot do without, of those that have any.
METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    # Some hundred iterations to their own tolerance say no more of a contract than a dozen.
    "ADMM": lambda: {"tolerance": 0.02},
    "EPLL": lambda: {"mixture": _mixture()},
    "HierarchicalJPMAP": lambda: {"max_iterations": 3, "steps": 3},
    "LinearisedADMM": lambda: {"tolerance": 0.02},
    "PnPADMM": lambda: {"denoiser": Shrink()},
    "Supervised": lambda: {"network": _network()},
    "TotalVariation": lambda: {"weight": 2.0},
}
NEEDS_DEEPINV = {"EPLL", "TotalVariation", "PhysicsOperator"}

# Settings of each solver that take paths of their own.
SOLVER_VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "GaussNewton": {
        "": {},
        "torch": {"fused": False},
        "conjugate-gradient": {"linear_solver": "conjugate-gradient"},
    },
    "Adam": {"": {"learning_rate": 0.1, "max_steps": 40}},
}

# Relative residual of conjugate gradients: no promise needs more, and they take the most time.
ROUGH = 1e-5

OPERATORS: dict[str, dict[str, Callable[[Data], jf.Operator]]] = {
    "Blur": {
        **{b: partial(lambda d, b: jf.Blur(d.kernel, b, tolerance=ROUGH), b=b) for b in BOUNDARIES},
        "even": lambda d: jf.Blur(d.even),
        "one an image": lambda d: jf.Blur(d.kernels),
    },
    "Composition": {
        "mask of blur": lambda d: jf.Composition(
            jf.Inpainting(d.mask), jf.Blur(d.kernel), tolerance=ROUGH
        ),
        "one an image": lambda d: jf.Composition(
            jf.Inpainting(d.masks), jf.Blur(d.kernels), tolerance=ROUGH
        ),
        "mask of mask": lambda d: jf.Composition(jf.Inpainting(d.mask), jf.Inpainting(d.masks)),
    },
    "CompressedSensing": {
        "wide": lambda d: jf.CompressedSensing(d.wide, IMAGE_SHAPE),
        "tall": lambda d: jf.CompressedSensing(d.tall),
        "gaussian": lambda d: jf.CompressedSensing.gaussian(
            10, IMAGE_SHAPE, torch.Generator().manual_seed(3), d.wide.dtype
        ),
    },
    "Denoising": {"": lambda d: jf.Denoising()},
    "Inpainting": {
        "": lambda d: jf.Inpainting(d.mask),
        "one an image": lambda d: jf.Inpainting(d.masks),
    },
    "LinearOperator": {"": lambda d: jf.LinearOperator(every_second_row, every_second_row_adjoint)},
    "PhysicsOperator": {"stacked": _physics_operator},
    "Stack": {
        "": lambda d: jf.Stack(
            [jf.Denoising(), jf.SuperResolution(2)], noise=[2, 1], tolerance=ROUGH
        ),
        "one an image": lambda d: jf.Stack(
            [jf.Inpainting(d.masks), jf.Blur(d.kernel, "zero")], tolerance=ROUGH
        ),
    },
    "StructuredSensing": {
        kind: partial(
            lambda d, kind: getattr(jf.StructuredSensing, kind)(
                15, IMAGE_SHAPE, torch.Generator().manual_seed(4), d.wide.dtype
            ),
            kind=kind,
        )
        for kind in ("dct", "hadamard")
    },
    "SuperResolution": {
        "2": lambda d: jf.SuperResolution(2),
        "4, kernel": lambda d: jf.SuperResolution(4, d.kernel),
        "one an image": lambda d: jf.SuperResolution(2, d.kernels),
    },
}


def _sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(LATENT, 10), nn.ELU(), nn.Linear(10, PIXELS), nn.Sigmoid())


def photographs(channels: int = 1) -> PhotoPrior:
    """A prior without codes, for images of any size."""
    return PhotoPrior(channels, (8, 12), (1, 1), (1, 1))


def patches() -> jf.PatchPrior:
    """A prior without codes that knows patches."""
    scales = torch.tensor([0.5, 0.1])[:, None, None]
    near = torch.exp(-torch.cdist(*[torch.cartesian_prod(*[torch.arange(3.0)] * 2)] * 2))
    return jf.PatchPrior(jf.PatchMixture.of(torch.ones(2), scales**2 * near, (1, 3, 3)), True)


PRIORS: dict[str, dict[str, Callable[[], Any]]] = {
    "MLPVAE": {
        "": lambda: jf.MLPVAE(IMAGE_SHAPE, LATENT, (12, 10)),
        "many codes": lambda: jf.MLPVAE(IMAGE_SHAPE, 30, (32,), "tanh", "identity"),
    },
    "ConvVAE": {
        blocks: partial(
            lambda blocks, channels: jf.ConvVAE(IMAGE_SHAPE, LATENT, channels, blocks, 6),
            blocks=blocks,
            channels=channels,
        )
        for blocks, channels in (("plain", (2, 2, 3, 3)), ("residual", (4, 4)))
    },
    "PhotoPrior": {
        "": lambda: photographs().bind(IMAGE_SHAPE),
        "any size": lambda: photographs(),
    },
    "HierarchicalPhotoPrior": {
        "": lambda: jf.HierarchicalPhotoPrior(1, (6, 8), (1, 1), (1, 1), 2).bind(IMAGE_SHAPE),
        "any size": lambda: jf.HierarchicalPhotoPrior(1, (6, 8), (1, 1), (0, 1), 2),
    },
    "PatchPrior": {
        "": lambda: patches().bind(IMAGE_SHAPE),
        "codes": lambda: jf.PatchPrior(jf.MLPVAE((1, 4, 4), 3, (8,))).bind(IMAGE_SHAPE),
    },
    "ModulePrior": {
        "chain": lambda: jf.ModulePrior(Encoder(), _sequential(), 0.15, LATENT, IMAGE_SHAPE),
        "opaque": lambda: jf.ModulePrior(Encoder(), Opaque(), 0.15, LATENT, IMAGE_SHAPE),
    },
}


@dataclass(frozen=True)
class Named:
    """A method, an operator's builder or a prior's, with the name that a test is known by."""

    name: str
    make: Callable[..., Any]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What it makes."""
        return self.make(*arguments, **options)

    def __repr__(self) -> str:
        return self.name


def arguments(kind: type[Algorithm]) -> dict[str, Any]:
    """What a method is made with: nothing where it can do without."""
    return METHODS.get(kind.__name__, dict)()


def known_methods() -> set[str]:
    """Names of the methods that can be made: those with a line, and those that need none."""
    made = {
        kind.__name__
        for kind in method_classes()
        if all(p.default is not p.empty for p in inspect.signature(kind).parameters.values())
    }
    return made | set(METHODS)


def _usable(classes: list[type], table: Iterable[str]) -> Iterator[type]:
    # One without a builder is left to the test that says so.
    for found in classes:
        if found.__name__ in table and (DEEPINV or found.__name__ not in NEEDS_DEEPINV):
            yield found


def start_field(method: Algorithm) -> str | None:
    """The setting that is the number of starts, None if there is none."""
    for field in fields(method):  # type: ignore[arg-type]
        if str(field.type).startswith("int"):
            try:
                changed = replace(method, **{field.name: 7})  # type: ignore[type-var]
            except (TypeError, ValueError):
                continue
            if changed.number_of_starts == 7 != method.number_of_starts:
                return field.name
    return None


def image_fields(kind: type[Algorithm]) -> list[str]:
    """Settings that its docstring says may be given one an image."""
    lines = (kind.__doc__ or "").splitlines()
    found, current = [], ""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for line in lines:
        head = line.strip().partition(":")[0]
        if head.split(",")[0] in names:
            current = head.split(",")[0]
        if "one an image" in line and current:
            found.append(current)
    return found


def solvers() -> dict[str, Any]:
    """Every variant of every solver."""
    return {
        f"{kind.__name__} {variant}".strip(): kind(**settings)
        for kind in solver_classes()
        for variant, settings in SOLVER_VARIANTS.get(kind.__name__, {}).items()
    }


def _short(base: Algorithm, solver: Any) -> dict[str, Any]:
    # Adam's descents end by their number of steps: the loop around them need not go far. ADMM makes
    # a descent an iteration, a hundred of them.
    bounded = any(field.name == "max_iterations" for field in fields(base))  # type: ignore[arg-type]
    short = isinstance(solver, jf.Adam) or isinstance(base, jf.ADMM)
    return {"max_iterations": 2} if bounded and short else {}


def variants(kind: type[Algorithm], arguments: dict[str, Any]) -> dict[str, Algorithm]:
    """The method as it comes, and with each choice, solver and number of starts of its own."""
    base = kind(**arguments)
    found = {"": base}
    hints = typing.get_type_hints(kind)
    for field in fields(base):  # type: ignore[arg-type]
        hint = hints[field.name]
        if typing.get_origin(hint) is Literal:
            values = {str(value): value for value in typing.get_args(hint)}
        elif field.name.endswith("solver"):
            values = solvers()
        else:
            continue
        for text, value in values.items():
            if value != getattr(base, field.name):
                found[text] = replace(base, **{field.name: value}, **_short(base, value))  # type: ignore[type-var]
    starts = start_field(base)
    if starts is not None:
        found["4 starts"] = replace(base, **{starts: 4})  # type: ignore[type-var]
    return found


@cache
def methods() -> list[Named]:
    """Every method in every variant; each makes the method."""
    found = []
    for kind in _usable(method_classes(), known_methods()):
        for text, method in variants(kind, arguments(kind)).items():
            name = f"{kind.__name__} {text}".strip().replace(" ", "-")
            found.append(Named(name, partial(lambda method: method, method)))
    return found


@cache
def operators() -> list[Named]:
    """Every operator in every variant; each makes one of a ``Data``."""
    return [
        Named(f"{kind.__name__} {text}".strip().replace(" ", "-"), make)
        for kind in _usable(operator_classes(), OPERATORS)
        for text, make in OPERATORS[kind.__name__].items()
    ]


@cache
def priors() -> list[Named]:
    """Every prior in every variant; each makes one of a precision and a seed."""

    def make(
        build: Callable[[], Any], dtype: torch.dtype = torch.float64, seed: int = 0
    ) -> jf.Prior:
        with torch.random.fork_rng():
            return curved(build(), dtype, seed)

    return [
        Named(f"{kind.__name__} {text}".strip().replace(" ", "-"), partial(make, build))
        for kind in _usable(prior_classes(), PRIORS)
        for text, build in PRIORS[kind.__name__].items()
    ]


def named(found: list[Named], name: str) -> Named:
    """The one of that name."""
    return next(one for one in found if one.name == name)
