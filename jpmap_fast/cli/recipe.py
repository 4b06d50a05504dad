"""A request in the words that make it again: a line for a shell, and a piece of Python."""

from __future__ import annotations

import math
import shlex
from dataclasses import MISSING, dataclass, fields
from typing import Any

from jpmap_fast._messages import in_255ths
from jpmap_fast.cli._common import flag
from jpmap_fast.jobs import RestoreRequest, SampleRequest
from jpmap_fast.operators.registry import named_operator

# Settings that have a flag; the command has none for the others, nor for these fields.
_FLAGGED = ("starts", "alpha")
_UNFLAGGED = ("chunk_size", "format", "bits")


@dataclass(frozen=True)
class Recipe:
    """The same request twice.

    Attributes:
        command: line for a POSIX shell, ``jpmap-fast restore`` or ``jpmap-fast sample``.
        python: lines that run it by ``jpmap_fast.jobs``.
    """

    command: str
    python: str


def recipe(request: RestoreRequest | SampleRequest) -> Recipe:
    """How to run a request elsewhere, with the same bits.

    Args:
        request: whose paths are those that the words shall name.

    Raises:
        ValueError: it says something that the command has no flag for.

    Example:
        >>> from jpmap_fast.jobs import RestoreRequest
        >>> request = RestoreRequest(operator="denoising", sigma=10 / 255, inputs=("a b.png",))
        >>> print(recipe(request).command)
        jpmap-fast restore 'a b.png' --operator denoising --sigma 10 --prior mnist
        >>> print(recipe(request).python)
        from jpmap_fast.jobs import RestoreRequest, run
        <BLANKLINE>
        report = run(
            RestoreRequest(
                operator="denoising",
                sigma=10 / 255,
                inputs=["a b.png"],
                prior="mnist",
            )
        )
    """
    return Recipe(_command(request), _python(request))


def _command(request: RestoreRequest | SampleRequest) -> str:
    sampling = isinstance(request, SampleRequest)
    restore = request.restore if isinstance(request, SampleRequest) else request
    words = ["jpmap-fast", "sample" if sampling else "restore", *_guarded(restore.inputs)]
    said = _said(restore)
    for name in _UNFLAGGED:
        if name in said:
            raise ValueError(f"{name}: the command has no flag for it, got {said[name]!r}")
    for name in ("operator", "sigma"):
        words += [flag(name), _text(name, said.pop(name))]
    defaults = {option.name: option.default for option in named_operator(restore.operator).options}
    for name, value in said.pop("options", {}).items():
        if value != defaults[name]:
            words += [flag(name), _text(name, value)]
    for name, value in said.pop("settings", {}).items():
        if name not in _FLAGGED:
            raise ValueError(f"settings: the command has no flag for {name}, got {value!r}")
        words += [flag(name), _text(name, value)]
    del said["inputs"]
    if isinstance(request, SampleRequest):
        # The command has its own word for how to sample, and --output of its own.
        own = {name: value for name, value in _said(request).items() if name != "restore"}
        words += _flags({"method" if n == "sampler" else n: v for n, v in own.items()})
        said["output"] = restore.output
    return shlex.join([*words, *_flags(said)])


def _flags(said: dict[str, Any]) -> list[str]:
    words = []
    for name, value in said.items():
        if isinstance(value, bool):
            words += [flag(name)] if value else []
        else:
            words += [flag(name), _text(name, value)]
    return words


def _guarded(paths: tuple[str, ...]) -> list[str]:
    """Paths that no program takes for flags."""
    return [f"./{path}" if path.startswith("-") else path for path in paths]


def _text(name: str, value: Any) -> str:
    """A value as its flag takes it."""
    if name == "sigma" and isinstance(value, float):
        shown, exact = in_255ths(value), 255 * value
        near = [shown, exact, math.nextafter(exact, 0), math.nextafter(exact, math.inf)]
        # As many digits as it takes for the same number; of some no number of 255ths is exact.
        tried = [f"{shown:g}", *map(repr, near)]
        return next((text for text in tried if float(text) / 255 == value), repr(exact))
    return str(value)


def _said(request: Any) -> dict[str, Any]:
    """Fields that are no defaults, and the prior, which a command would choose otherwise."""
    found = {}
    for own in fields(request):
        value = getattr(request, own.name)
        default = own.default if own.default_factory is MISSING else own.default_factory()
        if value != default or own.name == "prior":
            found[own.name] = value
    return found


def _python(request: RestoreRequest | SampleRequest) -> str:
    restore = request.restore if isinstance(request, SampleRequest) else request
    made = ["RestoreRequest(", *_indented(_arguments(_said(restore))), ")"]
    names, run = "RestoreRequest, run", "run"
    if isinstance(request, SampleRequest):
        own = {name: value for name, value in _said(request).items() if name != "restore"}
        made = [f"restore={made[0]}", *made[1:-1], "),", *_arguments(own)]
        made = ["SampleRequest(", *_indented(made), ")"]
        names, run = "RestoreRequest, SampleRequest, run_sampling", "run_sampling"
    lines = [f"from jpmap_fast.jobs import {names}", "", f"report = {run}(", *_indented(made), ")"]
    return "\n".join(lines)


def _arguments(said: dict[str, Any]) -> list[str]:
    return [f"{name}={_literal(name, value)}," for name, value in said.items()]


def _literal(name: str, value: Any) -> str:
    if name == "sigma" and isinstance(value, float) and float(_text(name, value)) / 255 == value:
        return f"{_text(name, value)} / 255"
    if name == "inputs":
        value = list(value)
    return _quoted(value)


def _quoted(value: Any) -> str:
    """A literal, with the quotes that Python programs commonly have."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(k)}: {_quoted(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_quoted, value)) + "]"
    text = repr(value)
    plain = isinstance(value, str) and text[0] == "'" and '"' not in text and "\\" not in text
    return f'"{text[1:-1]}"' if plain else text


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
