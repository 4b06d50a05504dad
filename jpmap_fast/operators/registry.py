"""Operators by name: what they are made of and how, in one place for every door to the package.

The command line makes its choices and flags of it, ``jpmap-fast info`` and the pages their tables,
and requests of ``jpmap_fast.jobs`` are checked by it. ``named.py`` registers those of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._messages import FieldError, one_of, typed
from jpmap_fast.operators.base import Operator

# For operators of one's own; what reads them is this package's own.
__all__ = ["NamedOperator", "Option", "register"]


@dataclass(frozen=True)
class Option:
    """One thing that an operator is made of.

    Attributes:
        name: of the option, in Python and JSON; of several words with "_" between them. Operators
            may have options in common.
        kind: int, float, str, or Path for a file.
        help: what it is, after the names of its operators.
        default: where nothing is given; None for no value.
        choices: texts that are taken; () for any.
        accepts: whether a number is in range.
        expected: that range in words.
        read: what ``build`` gets for a text or a path; the text itself where it is None. An option
            that is read may be given as an array, in place of its file.
        formula: whether a text is one that can be computed in little time, in place of a file.
        draws: name of the option that this one is the random counterpart of, for simulations.
        of_each: whether that is drawn for each image, in place of once for all of them.
        metavar: word for the value in the help of the command.
    """

    name: str
    kind: type
    help: str
    default: Any = None
    choices: tuple[str, ...] = ()
    accepts: Callable[[Any], bool] | None = None
    expected: str = ""
    read: Callable[[Any], Any] | None = None
    formula: Callable[[str], bool] | None = None
    draws: str = ""
    of_each: bool = False
    metavar: str | None = None

    @property
    def takes_file(self) -> bool:
        """Whether a value may name a file."""
        return self.kind is Path or self.read is not None

    def names_file(self, value: Any) -> bool:
        """Whether a value of it may name a file, rather than be a formula of moderate size."""
        return self.takes_file and (self.formula is None or not self.formula(str(value)))

    def checked(self, value: Any) -> Any:
        """The value, files as text.

        Raises:
            TypeError: of another kind. ValueError: not a choice, or out of range.
        """
        value = typed(self.name, value, self.kind)
        if self.choices and value not in self.choices:
            values = {"choices": ", ".join(self.choices), "got": value}
            raise FieldError(f"{{{self.name}}}: expected one of {{choices}}, got {{got!r}}", values)
        if self.accepts is not None and not self.accepts(value):
            values = {"expected": self.expected, "got": value}
            raise FieldError(f"{{{self.name}}}: expected {{expected}}, got {{got}}", values)
        return value


# (options as they were read, (C, H, W), generators) -> A. A generator for each image where an
# option is drawn ``of_each``; else one, of the whole run.
Build = Callable[[Mapping[str, Any], tuple[int, ...], Sequence[torch.Generator]], Operator]


@dataclass(frozen=True)
class NamedOperator:
    """An operator as others than Python name it.

    Attributes:
        name: as ``jpmap-fast restore --operator`` takes it.
        formula: what y is.
        build: makes it.
        options: what it is made of.
        required: names of those that must be given, or drawn by another one.
        arrays: what another run must know of A beside its measurements, and how to name it.
        vectors: whether y is [B, m], which no picture holds.
        check: raises where options do not go together.
    """

    name: str
    formula: str
    build: Build
    options: tuple[Option, ...] = ()
    required: tuple[str, ...] = ()
    arrays: Callable[[Any], dict[str, Tensor]] = lambda operator: {}
    vectors: bool = False
    check: Callable[[Mapping[str, Any]], None] = lambda options: None


# What no option may be called, since a request or a command means something else by it: the fields
# of ``RestoreRequest`` and ``SampleRequest``, what their JSON has besides, and the commands' flags.
RESERVED = (
    *("operator", "sigma", "options", "inputs", "simulate", "prior", "method", "settings", "seed"),
    *("device", "chunk_size", "key", "background", "output", "format", "bits", "resume"),
    *("residual", "estimate", "version", "starts", "alpha", "progress", "help"),
    *("restore", "draws", "sampler", "level", "calibration", "write_draws"),
    *("ray", "workers", "worker_cpus", "worker_gpus"),
)

_REGISTERED: dict[str, NamedOperator] = {}


def register(operator: NamedOperator) -> None:
    """Make an operator known by its name.

    Raises:
        ValueError: the name is taken, an option is another one than that of its name elsewhere, has
            the name of something else in a request or the command, or draws what is no option.
    """
    if operator.name in _REGISTERED:
        raise ValueError(f"operator: {operator.name!r} is registered already; choose another name")
    known, own = {option.name: option for option in all_options()}, set()
    for option in operator.options:
        own.add(option.name)
        if option.name in RESERVED:
            raise ValueError(
                f"operator {operator.name}: {option.name} is a field of requests or a flag of the "
                "command; choose another name for the option"
            )
        if known.get(option.name, option) != option:
            raise ValueError(
                f"operator {operator.name}: {option.name} is an option of "
                f"{one_of(owners(option.name))} and not the same; choose another name, or "
                "take that option"
            )
    named = {*operator.required, *(option.draws for option in operator.options if option.draws)}
    for name in sorted(named - own):
        raise ValueError(f"operator {operator.name}: {name} is required or drawn and no option")
    _REGISTERED[operator.name] = operator


def operator_names() -> list[str]:
    """Names of all operators, in the order they were registered."""
    return list(_REGISTERED)


def named_operator(name: str) -> NamedOperator:
    """The operator of a name.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(name, str) or name not in _REGISTERED:
        values = {"names": ", ".join(_REGISTERED), "got": name}
        raise FieldError("{operator}: expected one of {names}, got {got!r}", values)
    return _REGISTERED[name]


def all_options() -> list[Option]:
    """The options of all operators, each once."""
    found = (option for operator in _REGISTERED.values() for option in operator.options)
    return list({option.name: option for option in found}.values())


def owners(option: str) -> list[str]:
    """Names of the operators that have an option."""
    return [
        operator.name
        for operator in _REGISTERED.values()
        if option in (own.name for own in operator.options)
    ]


def checked_options(name: str, given: Mapping[str, Any], simulate: bool) -> dict[str, Any]:
    """Options of an operator with their defaults, those without a value left out.

    Args:
        name: of the operator.
        given: its options by name; None is no value.
        simulate: whether clean images are measured, so that something may be drawn.

    Raises:
        ValueError: no such operator or option, a value out of range, or options that do not go
            together. TypeError: a value of another kind.
    """
    operator = named_operator(name)
    own = {option.name: option for option in operator.options}
    options: dict[str, Any] = {}
    for key, value in given.items():
        if key not in own:
            raise _foreign(key, operator)
        if value is not None:
            options[key] = own[key].checked(value)
    for option in operator.options:
        if option.draws and option.name in options:
            words = f"{{{option.draws}}}", f"{{{option.name}}}"
            if not simulate:
                raise FieldError(
                    f"{words[1]}: only with {{simulate}}; for real measurements give {words[0]}"
                )
            if option.draws in options:
                raise FieldError(f"expected {words[0]} or {words[1]}, got both")
        elif option.default is not None:
            options.setdefault(option.name, option.default)
    operator.check(options)
    return options


def check_complete(name: str, options: Mapping[str, Any], beside: Collection[str]) -> None:
    """Raise where an option is neither given nor drawn.

    Args:
        name: of the operator.
        options: of ``checked_options``.
        beside: names of options given as arrays.

    Raises:
        ValueError: something is missing, given twice, or cannot be an array.
    """
    operator = named_operator(name)
    own = {option.name: option for option in operator.options}
    for key in beside:
        if key not in own:
            raise _foreign(key, operator)
        if own[key].read is None:
            raise FieldError(f"{{{key}}}: expected it in the request, got an array beside it")
        drawn = [option.name for option in operator.options if option.draws == key]
        for other in (key, *drawn):
            if other in options:
                raise FieldError(f"expected {{{key}}} as an array or {{{other}}}, got both")
    for key in operator.required:
        drawn = [option.name for option in operator.options if option.draws == key]
        if {key, *drawn} & {*options, *beside}:
            continue
        wanted = f"{{operator}} {{name}}: expected {{{key}}}"
        if drawn:
            wanted += f" FILE, or {{simulate}} with {{{drawn[0]}}}"
        raise FieldError(wanted, {"name": name})


def read_options(
    name: str, options: Mapping[str, Any], beside: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``build`` gets: files are read, formulas computed, and arrays taken as they are.

    Raises:
        ValueError, TypeError, OSError: one of them cannot be read.
    """
    found = dict(beside)
    for option in named_operator(name).options:
        if option.name in options:
            value = options[option.name]
            found[option.name] = value if option.read is None else option.read(value)
    return found


def _foreign(option: str, operator: NamedOperator) -> FieldError:
    """An option that the operator does not have."""
    values = {"owners": one_of(owners(option) or ["nobody"]), "got": operator.name}
    if owners(option):
        return FieldError(f"{{{option}}}: only for {{operator}} {{owners}}, got {{got}}", values)
    own = ", ".join(own.name for own in operator.options) or "none"
    return FieldError(
        "{operator} {got}: expected options of it ({own}), got {option!r}",
        {**values, "own": own, "option": option},
    )
